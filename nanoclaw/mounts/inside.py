"""What lies inside a folder that is mounted: the names that are hidden there, and git's own folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from nanoclaw.errors import Refused, UnsafePath
from nanoclaw.mounts.names import fold, is_blocked
from nanoclaw.mounts.way import mounted
from nanoclaw.safefs import Kind, visit

MAX_FOUND = 200  # things to hide in one mount: each is a mount of its own
MAX_BYTES = 3500  # of a name that is hidden: the kernel takes 4096 for a whole path
GIT_FOLDER = frozenset({"HEAD", "objects", "refs"})


@dataclass(frozen=True)
class Hidden:
    """A name that stands for something empty inside."""

    rel: str
    folder: bool
    why: str


@dataclass(frozen=True)
class Inside:
    """What a look into a folder found."""

    hidden: tuple[Hidden, ...] = ()
    kept: tuple[str, ...] = ()  # git's own, read-only inside where the mount is read-write
    read_only: str = ""  # why nothing of it can be writable


def look(source: Path, blocked: frozenset[str] = frozenset(), *, read_write: bool = False) -> Inside:
    """Walk through it. Raises Refused: it is too large to be seen whole, or cannot be protected."""
    walk = _Walk(source, blocked)
    try:
        walk.hide_submounts()
        visit(source, walk.enter)
    except (UnsafePath, OSError) as e:
        raise Refused(f"{source} cannot be looked through ({e}): grant a smaller folder in it") from None
    hidden = {rel: walk.hidden[rel] for rel in sorted(walk.hidden) if not _covered(rel, walk.hidden)}
    if "" in hidden:
        raise Refused(f"{source} is itself what a link with a blocked name leads to")
    kept = tuple(sorted({*walk.kept} - {*hidden})) if read_write and not walk.read_only else ()
    if odd := next((rel for rel in (*hidden, *kept) if not rel.isprintable()), ""):
        raise Refused(f"{source} holds the name {odd[-60:]!a}, which can be neither shown nor hidden")
    return Inside(tuple(hidden.values()), kept, walk.read_only if read_write else "")


@dataclass
class _Walk:
    source: Path
    blocked: frozenset[str]
    hidden: dict[str, Hidden] = field(default_factory=dict)  # at first: the other disks
    kept: list[str] = field(default_factory=list)  # whatever is called .git, at the top
    signs: dict[str, set[str]] = field(default_factory=dict)  # of a git folder by another name
    read_only: str = ""

    def hide_submounts(self) -> None:
        """Other file systems that are mounted below it: the engine might pass them on, and writable."""
        for point in {mount.point for mount in mounted() if self.source in mount.point.parents}:
            self._hide(str(point.relative_to(self.source)), "another disk", folder=os.path.isdir(point))  # noqa: PTH112

    def enter(self, rel: str, kind: Kind) -> bool:
        """What to do about one name, and whether to look into it."""
        name = rel.rpartition("/")[2]
        if rel in self.hidden and kind is not Kind.CLOSED:
            return False
        if is_blocked(name, self.blocked):
            self._hide_blocked(rel, kind)
            return False
        if kind is Kind.OTHER:
            self._hide(rel, "a socket, pipe or device", folder=False)
        if kind is Kind.CLOSED:
            self._hide(rel, "closed to us", folder=True)
        self._look_for_git(rel, name, kind)
        return kind is Kind.FOLDER

    def _look_for_git(self, rel: str, name: str, kind: Kind) -> None:
        """Hooks and configuration run on the owner's machine; a folder above them could be replaced with all in it."""
        if fold(rel.partition("/")[0]) == ".git" and "/" in rel:
            return
        if fold(name) == ".git" and kind is Kind.LINK:
            self.read_only = f"{rel} is a link, which could be replaced"
        elif fold(name) == ".git" and "/" in rel:
            self.read_only = f"{rel} lies deeper than its top, where it could be replaced: grant that folder itself"
        elif fold(name) == ".git":
            self.kept.append(rel)
        if name in GIT_FOLDER:
            parent = rel.rpartition("/")[0]
            self.signs.setdefault(parent, set()).add(name)
            if self.signs[parent] == GIT_FOLDER:
                self.read_only = f"{parent or 'it'} is git's own folder"

    def _hide_blocked(self, rel: str, kind: Kind) -> None:
        if kind is not Kind.LINK:
            self._hide(rel, "a blocked name", folder=kind is Kind.FOLDER)
            return
        self._check_length(rel)
        # What it leads to can be reached without it; outside of the tree it leads nowhere in a container.
        try:
            real = (self.source / rel).resolve()
            there = real.is_relative_to(self.source) and real.exists()
        except RuntimeError:  # in a circle
            return
        if there:
            found = "" if real == self.source else str(real.relative_to(self.source))
            self._hide(found, "a blocked name links to it", folder=real.is_dir())
            self.read_only = f"{rel} is a link with a blocked name: without it, what it leads to would be open"

    def _hide(self, rel: str, why: str, *, folder: bool) -> None:
        self._check_length(rel)
        self.hidden[rel] = Hidden(rel, folder, why)
        if len(self.hidden) > MAX_FOUND:
            raise Refused(f"{self.source} holds more than {MAX_FOUND} things to be hidden: grant a folder in it")

    def _check_length(self, rel: str) -> None:
        if len(os.fsencode(rel)) > MAX_BYTES:
            raise Refused(f"{self.source} holds a name to be hidden that lies too deep (…{rel[-60:]!a}): tidy up there")


def _covered(rel: str, found: dict[str, Hidden]) -> bool:
    """What lies in something hidden is hidden with it, and is no place for a mount any more."""
    parts = rel.split("/")
    return rel != "" and ("" in found or any("/".join(parts[:n]) in found for n in range(1, len(parts))))
