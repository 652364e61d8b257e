"""Puts a backup back: all of it is made and checked beside the home, then the two folders change places."""

import asyncio
import contextlib
import ctypes
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from nanoclaw import safefs
from nanoclaw.config import SECRETS_FILE
from nanoclaw.errors import BackupError, HomeError, UnsafePath
from nanoclaw.groups import GLOBAL
from nanoclaw.models import OutKind
from nanoclaw.ops.backup import (
    DATABASE,
    MANIFEST,
    MAX_SETTINGS,
    SESSION,
    SETTINGS,
    STALE,
    TREES,
    Manifest,
    Report,
    read_manifest,
    silent,
)  # fmt: skip
from nanoclaw.store import Store, Tx, chats, copy, outgoing

_FILES = frozenset({DATABASE, MANIFEST, SESSION, SECRETS_FILE, *SETTINGS})
_MAX_MANIFEST = 256 << 20  # bytes; half a million files take some 100 MB
_MAX_NAME = 4096
_CHUNK = 1 << 20
_SPARE = 256 << 20  # bytes that stay free on the disk
_NOT_OURS = "this is no backup of NanoClaw, or a damaged one"
_SESSION = "the WhatsApp session"
MOVED = "Never let the assistant live in the old folder again: its copy of the WhatsApp session goes stale from now on."
_EXCHANGE = 2  # RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD

Owner = tuple[int, int]


@dataclass(frozen=True)
class Restored:
    """What came of it."""

    manifest: Manifest
    before: Path | None  # where the home is that was there
    kept: tuple[str, ...]  # what was taken from that one
    texts: int  # that waited to be sent
    messages: int  # that waited for their answer
    note: str  # what a person should know of the WhatsApp session


def restore(file: Path, home: Path, *, now: int, agent: Owner | None = None, report: Report = silent) -> Restored:
    """Put the backup in the home's place; no host may live there. Until the last step nothing there is touched.

    `agent` is whose the agents' files shall be; None: ours. Raises BackupError, HomeError, StoreError.
    """
    root = home.resolve()
    _check_home(root)
    with _explained(file):
        fresh = Path(tempfile.mkdtemp(prefix=f".{root.name}.restoring-", dir=root.parent))
        try:
            manifest = _unpack(file, fresh, agent, report)
            _check_database(fresh / DATABASE, report)
            kept = tuple(_carry(root, fresh))
            settled = asyncio.run(settle(fresh / DATABASE, manifest.at, now))
            os.sync()  # what takes the home's place is on the disk before it does
        except BaseException:
            safefs.remove_tree(fresh)
            raise
        before = _swap(root, fresh, now)
    note = MOVED if _SESSION in kept else STALE if SESSION in manifest.members else ""
    return Restored(manifest, before, kept, settled.texts, settled.messages, note)


def _check_home(root: Path) -> None:
    if not root.exists():
        return
    if root.is_mount():
        raise HomeError(f"{root} is a mount and cannot change places: set NANOCLAW_HOME to a folder below it")
    if root.stat().st_uid != os.geteuid():
        raise HomeError(f"{root} is another user's: restore as that user")
    names = {path.name for path in root.iterdir()} - {"nanoclaw.lock"}
    if names and not names & {DATABASE, SECRETS_FILE, *SETTINGS, *TREES}:
        raise HomeError(f"{root} holds other files: NANOCLAW_HOME names another folder")


# --- out of the file ---------------------------------------------------------------------------


def _unpack(file: Path, fresh: Path, agent: Owner | None, report: Report) -> Manifest:
    """Everything into the new folder; all and only what the manifest names, byte by byte."""
    for tree in TREES:
        (fresh / tree).mkdir(mode=0o700)
    hashes: dict[str, str] = {}
    size = file.stat().st_size
    with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as tar:
        for member in tar:
            name = _checked(member)
            if name == MANIFEST:
                return _compared(_manifest(tar, member), hashes)
            if member.isdir():
                (fresh / name).mkdir(mode=0o700)
                (fresh / name).chmod(0o755)
                _give(fresh / name, name, agent)
            else:
                _check_room(fresh, member.size)
                hashes[name] = _unpack_file(tar, member, fresh / name)
                _give(fresh / name, name, agent)
            report("reading", raw.tell(), size)
    raise BackupError(_NOT_OURS)


def _checked(member: tarfile.TarInfo) -> str:
    """Its name, if it is one that we write: plain files and folders, below the home."""
    parts = member.name.split("/")
    plain = member.type in (tarfile.REGTYPE, tarfile.DIRTYPE) and not member.issparse()
    below = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    short = len(member.name) <= _MAX_NAME and len(parts) <= safefs.MAX_DEPTH + 2
    ours = (parts[0] in TREES and len(parts) > 1) or (member.isreg() and member.name in _FILES)
    if not (plain and below and short and ours):
        raise BackupError(f"{_NOT_OURS}: it holds {member.name[:80]!r}")
    return member.name


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Manifest:
    found = tar.extractfile(member) if member.size <= _MAX_MANIFEST else None
    if found is None:
        raise BackupError(_NOT_OURS)
    return read_manifest(found.read())


def _compared(manifest: Manifest, hashes: dict[str, str]) -> Manifest:
    if DATABASE not in hashes:
        raise BackupError(_NOT_OURS)
    for name in {*hashes, *manifest.members} - {MANIFEST}:
        if hashes.get(name) != manifest.members.get(name):
            raise BackupError(f"this backup is damaged: {name!r} is not as it was written; take another one")
    return manifest


def _check_room(fresh: Path, size: int) -> None:
    disk = os.statvfs(fresh)
    if size > disk.f_bavail * disk.f_frsize - _SPARE:
        raise BackupError("there is no room for what this backup holds: free some disk space")


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    """Write it; its hash."""
    if member.name == SESSION:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # noqa: S101 - its type was looked at
    digest = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as f:
        while data := source.read(_CHUNK):
            digest.update(data)
            f.write(data)
        f.flush()
        os.fchmod(fd, _mode(member))
        os.utime(fd, (member.mtime, member.mtime))
    return digest.hexdigest()


def _mode(member: tarfile.TarInfo) -> int:
    """Ours to say. What containers see is readable there, and home itself is closed to others."""
    if member.name.split("/")[0] not in TREES:
        return 0o600
    return 0o755 if member.mode & 0o100 else 0o644


def _give(path: Path, name: str, agent: Owner | None) -> None:
    """An agent's files are its own, as they were made."""
    parts = name.split("/")
    of_group = parts[0] == "groups" and parts[1] != GLOBAL
    if agent is not None and (of_group or (parts[0] == "state" and "projects" in parts[2:3])):
        os.chown(path, *agent, follow_symlinks=False)


# --- before it counts --------------------------------------------------------------------------


def _check_database(path: Path, report: Report) -> None:
    report("checking the database", 0, 0)
    if told := copy.torn(path):
        raise BackupError(f"the database in this backup is damaged ({told[0]}): take another one")


def _carry(root: Path, fresh: Path) -> Iterator[str]:
    """What the home has that is newer than any backup: its key, its WhatsApp session, its other backups."""
    with contextlib.suppress(FileNotFoundError, UnsafePath):
        safefs.write_file(fresh, SECRETS_FILE, safefs.read_file(root, SECRETS_FILE, MAX_SETTINGS))
        (fresh / SECRETS_FILE).chmod(0o600)
        yield "the key or token"
    if (root / SESSION).is_file():
        (fresh / SESSION).parent.mkdir(mode=0o700, exist_ok=True)
        (fresh / SESSION).unlink(missing_ok=True)
        copy.copy(root / SESSION, fresh / SESSION)
        (fresh / SESSION).chmod(0o600)
        yield _SESSION
    (fresh / "backups").mkdir(mode=0o700)
    with contextlib.suppress(OSError):  # they stay where they are in any case
        for path in (root / "backups").iterdir():
            (fresh / "backups" / path.name).hardlink_to(path)


async def settle(db: Path, made: int, now: int) -> copy.Settled:
    """What waited in a database of that moment is over, and main hears of it once. Raises StoreError."""
    store = Store(db)
    await store.open()
    try:
        return await store.write(_settled, made, now)
    finally:
        await store.close()


def _settled(tx: Tx, made: int, now: int) -> copy.Settled:
    """What waited is over, and main hears of it once."""
    settled = copy.settle(tx, now)
    if (main := chats.main_chat(tx)) is not None:
        outgoing.queue(tx, main.id, _words(made, settled), OutKind.NOTICE, now)
    return settled


def _words(made: int, settled: copy.Settled) -> str:
    at = datetime.fromtimestamp(made / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"I was put back from a backup of {at}. What came after it is unknown to me, and WhatsApp does not bring it"
        f" again. {settled.messages} message(s) waited then for an answer and {settled.texts} text(s) to be sent;"
        " that may have happened since, so I do neither. Please write again what still matters."
    )


# --- into place --------------------------------------------------------------------------------


def _swap(root: Path, fresh: Path, now: int) -> Path | None:
    """The new folder takes the home's name, and the home one that says when."""
    if not root.exists():
        fresh.rename(root)
        return None
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%d-%H%M%S")
    names = (root.with_name(f"{root.name}.before-{stamp}{f'-{n}' if n else ''}") for n in count())
    before = next(path for path in names if not path.exists())
    try:
        _exchange(fresh, root)
    except OSError:  # a file system that cannot do it in one step
        root.rename(before)
        try:
            fresh.rename(root)
        except OSError:
            before.rename(root)
            raise
    else:
        fresh.rename(before)
    return before


def _exchange(one: Path, other: Path) -> None:
    """Both names change places at once: at no instant is there no home. Raises OSError."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError("this C library cannot exchange names")
    if renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError):
        raise BackupError(f"{file}: {_NOT_OURS}") from None
    except OSError as e:
        raise BackupError(f"{e.filename or file}: {e.strerror or _NOT_OURS}") from None
