"""What a proxy may be asked: one CONNECT, spelled in the one way that has one meaning (pure)."""

import re
from collections.abc import Iterable

from nanoclaw.errors import Refused
from nanoclaw.gateway import Level, Reach
from nanoclaw.gateway.hosts import TLS, host_name, matches, overlaps

MAX_HEAD = 8 << 10  # bytes of a request
_MAX_FIELDS = 64
_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,300}) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\x20-\x7e\t]*)")
_TARGET = re.compile(r"([^:\[\]@/?#]+):([1-9][0-9]{0,4})")
_BODY = (b"transfer-encoding", b"expect", b"upgrade", b"trailer")  # a CONNECT has no body to speak of


class Denied(Exception):
    """Answered here. The reason is one line of ASCII, for whoever reads what the agent's program prints."""

    def __init__(self, status: int, reason: str, *, wanted: bool = False) -> None:
        """`wanted`: the owner could allow it, and may like to know."""
        super().__init__(reason)
        self.status = status
        self.wanted = wanted


def target(head: bytes) -> tuple[str, int]:
    """The name and port that a request asks for; `head` ends with its empty line. Raises Denied."""
    first, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise Denied(400, "this is no request to a proxy")
    if line[1] != b"CONNECT":
        raise Denied(405, "only https goes out: use an https address")
    asked = _name_and_port(line[2].decode("ascii"))
    if len(fields) > _MAX_FIELDS:
        raise Denied(431, "too many headers")
    _check_fields(fields, asked)
    return asked


def decide(reach: Reach, host: str, port: int, providers: Iterable[str]) -> None:
    """Raises Denied unless the name is allowed; it was not looked up yet, since a lookup tells somebody of it."""
    if overlaps(host, providers):
        raise Denied(403, "the model's provider is reached by the gateway alone")
    if reach.level is Level.NONE:
        raise Denied(403, "this chat has no network; the owner can give it one", wanted=True)
    if any(matches(pattern, host, port) for pattern in reach.hosts):
        return
    if reach.level is not Level.PUBLIC:
        raise Denied(403, "this host is not on the list of this chat; the owner can allow it", wanted=True)
    if port != TLS:
        raise Denied(403, f"only port {TLS} is open; the owner can allow a host with another one", wanted=True)


def _name_and_port(text: str) -> tuple[str, int]:
    found = _TARGET.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise Denied(400, "ask for NAME:PORT")
    try:
        return host_name(found[1]), int(found[2])
    except Refused as e:
        raise Denied(403, str(e)) from None


def _check_fields(fields: list[bytes], asked: tuple[str, int]) -> None:
    seen: set[bytes] = set()
    for line in fields:
        field = _FIELD.fullmatch(line)  # a folded line begins with a space, which is no name
        name = field[1].lower() if field else b""
        if field is None or name in _BODY or (name == b"content-length" and field[2].strip() != b"0"):
            raise Denied(400, "these headers could be read in two ways")
        if name in seen and name in (b"host", b"content-length"):
            raise Denied(400, "a header stands twice")
        if name == b"host" and not _same(field[2].strip().decode("ascii"), asked):
            raise Denied(400, "the Host header names another host")
        seen.add(name)


def _same(text: str, asked: tuple[str, int]) -> bool:
    name, _, port = text.partition(":")
    return name.lower().removesuffix(".") == asked[0] and port in ("", str(asked[1]))
