"""Pictures for the model: each is decoded, turned, shrunk and written anew, so that the API gets only what we made.

A picture that the API refuses stays in the session and breaks every later turn; and a session collects pictures,
of which one request may carry 32 MiB in all. So they are small, and what cannot be decoded is named instead.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

MAX_SIDE = 1568  # pixels: larger ones are scaled down to this by the API itself
MIN_SIDE = 16
MAX_BYTES = 256 << 10  # of one JPEG: as many as a context holds fit into one request
# Pixels that may be decoded: at most 600 MB for a moment. A JPEG is decoded smaller; WebP takes four copies.
MAX_PIXELS = {"JPEG": 100_000_000, "MPO": 100_000_000, "PNG": 50_000_000, "GIF": 50_000_000, "WEBP": 25_000_000}
# What a small file may cost: each scan of a JPEG goes over all its pixels again, and chunks are looked at one by one.
_MAX_SCANS = 50
_MAX_SCANNED = 1_500_000_000  # pixels, counted anew in each scan
_MAX_PARTS = 20_000  # segments of a JPEG, chunks of a PNG
_MAX_NOTES = 100  # chunks of a PNG that are no picture data
_MAX_GIF = 10 << 20  # bytes; its first picture is in them
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_START_OF_SCAN, _END = b"\xda", b"\xd9"
_NAME = re.compile(r"\w[\w-]{0,150}\.(?:jpg|png|webp|gif)")
_SCALED = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes that can be scaled as they are

Image.MAX_IMAGE_PIXELS = None  # it only warns; the table above refuses


class Unusable(Exception):
    """Why a picture cannot be shown."""


def blocks(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The content blocks that show these files: a line and the picture, or a line that says why not."""
    return [block for name in names for block in _shown(folder, name)]


def _shown(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    try:
        if not _NAME.fullmatch(name):
            raise Unusable("it is not named like a picture of a message")
        data = base64.b64encode(jpeg(folder / name)).decode()
    except Exception as e:  # a decoder may raise anything; one bad picture never stops a turn
        reason = str(e) if isinstance(e, Unusable) else f"it cannot be decoded ({type(e).__name__})"
        yield {"type": "text", "text": f"[{folder / name} is unusable: {reason}. Do not open it with Read.]"}
        return
    yield {"type": "text", "text": f"[{folder / name}]"}
    yield {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": data}}


def jpeg(path: Path) -> bytes:
    """The picture (the first one of an animation) as a small JPEG. Raises whatever its decoder does, and Unusable."""
    data = path.read_bytes()
    if data.startswith(b"GIF"):
        data = data[:_MAX_GIF]
    if data.startswith(b"\x89PNG"):
        _check_chunks(data)
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF")) as opened:
        width, height = opened.size
        if width * height > MAX_PIXELS.get(opened.format or "", 0):
            raise Unusable(f"it has {width} x {height} pixels, which is too many")
        if opened.format in ("JPEG", "MPO"):
            _check_scans(data, width * height)
        opened.draft(None, (MAX_SIDE, MAX_SIDE))
        opened.load()
        picture = ImageOps.exif_transpose(_shrunk(opened))
    return _encoded(_opaque(picture))


def _check_scans(data: bytes, pixels: int) -> None:
    """Raises Unusable for a JPEG that is drawn too often. What stands behind its end (a film, say) is not looked at."""
    scans = at = 0
    for _ in range(_MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None or found[1] == _END:
            break
        scans += found[1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    else:
        raise Unusable("it has too many parts")
    if scans > _MAX_SCANS or scans * pixels > _MAX_SCANNED:
        raise Unusable("it is drawn too often")


def _check_chunks(data: bytes) -> None:
    """Raises Unusable for a PNG with too many chunks."""
    notes, at = 0, 8
    for _ in range(_MAX_PARTS):
        kind = data[at + 4 : at + 8]
        if kind in (b"", b"IEND"):
            return
        notes += kind not in (b"IDAT", b"fdAT", b"fcTL")
        at += 12 + int.from_bytes(data[at : at + 4])
        if notes > _MAX_NOTES:
            break
    raise Unusable("it has too many parts")


def _shrunk(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey
        picture = picture.point(lambda v: v / 256).convert("L")
    if picture.mode not in _SCALED:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
    return picture


def _opaque(picture: Image.Image) -> Image.Image:
    """On white, and no thinner than the API takes."""
    size = (max(picture.width, MIN_SIDE), max(picture.height, MIN_SIDE))
    rgba = picture.convert("RGBA").resize(size)
    canvas = Image.new("RGB", size, "white")
    canvas.paste(rgba, mask=rgba)
    return canvas


def _encoded(picture: Image.Image) -> bytes:
    for quality in (85, 70, 50):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality)
        if out.tell() <= MAX_BYTES:
            return out.getvalue()
    return _encoded(picture.resize((max(1, picture.width * 2 // 3), max(1, picture.height * 2 // 3))))
