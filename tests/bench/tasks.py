"""How late tasks are: single ones, and a crowd that is due at once. No container: from the due time to the turn."""

import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from nanoclaw import app, schedule
from nanoclaw.control.firing import Ids
from nanoclaw.scheduler import Scheduler
from nanoclaw.store import Store, tasks
from nanoclaw.store.tasks import Task
from tests.fakes import rows_of_one_group

SINGLES = 20
APART = 250  # ms


async def _late(dues: list[int]) -> list[int]:
    """Milliseconds from each due time (from now) to the row of its turn on the disk, in order."""
    with tempfile.TemporaryDirectory(prefix="nc-bench-") as folder:
        db = Path(folder) / "db"
        with rows_of_one_group(db) as (tx, group):
            begin = app.now_ms()
            for due in dues:
                when = schedule.Once(begin + due)
                tasks.insert(tx, Task(0, group.id, 2, "now", when, "UTC", next_due=begin + due))
        woken: list[int] = []
        numbers = itertools.count()
        ids = Ids(lambda: f"turn-{next(numbers)}", lambda: "0" * 8, lambda folder: False)
        async with app.opened(Store(db)) as store:
            # The dispatcher's hint comes right behind the commit.
            wake = lambda lane: woken.append(time.time_ns() // 1_000_000)  # noqa: E731
            timer = Scheduler(store, ids, wake=wake, wake_outbox=lambda: None, clock=app.now_ms)
            running = asyncio.create_task(timer.run())
            while len(woken) < len(dues):
                await asyncio.sleep(0.05)
            running.cancel()
        return [at - begin - due for at, due in zip(woken, dues, strict=True)]


async def run(crowd: int, screen: Console) -> None:
    """Measure and print."""
    singles = sorted(await _late([2000 + n * APART for n in range(SINGLES)]))
    many = sorted(await _late([15_000] * crowd))
    screen.print(
        f"{SINGLES} single tasks: a turn {statistics.median(singles):.0f} ms after the due time (median), "
        f"{singles[-1]} ms at most (target <= 50)\n"
        f"{crowd} tasks due at once: the first turn after {many[0]} ms, the last after {many[-1]} ms"
    )
