"""WhatsApp's wire: stanzas as binary XML, inside Noise frames.

Binary XML: a node is a list of tag, attributes and content; strings are words of a dictionary, packed digits, jids or
plain bytes. We write plain bytes only, which is legal, and read everything.

Noise: the handshake is Noise_XX_25519_AESGCM_SHA256, we being the responder. Afterwards each direction has a key of
its own and a counter for a nonce.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.whatsapp import library
from tests.whatsapp.keys import hkdf

_LIST_EMPTY, _DOUBLE_FIRST, _AD_JID, _LIST_8, _LIST_16, _JID_PAIR = 0, 236, 247, 248, 249, 250
_HEX, _BYTES_8, _BYTES_20, _BYTES_32, _NIBBLE = 251, 252, 253, 254, 255


class Jid(str):
    """A string that travels as a jid: user@server, or user:device@server."""

    __slots__ = ()

    @property
    def user(self) -> str:
        """Without device and server."""
        return self.partition("@")[0].partition(":")[0]


@dataclass
class Node:
    """One stanza or a part of one. `content` is bytes, or nodes."""

    tag: str
    attrs: dict[str, Any] = field(default_factory=dict)
    content: "bytes | list[Node] | None" = None

    def children(self, tag: str = "") -> "list[Node]":
        """The nodes inside, of this tag."""
        nodes = self.content if isinstance(self.content, list) else []
        return [node for node in nodes if not tag or node.tag == tag]

    def child(self, *path: str) -> "Node | None":
        """The first node inside, by the tags that lead to it."""
        node: Node | None = self
        for tag in path:
            node = next(iter(node.children(tag)), None) if node else None
        return node

    def data(self, *path: str) -> bytes:
        """The bytes at that path; it must be there."""
        node = self.child(*path)
        assert node is not None, path
        assert isinstance(node.content, bytes), path
        return node.content

    def __repr__(self) -> str:
        attrs = "".join(f" {k}={v!s}" for k, v in self.attrs.items())
        inside = "".join(map(repr, self.children())) or (f"[{len(self.content)} bytes]" if self.content else "")
        return f"<{self.tag}{attrs}>{inside}"


def encode(node: Node) -> bytes:
    """The node as bytes."""
    out = _list(1 + 2 * len(node.attrs) + (node.content is not None)) + _bytes(node.tag.encode())
    for key, value in node.attrs.items():
        out += _bytes(key.encode()) + _value(value)
    if isinstance(node.content, list):
        return out + _list(len(node.content)) + b"".join(map(encode, node.content))
    return out + (_bytes(node.content) if node.content is not None else b"")


def _list(size: int) -> bytes:
    if not size:
        return bytes([_LIST_EMPTY])
    return bytes([_LIST_8, size]) if size < 256 else bytes([_LIST_16]) + size.to_bytes(2, "big")


def _bytes(data: bytes) -> bytes:
    if len(data) < 1 << 8:
        return bytes([_BYTES_8, len(data)]) + data
    if len(data) < 1 << 20:
        return bytes([_BYTES_20]) + len(data).to_bytes(3, "big") + data
    return bytes([_BYTES_32]) + len(data).to_bytes(4, "big") + data


def _value(value: object) -> bytes:
    if not isinstance(value, Jid):
        return _bytes(str(value).encode())
    user, _, server = value.rpartition("@")
    user, _, device = user.partition(":")
    if device:
        return bytes([_AD_JID, server == "lid", int(device)]) + _bytes(user.encode())
    return bytes([_JID_PAIR]) + (_bytes(user.encode()) if user else b"\0") + _bytes(server.encode())


def decode(data: bytes) -> Node:
    """One stanza, as it came out of a frame: the first byte says whether it is packed."""
    return _Reader(zlib.decompress(data[1:]) if data[0] & 2 else data[1:]).node()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._single, self._double = library.dictionary()

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _size(self, token: int) -> int:
        return {_LIST_EMPTY: lambda: 0, _LIST_8: lambda: self._number(1), _LIST_16: lambda: self._number(2)}[token]()

    def node(self) -> Node:
        size = self._size(self._number(1))
        tag = self._text()
        attrs = {self._text(): self._text() for _ in range((size - 1) // 2)}
        return Node(tag, attrs, None if size % 2 else self._content())

    def _content(self) -> "bytes | list[Node] | None":
        token = self._number(1)
        if token in (_LIST_8, _LIST_16):
            return [self.node() for _ in range(self._size(token))]
        if token in (_BYTES_8, _BYTES_20, _BYTES_32):
            return self._take(self._length(token))
        return self._word(token).encode() if token else None

    def _length(self, token: int) -> int:
        return self._number({_BYTES_8: 1, _BYTES_20: 3, _BYTES_32: 4}[token])

    def _text(self) -> str:
        token = self._number(1)
        if token in (_BYTES_8, _BYTES_20, _BYTES_32):
            return self._take(self._length(token)).decode()
        return self._word(token) if token else ""

    def _word(self, token: int) -> str:
        if token == _JID_PAIR:
            user = self._text()
            return Jid(f"{user}@{self._text()}")
        if token == _AD_JID:
            domain, device = self._number(1), self._number(1)
            return Jid(f"{self._text()}:{device}@{'lid' if domain == 1 else 's.whatsapp.net'}")
        if token in (_HEX, _NIBBLE):
            return self._packed("0123456789ABCDEF" if token == _HEX else "0123456789-.???\0")
        if _DOUBLE_FIRST <= token < _DOUBLE_FIRST + 4:
            return self._double[token - _DOUBLE_FIRST][self._number(1)]
        return self._single[token]

    def _packed(self, digits: str) -> str:
        size = self._number(1)
        text = "".join(digits[b >> 4] + digits[b & 15] for b in self._take(size & 127))
        return text[:-1] if size >> 7 else text


class Noise:
    """The responder's side of the handshake."""

    def __init__(self, header: bytes) -> None:
        self._hash = self._salt = b"Noise_XX_25519_AESGCM_SHA256".ljust(32, b"\0")
        self._cipher, self._count = AESGCM(self._hash), 0
        self.see(header)

    def see(self, data: bytes) -> None:
        """Both sides have seen this in the clear."""
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _nonce(self) -> bytes:
        self._count += 1
        return struct.pack(">QI", 0, self._count - 1)

    def seal(self, plain: bytes) -> bytes:
        """Encrypt, and bind to all that was said before."""
        sealed = self._cipher.encrypt(self._nonce(), plain, self._hash)
        self.see(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """The other way round."""
        plain = self._cipher.decrypt(self._nonce(), sealed, self._hash)
        self.see(sealed)
        return plain

    def mix(self, secret: bytes) -> None:
        """Take a Diffie-Hellman secret in."""
        out = hkdf(secret, 64, self._salt)
        self._salt, self._cipher, self._count = out[:32], AESGCM(out[32:]), 0

    def split(self) -> "tuple[Sealed, Sealed]":
        """The two directions: to us, from us."""
        out = hkdf(b"", 64, self._salt)
        return Sealed(out[:32]), Sealed(out[32:])


class Sealed:
    """One direction after the handshake."""

    def __init__(self, key: bytes) -> None:
        self._cipher, self._count = AESGCM(key), 0

    def _nonce(self) -> bytes:
        self._count += 1
        return struct.pack(">QI", 0, self._count - 1)

    def seal(self, plain: bytes) -> bytes:
        """Encrypt the next frame."""
        return self._cipher.encrypt(self._nonce(), plain, b"")

    def open(self, sealed: bytes) -> bytes:
        """Decrypt the next frame."""
        return self._cipher.decrypt(self._nonce(), sealed, b"")
