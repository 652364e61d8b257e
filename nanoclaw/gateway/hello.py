"""What a TLS client says before anything is secret: the name of the server that it wants (pure)."""

import re
from dataclasses import dataclass
from hashlib import sha256

MAX_HELLO = 64 << 10  # bytes in which a first message must be whole; today's have 2 KiB
HANDSHAKE = 22  # a record of the handshake
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ENCRYPTED_HELLO = 0xFE0D  # hides another name behind the one that is shown
_SERVER_HELLO = 2
_CHANGE = 20  # a record that says nothing any more, of a client that is kind to old boxes on the way
_RETRY = sha256(b"HelloRetryRequest").digest()  # the random of a server's hello that asks for another one (RFC 8446)
# A line that is a request of http, or may become one; servers skip what is empty before it.
_ASKS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]+[^\n]*)?")
_HTTP = re.compile(rb"[^ \t]+[ \t].*HTTP/[0-9]|(GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|TRACE|CONNECT)[ \t]", re.I)


class NotAllowed(Exception):
    """These bytes must not go out; the text says why."""


@dataclass(frozen=True)
class _Cursor:
    """A place in bytes that nobody has checked. What is not there raises IndexError."""

    data: bytes

    def vector(self, width: int) -> tuple[bytes, "_Cursor"]:
        """The next field, whose length stands before it in `width` bytes; and the place behind it."""
        length = self.number(width)
        if len(self.data) < width + length:
            raise IndexError
        return self.data[width : width + length], _Cursor(self.data[width + length :])

    def number(self, width: int) -> int:
        if len(self.data) < width:
            raise IndexError
        return int.from_bytes(self.data[:width], "big")

    def skip(self, count: int) -> "_Cursor":
        if len(self.data) < count:
            raise IndexError
        return _Cursor(self.data[count:])


def check_first(data: bytes, host: str, *, tls: bool) -> bool:
    """Whether what a client sent first is whole and may go to `host`; False to wait for more of it.

    With `tls` it must be a TLS client's hello. Without, other protocols pass, but never plain http.
    Raises NotAllowed.
    """
    if tls or data[:1] == bytes([HANDSHAKE]):
        return _check_hello(data, host)
    line, end, _ = data.lstrip().partition(b"\n")
    if _HTTP.match(line) or len(line) > MAX_HELLO:
        raise NotAllowed("plain http")
    return bool(end) or (bool(line) and not _ASKS.fullmatch(line))


def asks_again(data: bytes) -> bool | None:
    """Whether a server's first words want another hello of the client, None while too few of them are there."""
    if len(data) < 6 + 3 + 2 + 32 and data[:1] in (b"", bytes([HANDSHAKE])):
        return None
    return data[0] == HANDSHAKE and data[5] == _SERVER_HELLO and data[11:43] == _RETRY


def check_second(data: bytes, host: str) -> bool:
    """As `check_first`, of what a client says when the server has asked for another hello."""
    while data[:1] == bytes([_CHANGE]):
        if len(data) < 6:
            return False
        if data[3:6] != b"\0\1\1":
            raise NotAllowed("no TLS hello")
        data = data[6:]
    return _check_hello(data, host)


def _check_hello(data: bytes, host: str) -> bool:
    try:
        message, _ = _message(data)
        if message is None:
            if len(data) > MAX_HELLO:
                raise NotAllowed("a TLS hello without an end")
            return False
        named = _server_name(message)
    except IndexError:
        raise NotAllowed("no TLS hello") from None
    if named.lower() != host:
        raise NotAllowed("TLS for another name" if named else "TLS without a name")
    return True


def behind_hello(data: bytes) -> bytes:
    """What follows on a hello that was checked."""
    return _message(data)[1] if data[0] == HANDSHAKE else b""


def _message(data: bytes) -> tuple[bytes | None, bytes]:
    """The first message of the handshake, which may be spread over records, None while it is not all there; and what
    stands behind it."""
    message = b""
    while data:
        if data[0] != HANDSHAKE or (len(data) > 1 and data[1] != 3):
            raise NotAllowed("no TLS")
        if len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
            return None, b""
        record, data = data[5 : 5 + int.from_bytes(data[3:5], "big")], data[5 + int.from_bytes(data[3:5], "big") :]
        if not record:
            raise NotAllowed("an empty TLS record")
        message += record
        if message[0] != _CLIENT_HELLO:
            raise NotAllowed("no TLS hello")
        whole = 4 + int.from_bytes(message[1:4], "big")
        if len(message) > max(4, whole):
            raise NotAllowed("more than a TLS hello")  # a second one, say
        if len(message) == whole:
            return message[4:], data
    return None, b""


def _server_name(hello: bytes) -> str:
    """The one name that a hello asks for; "" if it names none."""
    rest = _Cursor(hello).skip(2 + 32)  # version, random
    _, rest = rest.vector(1)  # session
    _, rest = rest.vector(2)  # ciphers
    _, rest = rest.vector(1)  # compression
    if not rest.data:
        return ""
    extensions, _ = rest.vector(2)
    found: dict[int, bytes] = {}
    at = _Cursor(extensions)
    while at.data:
        kind = at.number(2)
        body, at = at.skip(2).vector(2)
        if kind in found:
            raise NotAllowed("a TLS hello that says something twice")
        found[kind] = body
    if _ENCRYPTED_HELLO in found:
        raise NotAllowed("a hidden TLS name (ECH)")
    return _one_name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""


def _one_name(extension: bytes) -> str:
    names, _ = _Cursor(extension).vector(2)
    if _Cursor(names).number(1) != 0:
        raise NotAllowed("a TLS name of an unknown kind")
    name, more = _Cursor(names).skip(1).vector(2)
    if more.data:
        raise NotAllowed("several TLS names")
    return name.decode("latin-1")
