"""Before a newer program changes the database of an older one: a copy of it; and the way back to that copy."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from nanoclaw.errors import BackupError, NanoClawError, StoreError
from nanoclaw.ops.backup import DATABASE
from nanoclaw.store import Guard, copy

FOLDER = "backups"  # in home
KEPT = 3  # copies; the oldest goes first
_SUFFIX = ".before-upgrade.db"
_REPLACED = ".replaced.db"
_SPARE = 64 << 20  # bytes that stay free: the migration itself needs room too
_MAGIC = b"SQLite format 3\0"
WITHOUT = "or start once without one: nanoclaw run --no-backup"

Say = Callable[[str], None]


def guard(root: Path, clock: Callable[[], int], say: Say, *, backup: bool = True) -> Guard:
    """What stands around a migration in this home: first a copy, then the migration, and both are said.

    Only the database changes, so only that is copied. Raises BackupError, and then nothing is changed.
    """

    @contextmanager
    def around(have: int, known: int) -> Iterator[None]:
        if backup:
            path = save(root, f"schema-{have}", clock(), advice=WITHOUT)
            say(f"This version changes the database (schema {have} to {known}); as it was it is in {path}.")
            logger.info("Saved the database of schema {} as {}", have, path.name)
        yield

    return around


def alone(around: Guard, lock: Callable[[], AbstractContextManager[None]]) -> Guard:
    """The same for a command: an older host that lives must not lose its schema under its feet."""

    @contextmanager
    def locked(have: int, known: int) -> Iterator[None]:
        with lock(), around(have, known):
            yield

    return locked


def save(root: Path, name: str, now: int, advice: str = "") -> Path:
    """Copy the database of this home into its backups, and let only the newest copies live. Raises BackupError."""
    folder, db = root / FOLDER, root / DATABASE
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stamp}-{name}{_SUFFIX}"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_room(folder, db.stat().st_size)
        part.touch(0o600)
        copy.copy(db, part)
        if told := copy.torn(part):
            raise BackupError(f"the database is damaged ({told[0]}): restore an earlier backup")
        part.rename(path)
    except (OSError, StoreError) as e:
        words = f"no copy of the database could be made, so nothing was changed: {e}; free some disk space"
        raise BackupError(f"{words}, {advice}" if advice else words) from None
    finally:
        part.unlink(missing_ok=True)
    _keep_newest(copies(root), path)
    return path


def copies(root: Path) -> list[Path]:
    """The copies that were made before upgrades, oldest first."""
    return sorted((root / FOLDER).glob(f"*{_SUFFIX}"))


def is_copy(file: Path) -> bool:
    """Whether this is a database, and not a whole backup."""
    try:
        with file.open("rb") as f:
            return f.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def put_back(file: Path, root: Path) -> Path | None:
    """Let a copy take the database's place; no host may live there. Where the one that was there is now.

    Raises BackupError; then the database is as it was.
    """
    db = root / DATABASE
    before = root / FOLDER / f"{file.name.removesuffix(_SUFFIX)}{_REPLACED}"
    fresh = db.with_suffix(".fresh")
    try:
        if told := copy.torn(file):
            raise BackupError(f"{file} is damaged ({told[0]}): take another one")
        _check_room(root, file.stat().st_size)
        fresh.touch(0o600)
        copy.copy(file, fresh)
        there = db.exists()
        if there:
            _set_aside(db, before)
        for side in ("-wal", "-shm"):
            db.with_name(db.name + side).unlink(missing_ok=True)
        fresh.rename(db)
    except (OSError, NanoClawError) as e:
        raise BackupError(f"the database could not be put back: {e}") from None
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    _keep_newest(sorted((root / FOLDER).glob(f"*{_REPLACED}")), before)
    return before if there else None


def _set_aside(db: Path, before: Path) -> None:
    """A copy has what is in its log too; of one that cannot be read the file itself must do."""
    before.unlink(missing_ok=True)
    before.touch(0o600)
    try:
        copy.copy(db, before)
    except StoreError:
        db.rename(before)
        before.chmod(0o600)


def _keep_newest(paths: list[Path], made: Path) -> None:
    """`paths` by age; the one that was just made is the newest, whatever the clock says."""
    others = [path for path in paths if path != made]
    for old in others[: 1 - KEPT]:
        old.unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    disk = os.statvfs(folder)
    if (free := disk.f_bavail * disk.f_frsize) < size + _SPARE:
        raise StoreError(f"{folder} has {free >> 20} MiB left, and {(size + _SPARE) >> 20} are needed")
