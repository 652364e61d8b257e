"""The rules of the way out, without a connection: names, addresses, requests to a proxy, the first words of TLS."""

import socket
import ssl
import struct
from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.errors import Refused
from nanoclaw.gateway import Level, Reach
from nanoclaw.gateway.addresses import own_networks, refusal
from nanoclaw.gateway.connect import Denied, decide, target
from nanoclaw.gateway.hello import MAX_HELLO, NotAllowed, check_first, check_second
from nanoclaw.gateway.hosts import PROVIDERS, check_pattern, host_name, matches
from nanoclaw.gateway.outward import judge

# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("example.org", "example.org"),
        ("  Example.ORG. ", "example.org"),
        ("*.example.org", "*.example.org"),
        ("example.org:443", "example.org"),
        ("example.org:8443", "example.org:8443"),
        ("*.example.org:22", "*.example.org:22"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("r3---sn-4g5e6nl7.example.com", "r3---sn-4g5e6nl7.example.com"),
    ],
)
def test_a_pattern_is_kept_in_one_form(written: str, kept: str) -> None:
    """What the owner writes in several ways is one entry, which shows foreign letters as DNS has them."""
    assert check_pattern(written) == kept


@pytest.mark.parametrize(
    "written",
    [
        "", "*", "*.", "*.org", "org", "localhost", "a..b", "-a.org", "a-.org", "a_b.org", "a b.org", "*.*.org",
        "a.*.org", "x*.example.org", "https://example.org", "example.org/path", "user@example.org", "example.org:0",
        "example.org:80", "example.org:65536", "example.org:https", "example.org:", "x" * 64 + ".org",
        "x." * 127 + "org",
        "127.0.0.1", "1.2.3.4:443", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "example.1", "example.0x7f", "[::1]",
        "::1", "::ffff:10.0.0.1", "router.local", "printer.lan", "metadata.google.internal", "1.0.0.127.in-addr.arpa",
        "faß.de", "ﬀ.example", "example。org", "api.anthropic.com", "*.anthropic.com", "claude.ai", "x\x00.org",
        "example.org\r\nx.org",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(written: str) -> None:
    """Addresses in every notation, half of the internet, local names, the model's provider, plain http."""
    with pytest.raises(Refused):
        check_pattern(written)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "fits"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 8443, False),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "badexample.org", 443, False),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "badexample.org", 443, False),
        ("*.example.org", "example.org.evil.com", 443, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
    ],
)
def test_a_pattern_covers_what_it_says(pattern: str, host: str, port: int, fits: bool) -> None:
    """A star stands for whole labels, and a port for itself."""
    assert matches(pattern, host, port) is fits


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    """Whatever is kept is ASCII, stays itself when it is written again, and covers no other name than its own."""
    with suppress(Refused):
        kept = check_pattern(text)
        assert kept.isascii()
        assert check_pattern(kept) == kept
        name = host_name(kept.removeprefix("*.").partition(":")[0])
        assert matches(kept.partition(":")[0], f"a.{name}", 443) is kept.startswith("*.")


# --- levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "hosts", "host", "port", "allowed"),
    [
        (Level.NONE, ("example.org",), "example.org", 443, False),
        (Level.ALLOWLIST, (), "example.org", 443, False),
        (Level.ALLOWLIST, ("example.org",), "example.org", 443, True),
        (Level.ALLOWLIST, ("example.org",), "example.com", 443, False),
        (Level.ALLOWLIST, ("example.org:22",), "example.org", 22, True),
        (Level.PUBLIC, (), "example.com", 443, True),
        (Level.PUBLIC, (), "example.com", 22, False),
        (Level.PUBLIC, ("example.com:22",), "example.com", 22, True),
        (Level.PUBLIC, (), "api.anthropic.com", 443, False),
        (Level.PUBLIC, (), "statsig.anthropic.com", 443, False),
        (Level.PUBLIC, (), "claude.ai", 443, False),
        (Level.PUBLIC, (), "gateway.corp.example", 443, False),
        (Level.ALLOWLIST, ("*.corp.example",), "gateway.corp.example", 443, False),
    ],
)
def test_a_level_lets_out_what_it_says(
    level: Level, hosts: tuple[str, ...], host: str, port: int, allowed: bool
) -> None:
    """Nothing, the list, or every host by https; the model's provider never, whatever the list says."""
    providers = (*PROVIDERS, "gateway.corp.example")
    if allowed:
        decide(Reach("g", level, hosts), host, port, providers)
    else:
        with pytest.raises(Denied):
            decide(Reach("g", level, hosts), host, port, providers)


# --- addresses ---------------------------------------------------------------------------------

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.17.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808
64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::1 2001:10::1 2001:20::1 2001:2::1 2001:db8::1 2002:7f00:1::1 2002:a00:1::
3fff::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 fe80::1%1 fec0::1 ff02::1 ff0e::1 2606:4700::1111%eth0
256.1.1.1 1.2.3 0x7f000001 2130706433 0177.0.0.1 example.org
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_address_that_is_not_the_internet_is_refused(address: str) -> None:
    """The host's own networks, metadata of clouds, and every way in which IPv6 wraps an IPv4 address."""
    assert refusal(address)


PUBLIC = """
1.1.1.1 93.184.216.34 100.63.255.255 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 223.255.255.255
2606:4700::1111 2a00:1450::1
""".split()  # fmt: skip  # noqa: SIM905


@pytest.mark.parametrize("address", PUBLIC)
def test_address_of_the_internet_passes(address: str) -> None:
    """What lies beside the refused ranges is reached."""
    assert not refusal(address)


ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100A8C0	0003	0	0	0	00000000	0	0	0
eth0	00AC1F5D	00000000	0001	0	0	0	00FFFFFF	0	0	0
wg0	00000000	00000000	0001	0	0	0	00000080	0	0	0
br-7f3a	0000000B	00000000	0001	0	0	0	0000FFFF	0	0	0
"""
LOCAL = """Main:
  +-- 0.0.0.0/0 3 0 5
        |-- 81.2.69.142
           /32 host LOCAL
"""
ROUTES6 = """2a01000000000000000000000000abcd 40 00000000000000000000000000000000 00 00000000000000000000000000000000 0 0 0 1 eth0
20000000000000000000000000000000 03 00000000000000000000000000000000 00 00000000000000000000000000000000 0 0 0 1 wg0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 0 0 0 3 eth0
"""  # noqa: E501


def test_the_hosts_own_public_networks_count_as_private() -> None:
    """A server's own public address and its neighbours are not the internet; the routes of a VPN are no network."""
    own = own_networks(ROUTES, LOCAL, ROUTES6)
    public = ("11.0.0.0/16", "81.2.69.142/32", "93.31.172.0/24", "2a01::/64")  # the first is an engine's bridge
    assert set(own) == {ip_network(net) for net in public}
    assert refusal("11.0.0.1", own)
    assert refusal("81.2.69.142", own)
    assert refusal("93.31.172.77", own)
    assert refusal("2a01::1", own)
    assert not refusal("81.2.69.143", own)
    assert not refusal("2606:4700::1111", own)


def test_this_machine_is_judged_as_it_is() -> None:
    """Whatever addresses this machine has, none of them is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):  # no network: loopback remains
            probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    assert judge(["127.0.0.1"])
    assert judge([own])
    assert not judge(["1.1.1.1"])


@given(st.ip_addresses())
def test_any_address_gets_an_answer(address: object) -> None:
    """And nothing outside the global unicast block of IPv6 passes."""
    told = refusal(str(address))
    if ":" in str(address):
        assert told or address in ip_network("2000::/3")


# --- the request to the proxy ------------------------------------------------------------------


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "request_head",
    [
        head("CONNECT example.org:443 HTTP/1.1", "Host: example.org:443"),
        head("CONNECT example.org:443 HTTP/1.0"),
        head("CONNECT Example.ORG.:443 HTTP/1.1", "host: EXAMPLE.org", "User-Agent: curl/8", "Proxy-Connection: x"),
        head("CONNECT example.org:443 HTTP/1.1", "Content-Length: 0", "Proxy-Authorization: Basic eA=="),
    ],
)
def test_what_clients_send_is_understood(request_head: bytes) -> None:
    """curl, git, pip, node and Claude Code ask in one of these ways."""
    assert target(request_head) == ("example.org", 443)


SMUGGLED = {
    "get": (head("GET http://example.org/ HTTP/1.1"), 405),
    "post": (head("POST http://example.org/ HTTP/1.1", "Content-Length: 3"), 405),
    "http2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "no version": (head("CONNECT example.org:443"), 400),
    "http/2": (head("CONNECT example.org:443 HTTP/2"), 400),
    "lower case": (head("connect example.org:443 HTTP/1.1"), 400),
    "two spaces": (head("CONNECT  example.org:443 HTTP/1.1"), 400),
    "tab": (head("CONNECT\texample.org:443 HTTP/1.1"), 400),
    "space before": (head(" CONNECT example.org:443 HTTP/1.1"), 400),
    "space behind": (head("CONNECT example.org:443 HTTP/1.1 "), 400),
    "nothing": (b"\r\n\r\n", 400),
    "zero byte": (head("CONNECT example.org\x00.evil.com:443 HTTP/1.1"), 400),
    "no port": (head("CONNECT example.org HTTP/1.1"), 400),
    "port zero": (head("CONNECT example.org:0 HTTP/1.1"), 400),
    "port with zeros": (head("CONNECT example.org:0443 HTTP/1.1"), 400),
    "port too large": (head("CONNECT example.org:65979 HTTP/1.1"), 400),
    "two ports": (head("CONNECT example.org:80:443 HTTP/1.1"), 400),
    "a path": (head("CONNECT example.org/x:443 HTTP/1.1"), 400),
    "a user": (head("CONNECT example.org@evil.com:443 HTTP/1.1"), 400),
    "an url": (head("CONNECT https://example.org:443 HTTP/1.1"), 400),
    "a query": (head("CONNECT evil.com?example.org:443 HTTP/1.1"), 400),
    "an IPv6 address": (head("CONNECT [::1]:443 HTTP/1.1"), 400),
    "an IPv4 address": (head("CONNECT 127.0.0.1:443 HTTP/1.1"), 403),
    "a decimal address": (head("CONNECT 2130706433:443 HTTP/1.1"), 403),
    "a hexadecimal address": (head("CONNECT 0x7f000001:443 HTTP/1.1"), 403),
    "an octal address": (head("CONNECT 0177.0.0.1:443 HTTP/1.1"), 403),
    "a short address": (head("CONNECT 127.1:443 HTTP/1.1"), 403),
    "a local name": (head("CONNECT localhost:443 HTTP/1.1"), 403),
    "an escaped name": (head("CONNECT example%2eorg:443 HTTP/1.1"), 403),
    "two dots": (head("CONNECT example.org..:443 HTTP/1.1"), 403),
    "letters beyond ASCII": (head("CONNECT ex\xe4mple.org:443 HTTP/1.1"), 400),
    "another host": (head("CONNECT example.org:443 HTTP/1.1", "Host: evil.com:443"), 400),
    "another port": (head("CONNECT example.org:443 HTTP/1.1", "Host: example.org:22"), 400),
    "two hosts": (head("CONNECT example.org:443 HTTP/1.1", "Host: example.org", "Host: example.org"), 400),
    "folded": (head("CONNECT example.org:443 HTTP/1.1", "X: a", " Host: evil.com"), 400),
    "space before the colon": (head("CONNECT example.org:443 HTTP/1.1", "Host : example.org"), 400),
    "no colon": (head("CONNECT example.org:443 HTTP/1.1", "Host"), 400),
    "bare newline": (head("CONNECT example.org:443 HTTP/1.1", "X: a\nHost: evil.com"), 400),
    "bare return": (head("CONNECT example.org:443 HTTP/1.1", "X: a\rHost: evil.com"), 400),
    "a body": (head("CONNECT example.org:443 HTTP/1.1", "Content-Length: 5"), 400),
    "a length that is none": (head("CONNECT example.org:443 HTTP/1.1", "Content-Length: +0"), 400),
    "two lengths": (head("CONNECT example.org:443 HTTP/1.1", "Content-Length: 0", "Content-Length: 0"), 400),
    "chunks": (head("CONNECT example.org:443 HTTP/1.1", "Transfer-Encoding: chunked"), 400),
    "expect": (head("CONNECT example.org:443 HTTP/1.1", "Expect: 100-continue"), 400),
    "upgrade": (head("CONNECT example.org:443 HTTP/1.1", "Upgrade: h2c"), 400),
    "many headers": (head("CONNECT example.org:443 HTTP/1.1", *(["X: y"] * 65)), 431),
}


@pytest.mark.parametrize(("request_head", "status"), SMUGGLED.values(), ids=SMUGGLED.keys())
def test_what_could_be_read_in_two_ways_is_refused(request_head: bytes, status: int) -> None:
    """One spelling is understood; all others are answered and go nowhere."""
    with pytest.raises(Denied) as no:
        target(request_head)
    assert no.value.status == status
    assert str(no.value).isascii()
    assert str(no.value).isprintable()


@given(st.binary(max_size=300), st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_a_request_or_refused(line: bytes, fields: list[bytes]) -> None:
    """Whatever comes, the outcome is a name that can be looked up, or a refusal."""
    for first in (line, b"CONNECT " + line + b":443 HTTP/1.1", b"CONNECT a.org:443 HTTP/1.1"):
        with suppress(Denied):
            host, port = target(b"\r\n".join([first, *fields, b"", b""]))
            assert host == host_name(host)
            assert 0 < port < 65536


# --- the first words of TLS --------------------------------------------------------------------


def real_hello(name: str | None) -> bytes:
    """What this Python's TLS says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def sni(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + struct.pack(">H", len(n)) + n for n in names)
    return extension(0, struct.pack(">H", len(entries)) + entries)


def hello(*extensions: bytes) -> bytes:
    """A hello with these extensions, in one record."""
    body = b"\x03\x03" + b"r" * 32 + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    more = b"".join(extensions)
    body += struct.pack(">H", len(more)) + more
    return record(b"\x01" + len(body).to_bytes(3, "big") + body)


def record(body: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + struct.pack(">H", len(body)) + body


def test_a_real_hello_passes_for_its_name_alone() -> None:
    """In one piece, in several, and with more behind it; the name's case does not count."""
    whole = real_hello("Files.example.org")
    assert check_first(whole, "files.example.org", tls=True)
    assert check_first(whole + b"more", "files.example.org", tls=True)
    assert not check_first(whole[:-1], "files.example.org", tls=True)
    assert not check_first(whole[:3], "files.example.org", tls=True)
    with pytest.raises(NotAllowed, match="another name"):
        check_first(whole, "example.org", tls=True)
    with pytest.raises(NotAllowed, match="without a name"):
        check_first(real_hello(None), "files.example.org", tls=True)


def test_a_hello_in_several_records_is_read_whole() -> None:
    """A name that is split over records is the same name."""
    body = hello(sni(b"example.org"))[5:]
    split = b"".join(record(body[i : i + 7]) for i in range(0, len(body), 7))
    assert check_first(split, "example.org", tls=True)
    with pytest.raises(NotAllowed):
        check_first(split, "example.com", tls=True)


NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\n",
    "ssh": b"SSH-2.0-x\r\n",
    "sslv2": b"\x80\x2e\x01\x00\x02",
    "an alert": record(b"\x02\x28", 21),
    "data": record(b"hi", 23),
    "a server's hello": record(b"\x02\x00\x00\x00"),
    "an empty record": record(b"") + hello(sni(b"example.org")),
    "another record within": record(hello(sni(b"example.org"))[5:20]) + record(b"x", 23),
    "an old version": b"\x16\x02\x00\x00\x10" + b"x" * 16,
    "no name": hello(),
    "no extensions": record(b"\x01\x00\x00\x29\x03\x03" + b"r" * 32 + b"\x00\x00\x02\x13\x01\x01\x00"),
    "another name": hello(sni(b"evil.com")),
    "two names": hello(sni(b"example.org", b"evil.com")),
    "two name extensions": hello(sni(b"example.org"), sni(b"evil.com")),
    "a name of another kind": hello(sni(b"example.org", kind=1)),
    "a name with a dot": hello(sni(b"example.org.")),
    "a name with a zero byte": hello(sni(b"example.org\x00")),
    "an empty name": hello(sni(b"")),
    "an encrypted hello": hello(sni(b"example.org"), extension(0xFE0D, b"x")),
    "lengths that lie": record(b"\x01\x00\x00\x05\x03\x03rrr"),
    "an extension that is cut": hello(b"\x00\x00\x00\xff"),
}


@pytest.mark.parametrize("first", NOT_TLS.values(), ids=NOT_TLS.keys())
def test_what_is_not_tls_by_that_name_is_refused(first: bytes) -> None:
    """Domain fronting, hidden names, and every protocol that is none."""
    with pytest.raises(NotAllowed):
        check_first(first, "example.org", tls=True)


def test_a_hello_without_an_end_is_refused() -> None:
    """It is not waited for without bound."""
    endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + b"x" * MAX_HELLO
    with pytest.raises(NotAllowed):
        check_first(endless, "example.org", tls=True)


def test_another_port_may_speak_otherwise_but_not_plain_http() -> None:
    """A port that the owner named carries ssh or TLS by its name; plain http could be anybody's."""
    assert check_first(b"SSH-2.0-OpenSSH\r\n", "example.org", tls=False)
    assert check_first(hello(sni(b"example.org")), "example.org", tls=False)
    assert not check_first(b"GE", "example.org", tls=False)
    for first in (b"GET / HTTP/1.1", b"post / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", hello(sni(b"evil.com"))):
        with pytest.raises(NotAllowed):
            check_first(first, "example.org", tls=False)


@pytest.mark.parametrize(
    "first",
    [
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\n\n \tget /\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"X-Y /path HTTP/1.0\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET\t/ HTTP/1.1\r\n",
    ],
)
def test_plain_http_is_known_however_it_is_written(first: bytes) -> None:
    """Servers skip empty lines before a request and know more words than the usual ones; in pieces it is the same."""
    with pytest.raises(NotAllowed):
        check_first(first, "example.org", tls=False)
    for end in range(1, len(first)):
        with suppress(NotAllowed):
            assert not check_first(first[:end], "example.org", tls=False)


def test_a_hello_with_another_behind_it_is_refused() -> None:
    """In one record a server could take the second one for the answer to its question."""
    one, two = hello(sni(b"example.org"))[5:], hello(sni(b"evil.com"))[5:]
    with pytest.raises(NotAllowed):
        check_first(record(one + two), "example.org", tls=True)


def test_a_second_hello_has_the_name_of_the_first() -> None:
    """With or without the record that old boxes on the way want to see."""
    change = record(b"\x01", 20)
    for before in (b"", change):
        whole = before + hello(sni(b"example.org"))
        assert check_second(whole, "example.org")
        assert not check_second(whole[:-1], "example.org")
        for other in (hello(sni(b"evil.com")), hello(), record(b"hi", 23)):
            with pytest.raises(NotAllowed):
                check_second(before + other, "example.org")
    assert not check_second(change[:4], "example.org")


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_first_words_are_judged(first: bytes, body: bytes) -> None:
    """Whatever comes, the outcome is yes, not yet, or a refusal; and never yes for a name that is not in it."""
    for data in (first, record(first), hello(extension(0, body)), hello(body), record(b"\x01" + first)):
        with suppress(NotAllowed):
            if check_first(data, "example.org", tls=True):
                assert b"example.org" in data.lower()
