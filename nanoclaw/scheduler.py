"""The timer: what is due becomes a turn. It never runs work, it hands it over."""

import asyncio
import time
from collections.abc import Callable

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.control.firing import Ids, fire, leapt, resettle
from nanoclaw.errors import NanoClawError
from nanoclaw.store import Store, tasks

LONGEST_SLEEP = 30.0  # seconds until the wall clock is read again: it may have been set, or the machine asleep
_SET_BACK_MS = 1000  # by which the clock may go back without being looked at
_TROUBLE = 5.0  # seconds until the next look when the store cannot be written
LEAP_MS = 26 * 3_600_000  # a day, also a long one: by more than that no clock is set ahead but by mistake, or after one
DOUBT = 600.0  # seconds that such a leap is not believed: whatever set it wrong may set it right


def since_boot() -> float:
    """Seconds that pass also while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Scheduler:
    """Sleeps until the next due time; a wake is a hint that the rows have changed.

    A clock that leaps ahead by more than a day while no such time has passed is not believed for ten minutes, in which
    scheduled work goes by the time that has passed; main is told. A machine that slept for days is no such case.
    At a start it is believed: nothing says for how long the host was not there.
    """

    def __init__(
        self,
        store: Store,
        ids: Ids,
        *,
        wake: Callable[[str], None],
        wake_outbox: Callable[[], None],
        clock: Callable[[], int],
        passed: Callable[[], float] = since_boot,
    ) -> None:
        self._store = store
        self._ids = ids
        self._wake_lane = wake
        self._wake_outbox = wake_outbox
        self._clock = clock
        self._passed = passed
        self._began: int | None = None  # the wall clock when nothing had passed, as far as it is believed
        self._leap = 0  # milliseconds by which it is ahead of that
        self._doubted = 0.0  # since when, as `passed` counts
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
        now = await self._now()
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
        return LONGEST_SLEEP if due is None else min(max((due + self._leap - self._clock()) / 1000, 0.0), LONGEST_SLEEP)

    async def _now(self) -> int:
        """The time by which work is scheduled, in milliseconds since 1970."""
        now, passed = self._clock(), self._passed()
        began = now - int(passed * 1000)
        leap = 0 if self._began is None else began - self._began
        if leap <= LEAP_MS or (self._leap and passed - self._doubted >= DOUBT):
            self._began, self._leap = began, 0
        elif self._leap:
            self._leap = leap
        else:
            await self._store.write(leapt, now - leap, now)
            self._wake_outbox()
            self._leap, self._doubted = leap, passed
            logger.warning("The clock leapt ahead by {} h, which is not believed yet", leap // 3_600_000)
        return now - self._leap
