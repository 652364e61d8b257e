"""What may still be used, in tokens and dollars: the limits hold from the first request, also over a restart."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.config import Config
from nanoclaw.errors import Refused
from nanoclaw.gateway import Ask
from nanoclaw.meter.prices import DOLLAR, Prices, dollars, table
from nanoclaw.meter.standin import StandIns
from nanoclaw.models import Group, Usage
from nanoclaw.schedule import midnight
from nanoclaw.store import Store, chats, ledger, spending

Spawn = Callable[[Coroutine[Any, Any, None], str], None]  # begin an errand that the host owns

WARN_AT = 0.8  # of a limit: then main is told
MAIN_ALONE = 0.25  # of the month's limit is kept for main
_ANSWER = 8000  # tokens of an answer that a request may have of what is left; beyond that, half
SMALL = "claude-haiku-5-5"  # what the CLI asks beside the model that it was given
_CACHED = 240_000  # milliseconds for which a prompt counts as kept in the provider's cache, which keeps it for 300 s
_TURNS = 1000  # whose costs are remembered


@dataclass
class _Open:
    """A run that may ask."""

    group_id: int
    folder: str
    is_main: bool
    tokens: int  # its group's own limit of a day, or 0
    own: tuple[str, str]  # its model, and the one that answers while that is overloaded ("": none); or a family (opus)
    turn: str = ""  # the last one
    kept: "deque[_Kept]" = field(default_factory=partial(deque, maxlen=8))  # of the main agent and those beside it


@dataclass(frozen=True)
class _Kept:
    """A prompt that the provider may have kept."""

    marks: tuple[bytes, ...]
    tokens: int
    at: int


@dataclass(frozen=True)
class _Held:
    """A request that is under way."""

    run_id: str
    run: _Open  # it may end before its request does
    turn: str
    cost: int
    ask: Ask


@dataclass(frozen=True)
class _Limit:
    """One of the limits that a request is under, in billionths of a dollar."""

    most: int
    spent: int
    held: int
    sentence: str  # for people, when it is used up
    name: str = ""  # for main, when it nearly is


class DayMeter:
    """Counts per turn, per group and day, and per month over all (in the configured zone); implements gateway.Meter."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        clock: Callable[[], int],
        spawn: Spawn,
        *,
        turn_of: Callable[[str], str] = lambda run_id: "",
        warn: Callable[[str], None] = lambda text: None,
        prices: Prices | None = None,
    ) -> None:
        """`turn_of` is the turn that a run works at; `warn` tells main."""
        self._store = store
        self._config = config
        self._clock = clock
        self._spawn = spawn
        self._turn_of = turn_of
        self._warn = warn
        self._prices = prices or table()
        self._runs: dict[str, _Open] = {}
        self._tokens: dict[int, Counter[int]] = {}  # group -> midnight -> tokens of the day after it
        self._cost: dict[int, Counter[int]] = {}  # the same in billionths of a dollar
        self._months: dict[bool, Counter[int]] = {}  # main's and all others' -> first of a month -> the same
        self._turns: dict[str, int] = {}
        self._held: dict[int, _Held] = {}
        self._numbers = count(1)
        self._counted = self._stored = 0  # requests, in memory and in the store
        self._reading = asyncio.Lock()
        self.stand_ins = StandIns()

    async def open(self, run_id: str, group_id: int, tokens: int = 0) -> None:
        """Before the run's first request: what was used comes from the store. `tokens`: the group's own daily limit."""
        self._runs[run_id] = await self._opened(await self._store.read(chats.group, group_id), tokens)

    async def _opened(self, group: Group, tokens: int) -> _Open:
        async with self._reading:
            if group.id not in self._tokens:
                await self._read()
        own = (group.model or self._config().model, group.fallback_model)
        return _Open(group.id, group.folder, group.is_main, tokens, own)

    async def admits(self, group: Group) -> bool:
        """Whether a run of this group could ask now."""
        return not self._over(await self._opened(group, group.limits.tokens_per_day))

    async def renew(self) -> None:
        """The zone is another one: so days begin at other times, and what counts of them comes from the store."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        """What was used before; from then on memory knows of every request. Swapped in one step, at a moment when the
        store knows all that memory does: what is counted meanwhile would be lost."""
        known = -1
        while not known == self._counted == self._stored:
            known, day, month = self._counted, self._midnight(), self._first()
            groups = await self._store.write(spending.by_group, day, month)  # in line behind what is being counted
            open_turns = await self._store.read(spending.by_open_turn)
        for main in (True, False):
            self._months[main] = Counter({month: sum(g.month.cost for g in groups if g.is_main is main)})
        self._turns = open_turns | self._turns
        self._tokens = {g.group_id: Counter({day: g.day.tokens}) for g in groups}
        self._cost = {g.group_id: Counter({day: g.day.cost}) for g in groups}

    def close(self, run_id: str) -> None:
        """The run is over."""
        self._runs.pop(run_id, None)

    # --- asking -----------------------------------------------------------------------------------

    def refusal(self, run_id: str) -> str:
        """Why this run may not ask now, in one sentence; "" when it may. A turn's own limit is no reason: the next
        one may."""
        run = self._runs.get(run_id)
        return "this run has ended" if run is None else self._over(run)

    def _over(self, run: _Open) -> str:
        cap = run.tokens or self._config().tokens_per_day
        if cap and _since(self._tokens[run.group_id], self._midnight()) >= cap:
            return f"the daily limit of {cap:,} tokens is used up; it starts again at midnight"
        over = (limit.sentence for limit in self._lasting(run) if limit.most and limit.spent >= limit.most)
        return next(over, "")

    def reserve(self, run_id: str, ask: Ask) -> int:
        """Hold what the request may cost. Raises Refused with a sentence for people."""
        output = self.affords(run_id, ask)
        run, number = self._runs[run_id], next(self._numbers)
        cost = self._prompt_cost(run, ask) + output * self._output_price(ask)
        self._held[number] = _Held(run_id, run, run.turn, cost, ask)
        return number

    def affords(self, run_id: str, ask: Ask) -> int:
        """The tokens of output that every limit leaves: half of the rest, so that requests beside it have room, or
        what most answers need. Raises Refused."""
        if why := self.refusal(run_id):
            raise Refused(why)
        run = self._runs[run_id]
        if not any(_is_model(ask.model, allowed, self._prices) for allowed in (*run.own, SMALL) if allowed):
            raise Refused("this chat's agent may not use that model; its owner can choose another one for it")
        run.turn = self._turn_of(run_id) or run.turn  # between turns it still works at its last one
        prompt, price, output = self._prompt_cost(run, ask), self._output_price(ask), ask.output
        for limit in (self._of_turn(run.turn), *self._lasting(run)) if price else ():
            rest = (limit.most - limit.spent - limit.held - prompt) // price
            if limit.most and rest < ask.least:
                raise Refused(limit.sentence)
            output = min(output, max(rest // 2, min(rest, max(_ANSWER, ask.least)))) if limit.most else output
        return output

    def settle(self, held: int, usage: Usage | None, *, overloaded: bool = False) -> None:
        """Give back what was held, and count what was used."""
        one = self._held.pop(held)
        run, answered = one.run, None if usage is None and not overloaded else usage is not None
        self.stand_ins.settled(run.group_id, run.folder, run.own, one.ask, self._clock(), answered=answered)
        if usage is not None:
            prompt = usage.input + usage.cache_read + usage.cache_write
            one.run.kept.append(_Kept(one.ask.marks, prompt, self._clock()))
            self._count(one.run_id, one.run, usage, one.turn)

    def record(self, run_id: str, usage: Usage, turn: str = "") -> None:
        """Count one request, in memory at once and in the store behind it."""
        self._count(run_id, self._runs[run_id], usage, turn)

    def _count(self, run_id: str, run: _Open, usage: Usage, turn: str) -> None:
        cost, now = self._prices.cost(usage), self._clock()
        before = [limit.spent for limit in self._lasting(run)]
        self._tokens[run.group_id][self._midnight()] += usage.tokens
        self._cost[run.group_id][self._midnight()] += cost or 0
        self._months.setdefault(run.is_main, Counter())[self._first()] += cost or 0
        self._count_turn(turn, cost or 0)
        self._warn_of(run, before)
        self._counted += 1
        self._spawn(self._keep(run.group_id, run_id, usage, now, turn, cost), "usage")

    async def _keep(self, group_id: int, run_id: str, usage: Usage, now: int, turn: str, cost: int | None) -> None:
        try:
            await self._store.write(ledger.add_usage, group_id, run_id, usage, now, turn, cost)
        finally:
            self._stored += 1

    # --- limits -----------------------------------------------------------------------------------

    def _of_turn(self, turn: str) -> _Limit:
        most = round(self._config().budget_turn * DOLLAR) if turn else 0
        held = sum(h.cost for h in self._held.values() if h.turn == turn)
        return _Limit(most, self._turns.get(turn, 0), held, f"the limit of one turn, {dollars(most)}, is used up")

    def _lasting(self, run: _Open) -> Iterator[_Limit]:
        """The group's day, the month of all, and of that what is not main's alone."""
        config = self._config()
        day = round((config.budget_main_day if run.is_main else config.budget_group_day) * DOLLAR)
        held = sum(h.cost for h in self._held.values() if h.run.group_id == run.group_id)
        text = f"the daily limit of {dollars(day)} is used up; it starts again at midnight"
        spent = _since(self._cost[run.group_id], self._midnight())
        yield _Limit(day, spent, held, text, f"The limit of {run.folder} for today")
        month = round(config.budget_month * DOLLAR)
        text = "the monthly limit {} is used up; it starts again on the first"
        others, mains = (self._of_month(is_main=main) for main in (False, True))
        both = (others[0] + mains[0], others[1] + mains[1])
        amount = f"of {dollars(month)}" if run.is_main else "of the house"  # a group does not learn main's amounts
        yield _Limit(month, *both, text.format(amount), "The limit of all groups for this month")
        if not run.is_main:
            rest = round(month * (1 - MAIN_ALONE))
            text = text.format("for all groups but main")
            yield _Limit(rest, *others, text, "What the groups beside main may use this month")

    def _of_month(self, *, is_main: bool) -> tuple[int, int]:
        held = sum(h.cost for h in self._held.values() if h.run.is_main is is_main)
        return _since(self._months.get(is_main, Counter()), self._first()), held

    def _prompt_cost(self, run: _Open, ask: Ask) -> int:
        """What its prompt costs at most, but for rare text: of what stood in an earlier one, which the provider has
        kept, the tokens are known; what is new is guessed too long."""
        if (model := self._prices.of(ask.model)) is None:
            return 0
        price = model.at(ask.input)
        recent = (one for one in run.kept if self._clock() - one.at < _CACHED)
        common = [ask.besides((), 0), *(ask.besides(one.marks, one.tokens) for one in recent)]
        write = price.write_1h if ask.hour else price.write_5m
        return min(kept * price.read + new * write for kept, new in common)

    def _output_price(self, ask: Ask) -> int:
        """Of one token; 0 when nobody knows."""
        model = self._prices.of(ask.model)
        return model.at(ask.input).output if model else 0

    def _count_turn(self, turn: str, cost: int) -> None:
        if turn:
            self._turns[turn] = self._turns.pop(turn, 0) + cost
        while len(self._turns) > _TURNS:
            self._turns.pop(next(iter(self._turns)))

    def _warn_of(self, run: _Open, before: list[int]) -> None:
        for limit, spent in zip(self._lasting(run), before, strict=True):
            if limit.most and spent < WARN_AT * limit.most <= limit.spent:
                used = f"{dollars(limit.spent)} of {dollars(limit.most)} are used"
                self._warn(f"{limit.name} is nearly reached: {used}. /usage says where it went.")

    # --- days and months --------------------------------------------------------------------------

    def _midnight(self) -> int:
        return midnight(self._clock(), ZoneInfo(self._config().zone))

    def _first(self) -> int:
        return first_of_month(self._clock(), ZoneInfo(self._config().zone))


def first_of_month(now: int, zone: ZoneInfo) -> int:
    """The beginning of the month that `now` lies in (both milliseconds since 1970)."""
    day = datetime.fromtimestamp(midnight(now, zone) / 1000, zone)
    return int(day.replace(day=1).timestamp() * 1000)


def _is_model(asked: str, allowed: str, prices: Prices) -> bool:
    """Whether it is that model, or for an alias, which the CLI turns into a model's name, one whose price is known."""
    name = allowed.partition("[")[0]
    return asked.partition("[")[0] == name or (name.isalpha() and prices.of(asked) is not None)


def _since(used: Counter[int], begin: int) -> int:
    """What was used since then; of a later day too: a clock that was set back forgives nothing."""
    return sum(amount for day, amount in used.items() if day >= begin)


__all__ = ["DayMeter", "Spawn", "dollars", "first_of_month"]
