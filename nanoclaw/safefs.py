"""The only way the host touches what an agent can write: below a directory handle, and never through a link.

An agent may put a link, a pipe, a device of another name or a folder of a million levels wherever it
writes, and may swap it while we look. So the kernel resolves a path in one step that cannot leave the tree
(openat2), or each component is opened relative to the handle before it and refuses links; only regular files
are read, and every walk has its bounds.
"""

import contextlib
import ctypes
import itertools
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from nanoclaw.errors import UnsafePath

MAX_DEPTH = 64  # folders below each other; node_modules at its worst has about 30
MAX_ENTRIES = 500_000  # of one walk: about 3 s on a slow disk
MAX_SECONDS = 20.0  # of one walk
_PIECE = 1 << 20  # bytes that are copied at a time
_MAX_WAY = 4000  # bytes of a path that the kernel takes at once
_SHOWN = 300  # characters of a path in an error: who asks for one of a megabyte gets no megabyte back

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe in the file's place must not hold us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437  # on every kind of machine
_BENEATH = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class _How(ctypes.Structure):
    """The kernel's struct open_how."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def _open_beneath(folder: int, path: str) -> int:
    """The handle of a folder below another one, resolved in one step. Raises OSError."""
    how = _How(flags=_HANDLE, mode=0, resolve=_BENEATH)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd: int = _LIBC.syscall(ctypes.c_long(_OPENAT2), ctypes.c_int(folder), os.fsencode(path), ctypes.byref(how), size)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _knows_openat2() -> bool:
    """Not every kernel does (5.6), and an engine's filter may hide it from a host that sits in a container."""
    if sys.platform != "linux":
        return False
    try:
        top = os.open("/", _HANDLE)
        with _closing(top):
            os.close(_open_beneath(top, "."))
    except OSError:
        return False
    return True


def read_file(root: Path, rel: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises UnsafePath, FileNotFoundError."""
    with _parent(root, rel) as (folder, name), _refusing(rel), _open_regular(folder, name, rel) as f:
        data = f.read(limit + 1)
    if len(data) > limit:
        raise UnsafePath(f"{rel} is larger than {limit} bytes")
    return data


def read_head(root: Path, rel: str, count: int) -> bytes:
    """The first bytes of a regular file. Raises UnsafePath, FileNotFoundError."""
    with _parent(root, rel) as (folder, name), _refusing(rel), _open_regular(folder, name, rel) as f:
        return f.read(count)


def read_pieces(root: Path, rel: str, size: int, overlap: int) -> Iterator[bytes]:
    """All of a regular file, in pieces of `size` bytes with the last `overlap` ones of the piece before in front.

    Raises UnsafePath, FileNotFoundError.
    """
    with _parent(root, rel) as (folder, name), _refusing(rel), _open_regular(folder, name, rel) as f:
        before = b""
        while piece := f.read(size):
            yield before + piece
            before = (before + piece)[-overlap:]


def changed_at(root: Path, rel: str) -> int:
    """When a file's content was changed last, in ms, by what the file says: it can say anything; 0 for none."""
    try:
        with _parent(root, rel) as (folder, name), _refusing(rel):
            return max(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns // 1_000_000, 0)
    except (FileNotFoundError, UnsafePath):
        return 0


def check_file(root: Path, rel: str, limit: int) -> None:
    """Raises UnsafePath for what is no regular file of at most `limit` bytes, FileNotFoundError for nothing."""
    with _parent(root, rel) as (folder, name), _refusing(rel):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _regular(found, rel)
        if found.st_size > limit:
            raise UnsafePath(f"{rel} is larger than {limit >> 20} MiB")


def identity(root: Path, rel: str) -> tuple[int, int]:
    """Device and inode of what stands there, be it a folder; "" is `root` itself. No link, neither there nor before.

    Raises UnsafePath, FileNotFoundError.
    """
    with contextlib.ExitStack() as stack, _refusing(rel or root.name):
        folder, name = stack.enter_context(_parent(root, rel)) if rel else (None, os.fspath(root))
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise UnsafePath(f"{(rel or root.name)[:_SHOWN]} is a link")
        return found.st_dev, found.st_ino


def write_file(root: Path, rel: str, data: bytes, *, owner: tuple[int, int] | None = None) -> None:
    """Put a file there whole or not at all; a link in its place is replaced, not followed.

    `owner` (uid, gid) is whose file it shall be; None leaves it ours. Raises UnsafePath, FileNotFoundError.
    """
    with _parent(root, rel) as (folder, name), _refusing(rel), _whole(folder, name) as f:
        if owner is not None:
            os.fchown(f.fileno(), *owner)
        os.fchmod(f.fileno(), 0o644)
        f.write(data)


def copy_file(root: Path, rel: str, to: Path, name: str, limit: int) -> int:
    """Copy a regular file of at most `limit` bytes into the folder `to`, whole or not at all; its size.

    Raises UnsafePath, FileNotFoundError.
    """
    size = 0
    with (
        _parent(root, rel) as (folder, leaf),
        _refusing(rel),
        _open_regular(folder, leaf, rel) as f,
        _parent(to, name) as (target, name),
        _whole(target, name) as copy,
    ):
        while piece := f.read(_PIECE):
            if (size := size + len(piece)) > limit:
                raise UnsafePath(f"{rel} is larger than {limit >> 20} MiB")
            copy.write(piece)
    return size


def rename_file(root: Path, rel: str, name: str) -> None:
    """Give a regular file another name in its folder. Raises UnsafePath, FileNotFoundError."""
    with _parent(root, rel) as (folder, old), _refusing(rel):
        _regular(os.stat(old, dir_fd=folder, follow_symlinks=False), rel)
        os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)


def append_file(root: Path, rel: str, data: bytes, limit: int, *, owner: tuple[int, int] | None = None) -> None:
    """Add to the end of a regular file, or make it; `owner` as for write_file. What somebody else adds stays.

    Raises UnsafePath, also for a file that would then be larger than `limit` bytes; FileNotFoundError for its folder.
    """
    with _parent(root, rel) as (folder, name), _refusing(rel):
        fd, new = _to_append(folder, name, rel)
        with _closing(fd):
            found = os.fstat(fd)
            _regular(found, rel)
            if found.st_size + len(data) > limit:
                raise UnsafePath(f"{rel} would be larger than {limit} bytes")
            if new:
                if owner is not None:
                    os.fchown(fd, *owner)
                os.fchmod(fd, 0o644)
            _write(fd, data)


def _to_append(folder: int, name: str, rel: str) -> tuple[int, bool]:
    """The file, and whether it is new. Two who make it at once both get it."""
    try:
        return os.open(name, _APPEND | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder), True
    except FileExistsError:
        _regular(os.stat(name, dir_fd=folder, follow_symlinks=False), rel)  # before it is opened: see below
        return os.open(name, _APPEND, dir_fd=folder), False


def _write(fd: int, data: bytes) -> None:
    """All of it. Raises OSError, for a full disk say."""
    while data:
        data = data[os.write(fd, data) :]


def make_folder(root: Path, rel: str, *, owner: tuple[int, int] | None = None) -> None:
    """A folder of this name, if there is none. Raises UnsafePath: something else stands there."""
    with _parent(root, rel) as (folder, name), _refusing(rel):
        try:
            os.mkdir(name, 0o755, dir_fd=folder)
        except FileExistsError:
            os.close(os.open(name, _HANDLE, dir_fd=folder))
            return
        if owner is not None:
            os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)


def set_aside(root: Path, rel: str, name: str) -> None:
    """Give whatever stands there, be it no file, another name in its folder. Raises UnsafePath, FileNotFoundError."""
    with _parent(root, rel) as (folder, old), _refusing(rel):
        os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)


def reserve(root: Path, name: str, size: int) -> None:
    """A new file that takes `size` bytes on the disk, or none. Raises UnsafePath: it is there, or there is no room."""
    with _parent(root, name) as (folder, name), _refusing(name):
        fd = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            with _closing(fd):
                os.posix_fallocate(fd, 0, size)
        except OSError:
            os.unlink(name, dir_fd=folder)
            raise


def remove_file(root: Path, rel: str) -> None:
    """Remove a file, or the link in its place; one that is gone already is no error. Raises UnsafePath."""
    with contextlib.suppress(FileNotFoundError), _parent(root, rel) as (folder, name), _refusing(rel):
        os.unlink(name, dir_fd=folder)


@dataclass(frozen=True)
class Found:
    """What a walk met: a folder, a regular file that is open for reading, or what it left out and why."""

    rel: str
    file: BinaryIO | None = None  # open until the walk goes on
    fault: str = ""


def entries(root: Path) -> Iterator[Found]:
    """Everything below `root`, each folder before what is in it; bounded in depth and number, not in time.

    Raises UnsafePath, FileNotFoundError for `root` itself alone.
    """
    with _refusing(root.name):
        top = os.open(root, _FOLDER)
    yield from _walk(top, "", itertools.count(1))


def _walk(handle: int, below: str, numbers: Iterator[int]) -> Iterator[Found]:
    with _closing(handle), os.scandir(handle) as found:
        for entry in found:
            rel = below + entry.name
            if next(numbers) > MAX_ENTRIES:
                yield Found(rel, fault="one file too many; what follows is left out too")
                return
            try:
                if not entry.is_dir(follow_symlinks=False):
                    with _refusing(rel), _open_regular(handle, entry.name, rel) as f:
                        yield Found(rel, f)
                    continue
                if rel.count("/") >= MAX_DEPTH - 1:
                    raise UnsafePath(f"{rel} lies too deep")
                with _refusing(rel):
                    inner = os.open(entry.name, _FOLDER, dir_fd=handle)
            except FileNotFoundError:  # the agent goes on while we look
                continue
            except UnsafePath as e:
                yield Found(rel, fault=str(e))
                continue
            yield Found(rel)
            yield from _walk(inner, rel + "/", numbers)


def tree_size(root: Path, clock: Callable[[], float] = time.monotonic) -> int:
    """Bytes that the tree takes on the disk. Raises UnsafePath when it is too deep, wide or slow to count."""
    with _refusing(root.name):
        return _Count(root.name, clock).folder(os.open(root, _FOLDER), 0)


class Kind(StrEnum):
    """What a name stands for."""

    FOLDER = "folder"
    CLOSED = "closed"  # a folder that we may not look into
    FILE = "file"
    LINK = "link"
    OTHER = "other"  # a socket, a pipe, a device


def visit(root: Path, enter: Callable[[str, Kind], bool], clock: Callable[[], float] = time.monotonic) -> None:
    """Tell `enter` of every name below `root`; it says whether a folder is entered. Nothing is opened but folders.

    Raises UnsafePath for a tree that is too deep, wide or slow to be seen whole; FileNotFoundError for `root` itself.
    """
    with _refusing(root.name):
        _Visit(root.name, clock, enter).folder(os.open(root, _FOLDER), "", 0)


def remove_tree(root: Path) -> None:
    """Remove a tree that no agent writes any more; one that is gone already is no error. Raises UnsafePath.

    Each folder found is moved up to `root` and emptied there: so depth costs neither handles nor stack,
    and no path ever gets too long.
    """
    with contextlib.suppress(FileNotFoundError), _refusing(root.name):
        top = _unlock(os.open(root, _HANDLE))
        with _closing(top):
            todo = _spill(top, top)
            while todo:
                name = todo.pop()
                folder = _unlock(os.open(name, _HANDLE, dir_fd=top))
                with _closing(folder):
                    todo += _spill(folder, top)
                os.rmdir(name, dir_fd=top)
        root.rmdir()


def _spill(folder: int, top: int) -> list[str]:
    """Empty `folder`: its files are unlinked, its folders moved to `top` under the names returned."""
    moved = []
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
            continue
        # A folder that its owner may not write cannot be moved: its ".." would change.
        with _closing(_unlock(os.open(entry.name, _HANDLE, dir_fd=folder))):
            moved.append(f".{os.urandom(8).hex()}")
            os.rename(entry.name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
    return moved


class _Bounds:
    """One bounded walk: a handle per level, never one per folder."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS
        self._entries = 0

    def check(self, depth: int) -> None:
        """Count one more name. Raises UnsafePath."""
        self._entries += 1
        if self._entries > MAX_ENTRIES or depth > MAX_DEPTH or self._clock() > self._deadline:
            raise UnsafePath(f"{self._name} holds too many files or folders to count")


class _Count(_Bounds):
    def folder(self, handle: int, depth: int) -> int:
        total = 0
        with _closing(handle), os.scandir(handle) as found:
            for entry in found:
                self.check(depth)
                with contextlib.suppress(FileNotFoundError):  # the agent goes on while we look
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        total += self.folder(os.open(entry.name, _FOLDER, dir_fd=handle), depth + 1)
        return total


class _Visit(_Bounds):
    def __init__(self, name: str, clock: Callable[[], float], enter: Callable[[str, Kind], bool]) -> None:
        super().__init__(name, clock)
        self._enter = enter

    def folder(self, handle: int, below: str, depth: int) -> None:
        with _closing(handle), os.scandir(handle) as found:
            for entry in found:
                self.check(depth)
                rel = below + entry.name
                if not self._enter(rel, _kind(entry)) or not entry.is_dir(follow_symlinks=False):
                    continue
                try:
                    inner = os.open(entry.name, _FOLDER, dir_fd=handle)
                except FileNotFoundError:
                    continue
                except PermissionError:
                    self._enter(rel, Kind.CLOSED)
                    continue
                self.folder(inner, rel + "/", depth + 1)


def _kind(entry: "os.DirEntry[str]") -> Kind:
    if entry.is_symlink():
        return Kind.LINK
    if entry.is_dir(follow_symlinks=False):
        return Kind.FOLDER
    return Kind.FILE if entry.is_file(follow_symlinks=False) else Kind.OTHER


def _unlock(handle: int) -> int:
    """A readable handle for an O_PATH one, whatever the agent did to the folder's mode."""
    with _closing(handle):
        Path(f"/proc/self/fd/{handle}").chmod(0o700)
        return os.open(".", _FOLDER, dir_fd=handle)


@contextlib.contextmanager
def _parent(root: Path, rel: str) -> Iterator[tuple[int, str]]:
    """The handle of the folder that holds `rel`, and the last component."""
    parts = rel.split("/")
    if len(parts) > MAX_DEPTH or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise UnsafePath(f"{rel[:_SHOWN]!r} is no plain relative path")
    with contextlib.ExitStack() as stack, _refusing(rel):
        folder = os.open(root, _HANDLE)
        stack.callback(os.close, folder)
        at_once = AT_ONCE and len(parts) > 1 and len(os.fsencode(rel)) < _MAX_WAY
        for way in ["/".join(parts[:-1])] if at_once else parts[:-1]:
            folder = _open_beneath(folder, way) if AT_ONCE else os.open(way, _HANDLE, dir_fd=folder)
            stack.callback(os.close, folder)
        yield folder, parts[-1]


@contextlib.contextmanager
def _whole(folder: int, name: str) -> Iterator[BinaryIO]:
    """A new file that takes its place when it is written, or is gone."""
    part = f".{os.urandom(8).hex()}.part"
    fd = os.open(part, _CREATE, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as f:
            yield f
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what the system says of a link, a pipe or a folder in the wrong place into UnsafePath."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as e:
        raise UnsafePath(f"{what[:_SHOWN]}: {e.strerror or e}") from None
    except ValueError:  # a name that no file can have: half a character, say
        raise UnsafePath(f"{what[:_SHOWN]!a} cannot be a name") from None


@contextlib.contextmanager
def _open_regular(folder: int, name: str, rel: str) -> Iterator[BinaryIO]:
    """A regular file for reading. Raises UnsafePath."""
    # Looked at before it is opened: opening a device can do something by itself.
    _regular(os.stat(name, dir_fd=folder, follow_symlinks=False), rel)
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as f:
        _regular(os.fstat(f.fileno()), rel)
        yield f


def _regular(found: os.stat_result, rel: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafePath(f"{rel} is not a regular file")


AT_ONCE = _knows_openat2()  # whether a path is resolved in one step; else component by component
