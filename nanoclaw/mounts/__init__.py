"""Which folders of this machine an agent may see beside its own: the owner's allowlist, and what no list can open.

A folder is judged when it is granted and again at each start of a container: `judge` looks at the way to it,
`look` at what lies inside.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.errors import Refused
from nanoclaw.mounts.names import fold

EXTRA = "/workspace/extra"  # where they are in a container
MAX_MOUNTS = 16  # of one group
_LONGEST_TARGET = 100


@dataclass(frozen=True)
class Root:
    """A folder of the allowlist: it, and what lies below it, may be granted."""

    path: str  # as the owner wrote it
    read_write: bool = False
    description: str = ""


@dataclass(frozen=True)
class Allowlist:
    """What mounts.toml says."""

    roots: tuple[Root, ...] = ()
    blocked: frozenset[str] = frozenset()  # names beside the usual ones, folded
    non_main_read_only: bool = True


@dataclass(frozen=True)
class Place:
    """All that a verdict depends on beside the folder itself."""

    allowlist: Allowlist | str  # or why there is none
    ours: tuple[Path, ...]  # the home, and the folder of the sockets
    engine: str = ""  # its socket, where it is none of the usual ones

    @property
    def blocked(self) -> frozenset[str]:
        """The owner's blocked names."""
        return frozenset() if isinstance(self.allowlist, str) else self.allowlist.blocked

    @property
    def roots(self) -> tuple[Root, ...]:
        """The folders of the allowlist, as written."""
        return () if isinstance(self.allowlist, str) else self.allowlist.roots


@dataclass(frozen=True)
class Rule:
    """One rule and what it says of a folder."""

    name: str
    holds: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """May it be granted, and how? Every rule that could be looked at, in order."""

    rules: tuple[Rule, ...]
    source: Path  # resolved, if it is allowed
    read_write: bool = False  # asked for, allowed by its root, and not forbidden for this group

    @property
    def refusal(self) -> str:
        """The first rule that forbids it; "" when it is allowed."""
        return next((rule.words for rule in self.rules if not rule.holds), "")


def check_target(target: str, others: Iterable[str] = ()) -> str:
    """The name of a mount below /workspace/extra, as it is; `others` are in use. Raises Refused."""
    parts = target.split("/")
    if len(target) > _LONGEST_TARGET or not all(map(_plain_part, parts)):
        raise Refused(
            f"{target[:60]!r} cannot be a mount's name: write it relative, without '..', ':' or signs that cannot be"
            f" seen, of at most {_LONGEST_TARGET} characters"
        )
    for other in others:
        taken = other.split("/")
        if all(fold(a) == fold(b) for a, b in zip(parts, taken, strict=False)):
            raise Refused(f"{target!r} is taken by the mount {other!r}: choose another name")
    return target


def _plain_part(part: str) -> bool:
    # No leading "-": a name must not be read as an option.
    return part not in ("", ".", "..") and part.isprintable() and part[0] not in " -" and not {*":\\"} & {*part}
