"""Slots are given in the order of asking and never get lost; a claim takes what may go together."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanoclaw import prompts, router
from nanoclaw.control import lanes
from nanoclaw.dispatcher import Dispatcher, Slots, claim
from nanoclaw.models import Authority, Group, Turn
from nanoclaw.store import Tx, chats, messages
from tests.fakes import join_main, rows_of_one_group, said


async def ask(slots: Slots, count: int, *, task: bool = False) -> list[asyncio.Task[None]]:
    """So many lanes ask, one after the other."""
    tasks = [asyncio.ensure_future(slots.take(task)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def have(tasks: list[asyncio.Task[None]]) -> list[bool]:
    return [t.done() for t in tasks]


async def test_slots_are_given_in_the_order_of_asking() -> None:
    """Two of four; the others when one is put back."""
    slots = Slots(lambda: 2)
    tasks = await ask(slots, 4)
    assert have(tasks) == [True, True, False, False]
    assert slots.wanted
    for n in (3, 4):
        slots.put()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert have(tasks) == [True] * n + [False] * (4 - n)
    assert not slots.wanted


async def test_a_slot_is_not_lost_with_who_was_cancelled() -> None:
    """Neither while waiting, nor in the instant in which it was given."""
    slots = Slots(lambda: 1)
    first, second, third = await ask(slots, 3)
    second.cancel()
    await asyncio.wait({second})
    slots.put()
    third.cancel()  # it has the slot and does not know it yet
    await asyncio.wait({third})
    assert have(await ask(slots, 2)) == [True, False]
    await first


def of_one_slot() -> Dispatcher:
    """One slot, and the run of lane A has it."""
    nothing: Any = None
    run = SimpleNamespace(row=SimpleNamespace(id="run", lane="A"), free=False, closing=False, turns=["t"])
    runner: Any = SimpleNamespace(runs={"A": run})
    config: Any = SimpleNamespace(max_runs=1)
    dispatcher = Dispatcher(
        store=nothing, runner=runner, files=nothing, wake_outbox=lambda: None, config=lambda: config,
        clock=lambda: 0, new_turn=str, new_nonce=str, spawn=nothing,
    )  # fmt: skip
    dispatcher.count()
    return dispatcher


async def test_a_run_of_two_questions_takes_one_slot_back() -> None:
    """However its answers come, and also when who waits for one of them is gone."""
    dispatcher = of_one_slot()
    dispatcher.rest("run")
    await dispatcher._slots.take()  # another lane's
    rising = [asyncio.ensure_future(dispatcher.rise("run")) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert have(rising) == [False, False, False]
    rising[0].cancel()
    await asyncio.wait({rising[0]})
    dispatcher._slots.put()
    await asyncio.gather(*rising[1:])
    assert have(await ask(dispatcher._slots, 1)) == [False]
    dispatcher._on_end("A")
    assert have(await ask(dispatcher._slots, 1)) == [False]  # the one that asked before has it now
    dispatcher._slots.put()
    await asyncio.sleep(0)
    assert not dispatcher._slots.wanted


async def test_a_run_that_rests_is_given_nothing() -> None:
    """It has no slot to work with: a follow-up waits until it has one again."""
    dispatcher = of_one_slot()
    dispatcher.rest("run")
    run: Any = dispatcher._runner.runs["A"]
    group: Any = None
    assert not await dispatcher._follow_up(run, group)  # or it would have looked into the store, which is not there


async def test_tasks_leave_a_slot_to_people() -> None:
    """However many are due; and a slot that none of them may have wakes nobody in vain."""
    slots = Slots(lambda: 3)
    assert have(await ask(slots, 10, task=True)) == [True, True] + [False] * 8
    assert not slots.wanted
    assert have(await ask(slots, 2)) == [True, False]
    assert slots.wanted


async def test_when_slots_are_short() -> None:
    """A lane waits that another one's end would help, or there are fewer slots now than runs that stay."""
    count = 3
    slots = Slots(lambda: count)
    assert not slots.short(0)
    await ask(slots, 3)
    assert not slots.short(0)
    count = 1  # the setting was changed
    assert [slots.short(leaving) for leaving in range(4)] == [True, True, False, False]
    count = 3
    (waits,) = await ask(slots, 1)
    assert slots.short(3)
    slots.put()
    await waits
    assert not slots.short(0)
    slots = Slots(lambda: 2)
    await ask(slots, 3, task=True)  # of two slots one is for people: no task's end but its own helps the next one
    assert not slots.short(0)


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_chats_and_tasks_are_served_in_turn(count: int) -> None:
    """However many of the one kind wait, of two slots that become free one is for the other."""
    slots = Slots(lambda: count)
    people = await ask(slots, count)  # all slots
    chats_, tasks = await ask(slots, 20), await ask(slots, 20, task=True)
    await asyncio.gather(*people)
    served, holders = [], [False] * count
    for _ in range(30):
        before = (sum(have(chats_)), sum(have(tasks)))
        slots.put(holders.pop(0))
        for _ in range(3):
            await asyncio.sleep(0)
        served.append(sum(have(tasks)) > before[1])
        holders.append(served[-1])
        assert sum(have(chats_)) + sum(have(tasks)) == sum(before) + 1
    assert served in ([False, True] * 15, [True, False] * 15)


async def test_forced_slots_are_paid_back_first() -> None:
    """Runs that lived already may be more than there are slots."""
    slots = Slots(lambda: 1)
    slots.force()
    slots.force()
    (waiting,) = await ask(slots, 1)
    slots.put()
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.put()
    await waiting


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def claimed(
    tx: Tx, group: Group, may: Callable[[Authority], bool] = lambda a: True, chat_id: int | None = None
) -> Turn | None:
    n = tx.execute("SELECT count(*) FROM turns").fetchone()[0]
    return claim(tx, group.lane, group, may, chat_id, turn_id=f"t{n}", nonce="ab", zone="UTC", now=5000)


@pytest.mark.parametrize(
    ("senders", "authority"),
    [(["Olga"], "owner"), (["Olga", "Al"], "allowed"), (["Al", "Gus", "Olga"], "guest"), (["Gus"], "guest")],
)
def test_authority_is_the_lowest(rows: tuple[Tx, Group], senders: list[str], authority: str) -> None:
    """One guest among them makes it a guest's turn."""
    tx, group = rows
    for n, sender in enumerate(senders):
        router.hear(tx, said(f"word {n}", sender), 1000)
    turn = claimed(tx, group)
    assert turn is not None
    assert turn.authority == authority
    assert all(f"word {n}" in turn.prompt for n in range(len(senders)))
    assert claimed(tx, group) is None


def test_a_claim_ends_before_whoever_may_not(rows: tuple[Tx, Group]) -> None:
    """What comes behind a guest waits with the guest: order is kept."""
    tx, group = rows
    for text, sender in (("one", "Olga"), ("two", "Gus"), ("three", "Olga")):
        router.hear(tx, said(text, sender), 1000)
    turn = claimed(tx, group, lambda a: a is Authority.OWNER)
    assert turn is not None
    assert "one" in turn.prompt
    assert "three" not in turn.prompt
    assert [m.text for m in messages.open_work(tx, group.lane)] == ["two", "three"]
    assert claimed(tx, group, lambda a: a is Authority.OWNER) is None


def test_a_follow_up_is_of_the_running_turns_chat(rows: tuple[Tx, Group]) -> None:
    """Main with two chats: the other chat's message, and what came after it, wait."""
    tx, _ = rows
    main = chats.group(tx, 1)
    for n, chat in enumerate(("left", "right", "left")):
        join_main(tx, chat)
        router.hear(tx, said(f"word {n}", chat=chat), 1000)
    first = claimed(tx, main)
    assert first is not None
    assert "word 0" in first.prompt
    assert "word 1" not in first.prompt
    assert "word 2" in first.prompt
    assert claimed(tx, main, chat_id=first.chat_id) is None


def test_nobody_is_pushed_out(rows: tuple[Tx, Group]) -> None:
    """What does not fit into one prompt waits for the next, in order, and keeps its own authority."""
    tx, group = rows
    router.hear(tx, said("please wire up the thing", "Olga"), 1000)
    for n in range(300):
        router.hear(tx, said(f"word {n}." + "x" * 40_000 * (n < 4), "&" * 60), 1000)  # names take room, too
    found = []
    while (turn := claimed(tx, group)) is not None:
        found.append(turn)
        assert len(turn.prompt) <= prompts.BUDGET
        assert "left out]" not in turn.prompt
    assert "please wire up the thing" in found[0].prompt
    assert [sum(f"word {n}." in turn.prompt for turn in found) for n in range(300)] == [1] * 300


def test_context_is_shown_up_to_the_work(rows: tuple[Tx, Group]) -> None:
    """What was said after the last message of a turn is the next one's."""
    tx, group = rows
    router.hear(tx, said("one " + "x" * 40_000, "Gus"), 1000)
    router.hear(tx, said("two " + "x" * 40_000, "Gus"), 1000)
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy'")
    router.hear(tx, said("between", "Gus"), 1000)
    router.hear(tx, said("@Andy three", "Gus"), 1000)
    first, second = claimed(tx, group), claimed(tx, group)
    assert first is not None
    assert second is not None
    assert ("two" in first.prompt, "between" in first.prompt, "between" in second.prompt) == (True, False, True)


def test_a_long_silence_costs_little(rows: tuple[Tx, Group]) -> None:
    """Of a thousand messages that nobody asked about the newest are read, all are counted, and all are over."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy'")
    for n in range(300):
        router.hear(tx, said(f"talk {n} " + "x" * 2000, "Gus"), 1000)
    router.hear(tx, said("@Andy hi", "Olga"), 1000)
    (chat,) = {m.chat_id for m in messages.open_work(tx, group.lane)}
    assert len(messages.open_context(tx, chat, 1 << 40)) < 40
    turn = claimed(tx, group)
    assert turn is not None
    shown = turn.prompt.count("talk ")
    assert 20 < shown < 40
    assert "talk 299 " in turn.prompt
    assert f"[{300 - shown} earlier messages were left out]" in turn.prompt
    assert [r["state"] for r in tx.execute("SELECT DISTINCT state FROM messages")] == ["taken"]


def test_a_flood_of_work_is_counted_and_not_read(rows: tuple[Tx, Group]) -> None:
    """As much as one prompt holds is looked at, from the oldest on."""
    tx, group = rows
    for n in range(300):
        router.hear(tx, said(f"word {n} " + "x" * 2000), 1000)
    work = messages.open_work(tx, group.lane)
    assert len(work) < 40
    assert work[0].text.startswith("word 0 ")
    assert "300 message(s) wait" in lanes.status(tx, group, "", str, "UTC", 1000)
