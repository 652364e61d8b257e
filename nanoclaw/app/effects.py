"""What a change of settings asks for, beside that they are read anew wherever they are needed."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from nanoclaw.config import Config
from nanoclaw.control.naming import call_assistant
from nanoclaw.errors import Cause
from nanoclaw.meter import DayMeter
from nanoclaw.ops.keeping import Keeping
from nanoclaw.store import Store, owners

# What a parked lane waits for, and the settings that may have mended it.
_MENDS = {
    "tokens_per_day": frozenset({Cause.BUDGET}),
    "budget_group_day": frozenset({Cause.BUDGET}),
    "budget_main_day": frozenset({Cause.BUDGET}),
    "budget_month": frozenset({Cause.BUDGET}),
    "zone": frozenset({Cause.BUDGET}),
    "base_url": frozenset({Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA}),
    "model": frozenset({Cause.QUOTA}),
}


class Lanes(Protocol):
    """What is needed of the dispatcher."""

    async def release(self, causes: frozenset[Cause]) -> None:
        """What these causes parked goes on."""

    def sweep(self, now: float) -> None:
        """Runs that are too many, or idle for too long, are closed; `now` is the loop's time."""


class Effects:
    """Called with the settings that have changed, once they are in force."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        store: Store,
        lanes: Lanes,
        meter: DayMeter,
        keeping: Keeping,
        log: Callable[[str], None],
    ) -> None:
        self._config = config
        self._store = store
        self._lanes = lanes
        self._meter = meter
        self._keeping = keeping
        self._log = log

    async def __call__(self, changed: frozenset[str]) -> None:
        """Do it: all of it, even where a part fails. Raises what failed."""
        failed: list[Exception] = []
        for effect in (self._log_level, self._day, self._names, self._owners, self._kept, self._lanes_go_on):
            try:
                await effect(changed)
            except Exception as e:
                failed.append(e)
        if failed:
            raise failed[0]

    async def people_and_names(self) -> None:
        """Rows that follow from settings; at a start all of them."""
        await self._names(frozenset({"name"}))
        await self._owners(frozenset({"owners"}))

    async def _log_level(self, changed: frozenset[str]) -> None:
        if "log_level" in changed:
            self._log(self._config().log_level)

    async def _day(self, changed: frozenset[str]) -> None:
        if "zone" in changed:
            await self._meter.renew()

    async def _names(self, changed: frozenset[str]) -> None:
        if "name" in changed:
            await self._store.write(call_assistant, self._config().name)

    async def _owners(self, changed: frozenset[str]) -> None:
        if "owners" in changed:
            config = self._config()
            await self._store.write(owners.settle, "whatsapp", config.owners, shared=config.whatsapp == "shared")

    async def _kept(self, changed: frozenset[str]) -> None:
        if any(key.startswith("keep_") for key in changed):
            self._keeping.renew()

    async def _lanes_go_on(self, changed: frozenset[str]) -> None:
        for key in changed & set(_MENDS):
            await self._lanes.release(_MENDS[key])
        self._lanes.sweep(asyncio.get_running_loop().time())
