"""Everything that cannot be had again, in one file, while the host lives."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from nanoclaw import safefs
from nanoclaw.config import SECRETS_FILE, SETTINGS_FILE
from nanoclaw.errors import BackupError, UnsafePath
from nanoclaw.store import copy

FORMAT = 1  # of the file; a greater one is of a newer NanoClaw
MANIFEST = "manifest.json"  # the last member
DATABASE = "nanoclaw.db"
SESSION = "whatsapp/session.db"
SETTINGS = (SETTINGS_FILE, "mounts.toml")
TREES = ("groups", "kept", "state", "skills")
MAX_SETTINGS = 1 << 20  # bytes of one file of settings
_MAX_FOLDER = 4 << 30  # bytes of one group's files: more than its quota allows, unless they are full of holes
_LEVEL = 5  # of gzip: half the time of the highest, and nearly as small
STALE = (
    "WhatsApp's encryption only moves forward, and every message moves it: once this linked device has gone on, an"
    " older copy of its session cannot read what comes and ends the link for both. Put it back only where the"
    " assistant that it was copied from never starts again."
)
WITHOUT_SESSION = f"The WhatsApp session is not in it ({STALE}) After a loss, link anew: nanoclaw pair"
WITHOUT_CREDENTIAL = "The key or token is not in it; on another machine give it again: nanoclaw setup"
WITH_CREDENTIAL = "It holds the key or token: whoever reads it can use your account."

Report = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all (0: unknown)


def silent(what: str, done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class Manifest:
    """What the file says of itself. `members` is each file's SHA-256."""

    version: str  # of NanoClaw
    schema: int  # of the database
    at: int
    members: dict[str, str]
    left_out: list[str] = field(default_factory=list)  # name: why
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT


@dataclass(frozen=True)
class Made:
    """A backup that was written."""

    path: Path
    size: int
    manifest: Manifest


@dataclass(frozen=True)
class Wishes:
    """What goes in only when it is asked for."""

    credential: bool = False
    whatsapp_session: bool = False

    @property
    def notes(self) -> list[str]:
        """What a person should know of such a file."""
        return [
            WITH_CREDENTIAL if self.credential else WITHOUT_CREDENTIAL,
            f"It holds the WhatsApp session. {STALE}" if self.whatsapp_session else WITHOUT_SESSION,
        ]


def back_up(
    home: Path, target: Path, wishes: Wishes, *, version: str, now: int, force: bool = False, report: Report = silent
) -> Made:
    """Write the backup, whole or not at all. Raises BackupError, StoreError."""
    home, target = home.resolve(), target.absolute()
    _check_target(home, target, force)
    try:
        # On the target's own disk: what is renamed at the end was whole before.
        part = f".{target.name}.", ".part"
        with tempfile.TemporaryDirectory(prefix=part[0], suffix=part[1], dir=target.parent) as folder:
            work = Path(folder)
            schema = _copy_databases(home, work, wishes, report)
            with os.fdopen(os.open(work / "tar", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
                manifest = _write(home, work, raw, Manifest(version, schema, now, {}, [], wishes.notes), wishes, report)
                raw.flush()
                os.fsync(raw.fileno())
                size = raw.tell()
            (work / "tar").rename(target)
    except OSError as e:
        raise BackupError(f"{e.filename or target}: {e.strerror}: choose another place, or make room there") from None
    return Made(target, size, manifest)


def _check_target(home: Path, target: Path, force: bool) -> None:
    if not (home / DATABASE).is_file():
        raise BackupError(f"there is nothing to back up in {home}: NANOCLAW_HOME names another folder")
    if target.is_dir() or not target.parent.is_dir():
        raise BackupError(f"{target} is no name for a file: name one in a folder that is there")
    if target.exists() and not force:
        raise BackupError(f"{target} is there already: choose another name, or say --force to replace it")
    place = target.parent.resolve()
    if place.is_relative_to(home) and not place.is_relative_to(home / "backups"):
        raise BackupError(f"{target} would lie in what is backed up: choose {home / 'backups'} or another folder")


def _copy_databases(home: Path, work: Path, wishes: Wishes, report: Report) -> int:
    """Copies that nobody writes to; the first one's schema. They come first: what a row names is there after it."""
    copy.copy(home / DATABASE, work / DATABASE, lambda done, total: report("database", done, total))
    if told := copy.torn(work / DATABASE):
        raise BackupError(f"the database is damaged ({told[0]}): nothing was written; restore an earlier backup")
    if wishes.whatsapp_session:
        if not (home / SESSION).is_file():
            raise BackupError("there is no WhatsApp session here: leave --with-whatsapp-session away")
        copy.copy(home / SESSION, work / Path(SESSION).name)
    return copy.schema(work / DATABASE)


def _write(home: Path, work: Path, raw: BinaryIO, head: Manifest, wishes: Wishes, report: Report) -> Manifest:
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=_LEVEL, format=tarfile.PAX_FORMAT) as tar:
        writer = _Writer(tar, head, report)
        writer.add_copy(DATABASE, work)
        for name in (*SETTINGS, *([SECRETS_FILE] if wishes.credential else [])):
            writer.add_settings(home, name)
        if wishes.whatsapp_session:
            writer.add_copy(SESSION, work)
        for tree in TREES:
            writer.add_tree(home / tree, tree)
        data = json.dumps(asdict(head), indent=1).encode()
        writer.add(MANIFEST, io.BytesIO(data), len(data))
    return head


class _Writer:
    """Members into a tar file, each with its hash in the manifest."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest, report: Report) -> None:
        self._tar = tar
        self._manifest = manifest
        self._report = report
        self._done = 0

    def add(self, name: str, file: BinaryIO, size: int, *, mtime: int = 0, program: bool = False) -> None:
        """One file: exactly so many bytes, whatever happens to it meanwhile."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, mtime, 0o700 if program else 0o600
        measured = _Measured(file, size)
        self._tar.addfile(info, measured)
        self._manifest.members[name] = measured.hash.hexdigest()
        if measured.short:
            self._manifest.left_out.append(f"{name}: its end, because it shrank while it was read")
        self._done += size
        self._report(name.split("/")[0], self._done, 0)

    def add_copy(self, name: str, work: Path) -> None:
        """A copied database."""
        with (work / Path(name).name).open("rb") as f:
            self.add(name, f, os.fstat(f.fileno()).st_size, mtime=self._manifest.at // 1000)

    def add_settings(self, home: Path, name: str) -> None:
        """A file of the owner's, where there is one."""
        try:
            data = safefs.read_file(home, name, MAX_SETTINGS)
        except FileNotFoundError:
            return
        except UnsafePath as e:
            self._manifest.left_out.append(f"{name}: {e}")
        else:
            self.add(name, io.BytesIO(data), len(data), mtime=self._manifest.at // 1000)

    def add_tree(self, root: Path, name: str) -> None:
        """All folders and plain files below; what is neither is named."""
        sizes: dict[str, int] = {}
        try:
            for found in safefs.entries(root):
                member = f"{name}/{found.rel}"
                fault = found.fault
                if not fault and found.file is None:
                    self._add_folder(member)
                elif not fault and found.file is not None:
                    fault = self._add_found(member, found.file, sizes, found.rel.split("/")[0])
                if fault:
                    self._manifest.left_out.append(f"{member}: {fault}")
        except FileNotFoundError:
            return
        except UnsafePath as e:
            self._manifest.left_out.append(f"{name}: {e}")

    def _add_folder(self, member: str) -> None:
        info = tarfile.TarInfo(member)
        info.type, info.mode = tarfile.DIRTYPE, 0o700
        self._tar.addfile(info)

    def _add_found(self, member: str, file: BinaryIO, sizes: dict[str, int], group: str) -> str:
        """Add it, or say why not."""
        stat = os.fstat(file.fileno())
        sizes[group] = sizes.get(group, 0) + stat.st_size
        if sizes[group] > _MAX_FOLDER:
            sizes[group] -= stat.st_size
            return f"too large ({stat.st_size >> 20} MiB)"
        self.add(member, file, stat.st_size, mtime=int(stat.st_mtime), program=bool(stat.st_mode & 0o100))
        return ""


class _Measured(io.RawIOBase):
    """Exactly `size` bytes of a file that may grow or shrink, and their hash."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self.hash = hashlib.sha256()
        self.short = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes; zeros for those that are gone."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:
            self.short = True
            data += bytes(wanted - len(data))
        self._left -= wanted
        self.hash.update(data)
        return data


def read_manifest(data: bytes) -> Manifest:
    """What a file says of itself. Raises BackupError."""
    try:
        told = json.loads(data)
        if told["format"] > FORMAT:
            raise BackupError("this backup is of a newer NanoClaw: upgrade the program")
        known = Manifest(**told)
        if not isinstance(known.at, int) or not all(isinstance(x, str) for x in known.members.values()):
            raise TypeError
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise BackupError("this is no backup of NanoClaw, or a damaged one") from None
    return known
