"""Files that agents send: taken up to WhatsApp's media server, encrypted by the library."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from neonize.exc import UploadError

from nanoclaw import safefs
from nanoclaw.channels.whatsapp.files import TYPES
from nanoclaw.channels.whatsapp.library import scrub
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import NotConnected, SendRefused, UnsafePath
from nanoclaw.models import OutFile

_LARGEST = 64 << 20  # bytes; the library takes each whole into memory
_LIMIT = 120.0  # seconds that any file may take
_SLOWEST = 64 << 10  # bytes a second: a large file may take longer
_CUT = ("websocket", "disconnect", "reconnect", "timed out", "context")  # in errors that speak of the connection
_MAX_CUT = 3  # times that it is the connection's fault: meanwhile no other file is sent


async def upload(session: Session, home: Path, file: OutFile, cut: Counter[str]) -> Any:
    """Where it is then, and its keys; `cut` counts how often the connection was lost meanwhile, by copy. Nothing is
    said to anybody by that. Raises SendRefused, NotConnected, Busy."""
    if session.uploads is not None:
        session.uploads.check(file.size)  # before all of it is read for nothing
    try:
        data = await asyncio.to_thread(safefs.read_file, home, file.copy, _LARGEST)
    except (FileNotFoundError, UnsafePath):
        raise SendRefused("the copy of the file is gone") from None
    try:
        async with asyncio.timeout(max(_LIMIT, len(data) / _SLOWEST)):
            up = await session.call(lambda api: api.upload(data, TYPES[file.kind]))
    except TimeoutError:
        raise SendRefused("the file took too long to be taken to WhatsApp") from None
    except UploadError as e:
        cut[file.copy] += 1
        if cut[file.copy] <= _MAX_CUT and any(word in str(e) for word in _CUT):
            raise NotConnected("the connection was lost while the file was taken to WhatsApp") from None
        del cut[file.copy]
        raise SendRefused(f"the file could not be taken to WhatsApp: {scrub(str(e))}") from None
    cut.pop(file.copy, None)
    return up
