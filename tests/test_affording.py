"""What the limits leave a request: its model, its answer's length, and the price of its prompt."""

import asyncio
import json
from dataclasses import replace

import pytest

from nanoclaw.errors import Refused
from nanoclaw.gateway import PIECE, Ask
from nanoclaw.gateway.asked import look
from nanoclaw.gateway.request import limited, parsed
from nanoclaw.meter.prices import DOLLAR
from nanoclaw.models import Usage
from tests.test_budget import CHEAP, FAMILY, MODEL, Desk, costing, desk, spend

__all__ = ["desk"]
LONG = Ask(MODEL, 0, 128_000, least=1000)  # 9.60 dollars


async def test_no_answer_passes_a_limit(desk: Desk) -> None:
    """Each is cut to half of what is left, or to what most need: those beside it have room, and none is too long."""
    meter = await desk.restarted()
    desk.turns = {"r": "t1"}
    held = []
    for _ in range(2):
        output = meter.affords("r", LONG)
        assert output >= LONG.least
        held.append((meter.reserve("r", replace(LONG, output=output)), output))
    with pytest.raises(Refused, match="one turn"):
        meter.affords("r", LONG)
    for number, output in held:
        meter.settle(number, Usage(MODEL, output=output))
    assert meter._turns["t1"] <= DOLLAR
    with pytest.raises(Refused, match="one turn"):
        meter.affords("r", LONG)


async def test_without_limits_an_answer_is_as_long_as_it_likes(desk: Desk) -> None:
    """And a model without a price, which the owner chose, too."""
    meter = await desk.restarted(budget_turn=0, budget_group_day=0, budget_month=0)
    assert meter.affords("r", LONG) == LONG.output
    meter = await desk.restarted(model="local/llama")
    assert meter.affords("r", replace(LONG, model="local/llama")) == LONG.output


@pytest.mark.parametrize(
    ("chosen", "asked", "may"),
    [
        (MODEL, MODEL, True),
        (MODEL, "claude-haiku-5-5", True),
        (MODEL, "claude-3-opus-20240229", False),
        (MODEL, "claude-fable-5", False),
        ("claude-opus-5-5[1m]", "claude-opus-5-5", True),
        ("opus", "claude-opus-5-5", True),
        ("opus", "claude-3-opus-20240229", False),
        ("local/llama", "local/llama", True),
        ("local/llama", "local/other", False),
    ],
)
async def test_an_agent_asks_the_model_that_its_owner_chose(desk: Desk, chosen: str, asked: str, may: bool) -> None:
    """And the small one that the CLI asks for itself: one without a price would have no limit in dollars."""
    meter = await desk.restarted(model=chosen)
    if may:
        meter.reserve("r", Ask(asked, 1, 1))
    else:
        with pytest.raises(Refused, match="may not use that model"):
            meter.reserve("r", Ask(asked, 1, 1))


async def test_an_hour_in_the_cache_is_held_at_its_price(desk: Desk) -> None:
    """It is dearer than five minutes."""
    meter = await desk.restarted(budget_turn=0)
    ask = Ask(MODEL, 90_000, 1)  # guessed as 120,000: 2.25 dollars for five minutes, 3.60 for an hour
    meter.settle(meter.reserve("r", ask), None)
    with pytest.raises(Refused, match="daily limit"):
        meter.reserve("r", replace(ask, hour=True))


async def test_what_ends_after_its_run_is_counted(desk: Desk) -> None:
    """The run is over, its answer was paid."""
    meter = await desk.restarted()
    held = meter.reserve("r", CHEAP)
    meter.close("r")
    meter.settle(held, costing(3))
    await meter.open("r2", FAMILY)
    assert "daily limit" in meter.refusal("r2")


async def test_another_zone_forgets_nothing_that_is_counted_meanwhile(desk: Desk) -> None:
    """Requests that end while the store is read count, once."""
    meter = await desk.restarted(budget_group_day=0)
    spend(meter, "r", 2)
    held = meter.reserve("r", CHEAP)
    renewing = asyncio.ensure_future(meter.renew())
    await asyncio.sleep(0)
    meter.settle(held, costing(1))
    await renewing
    assert sum(month.total() for month in meter._months.values()) == 3 * DOLLAR
    assert meter._cost[FAMILY].total() == 3 * DOLLAR


async def test_a_group_does_not_learn_what_others_spent(desk: Desk) -> None:
    """The agent is told that the month is used up, not how much main has."""
    meter = await desk.restarted(budget_month=2, budget_group_day=0)
    spend(meter, "m", 2)
    await meter.open("other", FAMILY)
    assert "$" not in meter.refusal("r")
    assert "$2.00" in meter.refusal("m")


# --- what a request tells -----------------------------------------------------------------------


def ask_of(text: str, *more: dict[str, object], output: int = 9, **fields: object) -> Ask:
    messages = [{"role": "user", "content": text}, *more]
    body = {"model": MODEL, "max_tokens": output, "messages": messages} | fields
    return look(*parsed(json.dumps(body).encode(), search=False)).ask


def test_other_alphabets_are_not_longer() -> None:
    """Three letters of Russian are about a token, as four of English."""
    assert ask_of("Мы говорили об этом вчера. " * 1000).input < 14_000  # noqa: RUF001


def test_one_conversation_begins_equally() -> None:
    """Wherever the cache's marks stand, and however long the answer may be; other words do not."""
    text, mark = "We talked about it. " * 5000, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    first = ask_of(text, {"role": "user", "content": [{"type": "text", "text": "a", **mark}]})
    later = ask_of(text, {"role": "user", "content": "a"}, {"role": "user", "content": "b" * 20_000}, output=99)
    assert (first.hour, later.hour) == (True, False)
    assert len(first.marks) == 6
    assert later.marks[: len(first.marks)] == first.marks
    assert not set(ask_of("x" + text).marks) & set(first.marks)


def test_a_request_is_cut_at_its_end() -> None:
    """Whatever stands within it."""
    raw = b'{"max_tokens":128000,"model":"m","messages":[{"role":"user","content":"\\"max_tokens\\":7}"}]}'
    _, body = parsed(raw, search=False)
    assert limited(body, 1234) == body.replace(b"128000", b"1234")
    assert look({"max_tokens": 9000, "messages": [], "thinking": {"budget_tokens": 4000}}, b"").ask.least == 4001


@pytest.mark.parametrize(
    ("marks", "tokens", "common", "new"),
    [
        ((), 0, 0, 40_000),  # nothing is known: three bytes a token
        ((b"x",), 9_000, 0, 40_000),
        ((b"1",), 4_200, 4_200, 25_800),  # the whole of it is known to be so much
        ((b"1", b"x"), 9_000, 4_096, 25_904),
        ((b"1",), 50_000, 50_000, 12_014),  # rather too many
    ],
)
def test_what_is_known_of_a_prompt_is_not_guessed(marks: tuple[bytes, ...], tokens: int, common: int, new: int) -> None:
    """A limit of a turn depends on it: the last request's prompt is known, what is behind it counts as more."""
    ask = Ask(MODEL, 30_000, 1, marks=(b"1", b"2", b"3"), unmarked=PIECE // 5)
    assert ask.besides(marks, tokens) == (common, new)
