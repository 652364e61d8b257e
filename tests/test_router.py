"""Who is heard, and as what: a table of groups and messages."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.models import Group, GroupState, Incoming, Sender, TriggerMode, Verdict
from nanoclaw.router import begins_with, hear
from nanoclaw.store import Tx
from tests.fakes import rows_of_one_group, said


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def heard(tx: Tx, msg: Incoming) -> Verdict | None:
    found = hear(tx, msg, 1000)
    return None if found is None else found.verdict


VERDICTS = [
    ("always", "active", "hello", False, Verdict.WORK),
    ("always", "active", "  ", False, Verdict.DROPPED),
    ("always", "active", "/stopx", False, Verdict.WORK),
    ("always", "active", " /STOP ", False, Verdict.COMMAND),
    ("always", "paused", "hello", True, Verdict.CONTEXT),
    ("always", "paused", "/status", False, Verdict.COMMAND),
    ("always", "removed", "hello", True, Verdict.DROPPED),
    ("always", "removed", "/status", False, Verdict.DROPPED),
    ("word", "active", "hello", False, Verdict.CONTEXT),
    ("word", "active", "@Andy hello", False, Verdict.WORK),
    ("word", "active", "hello @Andy", False, Verdict.CONTEXT),
    ("word", "active", "hello", True, Verdict.WORK),
    ("mention", "active", "@Andy hello", False, Verdict.CONTEXT),
    ("mention", "active", "hello", True, Verdict.WORK),
    ("mention", "active", "/help", False, Verdict.COMMAND),
]


@pytest.mark.parametrize(("mode", "state", "text", "mentions", "verdict"), VERDICTS)
def test_the_verdict(
    rows: tuple[Tx, Group], mode: TriggerMode, state: GroupState, text: str, mentions: bool, verdict: Verdict
) -> None:
    """Dropped, context, command or work."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = ?, state = ?, word = '@Andy' WHERE id = ?", (mode, state, group.id))
    assert heard(tx, said(text, mentions_us=mentions)) is verdict


WORDS = [
    ("@Andy", "@Andy", True),
    ("  @andy, go", "@Andy", True),
    ("@Andyx", "@Andy", False),
    ("@Andy2", "@Andy", False),
    ("@And", "@Andy", False),
    ("Jose\u0301 go", "José", True),
    ("STRASSE 1", "straße", True),
    ("anything", "", False),
    ("", "@Andy", False),
]


@pytest.mark.parametrize(("text", "word", "begins"), WORDS)
def test_the_trigger_word(text: str, word: str, begins: bool) -> None:
    """At the start, whole, in any case and any composition of accents."""
    assert begins_with(text, word) is begins


def test_a_message_is_known_by_its_id_in_its_chat(rows: tuple[Tx, Group]) -> None:
    """The same id again is nothing, also with another text; from ourselves it is another one."""
    tx, _ = rows
    assert heard(tx, said("hello", wa_id="a")) is Verdict.WORK
    assert heard(tx, said("changed", wa_id="a")) is None
    assert heard(tx, replace(said("mine", wa_id="a"), from_me=True)) is Verdict.WORK


def test_a_person_with_two_jids_is_one(rows: tuple[Tx, Group]) -> None:
    """Whichever of them is named, the role is the same."""
    tx, _ = rows
    both = replace(said("hello"), sender=Sender(("jid:Olga", "phone:1"), "Olga"))
    hear(tx, both, 1000)
    hear(tx, replace(said("again"), sender=Sender(("phone:1",), "")), 1000)
    assert [r["person_id"] for r in tx.execute("SELECT DISTINCT person_id FROM messages")] != []
    assert tx.execute("SELECT count(DISTINCT person_id) FROM messages").fetchone()[0] == 1


def test_of_a_stranger_only_the_chat_is_kept(rows: tuple[Tx, Group]) -> None:
    """No text and no person."""
    tx, _ = rows
    assert heard(tx, said("buy", "Spam", chat="stranger")) is Verdict.DROPPED
    assert tx.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
    assert tx.execute("SELECT count(*) FROM people WHERE name = 'Spam'").fetchone()[0] == 0
