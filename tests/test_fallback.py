"""The model that answers while a group's own is overloaded: who may ask it, when it is said, and when that is over."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.config import DEFAULT_MODEL
from nanoclaw.errors import Refused
from nanoclaw.gateway import Ask
from nanoclaw.meter import DayMeter
from nanoclaw.meter.standin import StandIn, is_named
from nanoclaw.models import Usage
from nanoclaw.store import chats
from tests.fakes import hosting
from tests.test_budget import FAMILY, MODEL, Desk, desk

__all__ = ["desk"]
SECOND = "claude-sonnet-5-5"


async def with_second(desk: Desk, second: str = SECOND) -> DayMeter:
    """The family's run, whose group has a second model."""
    await desk.store.write(lambda tx: chats.save_group(tx, replace(chats.group(tx, FAMILY), fallback_model=second)))
    return await desk.restarted(budget_turn=0)


def asked(meter: DayMeter, model: str, *, answered: bool, overloaded: bool = True) -> None:
    """One request of the run and its end; without an answer, because the model is overloaded."""
    held = meter.reserve("r", Ask(model, 1, 1))
    meter.settle(held, Usage(model, input=1, output=1) if answered else None, overloaded=overloaded and not answered)


async def test_the_second_model_is_let_through_at_its_own_price(desk: Desk) -> None:
    """A group without one may not ask it."""
    meter = await desk.restarted()
    with pytest.raises(Refused, match="may not use that model"):
        meter.reserve("r", Ask(SECOND, 1, 1))
    meter = await with_second(desk)
    meter.settle(meter.reserve("r", Ask(SECOND, 1, 1)), Usage(SECOND, output=1_000_000))
    await desk.written()
    rows = await desk.store.read(lambda tx: [tuple(r) for r in tx.execute("SELECT model, cost FROM usage")])
    assert rows == [(SECOND, 10 * 10**9)]


async def test_it_stands_in_from_its_first_answer_to_the_first_ones_next(desk: Desk) -> None:
    """Being asked beside the first (by an agent's helper, say) is no standing in; nor is being overloaded, too."""
    meter = await with_second(desk)
    asked(meter, SECOND, answered=True)
    asked(meter, MODEL, answered=False, overloaded=False)  # a bad request, or nobody was reached
    asked(meter, SECOND, answered=True)
    assert meter.stand_ins.of(FAMILY) is None
    asked(meter, MODEL, answered=False)
    asked(meter, SECOND, answered=False)
    assert meter.stand_ins.of(FAMILY) is None
    asked(meter, SECOND, answered=True)
    assert meter.stand_ins.of(FAMILY) == StandIn("family", SECOND, MODEL, desk.now)
    assert [told["model"] for told in meter.stand_ins.facts()] == [SECOND]
    asked(meter, MODEL, answered=False)
    asked(meter, SECOND, answered=True)
    assert meter.stand_ins.of(FAMILY) is not None
    asked(meter, MODEL, answered=True)
    assert meter.stand_ins.of(FAMILY) is None
    assert meter.stand_ins.facts() == []


@pytest.mark.parametrize(
    ("model", "name", "same"),
    [
        ("claude-opus-5-5", "claude-opus-5-5", True),
        ("claude-opus-5-5", "claude-opus-5-5[1m]", True),
        ("claude-opus-5-5", "opus", True),
        ("claude-opus-5-5", "sonnet", False),
        ("claude-opus-5-5", "claude-opus-5", False),
        ("claude-opus-5-5", "", False),
    ],
)
def test_a_family_names_its_models(model: str, name: str, same: bool) -> None:
    """As the owner may write it."""
    assert is_named(model, name) is same


async def test_a_new_second_model_counts_from_the_next_message_on(folder: Path) -> None:
    """A warm run has the one that it was begun with, so another one is begun; it goes on with the conversation."""
    async with hosting(folder) as host:
        await host.group("family")
        (group,) = await host.rows("SELECT id FROM groups WHERE folder = 'family'")
        for number, second in enumerate(("", SECOND, "haiku", ""), 1):
            with_it = {"fallback_model": second}
            await host.store.write(
                lambda tx, with_it=with_it: chats.save_group(tx, replace(chats.group(tx, group["id"]), **with_it))
            )
            await host.channel.say("family", "!model")
            await host.channel.until(number)
            assert host.channel.texts[-1] == f"model {DEFAULT_MODEL} {second}".rstrip()
        assert len(await host.rows("SELECT DISTINCT fingerprint FROM runs")) == 3
