"""Other people's phones: one Signal device each (X3DH, double ratchet, sender keys).

Just enough of Signal for a peer that reads and writes in order: no skipped message keys are kept, and it writes in one
session per peer. The library under test does the whole of it; what it cannot read here it would not have sent rightly.
"""

import copy
import hmac
import os
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.whatsapp.keys import Key, hkdf

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION = b"\x33"
_EARLIER = 4  # sessions that a phone remembers


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def pack(fields: "Mapping[int, bytes | int]") -> bytes:
    """A protobuf of numbers and bytes, by field number."""
    out = b""
    for number, value in sorted(fields.items()):
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def _unpack(data: bytes) -> dict[int, Any]:
    out: dict[int, Any] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            out[tag >> 3] = number()
        else:
            size = number()
            out[tag >> 3] = data[at : at + size]
            at += size
    return out


def aes_cbc(key: bytes, iv: bytes, plain: bytes) -> bytes:
    """AES-CBC with padding."""
    pad = padding.PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return cipher.update(pad.update(plain) + pad.finalize()) + cipher.finalize()


def aes_cbc_open(key: bytes, iv: bytes, sealed: bytes) -> bytes:
    """And back."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    pad = padding.PKCS7(128).unpadder()
    return pad.update(cipher.update(sealed) + cipher.finalize()) + pad.finalize()


class _Chain:
    """One direction of a ratchet: a message key per step."""

    def __init__(self, key: bytes) -> None:
        self._key, self._count = key, 0

    def step(self) -> tuple[int, bytes, bytes, bytes]:
        """The next message's number, cipher key, MAC key and iv."""
        keys = hkdf(hmac.digest(self._key, b"\1", "sha256"), 80, info=b"WhisperMessageKeys")
        self._key = hmac.digest(self._key, b"\2", "sha256")
        self._count += 1
        return self._count - 1, keys[:32], keys[32:64], keys[64:]


class _Session:
    """A pairwise session with the program's device."""

    def __init__(self, own: Key, theirs: bytes, root: bytes) -> None:
        self._own, self.theirs, self._root = own, theirs, root
        self._remote = b""  # their ratchet key
        self._mine, self._sending = own, _Chain(b"")
        self._receiving = _Chain(b"")
        self._introduction: dict[int, bytes | int] | None = None  # until they have answered

    @classmethod
    def begin(cls, phone: "Phone", bundle: "Mapping[str, Any]") -> "_Session":
        """We write first."""
        base = Key()
        secret = b"\xff" * 32 + phone.identity.exchange(bundle["signed"]) + base.exchange(bundle["identity"])
        secret += base.exchange(bundle["signed"])
        intro: dict[int, bytes | int] = {2: base.typed, 3: phone.identity.typed, 5: phone.registration}
        intro[6] = bundle["signed_id"]
        if bundle["once"]:
            intro[1], once = bundle["once"]
            secret += base.exchange(once)
        session = cls(phone.identity, b"\x05" + bundle["identity"], hkdf(secret, 64, info=b"WhisperText")[:32])
        session._remote, session._introduction = bundle["signed"], intro
        session._turn()
        return session

    @classmethod
    def answer(cls, phone: "Phone", intro: "Mapping[int, Any]") -> "_Session":
        """They wrote first."""
        secret = b"\xff" * 32 + phone.signed.exchange(intro[3]) + phone.identity.exchange(intro[2])
        secret += phone.signed.exchange(intro[2])
        if 1 in intro:
            secret += phone.once.exchange(intro[2])
        out = hkdf(secret, 64, info=b"WhisperText")
        session = cls(phone.identity, intro[3], out[:32])
        session._mine, session._sending = phone.signed, _Chain(out[32:])
        return session

    @property
    def fresh(self) -> bool:
        """They have not answered in it yet."""
        return self._introduction is not None

    def _turn(self) -> None:
        """A new ratchet key of ours."""
        self._mine = Key()
        out = hkdf(self._mine.exchange(self._remote), 64, self._root, b"WhisperRatchet")
        self._root, self._sending = out[:32], _Chain(out[32:])

    def seal(self, plain: bytes) -> tuple[str, bytes]:
        """The type and the bytes of an <enc>."""
        number, key, mac, iv = self._sending.step()
        body = _VERSION + pack({1: self._mine.typed, 2: number, 3: 0, 4: aes_cbc(key, iv, plain)})
        message = body + hmac.digest(mac, self._own.typed + self.theirs + body, "sha256")[:8]
        if self._introduction is None:
            return "msg", message
        return "pkmsg", _VERSION + pack({**self._introduction, 4: message})

    def reads(self, message: bytes) -> bool:
        """Whether it is of this session."""
        trial = copy.copy(self)
        trial._receiving = copy.copy(self._receiving)
        try:
            trial.open(message)
        except AssertionError:
            return False
        return True

    def open(self, message: bytes) -> bytes:
        """What a message says."""
        fields = _unpack(message[1:-8])
        self._introduction = None
        if fields[1][-32:] != self._remote:
            self._remote = fields[1][-32:]
            out = hkdf(self._mine.exchange(self._remote), 64, self._root, b"WhisperRatchet")
            self._root, self._receiving = out[:32], _Chain(out[32:])
            self._turn()
        number, key, mac, iv = self._receiving.step()
        while number < fields.get(2, 0):
            number, key, mac, iv = self._receiving.step()
        expected = hmac.digest(mac, self.theirs + self._own.typed + message[:-8], "sha256")[:8]
        assert expected == message[-8:], "a message that this peer cannot read"
        return aes_cbc_open(key, iv, fields[4])


class Phone:
    """One person's device: keys, the session with the program, the sender keys of its groups."""

    def __init__(self, identity: Key | None = None) -> None:
        self.identity = identity or Key()
        self.signed, self.once = Key(), Key()
        self.registration = int.from_bytes(os.urandom(2), "big")
        self.signature = self.identity.sign(self.signed.typed)
        self._session: _Session | None = None
        self._earlier: list[_Session] = []
        self._senders: dict[tuple[str, int], list[Any]] = {}

    @property
    def has_session(self) -> bool:
        """Whether it can write without asking for keys."""
        return self._session is not None

    def begin(self, bundle: "Mapping[str, Any]") -> None:
        """Start a session with the program's keys; what it still says in an earlier one can be read."""
        self._earlier = [x for x in (self._session, *self._earlier) if x is not None][:_EARLIER]
        self._session = _Session.begin(self, bundle)

    def forget(self) -> None:
        """The program was linked anew: its keys are others."""
        self._session = None
        self._earlier.clear()
        self._senders.clear()

    def seal(self, plain: bytes) -> tuple[str, bytes]:
        """The type and the bytes of an <enc>."""
        assert self._session
        return self._session.seal(plain + b"\x05" * 5)

    def open(self, kind: str, data: bytes) -> bytes:
        """What an <enc> for this device says."""
        if kind == "pkmsg":
            intro = _unpack(data[1:])
            if self._session is None or self._session.fresh or self._session.theirs != intro[3]:
                self._session = _Session.answer(self, intro)
            data = intro[4]
        assert self._session
        sessions = [self._session, *self._earlier]
        readable = (n for n, session in enumerate(sessions[:-1]) if session.reads(data))
        plain = sessions[next(readable, len(sessions) - 1)].open(data)
        return plain[: -plain[-1]]

    def learn_sender(self, group: str, data: bytes) -> None:
        """A sender key was handed out."""
        fields = _unpack(data[1:])
        self._senders[group, fields[1]] = [fields.get(2, 0), fields[3]]

    def open_group(self, group: str, data: bytes) -> bytes:
        """What a group message says."""
        fields = _unpack(data[1:-64])
        state = self._senders[group, fields[1]]
        while True:
            number, chain = state
            state[:] = number + 1, hmac.digest(chain, b"\2", "sha256")
            if number == fields.get(2, 0):
                break
        keys = hkdf(hmac.digest(chain, b"\1", "sha256"), 48, info=b"WhisperGroup")
        plain = aes_cbc_open(keys[16:], keys[:16], fields[3])
        return plain[: -plain[-1]]
