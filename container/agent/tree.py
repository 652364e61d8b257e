"""One walk over all that can be seen in a container, and a search through what can be read of it; for the probe."""

import hashlib
import hmac
import mmap
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_OF_PROCESS = ("environ", "cmdline", "cgroup", "mountinfo", "limits")
_PROC_BYTES = 1 << 20
_LARGE = 1 << 20
_PIECE = 4 << 20
_LONGEST = 4096  # bytes of the longest text that is looked for

Wanted = list[dict[str, Any]]
_MOST = 400_000  # entries of one walk


class Tree:
    """What is where. Links are not followed."""

    def __init__(self, skip: tuple[str, ...]) -> None:
        self.mounts: dict[str, str] = {}  # target -> options; of two at one place the one that is seen
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            self.mounts[fields[4].encode().decode("unicode_escape")] = fields[5]
        self.files: list[tuple[int, str]] = []  # bytes, path
        self.writable: list[str] = []  # folders, by their modes
        self.sockets: list[str] = []
        self.devices: list[str] = []
        self.setuid: list[str] = []
        self.whole = True
        for count, (path, found) in enumerate(_walk("/", skip)):
            if count > _MOST:
                self.whole = False
                break
            self._note(path, found)

    def _note(self, path: str, found: os.stat_result) -> None:
        mode = found.st_mode
        if stat.S_ISREG(mode):
            self.files.append((found.st_size, path))
            if mode & (stat.S_ISUID | stat.S_ISGID):
                self.setuid.append(path)
        elif stat.S_ISDIR(mode):
            if os.access(path, os.W_OK):
                self.writable.append(path)
        elif stat.S_ISSOCK(mode):
            self.sockets.append(path)
        elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            self.devices.append(path)


def _walk(top: str, skip: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.path in skip:
                        continue
                    found = entry.stat(follow_symlinks=False)
                    yield entry.path, found
                    if stat.S_ISDIR(found.st_mode):
                        folders.append(entry.path)
        except OSError:  # not ours to look into
            continue


def readable(path: str, count: int) -> bytes:
    """The first bytes of a file; b"" for what cannot be read, or has nothing to say now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, count)
    except OSError:
        return b""
    finally:
        os.close(fd)


def secrets(tree: Tree, wanted: Wanted, salt: bytes, *, until: float) -> tuple[list[str], int]:
    """Where any of the wanted texts is readable, and how many files were not looked through before `until` (monotonic);
    the image's large ones do not count: they were there before any key, and nobody can write them.

    What is known of a text is its first bytes, its length, and a salted digest of the whole. In the image's large
    files (which are most of the bytes, and the same in every container) only those are looked for that say so.
    """
    some = [text for text in wanted if text["everywhere"]]
    left = 0 if tree.whole else 1
    for pid in (p.name for p in Path("/proc").iterdir() if p.name.isdigit()):
        for name in _OF_PROCESS:
            try:
                if _holds(readable(f"/proc/{pid}/{name}", _PROC_BYTES), wanted, salt, until):
                    return [f"/proc/{pid}/{name}"], left
            except _Late:
                left += 1
    mounted = tuple(f"{target}/" for target in tree.mounts.keys() - {"/"})
    # The image's come last, the large ones behind the small: those are the likeliest to be left out.
    order = sorted((not path.startswith(mounted), size, path) for size, path in tree.files if size)
    for of_image, size, path in order:
        large = of_image and size > _LARGE
        try:
            _check(until)
            if _held_in_image(path, some, salt, until) if large else _held(path, wanted, salt, until):
                return [path], left
        except _Late:
            left += not large
    return [], left


class _Late(Exception):
    """The time is over."""


def _check(until: float) -> None:
    if time.monotonic() > until:
        raise _Late


def _held_in_image(path: str, wanted: Wanted, salt: bytes, until: float) -> bool:
    """The quick way, for what nobody can change meanwhile. Raises _Late."""
    try:
        with Path(path).open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _holds(data, wanted, salt, until)
    except (OSError, ValueError):  # not ours to read
        return False


def _held(path: str, wanted: Wanted, salt: bytes, until: float) -> bool:
    """Piece by piece: an agent of the same group may live, and write, or put something else there. Raises _Late."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # not ours to read
        return False
    with os.fdopen(fd, "rb", buffering=0) as f:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return False
        before, count = b"", min(found.st_size + 1, _PIECE)
        try:
            while piece := f.read(count):
                if _holds(before + piece, wanted, salt, until):
                    return True
                before = piece[-_LONGEST:]
        except OSError:
            return False
    return False


def _holds(data: "bytes | mmap.mmap", wanted: Wanted, salt: bytes, until: float) -> bool:
    """Raises _Late: somebody may have filled a file with first bytes."""
    for text in wanted:
        _check(until)
        first, length = bytes.fromhex(text["first"]), text["length"]
        at = data.find(first)
        while at >= 0:
            _check(until)
            digest = hmac.new(salt, data[at : at + length], hashlib.sha256).hexdigest()
            if hmac.compare_digest(digest, text["digest"]):
                return True
            at = data.find(first, at + 1)
    return False
