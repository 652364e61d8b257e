"""Files that are kept for a while: which there are, how old they are, and which of them go."""

import asyncio
import os
import re
from datetime import date
from pathlib import Path

from loguru import logger

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath
from nanoclaw.groups import OUTGOING, Home
from nanoclaw.media import missing
from nanoclaw.models import Media
from nanoclaw.store import Store, archive, outgoing

_PART_AGE = 3600.0  # seconds after which a file that was being written is a leftover
_OF_MESSAGE = re.compile(r"\d{4}-\d\d-\d\d-(\d+)-")  # media.Fetcher names them so
_BATCH = 500  # messages that are asked for together


def ages(root: Path) -> dict[str, float]:
    """Every regular file below `root`, by its relative name: when it was written last. Raises UnsafePath."""
    try:
        return {
            found.rel: os.fstat(found.file.fileno()).st_mtime
            for found in safefs.entries(root)
            if found.file is not None
        }
    except FileNotFoundError:
        return {}


def remove(root: Path, names: list[str]) -> int:
    """Remove these files; how many. One that cannot be removed is nobody else's trouble."""
    count = 0
    for name in names:
        try:
            safefs.remove_file(root, name)
            count += 1
        except UnsafePath as e:
            logger.warning("A file that is kept no longer cannot be removed: {}", e)
    return count


async def remove_unnamed(store: Store, home: Home, folder: str) -> int:
    """Remove the media of a group that no message names any more; how many."""
    root = home.kept_dir(folder) / "media"
    owners = {name: owner for name in await asyncio.to_thread(ages, root) if (owner := owner_of(name))}
    kept: dict[int, tuple[Media, ...]] = {}
    ids = sorted(set(owners.values()))
    for n in range(0, len(ids), _BATCH):
        kept |= await store.read(archive.media_kept, ids[n : n + _BATCH])
    gone = [
        name
        for name, owner in owners.items()
        # One that is being fetched is here before its row says so.
        if not any(f.path == name or missing(f) for f in kept.get(owner, ()))
    ]
    return await asyncio.to_thread(remove, root, gone)


async def remove_sent(store: Store, home: Home, folder: str, now: float) -> int:
    """Remove the copies of files that are sent or given up, and those that no row ever named; how many."""
    root = home.kept_dir(folder) / OUTGOING
    if not (found := await asyncio.to_thread(ages, root)):
        return 0
    waiting = await store.read(outgoing.copies)
    base = root.relative_to(home.root)
    gone = [name for name, at in found.items() if not waiting.get(str(base / name), at > now - _PART_AGE)]
    return await asyncio.to_thread(remove, root, gone)


async def expire_media(store: Store, home: Home, folder: str, before: float, why: str) -> int:
    """Remove the media that were written before then (seconds since 1970), and say so in their rows; how many."""
    root = home.kept_dir(folder) / "media"
    old = [name for name, at in (await asyncio.to_thread(ages, root)).items() if at < before]
    for name in old:
        if owner := owner_of(name):
            await store.write(archive.expired, owner, name, why)
    return await asyncio.to_thread(remove, root, old)


def owner_of(name: str) -> int:
    """The id of the message that a file came with; 0 for a file that is named otherwise."""
    found = _OF_MESSAGE.match(name)
    return int(found[1]) if found else 0


def leftovers(root: Path, now: float) -> list[str]:
    """Files below `root` that were being written when the host ended."""
    return [name for name, at in ages(root).items() if name.endswith(".part") and at < now - _PART_AGE]


def old_days(root: Path, before: date) -> list[str]:
    """Conversations of days before that one."""
    return [name for name in ages(root) if name.endswith(".md") and name < f"{before}.md"]


def closed_sessions(projects: Path, current: str, before: float) -> list[str]:
    """Transcripts, and what belongs to them, that were written before then and are not of the current session."""
    return [
        name
        for name, at in ages(projects).items()
        if at < before and not (current and any(part.split(".")[0] == current for part in name.split("/")))
    ]
