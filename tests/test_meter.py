"""The daily cap: from the first request, per group, over midnight and over a restart."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from nanoclaw.app import opened
from nanoclaw.config import Config, Current
from nanoclaw.errors import Refused
from nanoclaw.gateway import Ask
from nanoclaw.meter import DayMeter
from nanoclaw.models import Usage
from nanoclaw.store import Store, ledger
from tests.fakes import rows_of_one_group

BERLIN = ZoneInfo("Europe/Berlin")
MAIN, FAMILY = 1, 2


class Desk:
    """A meter, its store, and a clock that stands still."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = at(25, 23, 0)
        self.writes: list[asyncio.Future[None]] = []

    def meter(self, cap: int = 100) -> DayMeter:
        settings = Config(home=Path("/"), tokens_per_day=cap, zone=BERLIN.key)
        return DayMeter(self.store, Current(settings), lambda: self.now, self._spawn)

    def _spawn(self, job: object, name: str) -> None:
        self.writes.append(asyncio.ensure_future(job))  # type: ignore[arg-type]


def at(day: int, hour: int, minute: int) -> int:
    """A moment around the night in which Berlin's clocks go back (2026-10-25)."""
    return int(datetime(2026, 10, day, hour, minute, tzinfo=BERLIN).timestamp() * 1000)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    with rows_of_one_group(tmp_path / "db"):
        pass
    async with opened(Store(tmp_path / "db")) as store:
        desk = Desk(store)
        yield desk
        await asyncio.gather(*desk.writes)


async def test_the_cap_holds_per_group(desk: Desk) -> None:
    """What one group has used up, another has not; cache reads count a tenth."""
    meter = desk.meter()
    await meter.open("r1", MAIN)
    await meter.open("r2", FAMILY)
    meter.record("r1", Usage("m", input=40, output=50, cache_read=90))
    assert meter.refusal("r1") == ""
    meter.record("r1", Usage("m", cache_write=1))
    assert "100 tokens" in meter.refusal("r1")
    assert meter.refusal("r2") == ""


async def test_a_groups_own_cap_comes_first(desk: Desk) -> None:
    """And no cap at all is zero."""
    meter = desk.meter(cap=0)
    await meter.open("r1", MAIN, 10)
    await meter.open("r2", FAMILY)
    for run in ("r1", "r2"):
        meter.record(run, Usage("m", output=1000))
    assert meter.refusal("r1")
    assert not meter.refusal("r2")


async def test_midnight_starts_anew_in_the_zone(desk: Desk) -> None:
    """Also in the night that has 25 hours."""
    desk.now = at(24, 23, 59)
    meter = desk.meter()
    await meter.open("r1", MAIN)
    meter.record("r1", Usage("m", output=100))
    assert meter.refusal("r1")
    desk.now = at(25, 0, 0)
    assert not meter.refusal("r1")
    meter.record("r1", Usage("m", output=100))
    desk.now = at(25, 23, 59)
    assert meter.refusal("r1")
    desk.now = at(26, 0, 0)
    assert not meter.refusal("r1")


async def test_a_clock_that_is_set_back_forgives_nothing(desk: Desk) -> None:
    """Back over midnight what was used stays used, and so it is when midnight comes again; a later day starts anew."""
    desk.now = at(25, 0, 1)
    meter = desk.meter()
    await meter.open("r1", MAIN)
    meter.record("r1", Usage("m", output=100))
    for day, hour, minute in ((24, 23, 59), (25, 0, 1)):
        desk.now = at(day, hour, minute)
        assert meter.refusal("r1")
    desk.now = at(26, 0, 0)
    assert not meter.refusal("r1")


async def test_a_restart_forgets_nothing(desk: Desk) -> None:
    """What was used today is in the store, and what was used yesterday does not count."""
    await desk.store.write(ledger.add_usage, MAIN, "r0", Usage("m", output=60), at(24, 23, 59))
    meter = desk.meter()
    await meter.open("r1", MAIN)
    meter.record("r1", Usage("m", output=60))
    assert not meter.refusal("r1")
    await asyncio.gather(*desk.writes)
    again = desk.meter()
    await again.open("r2", MAIN)
    again.record("r2", Usage("m", output=40))
    assert again.refusal("r2")


async def test_a_run_that_has_ended_may_not_ask(desk: Desk) -> None:
    """Its sockets are closed; this is the second lock."""
    meter = desk.meter()
    await meter.open("r1", MAIN)
    meter.close("r1")
    assert meter.refusal("r1") == "this run has ended"
    with pytest.raises(Refused, match="has ended"):
        meter.reserve("r1", Ask("m", 1, 1))
