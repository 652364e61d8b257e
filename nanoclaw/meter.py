"""What a group may still use today: the cap holds from the first request, also over a restart."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw.models import Usage
from nanoclaw.schedule import midnight
from nanoclaw.store import Store, ledger

Spawn = Callable[[Coroutine[Any, Any, None], str], None]  # begin an errand that the host owns


class DayMeter:
    """Counts tokens per group and day (of the configured zone); implements gateway.Meter."""

    def __init__(self, store: Store, *, cap: int, zone: ZoneInfo, clock: Callable[[], int], spawn: Spawn) -> None:
        self._store = store
        self._cap = cap
        self._zone = zone
        self._clock = clock
        self._spawn = spawn
        self._groups: dict[str, tuple[int, int]] = {}  # run -> (group, its own cap or 0)
        self._used: dict[int, Counter[int]] = {}  # group -> midnight -> tokens of the day after it

    async def open(self, run_id: str, group_id: int, cap: int = 0) -> None:
        """Before the run's first request: what its group has used today comes from the store."""
        if group_id not in self._used:
            day = midnight(self._clock(), self._zone)
            tokens = await self._store.read(ledger.tokens_since, group_id, day)
            self._used.setdefault(group_id, Counter({day: tokens}))
        self._groups[run_id] = (group_id, cap)

    def close(self, run_id: str) -> None:
        """The run is over."""
        self._groups.pop(run_id, None)

    def refusal(self, run_id: str) -> str:
        """Why this run may not ask now, in one sentence; "" when it may."""
        if run_id not in self._groups:
            return "this run has ended"
        group_id, own = self._groups[run_id]
        cap = own or self._cap
        if cap and self._today(group_id) >= cap:
            return f"the daily limit of {cap:,} tokens is used up; it starts again at midnight"
        return ""

    def record(self, run_id: str, usage: Usage) -> None:
        """Count one request, in memory at once and in the store behind it."""
        if run_id not in self._groups:
            logger.warning("Usage of a run that has ended was not counted")
            return
        group_id = self._groups[run_id][0]
        self._used[group_id][midnight(self._clock(), self._zone)] += usage.tokens
        self._spawn(self._store.write(ledger.add_usage, group_id, run_id, usage, self._clock()), "usage")

    def _today(self, group_id: int) -> int:
        """Tokens since midnight; those of a later day too: a clock that was set back forgives nothing."""
        today = midnight(self._clock(), self._zone)
        return sum(tokens for day, tokens in self._used[group_id].items() if day >= today)
