"""What `--fix` does: only what loses nothing and what we may do; each deed is said."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from nanoclaw.errors import HomeError, NanoClawError
from nanoclaw.groups import Home, open_home, remove_other_runs
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.doctor.living import kept_names, leftovers
from nanoclaw.ops.doctor.rights import readable
from nanoclaw.ops.doctor.scene import Scene, words
from nanoclaw.store import health

_FOLDERS = ("groups", "kept", "state", "runs", "logs", "backups", "skills", "shipped", "groups/global")
Deed = Callable[[], list[str]]


def mend(scene: Scene, hold: Callable[[Path], AbstractContextManager[None]]) -> list[str]:
    """Do it; what was done, in sentences. `hold` takes the home's lock; where a host lives it raises
    HomeError."""
    root = scene.home.root
    if not root.is_dir():
        return [f"there is no home at {root} yet: nanoclaw setup makes it"]
    if (owner := root.stat().st_uid) != os.geteuid():  # what we made would not be its owner's
        return [f"nothing: the home is user {owner}'s; as that user: sudo -u '#{owner}' nanoclaw doctor --fix"]
    always = (partial(_folders, scene), partial(_modes, scene.home), partial(_ballast, scene.home))
    alone = (partial(_leftovers, scene.home), partial(_door, scene.home), partial(_journal, scene.home))
    done = [said for deed in always for said in _tried(deed)]
    try:
        with hold(scene.home.lock):
            done += [said for deed in alone for said in _tried(deed)]
    except HomeError:
        done.append("a host lives: what it looks after by itself was left to it")
    return done


def _tried(deed: Deed) -> Iterator[str]:
    """The boundary of one deed: the others are done all the same."""
    try:
        yield from deed()
    except (NanoClawError, OSError) as e:
        yield f"not done: {words(e)}"


def _folders(scene: Scene) -> list[str]:
    home = scene.home
    places = [home.root, *(home.root / name for name in _FOLDERS), home.run_dir]
    before = {path: path.stat().st_mode if path.is_dir() else 0 for path in places}
    open_home(scene.config.home, scene.config.run_dir)
    made = [f"made {path}" for path, mode in before.items() if not mode]
    return made + [f"closed {p} to others" for p, mode in before.items() if mode and p.stat().st_mode != mode]


def _modes(home: Home) -> list[str]:
    done = []
    for path in readable(home):
        path.chmod(path.stat().st_mode & 0o700)
        done.append(f"closed {path} to others")
    return done


def _ballast(home: Home) -> list[str]:
    ballast = Ballast(home.root)
    return [] if ballast.there or not home.db.exists() or not ballast.make() else [f"wrote {ballast.path}"]


def _leftovers(home: Home) -> list[str]:
    """Folders of runs that have ended. Which those are only the rows know: without them all stay."""
    if not health.fits(home.db) or not (left := leftovers(home)):
        return []
    remove_other_runs(home, kept_names(home))
    return [f"removed {len(left)} folder(s) of runs that have ended"]


def _door(home: Home) -> list[str]:
    if not home.control_sock.exists():
        return []
    home.control_sock.unlink()
    return [f"removed {home.control_sock} of a host that has died"]


def _journal(home: Home) -> list[str]:
    if not health.journal_size(home.db):
        return []
    health.checkpoint(home.db)
    return ["wrote the journal into the database"]
