"""Memory's files and what is known of them: versions of CLAUDE.md, and the index over notes."""

import asyncio
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from loguru import logger

from nanoclaw import safefs
from nanoclaw.control import memory
from nanoclaw.errors import NanoClawError, UnsafePath
from nanoclaw.groups import MAX_MEMORY, MEMORY_FILE, Home
from nanoclaw.models import Group, GroupState
from nanoclaw.store import Store, chats, search
from nanoclaw.store import memory as versions
from nanoclaw.store.search import Passage

NOTES = "memory"  # the folder of dated notes, in the agent's zone
MAX_FILES = 1000  # notes of one group that are searched, the newest
MAX_FILE = MAX_MEMORY
MAX_BYTES = 8 << 20  # of all of them
_LOOKED_AT = 20_000  # names in that folder
_PASSAGE = 600  # characters after which one ends
_SHORT = 200  # after which it ends where the text does
_LINE = 2000  # characters of one piece of a line
_SLICE = 32  # passages of one transaction: 4 ms


@dataclass(frozen=True)
class Memories:
    """Keeps versions and index with the files."""

    store: Store
    home: Home
    clock: Callable[[], int]
    _locks: defaultdict[int, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def tick(self) -> None:
        """Every group once; one group's trouble is not another's."""
        await self.settle()
        for group in await self.store.read(chats.groups):
            try:
                if group.state is GroupState.REMOVED:
                    await self._bury(group)
                    continue
                await self.store.write(memory.look_at, self.home, group.folder, self.clock())
                await self.bring_up(group)
            except (NanoClawError, OSError) as e:
                logger.error("The memory of group {} cannot be looked at: {}", group.folder, e)

    async def _bury(self, group: Group) -> None:
        """Of a removed group whose folder somebody deleted nothing is kept here either."""
        if await asyncio.to_thread(self.home.group_dir(group.folder).exists):
            return
        await self.bring_up(group)
        await self.store.write(versions.purge, group.folder)

    async def settle(self) -> None:
        """Write into the files what rows say."""
        await self.store.write(memory.settle, self.home, self.clock())

    async def bring_up(self, group: Group) -> str:
        """The group's index as its files are now; what of them is not searched, in a sentence."""
        async with self._locks[group.id]:
            folder = self.home.group_dir(group.folder)
            found, left_out = await asyncio.to_thread(look, folder)
            known = await self.store.read(search.stamps, group.id)
            for path in known.keys() - found.keys():
                await self._forget(group.id, path)
            for path, stamp in found.items():
                if known.get(path) != stamp:
                    await self._index(group, path, stamp)
            return left_out

    async def _index(self, group: Group, path: str, stamp: str) -> None:
        """Only what is new or gone is written, in slices: others want to write too."""
        old = await self.store.read(search.passages, group.id, path)
        new, gone, at = await asyncio.to_thread(_difference, self.home.group_dir(group.folder), path, old)
        at = min(at, self.clock())
        for n in range(0, len(gone), _SLICE):
            await self.store.write(search.remove, gone[n : n + _SLICE])
        for n in range(0, len(new), _SLICE):
            await self.store.write(search.put, group.id, path, new[n : n + _SLICE], at)
        await self.store.write(search.noted, group.id, path, stamp)

    async def _forget(self, group_id: int, path: str) -> None:
        gone = [p.id for p in await self.store.read(search.passages, group_id, path)]
        for n in range(0, len(gone), _SLICE):
            await self.store.write(search.remove, gone[n : n + _SLICE])
        await self.store.write(search.gone, group_id, path)


async def tidy(store: Store) -> None:
    """Nothing of what was removed from the index is left in its pages."""
    begin = True
    while await store.write(search.tidy, begin=begin):
        begin = False


# --- files ---------------------------------------------------------------------------------------


def look(folder: Path) -> tuple[dict[str, str], str]:
    """The stamp of each note of a group that is searched, the newest first; and what is left out."""
    notes: list[tuple[int, str, int, str]] = []
    faults = 0
    entries = _entries(folder / NOTES)
    for found in islice(entries, _LOOKED_AT):
        if found.fault:
            faults += 1
        elif found.file is not None and found.rel.endswith(".md") and _plain(found.rel):
            s = os.fstat(found.file.fileno())
            # The time of the change, not of the content: that one an agent can set as it likes.
            notes.append((s.st_ctime_ns, f"{NOTES}/{found.rel}", s.st_size, f"{s.st_ctime_ns} {s.st_size} {s.st_ino}"))
    stamps, room = _memory_stamp(folder), MAX_BYTES
    for _, path, size, stamp in sorted(notes, reverse=True):
        if size <= MAX_FILE and (room := room - size) >= 0 and len(stamps) <= MAX_FILES:
            stamps[path] = stamp
        else:
            faults += 1
    what = "file is" if faults == 1 else "files are"
    told = [f"{faults} {what} not searched: too many, too large, or no plain files."] if faults else []
    if next(entries, None) is not None:
        told.append(f"More than {_LOOKED_AT} names are below {NOTES}/, so some notes are not searched: tidy up there.")
    return stamps, " ".join(told)


def _entries(folder: Path) -> Iterator[safefs.Found]:
    try:
        yield from safefs.entries(folder)
    except FileNotFoundError:
        return
    except UnsafePath as e:
        yield safefs.Found(NOTES, fault=str(e))


def _plain(rel: str) -> bool:
    """Whether the name can be stored and shown."""
    return rel.isprintable() and len(rel) <= 200


def _memory_stamp(folder: Path) -> dict[str, str]:
    try:
        text = safefs.read_file(folder, MEMORY_FILE, MAX_MEMORY)
    except (FileNotFoundError, UnsafePath):
        return {}
    return {MEMORY_FILE: hashlib.sha256(text).hexdigest()}


def _difference(folder: Path, path: str, old: list[Passage]) -> tuple[list[Passage], list[int], int]:
    """As `compared`, and when the file was written."""
    return *compared(old, passages(_read(folder, path))), safefs.changed_at(folder, path)


def _read(folder: Path, path: str) -> str:
    """The text; nothing for what went away, or became something else, since it was found: the next look says so."""
    try:
        data = safefs.read_file(folder, path, MAX_FILE)
    except (FileNotFoundError, UnsafePath):
        return ""
    return data.decode("utf-8", "replace").replace("\0", "")


# --- pieces (pure) -------------------------------------------------------------------------------


def passages(text: str) -> list[Passage]:
    """The text in pieces of a few lines that belong together, each with the number of its first line."""
    found: list[Passage] = []
    lines: list[str] = []
    begin, size = 1, 0
    for n, line in _pieces(text):
        if size > _PASSAGE or (size > _SHORT and (not line.strip() or line.startswith("#"))):
            found.append(Passage(begin, "\n".join(lines)))
            lines, size = [], 0
        if not lines:
            begin = n
        lines.append(line)
        size += len(line) + 1
    return [p for p in [*found, Passage(begin, "\n".join(lines))] if p.text.strip()]


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The lines; of a very long one its parts."""
    for n, line in enumerate(text.split("\n"), 1):
        for at in range(0, max(len(line), 1), _LINE):
            yield n, line[at : at + _LINE]


def compared(old: list[Passage], new: list[Passage]) -> tuple[list[Passage], list[int]]:
    """What is to be stored (with an id: what stands at another line now), and the ids of what is to go."""
    have: defaultdict[str, list[Passage]] = defaultdict(list)
    for p in reversed(old):
        have[p.text].append(p)
    changed: list[Passage] = []
    for p in new:
        known = have[p.text].pop() if have.get(p.text) else None
        if known is None:
            changed.append(p)
        elif known.line != p.line:
            changed.append(Passage(p.line, p.text, known.id))
    return changed, [p.id for ps in have.values() for p in ps]
