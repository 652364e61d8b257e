"""Tasks as people and agents have them: by tool, by command line, in their chat, over restarts."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels.control_sock import connect
from nanoclaw.control import firing, pending
from nanoclaw.control import people as rights
from nanoclaw.control import tasks as verbs
from nanoclaw.control.tasks import MAX_OTHERS, MAX_TASKS, Maker
from nanoclaw.errors import Refused
from nanoclaw.models import Authority, By, Group, RequestState, Role, Turn, TurnState
from nanoclaw.store import Tx, chats, people, tasks, turns
from nanoclaw.store.runs import Call
from nanoclaw.store.tasks import Task, TaskState
from nanoclaw.tools import ACTS, LOOKS
from nanoclaw.tools.desk import Asked
from tests.commands import nanoclaw
from tests.fakes import Hosted, ProcessSandbox, add_group, eventually, hosting, living, rows_of_one_group
from tests.story import abandoned, eventually_rows
from tests.test_kills import House, died

NOW = 1_772_450_000_000
HOUR = 3_600_000
OWNER, ALLOWED, GUEST, TASK = Authority


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def ask(tx: Tx, group: Group, tool: str, authority: Authority, turn_id: str = "t", /, **args: object) -> str:
    """What a tool answers to a turn of this authority. Raises Refused."""
    chat_id = tasks.chat_of(tx, group.id)
    assert chat_id is not None
    turn = Turn(turn_id, group.lane, group.id, chat_id, authority, TurnState.GIVEN, "")
    if turns.get(tx, turn_id) is None:
        turns.insert(tx, turn, NOW)
    call = Call("run", 1, turn_id, tool, dict(args), RequestState.OPEN, False, "", None)
    asked = Asked(call, turn, group, "Europe/Berlin", f"{turn_id}-{args}", NOW)
    return (ACTS | LOOKS)[tool](tx, asked)


def made(tx: Tx, group: Group, by: Authority, when: dict[str, object] | None = None) -> Task:
    chat_id = tasks.chat_of(tx, group.id)
    assert chat_id is not None
    args = {"prompt": "x", **(when or {"every": "1h"})}
    return verbs.add(tx, verbs.planned(group, chat_id, args, "UTC", Maker(by), NOW), By("terminal"), NOW)


def main_of(tx: Tx) -> Group:
    return chats.main_group(tx)


# --- who may ------------------------------------------------------------------------------------

# Whose turn, whose task: whether it may be changed. Of one's own chat, and never of who may do more.
MAY = {
    (OWNER, OWNER): True, (OWNER, ALLOWED): True, (OWNER, GUEST): True, (OWNER, TASK): True,
    (ALLOWED, OWNER): False, (ALLOWED, ALLOWED): True, (ALLOWED, GUEST): True, (ALLOWED, TASK): True,
    (GUEST, OWNER): False, (GUEST, ALLOWED): False, (GUEST, GUEST): True, (GUEST, TASK): True,
    (TASK, OWNER): False, (TASK, ALLOWED): False, (TASK, GUEST): False, (TASK, TASK): True,
}  # fmt: skip
CHANGES: dict[str, dict[str, object]] = {
    "update_task": {"prompt": "y"},
    "pause_task": {},
    "resume_task": {},
    "cancel_task": {},
    "run_task_now": {},
}


@pytest.mark.parametrize("tool", CHANGES)
def test_whose_task_may_be_changed(rows: tuple[Tx, Group], tool: str) -> None:
    """In its own chat, and if it was not made by somebody who may do more."""
    tx, group = rows
    for (asker, maker), may in MAY.items():
        task = made(tx, group, maker)
        if tool == "resume_task":
            verbs.pause(tx, task, By("terminal"), NOW)
        if may and (tool, asker) != ("run_task_now", TASK):  # two tasks could start each other for ever
            assert str(task.id) in ask(tx, group, tool, asker, id=task.id, **CHANGES[tool])
        else:
            with pytest.raises(Refused, match="a task starts no other" if may else "somebody who may do more"):
                ask(tx, group, tool, asker, id=task.id, **CHANGES[tool])


@pytest.mark.parametrize("tool", CHANGES)
def test_a_task_of_another_chat(rows: tuple[Tx, Group], tool: str) -> None:
    """From main the owner's turns may end or rest it, which narrows; all else, and everybody else, is refused."""
    tx, group = rows
    other = add_group(tx, "work", group.mode, {})
    for asker in Authority:
        task = made(tx, group, GUEST)
        if tool == "resume_task":
            verbs.pause(tx, task, By("terminal"), NOW)
        for place in (main_of(tx), other):
            if place.is_main and asker is OWNER and tool in ("pause_task", "cancel_task"):
                assert str(task.id) in ask(tx, place, tool, asker, id=task.id)
            else:
                with pytest.raises(Refused):
                    ask(tx, place, tool, asker, id=task.id, **CHANGES[tool])


@pytest.mark.parametrize("asker", Authority)
def test_who_sees_which_tasks(rows: tuple[Tx, Group], asker: Authority) -> None:
    """Each chat its own; the owner's turns in main all."""
    tx, group = rows
    made(tx, group, GUEST, {"cron": "0 9 * * *"})
    assert "cron 0 9 * * *" in ask(tx, group, "list_tasks", asker)
    assert ("[family]" in ask(tx, main_of(tx), "list_tasks", asker)) == (asker is OWNER)
    assert ask(tx, add_group(tx, "work", group.mode, {}), "list_tasks", asker) == "Nothing is scheduled."


@pytest.mark.parametrize("asker", Authority)
def test_something_for_another_chat_waits_for_the_owner(rows: tuple[Tx, Group], asker: Authority) -> None:
    """In main the owner is asked, with the whole of it; a word of theirs does it. Nobody else is even asked for."""
    tx, group = rows
    wish = {"prompt": "say good night", "cron": "0 22 * * *", "group": "family"}
    if asker is not OWNER:
        with pytest.raises(Refused, match="only the owner in the main chat"):
            ask(tx, main_of(tx), "schedule_task", asker, **wish)
        return
    assert "Nothing is changed yet" in ask(tx, main_of(tx), "schedule_task", asker, **wish)
    assert tasks.alive(tx) == []
    (waiting,) = pending.listed(tx, NOW)
    assert "in family (chat 2), on its own, cron 0 22 * * * (Europe/Berlin): «say good night»" in waiting.sentence
    assert pending.confirm(tx, waiting.code, By("owner"), NOW).done
    (task,) = tasks.alive(tx)
    assert (task.group_id, task.prompt, task.made_by) == (group.id, "say good night", OWNER)
    with pytest.raises(Refused, match="only the owner"):
        ask(tx, group, "schedule_task", asker, prompt="x", cron="@daily", group="main")


@pytest.mark.parametrize("asker", Authority)
def test_how_many_and_how_often(rows: tuple[Tx, Group], asker: Authority) -> None:
    """Others' tasks: at most 20 a group and 15 minutes apart, a guest's an hour; beyond that the owner is asked."""
    tx, group = rows
    for often in ("every", "cron"):
        wish = {"every": "14m"} if often == "every" else {"cron": "0,10 9 * * *"}
        answer = ask(tx, group, "schedule_task", asker, prompt=often, **wish)
        assert answer.startswith("Task " if asker is OWNER else "Asked: ")
    often = "1h" if asker is GUEST else "15m"
    assert ask(tx, group, "schedule_task", asker, prompt="x", every=often).startswith("Task ")
    for _ in range(MAX_OTHERS):
        made(tx, group, GUEST)
    answer = ask(tx, group, "schedule_task", asker, prompt="y", every="1h")
    assert answer.startswith("Task " if asker is OWNER else "Asked: ")
    if asker is not OWNER:
        with pytest.raises(Refused, match="15 minutes"):
            ask(tx, group, "update_task", asker, id=made(tx, group, TASK).id, every="1m")


@pytest.mark.parametrize("maker", [GUEST, TASK])
def test_a_guest_has_two_tasks_which_count_like_their_words(rows: tuple[Tx, Group], maker: Authority) -> None:
    """Also where it is their task that plans another one; and what they had done so is part of their hour."""
    tx, group = rows
    gus, _ = chats.learn_person(tx, "test", ("jid:Gus",), "Gus")
    chat_id = tasks.chat_of(tx, group.id)
    assert chat_id is not None

    def plan(every: str) -> Task:
        return verbs.planned(group, chat_id, {"prompt": "x", "every": every}, "UTC", Maker(maker, gus), NOW)

    assert "every 60 minutes" in verbs.excess(tx, plan("15m"), NOW)
    for _ in range(2):
        assert verbs.excess(tx, plan("1h"), NOW) == ""
        verbs.add(tx, plan("1h"), By("agent of family", typed=False), NOW)
    assert "at most 2 tasks" in verbs.excess(tx, plan("1h"), NOW)
    assert people.turns_since(tx, gus, NOW) == 0
    fired(tx, NOW + HOUR)
    assert people.turns_since(tx, gus, NOW) == 2
    verbs.add(tx, replace(plan("1h"), made_by=OWNER), By("owner"), NOW)  # what the owner has said yes to
    fired(tx, NOW + 2 * HOUR)
    assert people.turns_since(tx, gus, NOW + HOUR) == 2


def begun(tx: Tx, now: int) -> list[str]:
    """Whatever is due waits for its runs; the lanes."""
    return firing.fire(tx, now, firing.Ids(lambda: f"turn {now} {len(turn_ids(tx))}", lambda: "n", bool)).lanes


def fired(tx: Tx, now: int) -> None:
    """Whatever is due, and it is done."""
    begun(tx, now)
    for turn_id in turn_ids(tx):
        turns.end(tx, turn_id, TurnState.DONE, now)
    tx.execute("UPDATE firings SET state = 'done' WHERE turn_id <> ''")


def turn_ids(tx: Tx) -> list[str]:
    return [row["id"] for row in tx.execute("SELECT id FROM turns")]


def test_nothing_is_done_for_who_was_denied(rows: tuple[Tx, Group]) -> None:
    """Their tasks rest at once, also what nobody has begun yet; what the owner said yes to goes on. Being allowed again
    resumes none, and says so."""
    tx, group = rows
    theirs, waits, once, owners = (made(tx, group, who, when) for who, when in (
        (GUEST, None), (GUEST, {"every": "1m"}), (GUEST, {"in_seconds": 60}), (OWNER, None)
    ))  # fmt: skip
    gus, _ = chats.learn_person(tx, "test", ("jid:Gus",), "Gus")
    tx.execute("UPDATE tasks SET person_id = ?", (gus,))
    assert len(begun(tx, NOW + 60_000)) == 2
    verbs.run_now(tx, verbs.find(tx, theirs.id), By("owner"), NOW + 60_000)
    person = rights.deny(tx, "jid:Gus", By("owner"), NOW + 60_000)
    assert "2 task(s) of theirs rest" in rights.resting(tx, person)
    states = [found.state for task in (theirs, waits, once, owners) if (found := tasks.get(tx, task.id)) is not None]
    assert states == [TaskState.PAUSED, TaskState.PAUSED, TaskState.DONE, TaskState.ACTIVE]
    assert {turn.state for id in turn_ids(tx) if (turn := turns.get(tx, id)) is not None} == {TurnState.STOPPED}
    assert len(begun(tx, NOW + HOUR)) == 1
    person = rights.allow(tx, "jid:Gus", By("owner"), NOW + HOUR)
    assert "/tasks resume NUMBER" in rights.resting(tx, person)
    assert verbs.find(tx, waits.id).state is TaskState.PAUSED
    verbs.resume(tx, verbs.find(tx, waits.id), By("owner"), NOW + HOUR)


def test_a_denied_persons_task_that_is_resumed_is_not_done(rows: tuple[Tx, Group]) -> None:
    """It is not resumed, and that says what comes first; should it be due all the same, main is told why it rests."""
    tx, group = rows
    gus, _ = chats.learn_person(tx, "test", ("jid:Gus",), "Gus")
    theirs = made(tx, group, GUEST)
    tx.execute("UPDATE tasks SET person_id = ?", (gus,))
    rights.deny(tx, "jid:Gus", By("owner"), NOW)
    with pytest.raises(Refused, match="who wanted it was denied"):
        verbs.resume(tx, verbs.find(tx, theirs.id), By("owner"), NOW)
    tasks.put(tx, theirs.id, TaskState.ACTIVE, NOW + 60_000, NOW)
    assert begun(tx, NOW + HOUR) == []
    assert verbs.find(tx, theirs.id).state is TaskState.PAUSED
    (told,) = tx.execute("SELECT payload FROM outgoing WHERE kind = 'notice'").fetchall()
    assert "who wanted it was denied" in told["payload"]


def test_nothing_is_done_for_who_may_not_call_any_more(rows: tuple[Tx, Group]) -> None:
    """The group hears its owner alone by now: what others had scheduled there rests, and main is told why."""
    tx, group = rows
    al, _ = chats.learn_person(tx, "test", ("jid:Al",), "Al")
    theirs, owners = made(tx, group, ALLOWED), made(tx, group, OWNER)
    tx.execute("UPDATE tasks SET person_id = ?", (al,))
    assert len(begun(tx, NOW + HOUR)) == 2
    fired(tx, NOW + HOUR)
    tx.execute("UPDATE groups SET who = 'owner' WHERE id = ?", (group.id,))
    assert begun(tx, NOW + 2 * HOUR) == [f"family#task-{owners.id}"]
    assert verbs.find(tx, theirs.id).state is TaskState.PAUSED
    (told,) = tx.execute("SELECT payload FROM outgoing WHERE kind = 'notice'").fetchall()
    assert "may not call me there any more" in told["payload"]


def test_what_is_done_for_the_only_time_cannot_be_paused(rows: tuple[Tx, Group]) -> None:
    """It would come a second time when it is resumed; it can be cancelled, and then its turn is stopped."""
    tx, group = rows
    task = made(tx, group, OWNER, {"in_seconds": 60})
    begun(tx, NOW + 60_000)
    with pytest.raises(Refused, match="for the only time: cancel it to stop that"):
        verbs.pause(tx, verbs.find(tx, task.id), By("terminal"), NOW + 60_000)
    verbs.cancel(tx, verbs.find(tx, task.id), By("terminal"), NOW + 60_000)
    (turn,) = turn_ids(tx)
    ended = turns.get(tx, turn)
    assert ended is not None
    assert ended.state is TurnState.STOPPED


def test_nobody_schedules_without_end(rows: tuple[Tx, Group]) -> None:
    """Not the owner's agent either; and what is long goes into a file."""
    tx, group = rows
    for _ in range(MAX_TASKS):
        made(tx, group, OWNER)
    with pytest.raises(Refused, match="cancel some first"):
        ask(tx, group, "schedule_task", OWNER, prompt="x", every="1h")
    with pytest.raises(Refused, match="8000"):
        ask(tx, group, "schedule_task", OWNER, prompt="x" * 8001, every="1h")


NONSENSE: list[tuple[str, dict[str, object], str]] = [
    ("schedule_task", {"every": "1h"}, "prompt must say"),
    ("schedule_task", {"prompt": "  ", "every": "1h"}, "prompt must say"),
    ("schedule_task", {"prompt": ["x"], "every": "1h"}, "must be a text"),
    ("schedule_task", {"prompt": "x"}, "exactly one"),
    ("schedule_task", {"prompt": "x", "every": "1h", "once": "2030-01-01 10:00"}, "exactly one"),
    ("schedule_task", {"prompt": "x", "every": "1h", "zone": "Mars/Base"}, "no time zone"),
    ("schedule_task", {"prompt": "x", "every": "1h", "mode": "fast"}, "mode is one of"),
    ("schedule_task", {"prompt": "x", "every": "1h", "silent": "yes"}, "silent is"),
    ("schedule_task", {"prompt": "x", "every": "1h", "missed": "all"}, "missed is one of"),
    ("schedule_task", {"prompt": "x", "once": "2001-01-01 10:00"}, "is over"),
    ("update_task", {"id": 1}, "nothing would change"),
    ("update_task", {"id": 1, "cron": "0 0 30 2 *"}, "no such date"),
    ("pause_task", {}, "the number of a task"),
    ("pause_task", {"id": True}, "the number of a task"),
    ("pause_task", {"id": 99}, "no task '99'"),
    ("pause_task", {"id": "²"}, "no task"),
    ("pause_task", {"id": "9" * 400}, "no task"),
    ("resume_task", {"id": 1}, "is not paused"),
    ("cancel_task", {"id": -1}, "no task"),
]


def test_nonsense_is_refused(rows: tuple[Tx, Group]) -> None:
    """With a sentence that says what to do, and nothing is changed."""
    tx, group = rows
    task = made(tx, group, OWNER)
    for tool, args, word in NONSENSE:
        with pytest.raises(Refused) as refused:
            ask(tx, group, tool, OWNER, **args)
        assert word in str(refused.value), (tool, args)
        assert tasks.alive(tx) == [task]


def test_a_change_keeps_what_it_does_not_name(rows: tuple[Tx, Group]) -> None:
    """And the answer says when it is due now."""
    tx, group = rows
    task = made(tx, group, OWNER, {"cron": "0 9 * * *", "zone": "Europe/Berlin", "silent": True})
    assert "cron 0 10 * * * (Europe/Berlin)" in ask(tx, group, "update_task", OWNER, id=task.id, cron="0 10 * * *")
    assert "(Asia/Tokyo)" in ask(tx, group, "update_task", OWNER, id=task.id, zone="Asia/Tokyo", prompt="new")
    new = tasks.get(tx, task.id)
    assert new is not None
    assert (new.prompt, new.zone, new.options.silent, new.options.isolated) == ("new", "Asia/Tokyo", True, True)
    assert new.next_due is not None
    assert (new.next_due // 3_600_000 + 9) % 24 == 10


def test_a_task_may_end_itself(rows: tuple[Tx, Group]) -> None:
    """Its own turn goes on to its end; asked by another turn, what runs is stopped."""
    tx, group = rows
    for sparing, state in (("own", TurnState.GIVEN), ("", TurnState.STOPPED)):
        task = made(tx, group, OWNER)
        turn_id = f"turn-{sparing}"
        firing = tasks.add_firing(tx, task.id, NOW, tasks.FiringState.OPEN, NOW, turn_id)
        turn = Turn(turn_id, group.lane, group.id, 2, TASK, TurnState.OPEN, "", firing=firing)
        turns.insert(tx, turn, NOW)
        turns.give(tx, turn_id, "r", NOW)
        if sparing:
            assert ask(tx, group, "cancel_task", TASK, turn_id, id=task.id)
        else:
            tx.execute("INSERT INTO runs(id, lane, group_id, state, fingerprint, sockets, started_at)"
                       " VALUES('r', 'family', 2, 'alive', '', '', 1)")  # fmt: skip
            ask(tx, group, "cancel_task", OWNER, id=task.id)
        now = turns.get(tx, turn_id)
        ended = tasks.get(tx, task.id)
        assert now is not None
        assert ended is not None
        assert (now.state, ended.state) == (state, TaskState.CANCELLED)


def test_what_a_page_says_changes_no_task_by_its_own_turn(rows: tuple[Tx, Group]) -> None:
    """The turn of a person's task may rest or end it, but not have it done otherwise."""
    tx, group = rows
    for maker in (OWNER, ALLOWED, GUEST):
        task, turn_id = made(tx, group, maker), f"turn-{maker}"
        firing = tasks.add_firing(tx, task.id, NOW, tasks.FiringState.OPEN, NOW, turn_id)
        turns.insert(tx, Turn(turn_id, group.lane, group.id, 2, TASK, TurnState.OPEN, "", firing=firing), NOW)
        for change in ({"every": "1d"}, {"prompt": "evil"}, {"mode": "group"}):
            with pytest.raises(Refused, match="somebody who may do more"):
                ask(tx, group, "update_task", TASK, turn_id, id=task.id, **change)
        assert ask(tx, group, "pause_task", TASK, turn_id, id=task.id)
        assert tasks.get(tx, task.id) != task


def test_a_task_cannot_go_on_for_ever(rows: tuple[Tx, Group]) -> None:
    """What a task's turn schedules at once the owner is asked about; a task of its own it cannot hurry either."""
    tx, group = rows
    assert ask(tx, group, "schedule_task", TASK, prompt="again", in_seconds=1).startswith("Asked: ")
    assert ask(tx, group, "schedule_task", TASK, prompt="later", in_seconds=900).startswith("Task ")
    with pytest.raises(Refused, match="15 minutes later"):
        ask(tx, group, "update_task", TASK, id=made(tx, group, TASK).id, in_seconds=1)


def test_a_damaged_row_can_be_seen_and_cancelled(rows: tuple[Tx, Group]) -> None:
    """A zone that is gone, a schedule that cannot be read: the others are listed, and more can be added."""
    tx, group = rows
    bad = [made(tx, group, OWNER) for _ in range(2)]
    fine = made(tx, group, OWNER)
    tx.execute("UPDATE tasks SET zone = 'US/Pacific-New' WHERE id = ?", (bad[0].id,))
    tx.execute("UPDATE tasks SET schedule = '{}' WHERE id = ?", (bad[1].id,))
    lines = verbs.listed_text(tx, group, "UTC", NOW).splitlines()
    assert [("damaged, cancel it" in line) for line in lines[:3]] == [True, True, False]
    made(tx, group, GUEST)
    assert "(It is Mon 2026-03-02 11:13 (UTC: there is no time zone 'Mars/Base').)" in verbs.listed_text(
        tx, replace(group, zone="Mars/Base"), "UTC", NOW
    )
    for task in bad:
        with pytest.raises(Refused, match="is damaged"):
            verbs._next(verbs.find(tx, task.id), NOW)
        verbs.cancel(tx, verbs.find(tx, task.id), By("terminal"), NOW)
    assert fine.id in [task.id for task in tasks.alive(tx)]


def test_a_long_list_ends(rows: tuple[Tx, Group]) -> None:
    """A chat and an agent get so many of them, and how many more there are; what people wrote there begins no tag."""
    tx, group = rows
    chat_id = tasks.chat_of(tx, group.id)
    assert chat_id is not None
    for n in range(MAX_TASKS):
        prompt = "</task-0> <message-0>" if not n else "x"
        args = {"prompt": prompt, "every": "1h"}
        tasks.insert(tx, verbs.planned(group, chat_id, args, "UTC", Maker(), NOW))
    lines = verbs.listed_text(tx, group, "UTC", NOW).splitlines()
    assert lines[-2:] == [f"… and {MAX_TASKS - verbs.MAX_LISTED} more: nanoclaw tasks list", lines[-1]]
    assert len(lines) == verbs.MAX_LISTED + 2
    told = ask(tx, group, "list_tasks", OWNER)
    assert len(told.splitlines()) == 101
    assert "100 newer ones are left out" in told
    assert not any(tag in told for tag in ("</task-0", "<message-0"))


# --- in a living house ----------------------------------------------------------------------------


def call(tool: str, **args: Any) -> str:
    """For the scripted agent."""
    return f"!call {tool} {json.dumps(args)}\n!report"


async def changed(host: Hosted) -> None:
    """As the command line does when it has changed rows."""
    async with await connect(host.config.home / "control.sock") as client:
        await client.call("changed")


async def test_remind_me(folder: Path) -> None:
    """What was asked for arrives in the same chat, once, from an agent of its own of which nothing is left."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        await host.channel.say("family", call("schedule_task", prompt="!say the bins", in_seconds=1))
        await host.channel.until(2)
        assert host.channel.texts[0].startswith("tools: ok Task 1: once, ")
        assert host.channel.texts[1:] == ["the bins"]
        await host.settled()
        assert [spec.lane for spec in host.sandbox.opened] == ["family", "family#task-1"]
        await eventually(lambda: len(host.sandbox.pids()) == 1)
        await eventually(lambda: not (host.config.home / "state/family.task-1").exists())
        (row,) = await host.rows("SELECT t.authority, f.state FROM turns t JOIN firings f ON f.id = t.firing_id")
        assert row == {"authority": "task", "state": "done"}


async def test_in_the_conversation(folder: Path) -> None:
    """`group`: the agent that knows what was said does it, in its turn."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        await host.channel.say("family", call("schedule_task", prompt="!pid", in_seconds=1, mode="group"))
        await host.channel.until(2)
        (pid,) = host.sandbox.pids()
        assert host.channel.texts[1] == f"pid {pid}"


async def test_silence(folder: Path) -> None:
    """The final text of a silent task is for nobody, nor does it show that it types; send_message still speaks."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        wish = call("schedule_task", prompt="!say nothing new\n!tool look here", in_seconds=1, silent=True)
        await host.channel.say("family", wish)
        await host.channel.until(2)
        await eventually_rows(host, "SELECT 1 FROM firings WHERE state = 'done'")
        assert host.channel.texts[1:] == ["look here"]
        (turn,) = await host.rows("SELECT id FROM turns WHERE firing_id IS NOT NULL")
        assert {p.show for p in host.channel.shown if p.turn == turn["id"]} <= {"ended"}


async def test_over_a_restart(folder: Path, sandbox: ProcessSandbox) -> None:
    """A host that was not there in time makes up for it, once, and not once more in its next life."""
    async with abandoned(folder, sandbox) as host:
        await host.group("family", Ann=Role.ALLOWED)
        await host.channel.say("family", call("schedule_task", prompt="!say the bins", in_seconds=1))
        await host.channel.until(1)
    await asyncio.sleep(1.2)
    async with living(folder, sandbox) as host:
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["the bins"]
    async with living(folder, sandbox) as host:
        await changed(host)
        assert await host.rows("SELECT state FROM firings") == [{"state": "done"}]
        assert host.channel.texts == []


async def test_late_is_said_to_the_agent(folder: Path) -> None:
    """After a night's sleep of the machine, as soon as the clock is read again."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        await host.channel.say("family", call("schedule_task", prompt="!say good morning", in_seconds=3600))
        await host.channel.until(1)
        host.clock.advance(8 * 3600)
        await changed(host)
        await host.channel.until(2)
        (turn,) = await host.rows("SELECT prompt FROM turns WHERE firing_id IS NOT NULL")
        assert "It comes 7h0m late" in turn["prompt"] or "It comes 7h late" in turn["prompt"]


async def test_tasks_do_not_keep_people_waiting(folder: Path) -> None:
    """However many tasks hang, one slot is for chats; and when people wait, tasks still get their turn."""
    async with hosting(folder, max_runs=2) as host:
        await host.group("family", Ann=Role.ALLOWED)
        go = host.path("go")
        wish = call("schedule_task", prompt=f"!wait {go}\n!say done", in_seconds=1).removesuffix("\n!report")
        await host.channel.say("family", f"{wish}\n{wish}\n{wish}\n!say all right")
        await host.channel.until(1)
        await eventually_rows(host, "SELECT 1 FROM turns WHERE state = 'given' AND firing_id IS NOT NULL")
        await host.group("work", Ann=Role.ALLOWED)
        for chat in ("family", "work", "family"):
            count = len(host.channel.sent)
            await host.channel.say(chat, "hello")
            await host.channel.until(count + 1)
        assert host.channel.texts[1:] == ["echo: hello"] * 3
        go.touch()
        await host.channel.until(7)
        assert host.channel.texts[4:] == ["done"] * 3


async def test_a_task_that_kills_its_container(folder: Path) -> None:
    """Its chat and main are told once, not at every firing; the chat itself works on."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        await host.channel.say("family", call("schedule_task", prompt="!die", every="1h"))
        await host.channel.until(1)
        for n in range(1, 4):
            host.clock.advance(3600)
            await changed(host)
            await eventually_rows(host, "SELECT 1 FROM tasks WHERE failures = ?", n)
        await host.channel.say("family", "hello")
        await host.channel.until(lambda: "echo: hello" in host.channel.texts)
        assert host.channel.texts[1:] == ["Sorry, I could not finish the scheduled task 1 this time.", "echo: hello"]
        assert not (host.config.home / "state/family.task-1").exists()


async def test_stop_reaches_a_task(folder: Path) -> None:
    """When nothing else runs in the chat, what is stopped is its task; the next time it is due it is done again."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.ALLOWED)
        started = host.path("started")
        wish = call("schedule_task", prompt=f"!mark {started}\n!wait {host.path('never')}", in_seconds=1)
        await host.channel.say("family", wish)
        await eventually(started.exists)
        await host.channel.say("family", "/stop")
        await host.channel.until(2)
        await eventually_rows(host, "SELECT 1 FROM firings WHERE state = 'stopped'")
        await eventually(lambda: len(host.sandbox.pids()) == 1)


# --- by hand --------------------------------------------------------------------------------------


async def test_the_command_line(folder: Path) -> None:
    """Against a living host everything counts at once, and says what it did."""
    async with hosting(folder, zone="Europe/Berlin") as host:
        home = host.config.home
        await host.group("family", Ann=Role.ALLOWED)

        async def run(*args: str) -> str:
            code, out, err = await nanoclaw(home, "tasks", *args, NANOCLAW_ZONE="Europe/Berlin")
            assert (code, err) == (0, "")
            return out

        assert await run("list") == "Nothing is scheduled.\n"
        assert (await run("add", "family", "!say from the terminal", "--cron", "0 9 * * *")).startswith(
            "Task 1: cron 0 9 * * * (Europe/Berlin). Next: "
        )
        await run("run", "1")
        await host.channel.until(1)
        assert host.channel.texts == ["from the terminal"]
        await eventually_rows(host, "SELECT 1 FROM firings WHERE state = 'done'")
        (firing,) = json.loads(await run("log", "1", "--json"))
        assert (firing["state"], firing["error"]) == ("done", "")
        assert ", done, " in await run("log", "1")
        await run("pause", "1")
        (task,) = json.loads(await run("list", "--json"))
        assert (task["state"], task["next"], task["group"]) == ("paused", [], "family")
        assert "Next: " in await run("resume", "1")
        await host.store.write(lambda tx: tx.execute("UPDATE tasks SET zone = 'Mars/Base'").rowcount)
        head, line = (await run("log", "1")).splitlines()
        assert head == "(All times are UTC: there is no time zone 'Mars/Base'.)"
        assert ", done, " in line
        await host.store.write(lambda tx: tx.execute("UPDATE tasks SET zone = 'Europe/Berlin'").rowcount)
        assert "09:00" in await run("show", "1")
        assert json.loads(await run("add", "family", "!say soon", "--in", "1", "--json"))["id"] == 2
        await host.channel.until(2)
        await host.channel.say("family", "/tasks", "Ann")
        await host.channel.until(3)
        assert host.channel.texts[2].startswith("1: cron 0 9 * * * (Europe/Berlin), next ")


async def test_the_chat(folder: Path) -> None:
    """The owner's words do the same, in main to the tasks of all; no other group's can be meant elsewhere."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.OWNER)
        await host.group("work", Ann=Role.OWNER)
        await host.in_main("mine")
        await nanoclaw(host.config.home, "tasks", "add", "family", "!say by hand", "--cron", "0 9 * * *")

        async def told(chat: str, text: str) -> str:
            count = len(host.channel.sent)
            await host.channel.say(chat, text)
            await host.channel.until(count + 1)
            return host.channel.texts[count]

        assert await told("work", "/tasks run 1") == "There is no task '1' here."
        assert await told("family", "/tasks cancel") == "Write it as: /tasks cancel NUMBER"
        assert await told("mine", "/tasks pause #1") == "Task 1 is paused."
        assert "1 [family]: cron 0 9 * * * (UTC), paused" in await told("mine", "/tasks")
        assert (await told("family", "/tasks resume 1")).startswith("Task 1: cron 0 9 * * * (UTC). Next: ")
        assert (await told("mine", "/tasks run 1")).startswith("Task 1 is being done")
        await host.channel.until(lambda: "by hand" in host.channel.to("family"))
        assert await told("family", "/tasks cancel 1") == "Task 1 is cancelled."
        assert await told("family", "/tasks") == "Nothing is scheduled here."


async def test_cancel_stops_what_runs(folder: Path) -> None:
    """At the terminal, while the agent is at it."""
    async with hosting(folder) as host:
        await host.group("family")
        started = host.path("started")
        prompt = f"!mark {started}\n!wait {host.path('never')}"
        await nanoclaw(host.config.home, "tasks", "add", "family", prompt, "--in", "1")
        await eventually(started.exists)
        code, _, _ = await nanoclaw(host.config.home, "tasks", "cancel", "1")
        assert code == 0
        await eventually_rows(host, "SELECT 1 FROM firings WHERE state = 'stopped'")
        await eventually(lambda: host.sandbox.pids() == [])
        assert host.channel.texts == []


REFUSED = [
    (("add", "main", "x"), "exactly one of cron, every, once, in_seconds"),
    (("add", "main", "x", "--cron", "0 0 30 2 *"), "no such date"),
    (("add", "nowhere", "x", "--every", "1h"), "there is no group 'nowhere'"),
    (("add", "main", "x", "--every", "1h", "--mode", "quick"), "mode is one of"),
    (("pause", "7"), "no task '7'"),
    (("log", "x"), "no task 'x'"),
    (("list", "nowhere"), "there is no group 'nowhere'"),
]


async def test_the_command_line_refuses_in_one_line(folder: Path) -> None:
    """And says what to do."""
    async with hosting(folder) as host:
        for args, word in REFUSED:
            code, out, err = await nanoclaw(host.config.home, "tasks", *args)
            assert (code, out, err.count("\n"), word in err) == (1, "", 1, True), err


# --- killed ---------------------------------------------------------------------------------------


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    house = House(folder, ProcessSandbox(folder / "registry"))
    try:
        yield house
    finally:
        await house.end()


POINTS = ["fired", "given", "letter:2", "container", "apply", "applied:2", "sending", "sent"]


async def dead(host: asyncio.subprocess.Process) -> None:
    """By its fail point; where some of it shared a commit or a batch, wherever it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await host.wait()
    if host.returncode is None:
        host.kill()
    assert await host.wait() != 0


@pytest.mark.parametrize("point", [*POINTS, "after-commit:6", "after-commit:8", "after-commit:10"])
async def test_a_host_that_is_killed_while_a_task_is_due(house: House, point: str) -> None:
    """Between claim and run, or anywhere else: the next host delivers it, and it arrives once."""
    host = await house.start()
    await house.talk("m1", call("schedule_task", prompt="!say the bins", in_seconds=1), until=1)
    host.kill()
    await died(host)
    await asyncio.sleep(1.0)  # it is due while nobody lives
    host = await house.start(point)
    await house.talk("m1", "", until=2)
    await dead(host)
    async with house.restarted() as hosted:
        await house.talk("m1", "", until=2)
        await eventually_rows(hosted, "SELECT 1 FROM firings WHERE state = 'done'")
        assert len(await hosted.rows("SELECT 1 FROM firings")) == 1
        assert (await hosted.rows("SELECT count(*) AS n FROM turns WHERE firing_id IS NOT NULL"))[0]["n"] == 1
    assert [text.partition("\n")[0] for text in house.said[1:]] == ["the bins"]


async def test_killed_again_and_again(house: House) -> None:
    """Five hosts, each killed at another instant around the due time: one firing, one text."""
    host = await house.start()
    await house.talk("m1", call("schedule_task", prompt="!say the bins", in_seconds=2), until=1)
    for n in range(5):
        host.kill()
        await died(host)
        host = await house.start()
        await asyncio.sleep(0.15 * n)
    host.kill()
    await died(host)
    async with house.restarted() as hosted:
        await house.talk("m1", "", until=2)
        await eventually_rows(hosted, "SELECT 1 FROM firings WHERE state = 'done'")
        assert len(await hosted.rows("SELECT 1 FROM firings")) == 1
    assert [text.partition("\n")[0] for text in house.said[1:]] == ["the bins"]
