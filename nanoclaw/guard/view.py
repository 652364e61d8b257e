"""What the guard itself sees of the folders that are to be mounted.

The engine follows links, as root, wherever they lead; so nothing is mounted by a name that is one, or has one on the
way. The guard looks in its own mounts, by their names on the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw import safefs
from nanoclaw.errors import Refused, UnsafePath


@dataclass(frozen=True)
class View:
    """A folder of the machine that is mounted into the guard too."""

    machine: str  # what the engine calls it
    own: Path


MACHINE = (View("/", Path("/")),)  # of a guard that runs in no container


def views(inspect: Mapping[str, Any]) -> tuple[View, ...]:
    """From what the engine says of the guard's own container."""
    mounts = [m for m in inspect.get("Mounts") or [] if m.get("Type") in ("bind", "volume")]
    return tuple(
        View(str(m["Source"]), Path(m["Destination"])) for m in mounts if str(m.get("Source", "")).startswith("/")
    )


def identities(paths: tuple[str, ...], seen: tuple[View, ...]) -> tuple[tuple[int, int], ...]:
    """What stands at each of these paths of the machine: device and inode. Blocks. Raises Refused: none, or a link."""
    return tuple(_identity(path, seen) for path in paths)


def _identity(path: str, seen: tuple[View, ...]) -> tuple[int, int]:
    around = [view for view in seen if path == view.machine or path.startswith(view.machine.rstrip("/") + "/")]
    # The outermost: in it an inner one is only a name.
    view = min(around, key=lambda view: len(view.machine), default=None)
    if view is None:
        raise Refused(f"it cannot look at {path[:200]}: mount that into engine-guard too, `:ro` (docs/deployment.md)")
    try:
        return safefs.identity(view.own, path[len(view.machine) :].strip("/"))
    except UnsafePath as e:
        raise Refused(f"{path[:200]} is not what it seems: {e}") from None
    except FileNotFoundError:
        raise Refused(f"{path[:200]} is not there") from None
