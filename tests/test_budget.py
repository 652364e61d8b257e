"""Dollars: what requests cost, the limits of a turn, a day and a month, and what people are told of them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from nanoclaw.app import opened
from nanoclaw.config import Config, Current
from nanoclaw.control.usage import Most, usage_facts, usage_text
from nanoclaw.errors import Refused
from nanoclaw.gateway import Ask
from nanoclaw.gateway.usage import UsageTap
from nanoclaw.meter import DayMeter, first_of_month
from nanoclaw.meter.prices import DOLLAR, dollars, table
from nanoclaw.models import Authority, Turn, TurnState, Usage
from nanoclaw.store import Store, ledger, turns
from tests.fakes import rows_of_one_group

BERLIN = ZoneInfo("Europe/Berlin")
MAIN, FAMILY = 1, 2
MODEL = "claude-opus-4-1"  # 15 dollars a million tokens in, 75 out
CHEAP = Ask(MODEL, 1, 1)


def at(month: int, day: int, hour: int, minute: int = 0) -> int:
    return int(datetime(2026, month, day, hour, minute, tzinfo=BERLIN).timestamp() * 1000)


def costing(amount: float) -> Usage:
    """A request that costs so many dollars."""
    return Usage(MODEL, output=round(amount * 1_000_000 / 75))


class Desk:
    """A meter, its store, a clock that stands still, and one turn per run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = at(10, 25, 12)
        self.writes: list[asyncio.Future[None]] = []
        self.warnings: list[str] = []
        self.turns: dict[str, str] = {}

    def meter(self, **settings: Any) -> DayMeter:
        config = Config(home=Path("/"), zone=BERLIN.key, **{"tokens_per_day": 0, "model": MODEL} | settings)
        return DayMeter(
            self.store, Current(config), lambda: self.now, self._spawn,
            turn_of=lambda run: self.turns.get(run, ""), warn=self.warnings.append,
        )  # fmt: skip

    def _spawn(self, job: object, name: str) -> None:
        self.writes.append(asyncio.ensure_future(job))  # type: ignore[arg-type]

    async def written(self) -> None:
        await asyncio.gather(*self.writes)

    async def restarted(self, **settings: Any) -> DayMeter:
        """Another life of the host, with the runs r (family) and m (main)."""
        await self.written()
        meter = self.meter(**settings)
        await meter.open("r", FAMILY)
        await meter.open("m", MAIN)
        return meter


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    with rows_of_one_group(tmp_path / "db"):
        pass
    async with opened(Store(tmp_path / "db")) as store:
        desk = Desk(store)
        yield desk
        await desk.written()


def spend(meter: DayMeter, run: str, amount: float) -> None:
    meter.settle(meter.reserve(run, CHEAP), costing(amount))


# --- prices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage("claude-sonnet-5-5", input=1_000_000), 2.0),
        (Usage("claude-sonnet-5-5", output=1_000_000), 10.0),
        (Usage("claude-sonnet-5-5", cache_read=1_000_000), 0.1),
        (Usage("claude-sonnet-5-5", cache_write=1_000_000), 2.5),
        (Usage("claude-sonnet-5-5", cache_write=1_000_000, cache_write_1h=400_000), 0.6 * 2.5 + 0.4 * 4),
        (Usage("claude-sonnet-5-5", searches=3), 0.03),
        (Usage("claude-sonnet-5-5-20260901", input=1_000_000), 2.0),
        (Usage("claude-sonnet-4-20250514", input=1_000_000), 3.0),
        (Usage("claude-sonnet-5-5[1m]", input=1_000_000), 2.0),
        (Usage("claude-opus-5", output=1_000_000), 25.0),
        (Usage("claude-opus-5-5", output=1_000_000), 20.0),
        (Usage("claude-opus-4-1-20250805", output=1_000_000), 75.0),
        (Usage("claude-opus-4-8", output=1_000_000), 25.0),
        (Usage("claude-haiku-5-5", input=50_000, output=50_000), 0.03),
        (Usage("claude-haiku-5-5", input=50_000, cache_read=50_001), 0.025 + 0.00250005),
        (Usage("claude-haiku-5-5", input=100_000), 0.01),
    ],
)
def test_a_request_has_its_price(usage: Usage, cost: float) -> None:
    """By family, kind of token, time in the cache, searches, and the length of the prompt where that counts."""
    assert table().cost(usage) == round(cost * DOLLAR)


@pytest.mark.parametrize("model", ["", "gpt-9", "claude-sonnet-55", "claude-sonnet", "local/llama", "xclaude-opus-5"])
def test_a_model_without_a_price_has_none(model: str) -> None:
    """Nothing is guessed by a part of a name."""
    assert table().cost(Usage(model, input=1)) is None


def test_every_price_of_the_table_is_exact_and_sensible() -> None:
    """In billionths of a dollar nothing is rounded; reading the cache is cheaper than writing it, output dearest."""
    for model in table().models.values():
        for price in (model.short, model.long):
            assert 0 < price.read < price.input < price.write_5m < price.write_1h < price.output
    assert table().search == DOLLAR // 100


def test_what_the_api_says_of_caches_and_searches_is_heard() -> None:
    """The parts of its usage fields too, in a stream as in one piece."""
    said = (
        '{"input_tokens": 3, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 5, "output_tokens": 9,'
        ' "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 50},'
        ' "server_tool_use": {"web_search_requests": 2}, "service_tier": "standard"}'
    )
    expected = Usage("m", 3, 9, 5, 70, 50, 2)
    stream = UsageTap(Ask("asked", 7, 9), sse=True)
    stream.feed(b'data: {"type": "message_start", "message": {"model": "m", "usage": %s}}\n' % said.encode())
    stream.feed(b'data: {"type": "message_delta", "usage": {"output_tokens": 9}}\n')
    whole = UsageTap(Ask("asked", 7, 9), sse=False)
    whole.feed(b'{"type": "message", "model": "m", "usage": %s}' % said.encode())
    assert (stream.usage(9), whole.usage(9)) == (expected, expected)


def test_an_answer_that_never_came_is_counted_as_what_was_asked() -> None:
    """The model that was asked for, and the guessed input."""
    assert UsageTap(Ask(MODEL, 700, 900), sse=True).usage(0) == Usage(MODEL, input=700)


# --- limits ------------------------------------------------------------------------------------


async def test_a_group_has_three_dollars_a_day_and_main_ten(desk: Desk) -> None:
    """The sentence says when it starts again, and it does, in the house's zone."""
    meter = await desk.restarted()
    spend(meter, "r", 2.9)
    assert not meter.refusal("r")
    spend(meter, "r", 0.2)
    assert meter.refusal("r") == "the daily limit of $3.00 is used up; it starts again at midnight"
    with pytest.raises(Refused, match="daily limit"):
        meter.reserve("r", CHEAP)
    spend(meter, "m", 9.9)
    assert not meter.refusal("m")
    spend(meter, "m", 0.2)
    assert "$10.00" in meter.refusal("m")
    desk.now = at(10, 26, 0)
    assert not meter.refusal("r")


async def test_a_turn_has_one_dollar(desk: Desk) -> None:
    """The next one has its own; what is asked between turns belongs to the last one; the day counts them all."""
    meter = await desk.restarted()
    desk.turns = {"r": "t1"}
    spend(meter, "r", 0.99)
    spend(meter, "r", 0.01)
    with pytest.raises(Refused, match=r"the limit of one turn, \$1\.00, is used up"):
        meter.reserve("r", CHEAP)
    assert not meter.refusal("r")
    desk.turns = {"r": "t2"}
    spend(meter, "r", 0.5)
    desk.turns = {}
    spend(meter, "r", 0.5)
    with pytest.raises(Refused, match="one turn"):
        meter.reserve("r", CHEAP)
    desk.turns = {"r": "t3"}
    spend(meter, "r", 0.9)
    assert not meter.refusal("r")
    spend(meter, "r", 0.1)
    assert "daily limit" in meter.refusal("r")


async def test_a_quarter_of_the_month_is_mains_alone(desk: Desk) -> None:
    """However much the others would use; and main may use what they leave."""
    meter = await desk.restarted(budget_group_day=0, budget_main_day=0)
    spend(meter, "r", 22.6)
    assert "for all groups but main" in meter.refusal("r")
    assert not meter.refusal("m")
    spend(meter, "m", 7.5)
    assert meter.refusal("m") == "the monthly limit of $30.00 is used up; it starts again on the first"
    desk.now = at(11, 1, 0)
    assert not meter.refusal("r")
    assert not meter.refusal("m")
    spend(meter, "m", 29.9)
    assert not meter.refusal("r")
    spend(meter, "m", 0.2)
    assert "monthly limit" in meter.refusal("r")


async def test_the_month_ends_in_the_zone_of_the_house(desk: Desk) -> None:
    """Also over the night that has 25 hours."""
    assert first_of_month(at(10, 31, 23, 59), BERLIN) == at(10, 1, 0)
    assert first_of_month(at(11, 1, 0), BERLIN) == at(11, 1, 0)
    desk.now = at(10, 31, 23, 59)
    meter = await desk.restarted(budget_group_day=0, budget_main_day=0)
    spend(meter, "m", 30)
    assert meter.refusal("m")
    desk.now = at(11, 1, 0)
    assert not meter.refusal("m")
    desk.now = at(10, 31, 23, 59)
    assert meter.refusal("m")  # a clock that is set back forgives nothing


async def test_a_restart_forgets_nothing(desk: Desk) -> None:
    """Neither of the day, nor of the month, nor of a turn that has not ended."""
    desk.turns = {"r": "t1"}
    turn = Turn("t1", "family", FAMILY, 2, Authority.OWNER, TurnState.OPEN, "hi")
    await desk.store.write(turns.insert, turn, desk.now)
    meter = await desk.restarted()
    spend(meter, "r", 0.6)
    meter = await desk.restarted()
    spend(meter, "r", 0.4)
    with pytest.raises(Refused, match="one turn"):
        meter.reserve("r", CHEAP)
    desk.turns = {"r": "t2"}
    spend(meter, "r", 2.0)
    meter = await desk.restarted()
    assert "daily limit" in meter.refusal("r")
    desk.now = at(10, 26, 1)
    meter = await desk.restarted(budget_month=4)
    assert "for all groups but main" in meter.refusal("r")
    assert not meter.refusal("m")


async def test_zero_is_no_limit_and_a_changed_setting_counts_at_once(desk: Desk) -> None:
    """Without a restart of anything."""
    settings = {"budget_turn": 0.0, "budget_group_day": 0.0, "budget_month": 0.0}
    meter = await desk.restarted(**settings)
    desk.turns = {"r": "t1"}
    spend(meter, "r", 500)
    assert not meter.refusal("r")
    meter._config.put(meter._config().model_copy(update={"budget_group_day": 400.0}))  # type: ignore[attr-defined]
    assert "$400.00" in meter.refusal("r")


async def test_requests_beside_each_other_do_not_spend_the_same_money(desk: Desk) -> None:
    """What the first ones may cost is held until they are settled, and given back when they cost less."""
    meter = await desk.restarted(budget_turn=0)
    ask = Ask(MODEL, 0, 8000)  # 0.60 dollars
    held = [meter.reserve("r", ask) for _ in range(5)]
    with pytest.raises(Refused, match="daily limit"):
        meter.reserve("r", ask)
    assert not meter.refusal("r")
    meter.settle(held.pop(), None)
    held.append(meter.reserve("r", ask))
    for number in held:
        meter.settle(number, costing(0.1))
    meter.reserve("r", ask)


async def test_a_prompt_that_the_provider_kept_is_held_at_its_own_price(desk: Desk) -> None:
    """A long conversation goes on within the limit of a turn; after a pause it counts in full."""
    meter = await desk.restarted()
    desk.turns = {"r": "t1"}
    marks = (b"1", b"2", b"3")
    long = Ask(MODEL, 200_000, 1000, marks=marks)  # new 3.75 dollars, kept 0.30
    with pytest.raises(Refused, match="one turn"):
        meter.reserve("r", long)
    meter.settle(meter.reserve("r", replace(CHEAP, marks=marks)), Usage(MODEL, cache_read=200_000))
    meter.settle(meter.reserve("r", long), None)
    spend(meter, "r", 0.01)  # of an agent beside it
    meter.settle(meter.reserve("r", replace(long, marks=(*marks, b"4"))), None)
    with pytest.raises(Refused, match="one turn"):  # as long, but of other words
        meter.reserve("r", replace(long, marks=(b"x", b"y", b"z")))
    desk.now += 300_000
    with pytest.raises(Refused, match="one turn"):
        meter.reserve("r", long)


async def test_a_model_without_a_price_is_limited_in_tokens(desk: Desk) -> None:
    """Nothing is held and no dollar counted, but the day's tokens hold."""
    meter = await desk.restarted(tokens_per_day=1000, model="local")
    meter.settle(meter.reserve("r", Ask("local", 10**9, 10**9)), Usage("local", output=1000))
    assert "1,000 tokens" in meter.refusal("r")


async def test_main_is_warned_once_at_four_fifths(desk: Desk) -> None:
    """Of each limit, by name and amount; a restart warns of nothing that is old."""
    meter = await desk.restarted()
    spend(meter, "r", 2.3)
    assert desk.warnings == []
    spend(meter, "r", 0.2)
    spend(meter, "r", 0.1)
    used = "The limit of family for today is nearly reached: $2.50 of $3.00 are used."
    assert desk.warnings == [f"{used} /usage says where it went."]
    meter = await desk.restarted()
    spend(meter, "r", 0.1)
    assert len(desk.warnings) == 1
    meter = await desk.restarted(budget_group_day=0, budget_month=4)
    spend(meter, "m", 0.6)
    assert desk.warnings[1].startswith("The limit of all groups for this month is nearly reached: $3.30 of $4.00")


# --- what people are told ----------------------------------------------------------------------


async def test_usage_says_where_it_went(desk: Desk) -> None:
    """By group and model, today and this month, of which limits; what has no price is said."""
    for when, group, used, cost in (
        (at(9, 30, 23), FAMILY, costing(5), 5 * DOLLAR),
        (at(10, 2, 12), FAMILY, costing(1.5), 1_500_000_000),
        (at(10, 25, 9), FAMILY, costing(0.25), 250_000_000),
        (at(10, 25, 9), MAIN, Usage("claude-haiku-5-5", input=1000), 100_000),
        (at(10, 25, 9), MAIN, Usage("local\u202e", input=700), None),
    ):
        await desk.store.write(ledger.add_usage, group, "r", used, when, "t", cost)
    most = Most(group_day=3, main_day=10, month=30)
    text = await desk.store.read(usage_text, desk.now, BERLIN.key, most)
    assert text.splitlines() == [
        "Today $0.25 (5,033 tokens); this month $1.75 of $30.00 (25,033 tokens).",
        "main: today < $0.01 of $10.00 (1,700 tokens); this month < $0.01 (1,700 tokens)",
        "family: today $0.25 of $3.00 (3,333 tokens); this month $1.75 (23,333 tokens)",
        "claude-opus-4-1: $1.75 (23,333 tokens) in 2 request(s) this month",
        "claude-haiku-5-5: < $0.01 (1,000 tokens) in 1 request(s) this month",
        "local: 700 tokens in 1 request(s) this month",
        "700 tokens of this month are of models whose price is not known: no dollars.",
    ]
    facts = await desk.store.read(usage_facts, desk.now, BERLIN.key, most)
    assert facts["month"] == {"dollars": 1.7501, "tokens": 25033, "tokens_without_price": 700, "requests": 4}
    assert facts["models"][-1]["dollars"] is None
    assert [g["group"] for g in facts["groups"]] == ["main", "family"]


def test_amounts_are_written_for_people() -> None:
    """What is less than a cent is more than nothing."""
    assert [dollars(x) for x in (0, 1, DOLLAR // 100, 1234 * DOLLAR)] == ["$0.00", "< $0.01", "$0.01", "$1,234.00"]
