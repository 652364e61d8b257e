"""Who is heard, and as what: a table of groups and messages."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.errors import Cause
from nanoclaw.models import Account, Group, GroupState, Incoming, Media, OutKind, Sender, TriggerMode, Verdict
from nanoclaw.router import begins_with, hear
from nanoclaw.store import Tx, chats, messages, outgoing, owners, turns
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
    ("\u2068@Andy\u2069 go", "@Andy", True),
    ("@小安你好", "@小安", True),
    ("@Andy你好", "@Andy", True),
    ("@小安", "@小安", True),
    ("小安你好", "@小安", False),
    ("@แอนดี้ช่วยด้วย", "@แอนดี้", True),
    ("@André!", "@andre\u0301", True),
    ("@Andréa", "@André", False),
    ("@Andy\u0336", "@Andy", False),
    ("@Andyman", "@Andy", False),
    ("@Andy_x", "@Andy", False),
    ("@Анди привет", "@анди", True),
    ("@Андиана", "@Анди", False),
    ("🤖\ufe0f go", "🤖", True),
    ("@Andy" + "x" * 100_000, "@Andy", False),
    ("@Andy " + "x" * 100_000, "@Andy", True),
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
    assert heard(tx, replace(said("mine", wa_id="a"), from_me=True)) is Verdict.CONTEXT


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


# --- for us? -----------------------------------------------------------------------------------


def spoken(tx: Tx, wa_id: str, chat: str = "family", text: str = "our words") -> None:
    """A text of ours that was sent there."""
    chat_id = chats.learn_chat(tx, "test", (chat,), "", True, 1).id
    outgoing.sent(tx, outgoing.queue(tx, chat_id, text, OutKind.REPLY, 1), wa_id, 1)


@pytest.mark.parametrize("mode", [TriggerMode.WORD, TriggerMode.MENTION])
def test_a_reply_to_one_of_our_messages_is_for_us(rows: tuple[Tx, Group], mode: TriggerMode) -> None:
    """What counts is the id of a text that we sent in this very chat, whatever the quote says."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = ?, word = '@Andy' WHERE id = ?", (mode, group.id))
    spoken(tx, "OURS")
    spoken(tx, "THERE", chat="elsewhere")
    hear(tx, said("hi", "Al", wa_id="AL"), 1000)
    for quoted, verdict in (
        *(("OURS", Verdict.WORK), ("THERE", Verdict.CONTEXT), ("AL", Verdict.CONTEXT)),
        *(("forged", Verdict.CONTEXT), ("", Verdict.CONTEXT)),
    ):
        assert heard(tx, said("yes", quoted=quoted, quoted_text="our words")) is verdict


def test_on_a_shared_number_a_mention_is_the_humans(rows: tuple[Tx, Group]) -> None:
    """Only the word, or a reply to a text of ours, is meant for us."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = 'mention' WHERE id = ?", (group.id,))
    owners.meet_account(tx, Account("test", ("1@lid",), True), 1)
    spoken(tx, "OURS")
    assert heard(tx, said("look", mentions_us=True)) is Verdict.CONTEXT
    assert heard(tx, said("look", quoted="OURS")) is Verdict.WORK


def test_a_file_needs_no_words(rows: tuple[Tx, Group]) -> None:
    """A picture alone is heard like a text."""
    tx, group = rows
    picture = said("", kind="image", media=(Media("image", "image/jpeg"),))
    assert heard(tx, picture) is Verdict.WORK
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy' WHERE id = ?", (group.id,))
    assert heard(tx, replace(picture, wa_id="2")) is Verdict.CONTEXT


@pytest.mark.parametrize("text", ["/new", "/stop", "/status"])
def test_a_forwarded_command_is_words(rows: tuple[Tx, Group], text: str) -> None:
    """Whoever wrote it is not who forwards it, and the agent is told so."""
    tx, _ = rows
    assert heard(tx, said(text, "Olga", forwarded=True)) is Verdict.WORK
    assert tx.execute("SELECT count(*) FROM outgoing").fetchone()[0] == 0
    (work,) = messages.open_work(tx, "family")
    assert (work.text, work.forwarded) == (text, True)


DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "age", "verdict", "answer"),
    [
        ("hello", DAY, Verdict.WORK, None),
        ("hello", DAY + 1, Verdict.CONTEXT, None),
        ("/status", DAY, Verdict.COMMAND, "idle"),
        ("/status", DAY + 1, Verdict.CONTEXT, None),
        ("/stop", DAY + 1, Verdict.CONTEXT, None),
        ("/stop", 60_000, Verdict.COMMAND, "Nothing is running"),
        ("/stop", 180_000, Verdict.COMMAND, "3 minute(s) ago"),
        ("/new", 60_001, Verdict.COMMAND, "send it again"),
    ],
)
def test_what_comes_late(rows: tuple[Tx, Group], text: str, age: int, verdict: Verdict, answer: str | None) -> None:
    """After a day it is context; after a minute a command touches nothing that runs, and says so."""
    tx, _ = rows
    found = hear(tx, said(text), 1000 + age, DAY)
    assert found is not None
    assert found.verdict is verdict
    told = [r["payload"] for r in tx.execute("SELECT payload FROM outgoing")]
    assert (answer in told[0] if told else None) if answer else told == []


def test_a_chats_timer_is_learned(rows: tuple[Tx, Group]) -> None:
    """What we say there vanishes as what others say does; nonsense is bounded."""
    tx, _ = rows
    for said_so, known in ((604800, 604800), (None, 604800), (2**62, 10 * 366 * 86_400), (-5, 0)):
        heard(tx, said("hi", expires=said_so))
        assert chats.learn_chat(tx, "test", ("family",), "", True, 1).expires == known


def test_what_cannot_be_written_is_replaced(rows: tuple[Tx, Group]) -> None:
    """Lone surrogates in a text, a quote or a name; a NUL, behind which no search would look, is left out."""
    tx, _ = rows
    msg = said("a\ud800\0b", "Ann\udfff", quoted="q", quoted_text="\ud800", chat_name="\ud800")
    assert heard(tx, replace(msg, sender=Sender(("jid:x",), "Ann\udfff"))) is Verdict.WORK
    (work,) = messages.open_work(tx, "family")
    assert (work.text, work.sender) == ("a?b", "Ann?")


# --- loops -------------------------------------------------------------------------------------


def flood(tx: Tx, count: int, *, at: int = 1000, sender: str = "Bot") -> None:
    for _ in range(count):
        hear(tx, said("beep", sender), at)


def parked(tx: Tx) -> str:
    return turns.parked(tx, "family")[0]


def test_two_bots_are_parked(rows: tuple[Tx, Group]) -> None:
    """The twenty-first in a row parks the lane; the chat is told once, main learns where and why."""
    tx, _ = rows
    flood(tx, 20)
    assert not parked(tx)
    flood(tx, 5)
    assert parked(tx) == Cause.LOOP
    told = [(r["name"], r["payload"]) for r in tx.execute("SELECT * FROM outgoing o JOIN chats c ON c.id = chat_id")]
    assert [name for name, _ in told] == ["family", "Terminal"]
    assert "in charge" in told[0][1]
    assert told[1][1].startswith("[family: loop] Two bots may be talking")


def test_edits_are_counted_too(rows: tuple[Tx, Group]) -> None:
    """A bot that says nothing to us, and adds the word afterwards, is parked like any other."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy' WHERE id = ?", (group.id,))
    for n in range(21):
        assert not parked(tx)
        hear(tx, said(".", "Bot", wa_id=f"b{n}"), 1000)
        hear(tx, said("@Andy go on", "Bot", kind="edit", target=f"b{n}"), 1000)
        tx.execute("UPDATE messages SET state = 'handled'")  # each is answered
    assert parked(tx) == Cause.LOOP


@pytest.mark.parametrize("text", ["go on", "/status", "/stop"])
@pytest.mark.parametrize("sender", ["Olga", "Al"])
def test_a_person_of_authority_ends_a_loop(rows: tuple[Tx, Group], text: str, sender: str) -> None:
    """By work or a command; then it takes twenty-one again, and that is told again."""
    tx, _ = rows
    flood(tx, 25)
    hear(tx, said(text, sender), 1000)
    assert not parked(tx)
    flood(tx, 20)
    assert not parked(tx)
    flood(tx, 1)
    assert parked(tx) == Cause.LOOP
    assert tx.execute("SELECT count(*) FROM outgoing WHERE kind = 'notice'").fetchone()[0] == 4


def test_nothing_else_ends_a_loop(rows: tuple[Tx, Group]) -> None:
    """No guest, no late word, no other trouble and its end."""
    tx, group = rows
    flood(tx, 25)
    hear(tx, said("/stop", "Bot"), 1000)
    hear(tx, replace(said("go on", "Olga"), at=-DAY), 1000)
    turns.release(tx, "family")
    assert parked(tx) == Cause.LOOP
    turns.park(tx, "family", Cause.QUOTA, "", 1)
    assert parked(tx) == Cause.LOOP
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy' WHERE id = ?", (group.id,))
    hear(tx, said("what is this?", "Olga"), 1000)
    assert parked(tx) == Cause.LOOP


def test_another_trouble_is_not_taken_for_a_loop(rows: tuple[Tx, Group]) -> None:
    """What waits for a key goes on with the key, however many have asked meanwhile."""
    tx, _ = rows
    turns.park(tx, "family", Cause.CREDENTIAL, "", 1)
    flood(tx, 25)
    assert parked(tx) == Cause.CREDENTIAL


def test_only_what_comes_in_a_row_and_an_hour_counts(rows: tuple[Tx, Group]) -> None:
    """Talk that is not for the agent does not, and whoever is in charge may speak of anything in between."""
    tx, group = rows
    flood(tx, 15)
    flood(tx, 15, at=1000 + 3_600_001)
    assert not parked(tx)
    tx.execute("UPDATE groups SET mode = 'word', word = 'beep' WHERE id = ?", (group.id,))
    hear(tx, said("how are you all?", "Al"), 4_000_000)
    flood(tx, 15, at=4_000_000)
    for _ in range(30):
        hear(tx, said("talk", "Bot"), 4_000_000)
    assert not parked(tx)
    flood(tx, 6, at=4_000_000)
    assert parked(tx) == Cause.LOOP
