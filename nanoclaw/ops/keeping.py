"""The loop that looks after what is kept: conversations written, old things removed, ballast held."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger

from nanoclaw.config import Config
from nanoclaw.errors import NanoClawError
from nanoclaw.groups import Home
from nanoclaw.ops import files
from nanoclaw.ops.archive import Archive
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.memory import Memories
from nanoclaw.ops.retention import DAY_MS, Retention, forget_sessions
from nanoclaw.store import Store, chats

_EVERY = 60.0  # seconds between two looks when nobody wakes it
_SETTLE = 1.0  # seconds after a turn: its replies are sent by then, and the next turns are written with it


class Keeping:
    """Runs behind everything else; a wake is a hint, the rows say what is to be done."""

    def __init__(self, store: Store, home: Home, config: Callable[[], Config], clock: Callable[[], int]) -> None:
        self._store = store
        self._home = home
        self._clock = clock
        self._archive = Archive(store, home, config, clock)
        self._retention = Retention(store, home, config, clock)
        self._ballast = Ballast(home.root)
        self.memories = Memories(store, home, clock)
        self._wake = asyncio.Event()
        self._daily_at = 0

    def renew(self) -> None:
        """Other days are set: what is too old by now goes at the next look."""
        self._daily_at = 0
        self._wake.set()

    def wake(self) -> None:
        """A turn has ended, or something is to be forgotten."""
        self._wake.set()

    async def run(self) -> None:
        """Look, wait, look again."""
        while True:
            await self.tick()
            try:
                async with asyncio.timeout(_EVERY):
                    await self._wake.wait()
                    await asyncio.sleep(_SETTLE)
            except TimeoutError:
                continue
            finally:
                self._wake.clear()

    async def tick(self) -> None:
        """Each of its duties once; one that fails is tried again at the next look."""
        await _contained("ballast", asyncio.to_thread(self._ballast.make))
        await _contained("conversations", self._archive.tick())
        await _contained("memory", self.memories.tick())
        await _contained("forgetting", forget_sessions(self._store, self._home))
        await _contained("sent files", self._sent())
        if not 0 <= self._clock() - self._daily_at < DAY_MS:
            self._daily_at = self._clock()
            await _contained("retention", self._retention.tick())

    async def _sent(self) -> None:
        for group in await self._store.read(chats.groups):
            await files.remove_sent(self._store, self._home, group.folder, self._clock() / 1000)

    def facts(self) -> dict[str, Any]:
        """For `nanoclaw status`."""
        return {"ballast": "held" if self._ballast.there else "dropped: the disk is full, free some space"}


async def _contained(name: str, job: Awaitable[object]) -> None:
    try:
        await job
    except Exception as e:
        ours = isinstance(e, (NanoClawError, OSError))
        logger.opt(exception=not ours).error("Looking after what is kept, {} failed: {}", name, e)
