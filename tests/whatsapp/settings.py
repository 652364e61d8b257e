"""The account's settings, as the phone shares them with a new device ("app state"): here only the account's name.

The phone hands the device a key in a message; the device then asks the server for five collections, each a list of
patches that only the key opens. Without the name the library refuses to say "available", so typing would never show.
"""

import hmac
import os

from tests.whatsapp.keys import hkdf
from tests.whatsapp.peer import aes_cbc, pack

COLLECTION = "critical_block"


class Settings:
    """One key, and one patch that says the account's name."""

    def __init__(self, name: str) -> None:
        self._name, self.key_id, self.key = name.encode(), b"\0\0\0\0\0\1", os.urandom(32)

    def patch(self) -> bytes:
        """Version 1 of the collection, as a SyncdPatch."""
        index_key, seal_key, value_key, snapshot_key, patch_key = self._keys()
        index = b'["setting_pushName"]'
        action = pack({1: index, 2: pack({1: 1_700_000_000_000, 7: pack({1: self._name})}), 3: b"", 4: 1})
        iv = os.urandom(16)
        sealed = iv + aes_cbc(seal_key, iv, action)
        mac = hmac.digest(value_key, b"\1" + self.key_id + sealed + _long(len(self.key_id) + 1), "sha512")[:32]
        blob = pack({1: hmac.digest(index_key, index, "sha256")}), pack({1: sealed + mac})
        record = pack({1: blob[0], 2: blob[1], 3: pack({1: self.key_id})})
        # The hash over all values that are set: with one value, that value's own expansion.
        whole = hkdf(mac, 128, info=b"WhatsApp Patch Integrity")
        end = _long(1) + COLLECTION.encode()
        snapshot = hmac.digest(snapshot_key, whole + end, "sha256")
        seal = hmac.digest(patch_key, snapshot + mac + end, "sha256")
        return pack({1: pack({1: 1}), 2: pack({1: 0, 2: record}), 4: snapshot, 5: seal, 6: pack({1: self.key_id})})

    def _keys(self) -> list[bytes]:
        keys = hkdf(self.key, 160, info=b"WhatsApp Mutation Keys")
        return [keys[i : i + 32] for i in range(0, 160, 32)]


def _long(number: int) -> bytes:
    return number.to_bytes(8, "big")
