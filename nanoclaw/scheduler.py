"""The timer: what is due becomes a turn. It never runs work, it hands it over."""

import asyncio
import time
from collections.abc import Callable

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.control.firing import Ids, fire, leapt, resettle
from nanoclaw.errors import NanoClawError
from nanoclaw.store import Store, health, tasks

LONGEST_SLEEP = 30.0  # seconds until the wall clock is read again: it may have been set, or the machine asleep
_SET_BACK_MS = 1000  # by which the clock may go back without being looked at
_TROUBLE = 5.0  # seconds until the next look when the store cannot be written
LEAP_MS = 26 * 3_600_000  # a day, also a long one: by more than that no clock is set ahead but by mistake, or after one
DOUBT = 600.0  # seconds that such a leap is not believed: whatever set it wrong may set it right
_SETTLING = 600.0  # seconds since boot in which it is: what has no clock of its own is told the time by the network


def since_boot() -> float:
    """Seconds that pass also while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Scheduler:
    """Sleeps until the next due time; a wake is a hint that the rows have changed.

    A clock that leaps ahead by more than a day while no such time has passed is not believed for ten minutes, in which
    scheduled work goes by the time that has passed; main is told. A machine that slept for days is no such case, nor
    is a clock that was set back and goes towards where it was. At a start it is believed: nothing says for how long the
    host was not there.
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
        # What the wall clock shows less the time that has passed: it stays the same until somebody sets the clock.
        self._began: int | None = None  # the most of that which was believed
        self._shown: int | None = None  # at the last tick, believed or not; None: the last life's is not known
        self._leap = 0  # milliseconds by which it is ahead of what is believed
        self._doubted = 0.0  # since when, as `passed` counts
        self._held: int | None = None  # from when on the doubt kept work from being done, until that is made up for
        self._hint = asyncio.Event()

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
        wall, passed = self._clock(), self._passed()
        shows = wall - int(passed * 1000)
        now = wall - await self._ahead(wall, passed)
        # Of the clock itself: what was planned while a leap was doubted goes by that, and is set right with it.
        if self._shown is None or shows < self._shown - _SET_BACK_MS:
            after = await self._store.write(resettle, now)
            while after:
                after = await self._store.write(resettle, now, after)
        self._shown = shows
        more = True
        while more:
            fired = await self._store.write(fire, now, self._ids, self._held)
            failpoints.hit("fired")
            for lane in fired.lanes:
                self._wake_lane(lane)
            if fired.told:
                self._wake_outbox()
            more = fired.more
        self._held = None
        due = await self._store.read(tasks.soonest)
        return LONGEST_SLEEP if due is None else min(max((due + self._leap - self._clock()) / 1000, 0.0), LONGEST_SLEEP)

    async def _ahead(self, wall: int, passed: float) -> int:
        """Milliseconds by which the wall clock is ahead of the time by which work is scheduled."""
        shows = wall - int(passed * 1000)
        if self._began is None:  # where the clock was before this life, it may be again
            self._began = max(shows, await self._store.read(health.newest) - int(passed * 1000))
        leap = shows - self._began
        if leap <= LEAP_MS or passed < _SETTLING:
            self._began, self._leap = max(self._began, shows), 0
        elif not self._leap:
            await self._store.write(leapt, wall - leap, wall)
            self._wake_outbox()
            self._leap, self._doubted = leap, passed
            logger.warning("The clock leapt ahead by {} h, which is not believed yet", leap // 3_600_000)
        elif passed - self._doubted >= DOUBT:
            self._began, self._leap, self._held = shows, 0, wall - int((passed - self._doubted) * 1000)
        else:
            self._leap = leap
        return self._leap
