"""The way through the file system: every name on it, and what a folder is by whatever name it is called."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_MAX_LINKS = 40  # the kernel's own limit


@dataclass(frozen=True)
class Step:
    """One name on a way."""

    name: str
    folder: Path  # where it stands, without links
    link: bool


def steps(path: str) -> Iterator[Step]:
    """Every name that is passed, also those that links lead through. Raises OSError."""
    todo, here, links = path.split("/")[::-1], Path("/"), 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = here.parent
            continue
        link = (here / name).is_symlink()
        yield Step(name, here, link)
        if not link:
            here /= name
            continue
        target = str((here / name).readlink())
        if (links := links + 1) > _MAX_LINKS:
            return
        here = Path("/") if target.startswith("/") else here
        todo += target.split("/")[::-1]


@dataclass(frozen=True)
class Mounted:
    """One line of the kernel's list of mounts."""

    point: Path
    device: str
    root: Path  # what of the device is seen there


def mounted() -> list[Mounted]:
    """All of them, in the order in which they were mounted."""
    lines = [line.split(" ") for line in _TABLE.read_text("utf-8", "surrogateescape").splitlines()]
    return [Mounted(Path(_plain(f[4])), f[2], Path(_plain(f[3]))) for f in lines]


def _plain(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


def location(path: Path) -> tuple[str, Path]:
    """The device and the place on it, which a bind mount does not change; no disk is asked. `path` has no links."""
    around = [m for m in mounted() if m.point == path or m.point in path.parents]
    if not around:
        return "", path
    mount = max(reversed(around), key=lambda m: len(m.point.parts))  # of two at one point, the later is seen
    return mount.device, mount.root / path.relative_to(mount.point)


def within(path: Path, top: Path) -> bool:
    """Whether `path` is `top` or lies in it, by these names or by where they are; neither has links."""
    return _in(path, top) or nested(path, top)


def nested(path: Path, top: Path) -> bool:
    """The same, by where they are alone."""
    (device, inner), (other, outer) = location(path), location(top)
    return device == other and _in(inner, outer)


def _in(path: Path, top: Path) -> bool:
    return path == top or top in path.parents


def meet(one: str, other: str) -> bool:
    """Whether one holds the other or a part of it."""
    return within(Path(one), Path(other)) or within(Path(other), Path(one))


def identity(path: Path) -> tuple[int, int]:
    """Device and inode of what stands there, be it a link. Raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino
