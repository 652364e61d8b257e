"""What is kept, and for how long: once a day, in slices, what is old enough goes."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from nanoclaw.config import Config
from nanoclaw.errors import UnsafePath
from nanoclaw.groups import Home, remove_run
from nanoclaw.ops import files
from nanoclaw.ops.memory import tidy
from nanoclaw.store import Store, chats, forget, retention
from nanoclaw.store.retention import AUDIT, FIRINGS, LANES, MESSAGES, STRANGERS, TASKS, USAGE, Old

DAY_MS = 86_400_000
_KEEP_FIRINGS = 30  # days that it is known what became of each time of a task
_JUMP_MS = 2 * DAY_MS  # a clock that was set forward by more is believed only when it says so for a day
_RUN_AGE = 86_400.0  # seconds after which the folder of a run that lives no more is a leftover
_LANE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?")


@dataclass(frozen=True)
class Retention:
    """Removes what is older than the configuration's days."""

    store: Store
    home: Home
    config: Callable[[], Config]
    clock: Callable[[], int]

    async def tick(self) -> None:
        """Everything that is due; what cannot be removed waits for tomorrow."""
        now = self.clock()
        before = await self.store.write(retention.noted, now)
        if not 0 <= now - before <= _JUMP_MS:  # everything would be old by a clock that is wrong
            return
        count = await self._rows(now)
        try:
            count += await self._files(now)
        except (OSError, UnsafePath) as e:
            logger.error("Old files cannot be removed: {}", e)
        await tidy(self.store)
        left = 1
        while left:
            left = await self.store.write(retention.shrink)
        logger.info("Retention removed {} files and rows", count)

    async def _rows(self, now: int) -> int:
        keep = self.config()
        await self.store.write(retention.early, now)
        terms = [(old, _KEEP_FIRINGS) for old in (FIRINGS, TASKS)]
        terms += [(old, keep.keep_messages) for old in (*MESSAGES, LANES, STRANGERS)]
        total = 0
        for old, days in (*terms, (AUDIT, keep.keep_audit), (USAGE, keep.keep_usage)):
            total += await self._walk(old, now - days * DAY_MS)
        return total

    async def _walk(self, old: Old, before: int) -> int:
        after = total = 0
        while True:
            after, count = await self.store.write(retention.slice_of, old, after, before)
            total += count
            if not after:
                return total
            await asyncio.sleep(0)  # others write in between

    async def _files(self, now: int) -> int:
        total = 0
        for group in await self.store.read(chats.groups):
            total += await self._kept(group.folder, now)
        sessions = await self.store.read(retention.sessions)
        before = (now - self.config().keep_transcripts * DAY_MS) / 1000
        for lane in await asyncio.to_thread(_names, self.home.root / "state"):
            projects = self.home.state_dir(lane.replace(".", "#")) / "projects"
            total += await asyncio.to_thread(_forget, projects, sessions.get(lane.replace(".", "#"), ""), before)
        return total + await self._runs(now)

    async def _kept(self, folder: str, now: int) -> int:
        keep, kept = self.config(), self.home.kept_dir(folder)
        why = f"files are kept for {keep.keep_media} days"
        count = await files.expire_media(self.store, self.home, folder, (now - keep.keep_media * DAY_MS) / 1000, why)
        count += await files.remove_unnamed(self.store, self.home, folder)
        last = datetime.fromtimestamp((now - keep.conversation_days * DAY_MS) / 1000, UTC).date()
        count += await asyncio.to_thread(lambda: files.remove(kept, files.leftovers(kept, now / 1000)))
        talks = kept / "conversations"
        return count + await asyncio.to_thread(lambda: files.remove(talks, files.old_days(talks, last)))

    async def _runs(self, now: int) -> int:
        """Folders of runs that ended when nobody could remove them."""
        root = self.home.root / "runs"
        old = await asyncio.to_thread(_names, root, now / 1000 - _RUN_AGE)
        gone = await self.store.read(retention.ended, old)
        for run_id, sockets in gone.items():
            await asyncio.to_thread(remove_run, self.home, run_id, sockets)
        return len(gone)


async def forget_sessions(store: Store, home: Home) -> None:
    """Remove the transcripts of lanes that were told to forget, as soon as no container has them open."""
    lanes = await store.read(forget.unforgotten)
    for lane, current in lanes.items():
        try:
            await asyncio.to_thread(_forget, home.state_dir(lane) / "projects", current, float("inf"))
            await store.write(forget.forgotten, lane)
        except (OSError, UnsafePath) as e:
            logger.error("The sessions of lane {} cannot be removed: {}", lane, e)
    if lanes:
        await tidy(store)


def _forget(projects: Path, current: str, before: float) -> int:
    return files.remove(projects, files.closed_sessions(projects, current, before))


def _names(root: Path, before: float = float("inf")) -> list[str]:
    """The folders of ours in `root` that nothing was put into since then."""
    found = []
    with suppress(FileNotFoundError):
        for path in root.iterdir():
            if _LANE.fullmatch(path.name) and path.is_dir() and path.stat().st_mtime < before:
                found.append(path.name)
    return found
