"""The timer: what is due becomes a turn. It never runs work, it hands it over."""

import asyncio
from collections.abc import Callable

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.control.firing import Ids, fire, resettle
from nanoclaw.errors import NanoClawError
from nanoclaw.store import Store, tasks

LONGEST_SLEEP = 30.0  # seconds until the wall clock is read again: it may have been set, or the machine asleep
_SET_BACK_MS = 1000  # by which the clock may go back without being looked at
_TROUBLE = 5.0  # seconds until the next look when the store cannot be written


class Scheduler:
    """Sleeps until the next due time; a wake is a hint that the rows have changed."""

    def __init__(
        self,
        store: Store,
        ids: Ids,
        *,
        wake: Callable[[str], None],
        wake_outbox: Callable[[], None],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._ids = ids
        self._wake_lane = wake
        self._wake_outbox = wake_outbox
        self._clock = clock
        self._hint = asyncio.Event()
        self._seen = 0  # the wall clock at the last tick; 0: the last life's is not known

    def wake(self) -> None:
        """A task is new, or another, or wanted at once."""
        self._hint.set()

    async def run(self) -> None:
        """For as long as the host lives; what a tick fails on, the next one finds again."""
        while True:
            try:
                wait = await self.tick()
            except Exception as e:
                logger.opt(exception=not isinstance(e, NanoClawError)).error("The scheduler failed: {}", e)
                wait = _TROUBLE
            try:
                async with asyncio.timeout(wait):
                    await self._hint.wait()
            except TimeoutError:
                continue

    async def tick(self) -> float:
        """Everything that is due; seconds until the next look."""
        self._hint.clear()
        now = self._clock()
        if now < self._seen - _SET_BACK_MS or not self._seen:
            after = await self._store.write(resettle, now)
            while after:
                after = await self._store.write(resettle, now, after)
        self._seen = now
        more = True
        while more:
            fired = await self._store.write(fire, now, self._ids)
            failpoints.hit("fired")
            for lane in fired.lanes:
                self._wake_lane(lane)
            if fired.told:
                self._wake_outbox()
            more = fired.more
        due = await self._store.read(tasks.soonest)
        return LONGEST_SLEEP if due is None else min(max((due - self._clock()) / 1000, 0.0), LONGEST_SLEEP)
