"""/words: who may, what is answered, and what is left to do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw import commands
from nanoclaw.commands import COMMANDS, Asked
from nanoclaw.models import Authority, Chat, Group, Role, RunRow, RunState, Turn, TurnState
from nanoclaw.store import Tx, runs, turns
from tests.fakes import rows_of_one_group

CHAT = Chat(2, "test", "family", "family", True, 2)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


FOUND = [
    *(("/stop", "stop"), (" /StOp\n", "stop"), ("/help", "help"), ("/new", "new"), ("/status", "status")),
    *((" /forget \n ALL", "forget all"), ("/forget", "forget"), ("/forget me", "")),
    *((x, "") for x in ("stop", "/stop now", "/stopx", "//stop", "/ stop", "/", "", "/unknown", "see /stop")),
]


@pytest.mark.parametrize(("text", "word"), FOUND)
def test_what_is_a_command(text: str, word: str) -> None:
    """Case and blanks are forgiven, nothing else."""
    assert commands.find(text) == word


@pytest.mark.parametrize("word", COMMANDS)
@pytest.mark.parametrize(("role", "may"), [(Role.OWNER, True), (Role.ALLOWED, True), (Role.GUEST, False)])
def test_who_may(rows: tuple[Tx, Group], word: str, role: Role, may: bool) -> None:
    """A guest gets silence."""
    tx, group = rows
    assert (commands.run(tx, word, Asked(group, role, 1000, CHAT)) is not None) is may


def a_turn(tx: Tx, group: Group, state: TurnState) -> None:
    runs.insert(tx, RunRow("r", group.lane, group.id, RunState.ALIVE, "f"), "m")
    (chat,) = tx.execute("SELECT id FROM chats WHERE group_id = ?", (group.id,)).fetchone()
    turns.insert(tx, Turn("t", group.lane, group.id, chat, Authority.OWNER, TurnState.OPEN, "p"), 1)
    turns.give(tx, "t", "r", 1)
    tx.execute("UPDATE turns SET state = ?", (state,))


@pytest.mark.parametrize("state", [TurnState.GIVEN, TurnState.OPEN, TurnState.PARKED])
def test_stop_ends_the_turn_in_the_same_transaction(rows: tuple[Tx, Group], state: TurnState) -> None:
    """Running, waiting or parked: it is stopped, and a run that has it gets the letter."""
    tx, group = rows
    a_turn(tx, group, state)
    answered = commands.run(tx, "stop", Asked(group, Role.OWNER, 1000, CHAT))
    assert answered is not None
    assert (answered.text, answered.stop) == ("Stopped.", "t")
    assert tx.execute("SELECT state FROM turns").fetchone()["state"] == "stopped"
    kinds = [letter.kind for _, letter in runs.letters(tx, "r")]
    assert ("stop" in kinds) == (state is TurnState.GIVEN)
    again = commands.run(tx, "stop", Asked(group, Role.OWNER, 1000, CHAT))
    assert again is not None
    assert again.text == "Nothing is running."


def test_new_forgets_the_session_and_retires_the_run(rows: tuple[Tx, Group]) -> None:
    """The run takes no more turns; without one there is nothing to retire."""
    tx, group = rows
    turns.set_session(tx, group.lane, "s")
    first = commands.run(tx, "new", Asked(group, Role.OWNER, 1000, CHAT))
    assert first is not None
    assert not first.retire
    assert turns.session(tx, group.lane) == ""
    a_turn(tx, group, TurnState.GIVEN)
    second = commands.run(tx, "new", Asked(group, Role.OWNER, 1000, CHAT))
    assert second is not None
    assert second.retire
    row = runs.get(tx, "r")
    assert row is not None
    assert row.state is RunState.CLOSING


def test_status_names_what_is_wrong(rows: tuple[Tx, Group]) -> None:
    """A parked lane says so; why, and what to do, in main alone."""
    tx, group = rows
    turns.park(tx, group.lane, "billing", "pay", 1)
    answered = commands.run(tx, "status", Asked(group, Role.OWNER, 1000, CHAT))
    assert answered is not None
    assert "is kept" in answered.text
    assert "pay" not in answered.text
    answered = commands.run(tx, "status", Asked(replace(group, is_main=True), Role.OWNER, 1000, CHAT))
    assert answered is not None
    assert "check the account's billing" in answered.text


def test_status_in_main_names_what_is_wrong_elsewhere(rows: tuple[Tx, Group]) -> None:
    """Parked lanes and texts that are given up; the others hear nothing of them."""
    tx, group = rows
    turns.park(tx, "main", "quota", "", 1)
    tx.execute("INSERT INTO outgoing(chat_id, kind, payload, state, created_at) VALUES(2, 'reply', 'x', 'dead', 1)")
    for is_main in (True, False):
        answered = commands.run(tx, "status", Asked(replace(group, is_main=is_main), Role.OWNER, 1000, CHAT))
        assert answered is not None
        assert ("[main: quota]" in answered.text) is is_main
        assert ("1 text(s) could not be delivered" in answered.text) is is_main
        assert "not sent yet" not in answered.text


@pytest.mark.parametrize("word", COMMANDS)
def test_what_touches_a_running_turn_is_not_done_late(rows: tuple[Tx, Group], word: str) -> None:
    """It says how late it is; what only tells something tells it."""
    tx, group = rows
    a_turn(tx, group, TurnState.GIVEN)
    turns.set_session(tx, group.lane, "s")
    answered = commands.run(tx, word, Asked(group, Role.OWNER, 1000, CHAT, age_ms=60_001))
    assert answered is not None
    assert ("1 minute(s) ago" in answered.text) is (word in {"stop", "new", "forget today", "forget all"})
    assert (answered.stop, answered.retire, turns.session(tx, group.lane)) == ("", False, "s")
    assert commands.run(tx, word, Asked(group, Role.GUEST, 1000, CHAT, age_ms=60_001)) is None
