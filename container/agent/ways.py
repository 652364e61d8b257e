"""Where a connection gets to from inside: the network, the gateway, the egress; for the probe.

Every address and name here is one that must not be reached; the way to the model is asked for nothing that costs.
"""

import errno
import json
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

MODEL = "/run/nanoclaw/sockets/model.sock"
EGRESS = "/run/nanoclaw/sockets/egress.sock"
SOCKETS = (MODEL, EGRESS)
SMUGGLED = "probe-smuggled"  # must never come out behind the gateway
_WAIT = 2.0  # seconds for one answer
_PATIENCE = 8.0  # seconds for the first word of what must answer: the machine may be busy
_DNS_WAIT = 3  # seconds for all names

# What the kernel says where there is no way at all; silence may be a way that nobody answers on.
_NOWHERE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

# For the egress: each is the machine's own, its network's, or no name of a host; and the model's provider.
INSIDE = (
    "127.0.0.1:443", "127.1:443", "2130706433:443", "0x7f000001:443", "0x7f.1:443", "017700000001:443",
    "localhost:443", "localhost.:443", "[::1]:443", "[::ffff:127.0.0.1]:443", "[::]:443", "0.0.0.0:443", "0:443",
    "169.254.169.254:80", "169.254.169.254:443", "[fd00:ec2::254]:443", "metadata.google.internal:443",
    "10.0.0.1:443", "172.17.0.1:443", "192.168.0.1:443", "100.64.0.1:443", "[fe80::1]:443", "[fc00::1]:443",
    "[64:ff9b::7f00:1]:443", "[2002:7f00:1::]:443", "host.docker.internal:443", "api.anthropic.com:443",
    "nanoclaw-probe.invalid:443", "example.com:25", "example.com:22", "example.com:0", "example.com:99999",
    "example.com", ":443", "a b:443", "example.com:443\r\nX: y",
)  # fmt: skip

_BODY = json.dumps({"model": "probe", "max_tokens": 1, "messages": [{"role": "user", "content": "probe"}]})


@dataclass(frozen=True)
class Tried:
    """What came of many requests."""

    took: list[str]  # those that were not refused
    fault: str = ""  # why not all of them could be tried


def out(more: list[str]) -> list[str]:
    """The ways out of here that there are, in words; `more`: other addresses of the machine, as the engine's."""
    found = [f"there is an interface {name}" for name in _interfaces() if name != "lo"]
    if routes := Path("/proc/net/route").read_text().splitlines()[1:]:
        found.append(f"there are {len(routes)} routes")
    for host in (
        "1.1.1.1",
        "169.254.169.254",
        "172.17.0.1",
        "10.0.0.1",
        "2606:4700:4700::1111",
        "fd00:ec2::254",
        *more,
    ):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for kind, way in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
            if _reaches(family, kind, host):
                found.append(f"{host} is reached by {way}")
    until = time.monotonic() + _DNS_WAIT
    for name in ("example.com", "api.anthropic.com"):
        if time.monotonic() < until and _resolves(name):
            found.append(f"the name {name} is resolved")
    return found


def _interfaces() -> list[str]:
    return [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]


def _reaches(family: int, kind: int, host: str) -> bool:
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(_WAIT / 4)
            s.connect((host, 53 if kind == socket.SOCK_DGRAM else 443))
            if kind == socket.SOCK_DGRAM:
                s.send(b"probe")
    except OSError as e:
        return e.errno not in _NOWHERE
    return True


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, 443)
    except OSError:
        return False
    return True


def listens(path: str) -> bool:
    """Whether anybody does at a unix socket. No word is said: a program of the owner's might take it for an order."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(_WAIT)
            s.connect(path)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def _said(path: str, data: bytes) -> bytes:
    """What a socket answers before it closes. Raises TimeoutError for silence, OSError where nobody listens."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(_PATIENCE)
        s.connect(path)
        told = b""
        try:
            s.sendall(data)
            while len(told) < 1 << 16 and (piece := s.recv(1 << 14)):
                told += piece
                s.settimeout(_WAIT)
        except TimeoutError:
            if not told:
                raise
        except OSError:  # it hung up: that is an answer
            pass
    return told


def _request(line: str, *headers: str, body: str = "", more: bool = False) -> bytes:
    """A request as bytes; `more`: others follow in the same connection."""
    head = [line, "Host: gateway", *headers, *([] if more else ["Connection: close"])]
    told = any(h.startswith(("Content-Length", "Transfer-Encoding")) for h in headers)
    head += [f"Content-Length: {len(body)}"] if body and not told else []
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


_POST = "POST /v1/messages HTTP/1.1"
_JSON = "Content-Type: application/json"


def _with(**more: object) -> str:
    return json.dumps({**json.loads(_BODY), **more})


# Requests that the gateway must refuse, by what each of them tries.
FOREIGN: dict[str, bytes] = {
    "another method": _request("GET /v1/messages HTTP/1.1"),
    "DELETE": _request("DELETE /v1/messages HTTP/1.1"),
    "CONNECT": _request("CONNECT example.com:443 HTTP/1.1"),
    "the files": _request("POST /v1/files HTTP/1.1", _JSON, body=_BODY),
    "the batches": _request("POST /v1/messages/batches HTTP/1.1", _JSON, body=_BODY),
    "the list of models": _request("GET /v1/models HTTP/1.1"),
    "an older path": _request("POST /v1/complete HTTP/1.1", _JSON, body=_BODY),
    "the organization": _request("GET /v1/organizations/api_keys HTTP/1.1"),
    "a path through another": _request("POST /v1/messages/../files HTTP/1.1", _JSON, body=_BODY),
    "an encoded path": _request("POST /v1/messages%2f..%2ffiles HTTP/1.1", _JSON, body=_BODY),
    "a doubled slash": _request("POST //v1/messages HTTP/1.1", _JSON, body=_BODY),
    "another host's files": _request("POST http://example.com/v1/files HTTP/1.1", _JSON, body=_BODY),
    "two lengths": _request(_POST, "Content-Length: 5", "Content-Length: 6", body="{}   "),
    "a length and pieces": _request(_POST, "Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n"),
    "a folded header": _request(_POST, "X-A: b\r\n c: d", body="{}"),
    "a name with a blank": _request(_POST, "X-A : b", body="{}"),
    "a header with a zero": _request(_POST, "X-A: b\0c", body="{}"),
    "a header without end": _request(_POST, "X-A: " + "a" * 100_000, body="{}"),
    "an unknown encoding": _request(_POST, "Transfer-Encoding: xchunked", body="0\r\n\r\n"),
    "pieces of a wrong size": _request(_POST, "Transfer-Encoding: chunked", body="fffffffffffffffff\r\n"),
    "a request of another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no JSON": _request(_POST, _JSON, body="probe"),
    "a list": _request(_POST, _JSON, body="[]"),
    "depth": _request(_POST, _JSON, body="[" * 50_000),
    "an unknown key": _request(_POST, _JSON, body=_with(probe=SMUGGLED)),
    "servers of tools": _request(_POST, _JSON, body=_with(mcp_servers=[{"type": "url", "url": "https://example.com"}])),
    "a container": _request(_POST, _JSON, body=_with(container=SMUGGLED)),
    "a tool that fetches": _request(
        _POST, _JSON, body=_with(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])
    ),
    "a tool that runs code": _request(
        _POST, _JSON, body=_with(tools=[{"type": "code_execution_20250825", "name": "code_execution"}])
    ),
    "a picture by its address": _request(
        _POST, _JSON, body=_with(messages=[{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]}]),
    ),
}  # fmt: skip

_COUNT = "POST /v1/messages/count_tokens HTTP/1.1"
_SMUGGLING = (
    "X-Api-Key", "Authorization", "Cookie", "X-A", "X-Forwarded-For", "User-Agent", "Anthropic-Beta", "Forwarded",
)  # fmt: skip

# Allowed in themselves: the host sees behind the gateway that nothing of what they carry comes out.
_CARRIERS = {
    "headers": _request(
        f"POST http://example.com/v1/messages/count_tokens?beta=true&x={SMUGGLED} HTTP/1.1",
        *(_JSON, *(f"{name}: {SMUGGLED}" for name in _SMUGGLING)),
        body=_BODY,
    ),
    "a second request": _request(_COUNT, _JSON, body=_BODY, more=True)
    + _request("POST /v1/files HTTP/1.1", _JSON, f"X-A: {SMUGGLED}", body=_BODY),
}


def model() -> Tried:
    """What the gateway took of what it must refuse, by its name."""
    tried = _try(MODEL, FOREIGN)
    return tried if tried.fault else replace(tried, fault=_try(MODEL, _CARRIERS).fault)


def egress(targets: list[str]) -> Tried:
    """The forbidden targets that it leads to."""
    heads = {t: f"CONNECT {t} HTTP/1.1\r\nHost: {t}\r\n\r\n".encode() for t in targets}
    return _try(EGRESS, heads | {"plain http": b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n"})


def _try(path: str, requests: dict[str, bytes]) -> Tried:
    took = []
    try:
        for name, data in requests.items():
            if not _is_refusal(_said(path, data)):
                took.append(name)
    except TimeoutError:
        return Tried(took, f"it does not answer in time to {name}")
    except OSError:
        return Tried(took, "nobody listens")
    return Tried(took)


def _is_refusal(said: bytes) -> bool:
    """A status of its own in the four or five hundreds, alone; or a connection that was closed without a word."""
    lines = [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return all(line.split(b" ")[1][:1] in (b"4", b"5") for line in lines)
