"""Pictures as the agent shows them to the model: always ours, always small; what cannot be one is named."""

import base64
import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "container"))

from agent import pictures


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def put(folder: Path, data: bytes, name: str = "p.png") -> str:
    (folder / name).write_bytes(data)
    return name


def shown(folder: Path, data: bytes) -> Image.Image:
    """What the model would see of these bytes."""
    [line, block] = pictures.blocks(folder, [put(folder, data)])
    assert line == {"type": "text", "text": f"[{folder}/p.png]"}
    assert block["source"]["media_type"] == "image/jpeg"
    raw = base64.b64decode(block["source"]["data"])
    assert len(raw) <= pictures.MAX_BYTES
    picture = Image.open(io.BytesIO(raw), formats=["JPEG"])
    picture.load()
    assert picture.mode == "RGB"
    assert max(picture.size) <= pictures.MAX_SIDE
    assert min(picture.size) >= pictures.MIN_SIDE
    return picture


def colour(picture: Image.Image, at: tuple[int, int]) -> tuple[int, ...]:
    """Roughly: JPEG is not exact."""
    pixel = picture.getpixel(at)
    assert isinstance(pixel, tuple)
    return tuple(round(v / 255) for v in pixel)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose head may say anything."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


RED = Image.new("RGB", (40, 20), "red")
NOISE = Image.effect_noise((3000, 2000), 100)

GOOD = {
    "png": saved(RED),
    "jpeg": saved(RED, "JPEG"),
    "webp": saved(RED, "WEBP"),
    "gif": saved(RED, "GIF"),
    "cmyk": saved(RED.convert("CMYK"), "JPEG"),
    "palette": saved(RED.convert("P")),
    "palette with a hole": saved(RED.convert("P"), transparency=200),
    "with alpha": saved(RED.convert("RGBA")),
    "animated webp": saved(RED, "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]),
    "animated gif": saved(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]),
    "animated png": saved(RED, save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]),
    "several in one jpeg": saved(RED, "MPO", save_all=True, append_images=[RED]),
    "12,000 pixels wide": saved(Image.new("RGB", (12_000, 3_000), "red"), "JPEG"),
    "one pixel high": saved(Image.new("RGB", (9_000, 1), "red")),
    "one pixel": saved(Image.new("RGB", (1, 1), "red")),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_is_shown(tmp_path: Path, kind: str) -> None:
    """Whatever it was, it is a small red JPEG now; an animation is its first picture."""
    assert colour(shown(tmp_path, GOOD[kind]), (0, 0)) == (1, 0, 0)


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    """A plain conversion would make all of it white."""
    picture = shown(tmp_path, saved(Image.new("I;16", (40, 20), 256 * 20)))
    assert colour(picture, (5, 5)) == (0, 0, 0)
    assert colour(shown(tmp_path, saved(Image.new("1", (40, 20), 0))), (5, 5)) == (0, 0, 0)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    """A sticker's drawing is seen, whatever colour lies under its holes."""
    sticker = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    sticker.paste((255, 0, 0, 255), (0, 0, 20, 40))
    picture = shown(tmp_path, saved(sticker, "WEBP", lossless=True))
    assert (colour(picture, (5, 20)), colour(picture, (35, 20))) == ((1, 0, 0), (1, 1, 1))


def test_a_photo_stands_upright(tmp_path: Path) -> None:
    """A phone writes how it was held beside the picture, and the API does not read that."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    photo = Image.new("RGB", (3000, 2000), "red")
    photo.paste("blue", (0, 0, 3000, 1000))
    picture = shown(tmp_path, saved(photo, "JPEG", exif=exif))
    assert picture.height > picture.width
    assert (colour(picture, (10, 500)), colour(picture, (picture.width - 10, 500))) == ((1, 0, 0), (0, 0, 1))


def test_a_noisy_picture_is_made_small(tmp_path: Path) -> None:
    """It loses quality and size until it fits (`shown` looks at the bytes)."""
    assert shown(tmp_path, saved(NOISE, "JPEG", quality=95)).width > 500


def test_ten_pictures_fit_into_a_request_many_times() -> None:
    """A session collects pictures, and one request may have 32 MiB."""
    assert 80 * pictures.MAX_BYTES * 4 / 3 < 32 << 20


BAD = {
    "nothing": b"",
    "text": b"hello",
    "head only": b"\xff\xd8\xff\xe0",
    "cut jpeg": saved(NOISE, "JPEG")[:50_000],
    "cut png": saved(NOISE)[:50_000],
    "cut webp": saved(RED, "WEBP")[:40],
    "spoilt png": saved(NOISE).replace(b"IDAT", b"IDOT", 1),
    "another format": saved(RED, "BMP"),
    "tiff": saved(RED, "TIFF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "bomb": png(50_000, 50_000, zlib.compress(b"\0" * 6251 * 100)),
    "bomb gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "no pixels": png(0, 0, b""),
    "text bomb": saved(RED).replace(b"IDAT", b"IDAT", 1)[:33] + struct.pack(">I", 0x7FFFFFFF) + b"zTXt",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    """One line says which file and why, and the pictures beside it are shown."""
    names = [put(tmp_path, BAD[kind], "bad.jpg"), put(tmp_path, GOOD["png"], "good.png")]
    [bad, _, good] = pictures.blocks(tmp_path, names)
    assert bad["text"].startswith(f"[{tmp_path}/bad.jpg is unusable: it ")
    assert ("pixels" in bad["text"]) == kind.startswith("bomb")
    assert good["type"] == "image"


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """By what its head says."""
    [bad] = pictures.blocks(tmp_path, [put(tmp_path, BAD["bomb"])])
    assert "50000 x 50000 pixels, which is too many" in bad["text"]


def progressive(side: int) -> tuple[bytes, bytes]:
    """A JPEG without its last scan, and that scan."""
    data = saved(Image.new("L", (side, side), 76), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at], data[at:-2]


HEAD, SCAN = progressive(20)
COSTLY = {
    "a jpeg with very many scans": HEAD + SCAN * 60 + b"\xff\xd9",
    "a jpeg with very many segments": HEAD + b"\xff\xfe\x00\x02" * 20_000 + SCAN + b"\xff\xd9",
    "a png with very many chunks": saved(RED)[:33] + chunk(b"IDAT", b"") * 20_000 + saved(RED)[33:],
    "a png with very many profiles": saved(RED)[:33] + chunk(b"iCCP", b"a\0\0") * 101 + saved(RED)[33:],
}


@pytest.mark.parametrize("kind", COSTLY)
def test_a_small_file_that_costs_much_is_refused(tmp_path: Path, kind: str) -> None:
    """Unbounded, 400 KB took 20 seconds."""
    [bad] = pictures.blocks(tmp_path, [put(tmp_path, COSTLY[kind])])
    assert "it is drawn too often" in bad["text"] or "it has too many parts" in bad["text"]


def test_a_large_picture_is_drawn_less_often_than_a_small_one(tmp_path: Path) -> None:
    """What counts is both together."""
    head, scan = progressive(9000)
    [bad] = pictures.blocks(tmp_path, [put(tmp_path, head + scan * 20 + b"\xff\xd9")])
    assert "it is drawn too often" in bad["text"]
    assert shown(tmp_path, HEAD + SCAN * 20 + b"\xff\xd9").size == (20, 20)


def test_what_stands_behind_a_picture_does_not_count(tmp_path: Path) -> None:
    """Phones put a film there, in which anything may look like a scan, a chunk or a frame."""
    for picture in ("jpeg", "png", "gif"):
        shown(tmp_path, GOOD[picture] + SCAN * 60 + b"\0" * 20_000 * 12)


def test_a_gif_is_looked_at_in_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first picture is there; a comment of 50 MB took 15 seconds."""
    monkeypatch.setattr(pictures, "_MAX_GIF", 1000)
    comment = b"!\xfe" + b"\x01a" * 1000 + b"\0"
    whole = GOOD["gif"]
    shown(tmp_path, whole + comment)
    at = whole.index(b",")
    [bad] = pictures.blocks(tmp_path, [put(tmp_path, whole[:at] + comment + whole[at:])])
    assert "it cannot be decoded" in bad["text"]


@pytest.mark.parametrize("name", ["../p.png", "/etc/passwd", "a/b.png", ".p.png", "p.svg", "p.png\n", "-p.png", ""])
def test_only_names_of_the_host_are_opened(tmp_path: Path, name: str) -> None:
    """A name is a name in the folder of the group's files, nothing else."""
    put(tmp_path, GOOD["png"])
    folder = tmp_path / "media"
    folder.mkdir()
    [block] = pictures.blocks(folder, [name])
    assert "not named like" in block["text"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Somebody removed it on the host."""
    [block] = pictures.blocks(tmp_path, ["gone.png"])
    assert "FileNotFoundError" in block["text"]
