"""The media host: encrypted blobs at direct paths, honest ones and others.

A blob is AES-CBC with ten bytes of MAC behind it; key, iv and MAC key come from the message's media key.
"""

import asyncio
import hashlib
import hmac
import itertools
import os
from dataclasses import dataclass, field
from typing import Any

from tests.whatsapp.keys import hkdf
from tests.whatsapp.peer import aes_cbc, aes_cbc_open

_CHUNK = 1 << 16


@dataclass
class Blob:
    """What stands at a direct path. `size` beyond the data is made up of zeros while it is sent."""

    data: bytes = b""
    size: int = 0
    claimed: int | None = None  # another Content-Length than the truth; -1: none at all
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class MediaHost:
    """Stores and serves; counts what was taken."""

    def __init__(self) -> None:
        self.name = "mmg.whatsapp.net"
        self.blobs: dict[str, Blob] = {}
        self.asked: list[str] = []  # request lines
        self.taken: dict[str, int] = {}  # bytes handed out, by path
        self.open_for_uploads = asyncio.Event()
        self.open_for_uploads.set()
        self._ids = itertools.count(1)

    def put(self, data: bytes, kind: str = "Image", **lies: Any) -> dict[str, Any]:
        """Store an encrypted file; the fields of a message that brings it. `kind`: Image, Video, Audio, Document."""
        key = os.urandom(32)
        keys = hkdf(key, 112, info=f"WhatsApp {kind} Keys".encode())
        sealed = aes_cbc(keys[16:48], keys[:16], data)
        sealed += hmac.digest(keys[48:80], keys[:16] + sealed, "sha256")[:10]
        path = self.put_blob(Blob(sealed))
        fields = {
            "URL": f"https://mmg.whatsapp.net{path}",
            "directPath": path,
            "mediaKey": key,
            "fileSHA256": hashlib.sha256(data).digest(),
            "fileEncSHA256": hashlib.sha256(sealed).digest(),
            "fileLength": len(data),
        }
        return fields | lies

    def open(self, part: Any, kind: str) -> bytes:
        """The file that a message of the program's brings, as a phone would open it."""
        sealed = self.blob(part.directPath).data
        keys = hkdf(part.mediaKey, 112, info=f"WhatsApp {kind} Keys".encode())
        assert hashlib.sha256(sealed).digest() == part.fileEncSHA256
        assert hmac.digest(keys[48:80], keys[:16] + sealed[:-10], "sha256")[:10] == sealed[-10:]
        data = aes_cbc_open(keys[16:48], keys[:16], sealed[:-10])
        assert (hashlib.sha256(data).digest(), len(data)) == (part.fileSHA256, part.fileLength)
        return data

    def put_blob(self, blob: Blob) -> str:
        """Store anything at a new direct path, which looks like a real one."""
        path = f"/v/t62.7118-24/{next(self._ids)}_n.enc"
        self.blobs[path] = blob
        return f"{path}?ccb=11-4&oh=01_Q5Aa&oe=68&_nc_sid=5e03e0"

    def blob(self, direct_path: str) -> Blob:
        """What stands at a direct path."""
        return self.blobs[_plain(direct_path)]

    async def serve(self, request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request."""
        line, _, head = request.partition("\r\n")
        method, path, _ = line.split(" ", 2)
        self.asked.append(line)
        if method == "POST":
            headers = dict(entry.lower().split(": ", 1) for entry in head.splitlines() if ": " in entry)
            await self.open_for_uploads.wait()
            path = self.put_blob(Blob(await reader.readexactly(int(headers["content-length"]))))
            told = f'{{"url":"https://mmg.whatsapp.net{path}","direct_path":"{path}"}}'
            blob = Blob(told.encode())
        else:
            blob = self.blobs.get(_plain(path), Blob(status=404))
        await self._give(_plain(path), blob, writer)

    async def _give(self, path: str, blob: Blob, writer: asyncio.StreamWriter) -> None:
        size = max(blob.size, len(blob.data))
        claimed = size if blob.claimed is None else blob.claimed
        head = f"HTTP/1.1 {blob.status} Loopback\r\n"
        head += f"Content-Length: {claimed}\r\n" if claimed >= 0 else "Connection: close\r\n"
        head += "".join(f"{key}: {value}\r\n" for key, value in blob.headers.items())
        writer.write(head.encode() + b"\r\n" + blob.data)
        self.taken[path] = self.taken.get(path, 0) + len(blob.data)
        left = size - len(blob.data)
        while left > 0:
            await writer.drain()  # raises when the reader has had enough
            writer.write(bytes(min(left, _CHUNK)))
            self.taken[path] += min(left, _CHUNK)
            left -= _CHUNK
        await writer.drain()
        if claimed != size:
            raise ConnectionError("said what it had to say")


def _plain(path: str) -> str:
    return path.partition("?")[0].partition("&")[0]
