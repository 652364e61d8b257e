"""Runs inside the container: every way out that is none, and the one to the model by all its loopholes."""

import contextlib
import json
import os
import re
import socket
import sys
from pathlib import Path

from attempts import Attempt, play

SOCKETS = Path("/run/nanoclaw/sockets")
PATH = "/v1/messages"
GOOD = {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "attack"}]}


# --- without the gateway -------------------------------------------------------------------------


def connect(family: int, where: object, kind: int = socket.SOCK_STREAM) -> Attempt:
    def attempt() -> None:
        with socket.socket(family, kind) as s:
            s.settimeout(3)
            s.connect(where)  # type: ignore[arg-type]
            s.send(b"\0" * 12)

    return attempt


def name() -> str:
    try:
        return f"done {socket.getaddrinfo('example.org', 443)}"
    except socket.gaierror:
        return "no name"


def interface() -> None:
    """A link of one's own, which could lead to the host's."""
    with socket.socket(16, socket.SOCK_RAW, 0) as s:
        link = bytes([8, 0, 3, 0]) + b"lo0\0"
        s.send((16 + 16 + len(link)).to_bytes(4, "little") + bytes([16, 0, 5, 6]) + bytes(8) + bytes(16) + link)
        s.settimeout(3)
        code = int.from_bytes(s.recv(4096)[16:20], "little", signed=True)
        if code:
            raise OSError(-code, "refused")


def abstract() -> str:
    """Sockets without a file belong to a network: nobody else's can be seen from this one."""
    found = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if "@" in line]
    for known in (b"\0/containerd-shim/", b"\0/tmp/.X11-unix/X0", b"\0/org/bluez/audio"):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(known)
                return "done"
            except OSError:
                continue
    return f"done {found}" if found else "none"


def others() -> str:
    """What else of this sort stands about, of other runs or of the engine."""
    expected = {SOCKETS / "model.sock", SOCKETS / "egress.sock"}
    found = []
    for path, folders, names in os.walk("/"):
        folders[:] = [f for f in folders if path != "/" or f not in ("proc", "sys")]
        if path.startswith("/tmp/cc-socks"):
            continue  # Claude Code's own
        found += [p for n in names if (p := Path(path, n)) not in expected and p.is_socket()]
    return f"done {found}" if found else "none"


def up() -> str:
    """From the run's own folder to the next one's."""
    found = [str(p) for p in (SOCKETS / "..").resolve().iterdir()]
    return "own" if set(found) == {str(SOCKETS), "/run/nanoclaw/inbox", "/run/nanoclaw/out.ndjson"} else f"done {found}"


DIRECT: "dict[str, Attempt]" = {
    "IPv4": connect(socket.AF_INET, ("1.1.1.1", 443)),
    "IPv6": connect(socket.AF_INET6, ("2606:4700:4700::1111", 443)),
    "metadata of a cloud": connect(socket.AF_INET, ("169.254.169.254", 80)),
    "metadata by IPv6": connect(socket.AF_INET6, ("fd00:ec2::254", 80)),
    "the engine's own address": connect(socket.AF_INET, ("172.17.0.1", 22)),
    "the host's network": connect(socket.AF_INET, ("192.168.0.1", 80)),
    "DNS by UDP": connect(socket.AF_INET, ("8.8.8.8", 53), socket.SOCK_DGRAM),
    "UDP by IPv6": connect(socket.AF_INET6, ("2001:4860:4860::8888", 53), socket.SOCK_DGRAM),
    "multicast": connect(socket.AF_INET, ("224.0.0.251", 5353), socket.SOCK_DGRAM),
    "link-local of IPv6": connect(socket.AF_INET6, ("fe80::1", 80)),
    "a name": name,
    "a link of one's own": interface,
    "sockets without a file": abstract,
    "sockets of others": others,
    "the folder above": up,
    "the engine": connect(socket.AF_UNIX, "/var/run/docker.sock"),
    "the host's control socket": connect(socket.AF_UNIX, "/workspace/control.sock"),
}


# --- by the gateway ------------------------------------------------------------------------------


def talk(*parts: bytes, sock: str = "model.sock", limit: float = 10) -> str:
    """Say it; the statuses of all that is answered, until it is closed or silent."""
    heard = b""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(limit)
        s.connect(str(SOCKETS / sock))
        try:
            for part in parts:
                s.sendall(part)
        except OSError:
            pass  # it was closed before all was said
        try:
            while b"\r\n\r\n" not in heard and (piece := s.recv(1 << 16)):
                heard += piece
            s.shutdown(socket.SHUT_WR)
            while piece := s.recv(1 << 16):
                heard += piece
        except TimeoutError:
            return "silent"
        except OSError:
            pass
    return " ".join(s.decode() for s in re.findall(rb"HTTP/1\.[01] (\d{3})", heard)) or "closed"


def leave(words: bytes) -> Attempt:
    """Say half of it and go."""

    def attempt() -> None:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(SOCKETS / "model.sock"))
            s.sendall(words)

    return attempt


def post(body: object = None, path: str = PATH, *, head: str = "", method: str = "POST") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(GOOD if body is None else body).encode()
    length = "" if "ontent-" in head or "Transfer" in head else f"Content-Length: {len(data)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}{head}\r\n".encode() + data


def ask(**changes: object) -> bytes:
    return post(GOOD | changes)


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (*chunks, b""))


SMUGGLED = post(path="/v1/files")
WITH_TE = "Transfer-Encoding: chunked\r\n"


def crowd() -> str:
    """More connections than one run may have, each with half a request."""
    held = []
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(4)
        try:
            s.connect(str(SOCKETS / "model.sock"))
            s.send(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Le")
        except OSError:
            pass
        held.append(s)
    closed = 0
    for s in held:
        s.settimeout(0.05)
        try:
            closed += s.recv(1) == b""
        except TimeoutError:
            pass
        except OSError:
            closed += 1
        s.close()
    return "most were closed" if closed >= 200 - 64 else f"only {closed} were closed"


GATEWAY: "dict[str, Attempt]" = {
    name: (lambda parts=parts: talk(*parts))
    for name, parts in {
        "another path": [post(path="/v1/files")],
        "the root": [post(path="/", method="GET")],
        "the list of models": [post(path="/v1/models", method="GET")],
        "batches": [post(path="/v1/messages/batches")],
        "up by dots": [post(path="/v1/messages/../files")],
        "up by escaped dots": [post(path="/v1/messages/%2e%2e/files")],
        "two slashes": [post(path="//v1/messages")],
        "a null in the path": [post(path="/v1/messages%00/files")],
        "another method": [post(method="PUT")],
        "DELETE": [post(method="DELETE")],
        "TRACE": [post(method="TRACE")],
        "CONNECT": [b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n"],
        "an absolute URI": [post(path="http://evil.example/v1/files")],
        "another host": [post(head="Host: evil.example\r\n")],
        "a forged key": [post(head="x-api-key: forged\r\nAuthorization: Bearer forged\r\n")],
        "a forged beta": [post(head="anthropic-beta: mcp-client-2025-04-04,files-api-2025-04-14\r\n")],
        "a forged query": [post(path="/v1/messages?beta=true&files=1&x=http://evil.example")],
        "length and chunks": [post(b"0\r\n\r\n" + SMUGGLED, head=WITH_TE + "Content-Length: 5\r\n")],
        "chunks and length": [post(b"0\r\n\r\n" + SMUGGLED, head="Content-Length: 5\r\n" + WITH_TE)],
        "two lengths": [post(head="Content-Length: 5\r\nContent-Length: 500\r\n")],
        "a length below zero": [post(head="Content-Length: -1\r\n")],
        "a length with a sign": [post(head="Content-Length: +5\r\n")],
        "chunks by another name": [post(chunked(b"x"), head="Transfer-Encoding: xchunked\r\n")],
        "a hidden encoding": [post(chunked(b"x"), head="Transfer-Encoding : chunked\r\n")],
        "a folded header": [post(head="X-Y: a\r\n b\r\n")],
        "a header with a null": [post(head="X-Y: a\0b\r\n")],
        "a header with a bare line end": [post(head="X-Y: a\nX-Api-Key: b\r\n")],
        "a huge header": [post(head=f"X-Y: {'y' * (1 << 20)}\r\n")],
        "ten thousand headers": [post(head="".join(f"x-{n}: y\r\n" for n in range(10_000)))],
        "two requests at once": [post(path="/v1/models", method="GET") + post(path="/v1/files")],
        "one behind a good one": [post() + SMUGGLED],
        "HTTP/2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64)],
        "an upgrade": [
            post(b"", head="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", method="GET")
        ],
        "an upgrade to h2c": [
            post(head="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n")
        ],
        "TLS": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)],
        "noise": [bytes(range(256)) * 64],
        "a body that never ends": [post(b"", head=WITH_TE), *[b"100000\r\n" + b" " * (1 << 20) + b"\r\n"] * 34],
        "a compressed bomb": [post(b"\x1f\x8b" + bytes(900), head="Content-Encoding: gzip\r\nContent-Length: 902\r\n")],
        "JSON of great depth": [post(b"[" * 100_000)],
        "a tool of the provider": [ask(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])],
        "a picture by address": [
            ask(
                messages=[
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}
                ]
            )
        ],
        "an MCP server": [ask(mcp_servers=[{"type": "url", "url": "https://evil.example", "name": "x"}])],
        "a container of the provider": [ask(container="c")],
    }.items()
}
GATEWAY["early close"] = leave(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
GATEWAY["a crowd of half requests"] = crowd


# --- by the proxy --------------------------------------------------------------------------------


def to(where: str, version: str = "HTTP/1.1") -> bytes:
    return f"CONNECT {where} {version}\r\nHost: {where}\r\n\r\n".encode("utf-8", "surrogateescape")


def through(words: bytes, where: str = "good.example.org:443") -> Attempt:
    """The first words after a tunnel was opened, and what came back."""

    def attempt() -> str:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(SOCKETS / "egress.sock"))
            s.sendall(to(where))
            first = s.recv(1 << 16)
            if b" 200 " not in first:
                return f"not opened: {first[:60]!r}"
            s.sendall(words)
            try:
                back = s.recv(1 << 16)
            except TimeoutError:
                return "silent"
        return "echoed" if words[:5] in back else "cut off"

    return attempt


def hello(server_name: str = "") -> bytes:
    """What a TLS client says first."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name or None).do_handshake()
    return outgoing.read()


LITERALS = (
    "127.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]",
    "[::]", "10.0.0.1", "169.254.169.254", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "1.1.1.1",
    "localhost", "metadata.google.internal", "host.docker.internal", "api.anthropic.com", "console.anthropic.com",
    "inside.example.org", "mixed.example.org", "mapped.example.org", "nowhere.example.org",
)  # fmt: skip
PROXY: "dict[str, Attempt]" = {
    f"to {host}": (lambda host=host: talk(to(f"{host}:443"), sock="egress.sock")) for host in LITERALS
}
PROXY |= {
    name: (lambda parts=parts: talk(*parts, sock="egress.sock"))
    for name, parts in {
        "port 25": [to("good.example.org:25")],
        "port 22": [to("good.example.org:22")],
        "port 0": [to("good.example.org:0")],
        "port 65979, which is 443": [to("good.example.org:65979")],
        "no port": [to("good.example.org")],
        "a user before the host": [to("good.example.org@127.0.0.1:443")],
        "a null in the name": [to("good.example.org\0.evil.example:443")],
        "a line end in the name": [to("good.example.org\r\nX: y:443")],
        "letters that look alike": [to("g\u043e\u043ed.example.org:443")],
        "wide digits": [to("\uff11\uff12\uff17.0.0.1:443")],
        "two dots": [to("good..example.org:443")],
        "a name of 300 letters": [to("x" * 300 + ".example.org:443")],
        "plain http": [b"GET http://good.example.org/ HTTP/1.1\r\nHost: good.example.org\r\n\r\n"],
        "plain http to metadata": [b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"],
        "HTTP/2 to the proxy": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        "SOCKS": [b"\x05\x01\x00\r\n\r\n"],
        "words before the answer": [to("good.example.org:443") + hello("good.example.org")],
        "a body with CONNECT": [to("good.example.org:443").replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nabcd")],
        "a head without an end": [b"CONNECT good.example.org:443 HTTP/1.1\r\n" + b"X: y\r\n" * 20_000],
    }.items()
}
PROXY |= {
    "TLS for another name": through(hello("evil.example")),
    "TLS without a name": through(hello()),
    "TLS for an address": through(hello("127.0.0.1")),
    "http in the tunnel": through(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
    "ssh in the tunnel": through(b"SSH-2.0-x\r\n"),
    "noise in the tunnel": through(bytes(range(1, 256)) * 10),
    "the name with a dot at its end": through(hello("good.example.org"), "good.example.org.:443"),
    "the good name": through(hello("good.example.org")),
}


if __name__ == "__main__":
    play({"direct": DIRECT, "gateway": GATEWAY, "proxy": PROXY}[sys.argv[2]])
