"""Who may read and write the home: nobody but its owner, and of what an agent writes, that agent."""

import os
import stat
from itertools import islice
from pathlib import Path

from nanoclaw.groups import GLOBAL, MEMORY_FILE, Home
from nanoclaw.ops.doctor.scene import Scene, fail, ok, q, warn
from nanoclaw.ops.findings import Finding
from nanoclaw.sandbox.spec import identity
from nanoclaw.store import chats, condition, health

# Ours alone: keys, words of people, and the doors to the host.
SECRET = (
    *(".env", "nanoclaw.db", "nanoclaw.db-wal", "nanoclaw.db-shm", "nanoclaw.lock", "control.sock"),
    *("whatsapp/session.db", "whatsapp/session.db-wal", "whatsapp/session.db-shm", "whatsapp/pairing.json"),
)
SETTINGS = ("nanoclaw.toml", "mounts.toml")  # who can write these has the machine
_PLACES = (".", "logs", "whatsapp", "backups", "groups", "state")  # folders whose entries have an owner
_MANY = 2000  # names of one folder that are looked at
_NAMED = 3


def look_home(scene: Scene) -> list[Finding]:
    """The home's folder, and who asks."""
    root = scene.home.root
    try:
        found = root.stat()
    except FileNotFoundError:
        return [fail("home", f"{root} is not there", "nanoclaw setup")]
    if not stat.S_ISDIR(found.st_mode):
        return [fail("home", f"{root} is no folder", "NANOCLAW_HOME names another one")]
    me, theirs = os.geteuid(), f"sudo -u '#{found.st_uid}' nanoclaw doctor"
    if me not in (found.st_uid, 0):
        return [fail("home", f"{root} belongs to user {found.st_uid}, and you are {me}", theirs)]
    said = [
        fail("home", f"others may look into {path} (mode {_mode(path):04o})", f"chmod 700 {q(path)}")
        for path in _own_folders(scene.home)
        if _mode(path) & 0o077
    ]
    if me != found.st_uid:
        said.append(warn("home", f"you are root, and {root} is user {found.st_uid}'s: what you run makes files that"
                         " they cannot use", theirs))  # fmt: skip
    return said or [ok("home", f"{root} is its owner's alone")]


def look_files(scene: Scene) -> list[Finding]:
    """The files that nobody else may read, or write."""
    found = [
        fail("files", f"others may use {p} (mode {_mode(p):04o})", f"chmod 600 {q(p)}") for p in readable(scene.home)
    ]
    strangers = _strangers(scene.home)
    if strangers:
        owner = scene.home.root.stat()
        named = " ".join(map(q, strangers[:_NAMED]))
        said = f"{len(strangers)} belong(s) to another user than the home (from a sudo run?), such as {strangers[0]}"
        found.append(fail("files", said, f"sudo chown -R {owner.st_uid}:{owner.st_gid} {named}"))
    return found or [ok("files", "key, database and session are their owner's alone")]


def look_groups(scene: Scene) -> list[Finding]:
    """What agents must be able to write."""
    uid, gid = _agent(scene)
    home, found = scene.home, []
    served = _served(scene)
    for path in _agents_folders(home, served):
        here = _lstat(path)
        if here and (here.st_uid != uid or here.st_mode & 0o700 != 0o700):
            found.append(fail("group folders", f"the agent (user {uid}) cannot write {path}",
                              f"sudo chown -R {uid}:{gid} {q(path)} && chmod 700 {q(path)}"))  # fmt: skip
    for path in _group_folders(home, served):
        memory = path / MEMORY_FILE
        there = _lstat(memory)
        if there and there.st_uid != uid and not there.st_mode & 0o002:
            found.append(warn("group folders", f"the agent (user {uid}) cannot write {memory}",
                              f"sudo chown {uid}:{gid} {q(memory)}"))  # fmt: skip
    return found or [ok("group folders", f"their agents (user {uid}) can write them")]


def readable(home: Home) -> list[Path]:
    """Our files that others may read (or, of settings, write) by their modes."""
    files = [(home.root / name, 0o077) for name in SECRET] + [(home.root / name, 0o022) for name in SETTINGS]
    return [path for path, forbidden in files if _mode(path) & forbidden]


def _own_folders(home: Home) -> list[Path]:
    return [path for path in (home.root, home.run_dir) if path.is_dir()]


def _agent(scene: Scene) -> tuple[int, int]:
    owner = scene.home.root.stat()
    # A rootless engine's agents are the home's owner outside as well.
    return identity(owner.st_uid, owner.st_gid, scene.config.agent_uid, rootless=False)[:2]


def _strangers(home: Home) -> list[Path]:
    """What lies where only the host writes, and belongs to somebody else."""
    owner = home.root.stat().st_uid
    agents = {*_agents_folders(home)}
    found = [path for name in _PLACES for path in _entries(home.root / name) if path not in agents]
    return [path for path in found if (there := _lstat(path)) and there.st_uid != owner]


def _served(scene: Scene) -> set[str] | None:
    """The folders of groups by the rows, None where these do not say: beside them the owner may keep some too."""
    home = scene.home
    if not health.fits(home.db):
        return None
    return {group.folder for group in condition.peek(home.db, chats.groups)}


def _group_folders(home: Home, served: set[str] | None = None) -> list[Path]:
    there = [path for path in _entries(home.root / "groups") if path.name != GLOBAL and _is_folder(path)]
    return there if served is None else [path for path in there if path.name in served]


def _agents_folders(home: Home, served: set[str] | None = None) -> list[Path]:
    """Each is an agent's own; what lies in them is not looked at."""
    projects = [path / "projects" for path in _entries(home.root / "state")]
    return [*_group_folders(home, served), *filter(_is_folder, projects)]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(islice(folder.iterdir(), _MANY))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lstat(path: Path) -> os.stat_result | None:
    """None for what is not there, or is no more: a host that lives removes things while we look."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _mode(path: Path) -> int:
    """The rights to it, 0 where it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0
