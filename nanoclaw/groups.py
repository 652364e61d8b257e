"""The home's folders: what is where, whose it is, and what of it a container gets to see.

Whatever an agent writes lies in `groups/<folder>`, `state/<lane>/projects` and a run's `out.ndjson`;
each is handed out by itself, and no folder above one of them is. A link that an agent puts there can
therefore never stand on the way to what another container is given.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanoclaw import safefs
from nanoclaw.errors import Cause, HomeError, Refused, SandboxError, UnsafePath
from nanoclaw.mailbox import HOST_FILE
from nanoclaw.models import Group
from nanoclaw.sandbox import Bind

GLOBAL = "global"  # the folder whose CLAUDE.md every agent reads
MAIN = "main"  # the main group's folder
MEMORY_FILE = "CLAUDE.md"
OUTGOING = "outgoing"  # copies of files to be sent, in what the host keeps for a group
MAX_MEMORY = 256 << 10  # bytes of one CLAUDE.md that count
MAX_TRANSCRIPT = 256 << 20  # bytes of a session that is resumed: the CLI reads it whole, into a container's memory
QUOTA = 2 << 30  # bytes on the disk that a group's writable trees may take
FREE_FLOOR = 1 << 30  # bytes that must be free, so that the store can still commit
OF_HOME = "of-home"  # in a run_dir elsewhere: whose it is
MAX_SOCKET_PATH = 107  # bytes; the kernel's limit for the name of a unix socket

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LANE = re.compile(_FOLDER.pattern + r"(#[A-Za-z0-9_-]{1,80})?")
_TASK = re.compile(_FOLDER.pattern + r"\.task-[0-9]+")  # the name of a task's state
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_SOCKETS = re.compile(r"[0-9a-f]{8}")
_TRANSCRIPTS = "-workspace-group"  # Claude Code's name for the sessions of /workspace/group
_OURS = frozenset({"nanoclaw.toml", ".env", "nanoclaw.db", "groups", "run", "logs"})
FIRST_MEMORY = "# Memory\n\nWhat is worth knowing in later conversations stands here; keep it short.\n"


@dataclass(frozen=True)
class Home:
    """Where everything is kept. `root` is resolved: the engine must not follow a link of ours."""

    root: Path
    run_dir: Path  # of the runs' sockets; elsewhere where the home's path is long

    @property
    def db(self) -> Path:
        """Every row."""
        return self.root / "nanoclaw.db"

    @property
    def lock(self) -> Path:
        """Held by the one host of this home."""
        return self.root / "nanoclaw.lock"

    @property
    def control_sock(self) -> Path:
        """Where the living host listens for the command line."""
        return self.root / "control.sock"

    @property
    def env_file(self) -> Path:
        """The credential."""
        return self.root / ".env"

    @property
    def logs(self) -> Path:
        """The log files."""
        return self.root / "logs"

    @property
    def skills(self) -> Path:
        """The owner's skills; every agent reads them."""
        return self.root / "skills"

    @property
    def shipped(self) -> Path:
        """A copy of the skills that come with NanoClaw."""
        return self.root / "shipped"

    @property
    def empty_dir(self) -> Path:
        """What stands in the place of a folder that no agent shall see."""
        return self.root / "empty/folder"

    @property
    def empty_file(self) -> Path:
        """And of a file."""
        return self.root / "empty/file"

    def group_dir(self, folder: str) -> Path:
        """The agent's own files (and `global`, which no agent writes)."""
        return self.root / "groups" / _named(_FOLDER, folder)

    def kept_dir(self, folder: str) -> Path:
        """What the host keeps for a group: media, conversations, copies of files that are to be sent."""
        return self.root / "kept" / _named(_FOLDER, folder)

    def state_dir(self, lane: str) -> Path:
        """The lane's sessions. A folder's name has no dot, so no two lanes share one."""
        return self.root / "state" / _named(_LANE, lane).replace("#", ".")

    def run_folder(self, run_id: str) -> Path:
        """What the host and one container share."""
        return self.root / "runs" / _named(_RUN, run_id)

    def inbox(self, run_id: str) -> Path:
        """The letters to the agent."""
        return self.run_folder(run_id) / "inbox"

    def outbox(self, run_id: str) -> Path:
        """The one file of the agent's letters."""
        return self.run_folder(run_id) / "out.ndjson"

    def sockets(self, name: str) -> Path:
        """The folder of one run's sockets, named by 8 hex digits."""
        return self.run_dir / _named(_SOCKETS, name)


def open_home(path: Path, run_dir: Path | None = None) -> Home:
    """Make what is missing, and see that only we can look into it. Raises HomeError."""
    with _explained(path):
        root = path.resolve()
        home = Home(root, run_dir.resolve() if run_dir else root / "run")
        check_lengths(home)
        _claim(root, _OURS.__contains__)
        for name in ("groups", "kept", "state", "runs", "logs", "backups"):
            _folder(root / name, 0o700)
        _claim(home.run_dir, lambda name: name == OF_HOME or bool(_SOCKETS.fullmatch(name)))
        if other := other_home(home):
            raise HomeError(f"{home.run_dir} is of another home, {other}: set run_dir to a folder of this one's own")
        if home.run_dir != root / "run" and _mark(home) != os.fsencode(root):
            safefs.write_file(home.run_dir, OF_HOME, os.fsencode(root))
        _folder(home.empty_dir.parent, 0o700)
        for shared in (home.skills, home.shipped, home.group_dir(GLOBAL), home.empty_dir):
            _folder(shared, 0o755)
        home.empty_file.touch()
        home.empty_file.chmod(0o644)
    return home


def other_home(home: Home) -> str:
    """The path of the home whose sockets lie in this one's run_dir, "" for none: they look alike, and each host
    removes what its own rows do not know."""
    try:
        mark = _mark(home)
    except UnsafePath as e:
        return str(e)
    found = [Path(os.fsdecode(mark))] if mark else []
    found += [home.run_dir.parent] if home.run_dir.name == "run" else []  # it may stand where another's usually does
    # One that was moved to where we are, or deleted, is no other.
    others = (str(root) for root in found if root != home.root and os.path.lexists(root / home.db.name))
    return next(others, "")


def _mark(home: Home) -> bytes:
    try:
        return safefs.read_file(home.run_dir, OF_HOME, 4096)
    except FileNotFoundError:
        return b""


def check_lengths(home: Home) -> None:
    """Sockets can stand where this home has them. Raises HomeError."""
    if len(os.fsencode(home.sockets("0" * 8) / "egress.sock")) > MAX_SOCKET_PATH:
        raise HomeError(f"{home.run_dir} is too long a path for sockets: set run_dir to a short one, as /run/nanoclaw")
    if len(os.fsencode(home.control_sock)) > MAX_SOCKET_PATH:
        raise HomeError(f"{home.root} is too long a path for a socket: set NANOCLAW_HOME to a shorter one")


def _claim(path: Path, ours: Callable[[str], bool]) -> None:
    """Make a folder ours alone, unless it is one that others use: /tmp must not become 0700 by a slip."""
    _folder(path, None)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        names = [p.name for p in path.iterdir()]
        if names and not any(map(ours, names)):
            raise HomeError(f"{path} holds other files and others may read it: choose a folder of its own")
    if mode != 0o700:
        path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise HomeError(f"{path} is not writable by this user: choose another folder, or change its owner")


def check_new_folder(name: str) -> str:
    """The name for a group to be added, as it is. Raises Refused."""
    if not _FOLDER.fullmatch(name):
        raise Refused(f"{name[:80]!r} is no folder name: use up to 64 letters, digits, - and _")
    if name.isdigit():
        raise Refused(f"{name!r} reads as the number of a chat: choose a name with a letter in it")
    if name.lower() in (GLOBAL, MAIN):
        raise Refused(f"the folder {name!r} is the assistant's own: choose another name")
    return name


def make_group(home: Home, folder: str, uid: int, gid: int) -> None:
    """Make a group's folders and its first memory; what is there stays. Raises HomeError."""
    group = home.group_dir(folder)
    with _explained(group):
        _folder(group, 0o700, (uid, gid))
        make_kept(home, folder)
        if not os.path.lexists(group / MEMORY_FILE):
            safefs.write_file(group, MEMORY_FILE, FIRST_MEMORY.encode(), owner=_owner(uid, gid))


def make_kept(home: Home, folder: str) -> Path:
    """Make what the host keeps for a group; returns the folder for its files. Raises OSError."""
    for name in ("conversations", "media", OUTGOING):
        _folder(home.kept_dir(folder) / name, 0o755)
    return home.kept_dir(folder) / "media"


def make_run(home: Home, run_id: str, lane: str, sockets: str, uid: int, gid: int) -> None:
    """Make everything of a run that its container is given. Raises HomeError."""
    with _explained(home.run_folder(run_id)):
        _folder(home.state_dir(lane), 0o700)
        _folder(home.state_dir(lane) / "projects", 0o700, (uid, gid))
        _folder(home.run_folder(run_id), 0o700)
        _folder(home.inbox(run_id), 0o755)
        _file(home.inbox(run_id) / HOST_FILE, 0o644)
        _file(home.outbox(run_id), 0o600, (uid, gid))
        _folder(home.sockets(sockets), 0o755)


def remove_run(home: Home, run_id: str, sockets: str) -> None:
    """Remove the run's letters and sockets; its sessions stay with the lane. Raises UnsafePath."""
    safefs.remove_tree(home.run_folder(run_id))
    if sockets:
        safefs.remove_tree(home.sockets(sockets))


def remove_state(home: Home, lane: str) -> None:
    """Remove a lane's sessions, and whatever its agent put beside them. Raises UnsafePath."""
    safefs.remove_tree(home.state_dir(lane))


def remove_other_runs(home: Home, kept: Collection[str]) -> None:
    """Remove what runs left that no row knows: the host died before it wrote one. `kept`: names of any folder.

    Sockets in another home's folder are that one's.
    """
    for path in (home.root / "state").iterdir():
        if _TASK.fullmatch(path.name) and path.name not in kept:
            safefs.remove_tree(path)
    sockets = [] if other_home(home) else [(home.run_dir, _SOCKETS)]
    for folder, name in ((home.root / "runs", _RUN), *sockets):
        for path in folder.iterdir():
            if path.name not in kept and name.fullmatch(path.name):
                safefs.remove_tree(path)


def set_aside_session(home: Home, lane: str, session: str) -> None:
    """Keep a session's transcript under a name by which it is not resumed. Raises UnsafePath, FileNotFoundError."""
    transcript = f"{_TRANSCRIPTS}/{session}.jsonl"
    safefs.rename_file(home.state_dir(lane) / "projects", transcript, f"{session}.refused")


def check_session(home: Home, lane: str, session: str, aside: str) -> str:
    """What is no transcript that can be resumed (a pipe would be waited for, a huge file fill the memory) gets the name
    `aside`, so that the agent begins a new session; why, "" where all is well. Raises UnsafePath."""
    projects = home.state_dir(lane) / "projects"
    try:
        safefs.check_file(projects, f"{_TRANSCRIPTS}/{session}.jsonl", MAX_TRANSCRIPT)
    except FileNotFoundError:
        return ""
    except UnsafePath as e:
        try:
            safefs.set_aside(projects, f"{_TRANSCRIPTS}/{session}.jsonl", aside)
        except UnsafePath:  # the folder itself is none
            safefs.set_aside(projects, _TRANSCRIPTS, aside)
        return str(e)
    return ""


def binds(home: Home, group: Group, lane: str, run_id: str, sockets: str, skills: Path) -> tuple[Bind, ...]:
    """All that a container sees of the host; `skills` are the shipped ones."""
    kept = home.kept_dir(group.folder)
    return (
        Bind(home.group_dir(group.folder), "/workspace/group", read_write=True),
        Bind(home.group_dir(GLOBAL), "/workspace/global"),
        Bind(kept / "media", "/workspace/media"),
        Bind(kept / "conversations", "/workspace/conversations"),
        Bind(home.inbox(run_id), "/run/nanoclaw/inbox"),
        Bind(home.outbox(run_id), "/run/nanoclaw/out.ndjson", read_write=True),
        Bind(home.sockets(sockets), "/run/nanoclaw/sockets"),
        Bind(home.state_dir(lane) / "projects", "/home/agent/.claude/projects", read_write=True),
        *_skills(group, skills, "/opt/agent/plugins/nanoclaw/skills"),
        *_skills(group, home.skills, "/opt/agent/plugins/home/skills"),
    )


def _skills(group: Group, folder: Path, target: str) -> list[Bind]:
    """All of a folder's skills, or those of them that the group has; no link, which could lead anywhere."""
    if not group.skills:
        return [Bind(folder, target)]
    chosen = (folder / name for name in group.skills)
    return [Bind(path, f"{target}/{path.name}") for path in chosen if path.is_dir() and not path.is_symlink()]


def is_disk_full(home: Home) -> bool:
    """Nearly: what is left is the store's."""
    disk = os.statvfs(home.root)
    return disk.f_bavail * disk.f_frsize < FREE_FLOOR


def check_room(home: Home, folder: str, lane: str) -> None:
    """Raises SandboxError(DISK) when the disk is nearly full, or the group's writable trees are over their quota."""
    if is_disk_full(home):
        raise SandboxError(f"less than 1 GiB is free on the disk of {home.root}: free some room", Cause.DISK)
    trees = (home.group_dir(folder), home.state_dir(lane) / "projects")
    try:
        used = sum(safefs.tree_size(tree) for tree in trees if tree.is_dir())
    except UnsafePath as e:
        raise SandboxError(
            f"the files of the group {folder} cannot be counted ({e}): tidy up there", Cause.DISK
        ) from None
    if used > QUOTA:
        raise SandboxError(
            f"{trees[0]} and its sessions hold {used >> 20} MiB, more than {QUOTA >> 20}: delete what is not needed",
            Cause.DISK,
        )


def read_memory(home: Home, folder: str) -> bytes:
    """A digest of what the agent is told of its CLAUDE.md files: another one asks for a new run."""
    digest = hashlib.sha256()
    for name in (GLOBAL, folder):
        try:
            text = memory_text(home, name)
        except UnsafePath as e:
            text = str(e).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def memory_text(home: Home, folder: str) -> bytes:
    """A folder's CLAUDE.md as it is; b"" for none. Raises UnsafePath for what is no such file, or too large."""
    try:
        return safefs.read_file(home.group_dir(folder), MEMORY_FILE, MAX_MEMORY)
    except FileNotFoundError:
        return b""


def write_memory(home: Home, folder: str, text: bytes, aside: str) -> bytes:
    """Put another CLAUDE.md there; what stood there until this moment. What is no file that could be read stays
    there under the name `aside`. Raises UnsafePath: then nothing has changed."""
    group = home.group_dir(folder)
    try:
        safefs.set_aside(group, MEMORY_FILE, aside)
    except FileNotFoundError:
        aside = ""
    try:
        safefs.write_file(group, MEMORY_FILE, text, owner=owner_of(home, folder))
    except UnsafePath:
        if aside:
            safefs.set_aside(group, aside, MEMORY_FILE)
        raise
    try:
        old = safefs.read_file(group, aside, MAX_MEMORY) if aside else b""
    except UnsafePath:
        return b""
    if aside:
        safefs.remove_file(group, aside)
    return old


def owner_of(home: Home, folder: str) -> tuple[int, int] | None:
    """Whose files these are, where we could give one away."""
    found = home.group_dir(folder).stat()
    return _owner(found.st_uid, found.st_gid)


def _named(pattern: re.Pattern[str], name: str) -> str:
    """The name, if it can be a part of a path of ours: these come out of rows, and rows out of chats."""
    if not pattern.fullmatch(name):
        raise UnsafePath(f"{name[:80]!r} cannot be part of a path")
    return name


def _owner(uid: int, gid: int) -> tuple[int, int] | None:
    """Only root can give a file away, and only for root is the agents' uid another than its own."""
    return (uid, gid) if os.geteuid() == 0 else None


def _folder(path: Path, mode: int | None, owner: tuple[int, int] | None = None) -> None:
    """A folder with exactly this mode, whatever the umask; None takes one that is there as it is."""
    path.mkdir(mode=mode or 0o700, parents=True, exist_ok=True)
    if mode is not None:
        path.chmod(mode)
    _give(path, owner)


def _file(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    path.touch(mode=mode, exist_ok=False)
    path.chmod(mode)
    _give(path, owner)


def _give(path: Path, owner: tuple[int, int] | None) -> None:
    if owner is not None and _owner(*owner) is not None:
        os.chown(path, *owner, follow_symlinks=False)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        where = e.filename or path
        raise HomeError(f"{where}: {e.strerror}: make room there, or choose another NANOCLAW_HOME") from None
