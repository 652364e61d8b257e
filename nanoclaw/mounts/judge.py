"""The verdict on one folder: its way through the file system, rule by rule; nothing inside is looked at here."""

import os
import stat
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nanoclaw.mounts import Place, Root, Rule, Verdict
from nanoclaw.mounts.inside import GIT_FOLDER
from nanoclaw.mounts.names import first_blocked, fold
from nanoclaw.mounts.patience import ask
from nanoclaw.mounts.way import identity, location, nested, steps, within

ROOT_PATIENCE = 5.0  # seconds that the disks of all allowed roots have together
MAX_PATH = 250  # characters: a question to the owner shows it whole
_ENGINES = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)
_ENGINE_DATA = ("/var/lib/docker", "/var/lib/containers", "/var/lib/containerd")
_SYSTEM = ("/proc", "/sys", "/dev", *_ENGINE_DATA)
_NOWHERE = Path()


def judge(place: Place, source: str, *, read_write: bool = False, main: bool = False) -> Verdict:
    """May this folder be granted? `main`: to the main group."""
    before = [_listed(place), _written(source)]
    if not before[1].holds:
        return Verdict(tuple(before), _NOWHERE)
    path, exists = _resolved(source)
    before += [_unblocked(place, source), exists]
    if path is None:
        return Verdict(tuple(before), _NOWHERE)
    roots = _roots(place)
    root, under = _under(place, path, roots)
    rules = (*before, under, _not_ours(place, path), _no_engine(place, path), _no_system(path))
    writes, words = _access(place, path, root, roots, asked=read_write, main=main)
    return Verdict((*rules, Rule("access", True, words)), path, writes)


def _listed(place: Place) -> Rule:
    if isinstance(place.allowlist, str):
        return Rule("allowlist", False, place.allowlist)
    return Rule("allowlist", True, f"mounts.toml names {len(place.allowlist.roots)} folder(s)")


def _written(source: str) -> Rule:
    """Whether it is a path that can be named to people and to the engine without doubt."""
    if not source.startswith(("/", "~/")):
        return Rule("path", False, f"{source[:60]!r} is not an absolute path: write it from / on")
    if len(source) > MAX_PATH:
        return Rule("path", False, f"the path is longer than {MAX_PATH} characters")
    if not source.isprintable():
        return Rule("path", False, "the path holds signs that cannot be shown")
    return Rule("path", True, "it is an absolute path")


def _resolved(source: str) -> tuple[Path | None, Rule]:
    """Where it really is: the engine must not follow a link of anybody's."""
    try:
        path = Path(source).expanduser().resolve(strict=True)
        mode = path.stat().st_mode
    except (OSError, RuntimeError, ValueError) as e:
        why = (e.strerror if isinstance(e, OSError) else "") or "it leads nowhere"
        return None, Rule("exists", False, f"{source} cannot be used: {why}")
    if not stat.S_ISDIR(mode):
        return None, Rule("exists", False, f"{path} is no folder: grant the folder that it lies in")
    if len(str(path)) > MAX_PATH or not str(path).isprintable():
        return None, Rule("exists", False, f"{source} leads to a path that cannot be shown to people")
    return path, Rule("exists", True, f"it is the folder {path}")


def _unblocked(place: Place, source: str) -> Rule:
    """No name on the way: as it is written, where it leads, and what links lead through."""
    try:
        names = [step.name for step in steps(str(Path(source).expanduser()))]
    except (OSError, RuntimeError) as e:
        return Rule("name", False, f"the way to {source} cannot be followed ({e})")
    if bad := first_blocked(names, place.blocked):
        return Rule("name", False, f"{bad!r} is a name that is never mounted: it stands for keys and secrets")
    return Rule("name", True, "no part of it is a blocked name")


@dataclass(frozen=True)
class _Roots:
    """The allowed folders, as they are now."""

    found: tuple[tuple[Path, Root], ...] = ()
    silent: str = ""  # one whose disk does not answer: it allows nothing now, and may forbid what we cannot see


def _roots(place: Place) -> _Roots:
    asked = [(root, _asked(root.path)) for root in place.roots]
    until, led, silent = time.monotonic() + ROOT_PATIENCE, [], ""
    for root, answer in asked:
        try:
            led.append((root, *answer.result(max(0.0, until - time.monotonic()))))
        except TimeoutError:
            silent = root.path
        except (OSError, RuntimeError):  # a disk that is not there now allows nothing
            continue
    # Inside a writable root an agent may put a link on the way to another root: that one allows nothing then.
    written = [real for root, real, _ in led if root.read_write]
    open_to = [(real, root) for root, real, links in led if not any(within(f, w) for f in links for w in written)]
    return _Roots(tuple(open_to), silent)


def _asked(path: str) -> "Future[tuple[Path, list[Path]]]":
    try:
        return ask(f"root {path}", partial(_way_of, path), ROOT_PATIENCE)
    except TimeoutError as e:  # known to be silent: nobody waits for it once more
        answer: Future[tuple[Path, list[Path]]] = Future()
        answer.set_exception(e)
        return answer


def _way_of(path: str) -> tuple[Path, list[Path]]:
    """Where a root really is, and the folders in which the links on its way stand; blocks."""
    real = Path(path).resolve(strict=True)
    return real, [step.folder for step in steps(path) if step.link]


def _under(place: Place, path: Path, roots: _Roots) -> tuple[Root | None, Rule]:
    """The most specific allowed root above it: by where both are on their disk first, whatever they are called."""
    found = [(real, root) for real, root in roots.found if same_or_below(path, real)]
    if not found:
        known = ", ".join(root.path for root in place.roots) or "none"
        said = f"; the disk of {roots.silent} does not answer" if roots.silent else ""
        return None, Rule("root", False, f"{path} lies in no allowed folder of mounts.toml (there are: {known}){said}")
    real, root = max(found, key=lambda r: (nested(path, r[0]), len(location(r[0])[1].parts), not r[1].read_write))
    said = f" ({root.description})" if root.description else ""
    return root, Rule("root", True, f"it lies in the allowed folder {real}{said}")


def _not_ours(place: Place, path: Path) -> Rule:
    for ours in place.ours:
        if same_or_below(path, ours):
            return Rule("home", False, f"{path} lies in NanoClaw's own folder {ours}")
        if same_or_below(ours, path):
            return Rule("home", False, f"{path} contains NanoClaw's own folder {ours}")
    return Rule("home", True, "it neither contains nor lies in NanoClaw's own folders")


def same_or_below(path: Path, top: Path) -> bool:
    """Whether `path` is `top` or lies in it, also where one folder has two names (bind mounts, letters' case)."""
    path, top = path.resolve(), top.resolve()
    if within(path, top):
        return True
    known = _known(top)
    return known is not None and any(_known(folder) == known for folder in (path, *path.parents))


def _known(path: Path) -> tuple[int, int] | None:
    try:
        return identity(path)
    except OSError:
        return None


def _no_engine(place: Place, path: Path) -> Rule:
    """Who reaches the engine's socket is root on this machine."""
    usual = [*_ENGINES, f"/run/user/{os.getuid()}/docker.sock", f"/run/user/{os.getuid()}/podman/podman.sock"]
    for socket in filter(None, (place.engine, *usual)):
        if same_or_below(Path(socket).parent, path) or same_or_below(Path(socket), path):
            return Rule("engine", False, f"{path} holds the container engine's socket {socket}")
    return Rule("engine", True, "it does not hold the container engine's socket")


def _no_system(path: Path) -> Rule:
    for top in map(Path, _SYSTEM):
        if path == top or top in path.parents or path in top.parents:
            return Rule(
                "system", False, f"{path} holds or is a part of {top}, which is the machine's or the engine's own"
            )
    return Rule("system", True, "it is no folder of the machine or the engine itself")


def _access(place: Place, path: Path, root: Root | None, roots: _Roots, *, asked: bool, main: bool) -> tuple[bool, str]:
    """Read-only unless asked for, allowed by the root, and not forbidden for the group."""
    if not asked:
        return False, "read-only: writing was not asked for"
    if root is None or isinstance(place.allowlist, str):
        return False, "read-only: no allowed folder says otherwise"
    if not root.read_write:
        return False, f"read-only: mounts.toml does not say read_write for {root.path}"
    if place.allowlist.non_main_read_only and not main:
        return False, "read-only: mounts.toml says non_main_read_only, and this is not the main group"
    why = _not_writable(path, root, roots)
    return not why, f"read-only: {why}" if why else "read-write, as asked and allowed"


def _not_writable(path: Path, granting: Root, roots: _Roots) -> str:
    if roots.silent:
        return f"the disk of the allowed folder {roots.silent} does not answer, and might hold a part of it"
    # Else an agent could rename the folder on the way to it, and write where the owner said not to.
    for real, inner in roots.found:
        if not inner.read_write and inner is not granting and same_or_below(real, path):
            return f"it contains {inner.path}, which mounts.toml allows read-only"
    above = (path, *path.parents)
    if ".git" in map(fold, path.parts) or any(all((p / n).exists() for n in GIT_FOLDER) for p in above):
        return "it is a part of git's own folder, whose hooks run on your machine"
    return ""
