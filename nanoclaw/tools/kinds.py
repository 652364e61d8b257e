"""What kind of file it is, for people's phones: by its first bytes and its name. Nothing is decoded."""

import mimetypes
from pathlib import PurePosixPath

HEAD = 64  # bytes that are looked at
_MAX_IMAGE = 16 << 20  # bytes; what is larger goes as a document, untouched
_MAX_STICKER = 1 << 20
_AUDIO = {".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".amr": "audio/amr"}


def kind_of(name: str, head: bytes, size: int) -> tuple[str, str]:
    """Its kind (image, video, voice, audio, sticker, document) and its MIME type."""
    if head.startswith(b"\xff\xd8\xff") and size <= _MAX_IMAGE:
        return "image", "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n") and size <= _MAX_IMAGE:
        return "image", "image/png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and size <= _MAX_STICKER:
        return "sticker", "image/webp"
    if head.startswith(b"OggS") and b"OpusHead" in head:
        return "voice", "audio/ogg; codecs=opus"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _AUDIO and _is_audio(head):
        return "audio", _AUDIO[suffix]
    if head[4:8] == b"ftyp" and suffix in (".mp4", ".m4v"):
        return "video", "video/mp4"
    return "document", mimetypes.guess_type(name)[0] or "application/octet-stream"


def _is_audio(head: bytes) -> bool:
    frame = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0
    return frame or head.startswith((b"ID3", b"#!AMR")) or head[4:8] == b"ftyp"
