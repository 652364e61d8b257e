"""Files that came with messages: what is kept of them to fetch them by, and the fetching.

Senders write where their file lies, and the library would read whatever is there, whole, into memory. So only the
path on WhatsApp's own media server counts, and how much would come is looked at first.
"""

import asyncio
import base64
import binascii
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from neonize.exc import DownloadError
from neonize.utils.enum import MediaType

from nanoclaw.channels.whatsapp.client import in_thread
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import MediaRefused, NotConnected

_SERVER = "https://mmg.whatsapp.net"
_OVERHEAD = 1 << 10  # bytes that encryption adds: padding, and a code at the end
_PATH = re.compile(r"(?!.*(?://|\.\.))/[0-9A-Za-z._~%/?&=+-]{1,1000}", re.ASCII)
_HASH = 32  # bytes, also of a key
_HEADERS = 20.0  # seconds until they are there
_DOWNLOAD = 300.0
_GONE = frozenset({403, 404, 410})
TYPES = {  # what the library calls our kinds of files
    "image": MediaType.MediaImage,
    "sticker": MediaType.MediaImage,
    "video": MediaType.MediaVideo,
    "audio": MediaType.MediaAudio,
    "voice": MediaType.MediaAudio,
    "document": MediaType.MediaDocument,
}


@dataclass(frozen=True)
class _Ref:
    kind: str
    path: str
    key: bytes
    encrypted: bytes  # hash of what the server has
    plain: bytes  # hash of the file


def ref_of(kind: str, part: Any) -> str:
    """What is needed to fetch it; "" when the message says too little, or nonsense."""
    ref = _Ref(kind, part.directPath, part.mediaKey, part.fileEncSHA256, part.fileSHA256)
    if not _sound(ref):
        return ""
    secrets = (base64.b64encode(value).decode() for value in (ref.key, ref.encrypted, ref.plain))
    return json.dumps([ref.kind, ref.path, *secrets], separators=(",", ":"))


def _sound(ref: _Ref) -> bool:
    if ref.kind not in TYPES or not isinstance(ref.path, str) or not _PATH.fullmatch(ref.path):
        return False
    return all(len(value) == _HASH for value in (ref.key, ref.encrypted, ref.plain))


def _read(text: str) -> _Ref:
    try:
        kind, path, *secrets = json.loads(text)
        ref = _Ref(kind, path, *(base64.b64decode(value, validate=True) for value in secrets))
        sound = _sound(ref)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        sound = False
    if not sound:
        raise MediaRefused("the message does not say where its file is; ask for it to be sent again")
    return ref


class Files:
    """Fetches one file at a time: the library holds each whole in memory."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._one = asyncio.Lock()

    async def fetch(self, text: str, limit: int) -> bytes:
        """The file, at most `limit` bytes. Raises MediaRefused for good, NotConnected for now."""
        ref = _read(text)
        async with self._one:
            await self._session.call(lambda _: self._look(ref, limit))
            data = await self._download(ref)
        if len(data) > limit:
            raise MediaRefused(_too_large(limit))
        return data

    async def _look(self, ref: _Ref, limit: int) -> None:
        try:
            size = await in_thread(_size, ref)
        except urllib.error.HTTPError as e:
            e.close()
            if e.code in _GONE:
                raise MediaRefused("WhatsApp no longer has the file; ask for it to be sent again") from None
            raise NotConnected(f"WhatsApp's media server answered {e.code}") from None
        except (OSError, HTTPException) as e:
            raise NotConnected(f"WhatsApp's media server cannot be reached ({type(e).__name__})") from None
        if size is None or size > limit + _OVERHEAD:
            raise MediaRefused(_too_large(limit))

    async def _download(self, ref: _Ref) -> bytes:
        kind = TYPES[ref.kind]
        try:
            async with asyncio.timeout(_DOWNLOAD):
                return await self._session.call(
                    lambda api: api.download_media_with_path(
                        ref.path, ref.encrypted, ref.plain, ref.key, -1, kind, kind.to_mms()
                    )
                )
        except TimeoutError:
            raise NotConnected("the file took too long to come") from None
        except DownloadError as e:
            if re.search(r"status code 4\d\d|hash|hmac|mac|too short|decrypt|padding", str(e), re.IGNORECASE):
                raise MediaRefused("the file is not what the message says; ask for it to be sent again") from None
            raise NotConnected("the file did not come; it is tried again") from None


def _too_large(limit: int) -> str:
    return f"the file is larger than {limit / 1e6:.0f} MB, or its size is not known"


class _NoDetour(urllib.request.HTTPRedirectHandler):
    """WhatsApp's server sends nobody elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _size(ref: _Ref) -> int | None:
    """How much the server would send, in bytes, by its headers alone; None when it does not say."""
    digest = base64.urlsafe_b64encode(ref.encrypted).decode()
    url = f"{_SERVER}{ref.path}&hash={digest}&mms-type={TYPES[ref.kind].to_mms().value}&__wa-mms="
    request = urllib.request.Request(url, headers={"Origin": "https://web.whatsapp.com"})  # noqa: S310 - our server
    with urllib.request.build_opener(_NoDetour).open(request, timeout=_HEADERS) as answer:
        length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None
