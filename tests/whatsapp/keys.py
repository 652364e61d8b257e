"""Curve25519 keys with XEdDSA signatures, and HKDF: what Noise, pairing and Signal are all made of.

XEdDSA signs with a Diffie-Hellman key: the scalar is used on the twisted Edwards form of the curve, and the sign of
the public point travels in the last bit of the signature. No library offers it, so it stands here, slow and short.
"""

import hashlib
import hmac
import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T


def _base_point() -> _Point:
    y = 4 * pow(5, _P - 2, _P) % _P
    xx = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P)
    x = pow(xx, (_P + 3) // 8, _P)
    if (x * x - xx) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if x & 1:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _base_point()


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times_base(scalar: int) -> bytes:
    """The point scalar * base, compressed."""
    total, power = (0, 1, 1, 0), _BASE
    while scalar:
        if scalar & 1:
            total = _add(total, power)
        power, scalar = _add(power, power), scalar >> 1
    inverse = pow(total[2], _P - 2, _P)
    x, y = total[0] * inverse % _P, total[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


class Key:
    """A key pair that exchanges and signs."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self._private = self._key.private_bytes_raw()
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def typed(self) -> bytes:
        """The public key as Signal writes it: with the curve's number before it."""
        return b"\x05" + self.public

    def exchange(self, public: bytes) -> bytes:
        """The secret shared with the owner of `public`, typed or not."""
        return self._key.exchange(X25519PublicKey.from_public_bytes(public[-32:]))

    def sign(self, message: bytes) -> bytes:
        """An XEdDSA signature, as libsignal makes it."""
        scalar = bytearray(self._private)
        scalar[0] &= 248
        scalar[31] = scalar[31] & 127 | 64
        secret = int.from_bytes(scalar, "little")
        point = _times_base(secret)
        nonce = _hash(b"\xfe" + b"\xff" * 31 + bytes(scalar) + message + os.urandom(64))
        commitment = _times_base(nonce)
        answer = (nonce + _hash(commitment + point + message) * secret) % _L
        signature = bytearray(commitment + answer.to_bytes(32, "little"))
        signature[63] |= point[31] & 0x80
        return bytes(signature)


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % _L


def hkdf(secret: bytes, length: int, salt: bytes = b"", info: bytes = b"") -> bytes:
    """HKDF with SHA-256."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]
