"""Edits, deletes and reactions: by whom, of what, in which order, and what the agent gets to see of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.dispatcher import claim
from nanoclaw.models import Group, Incoming, OutKind, Sender, Verdict
from nanoclaw.router import hear
from nanoclaw.store import Tx, changes, chats, messages, outgoing, turns
from tests.fakes import rows_of_one_group, said


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def change(kind: str, target: str = "A", text: str = "", sender: str = "Al", **more: object) -> Incoming:
    return replace(said(text, sender), kind=kind, target=target, **more)  # type: ignore[arg-type]


def verdict(tx: Tx, msg: Incoming, now: int = 1000) -> Verdict | None:
    heard = hear(tx, msg, now)
    return None if heard is None else heard.verdict


def by_word(tx: Tx, group: Group) -> None:
    tx.execute("UPDATE groups SET mode = 'word', word = '@Andy' WHERE id = ?", (group.id,))


def given(tx: Tx, group: Group) -> str:
    """The prompt of a turn that is made of all that waits."""
    n = tx.execute("SELECT count(*) FROM turns").fetchone()[0]
    turn = claim(tx, group.lane, group, lambda a: True, None, turn_id=f"t{n}", nonce="ab", zone="UTC", now=5000)
    assert turn is not None
    return turn.prompt


def ended(tx: Tx) -> None:
    for row in tx.execute("SELECT id FROM turns").fetchall():
        messages.handle(tx, row["id"])
    tx.execute("UPDATE turns SET state = 'done'")


def work(tx: Tx) -> list[str]:
    return [m.text for m in messages.open_work(tx, "family")]


def context(tx: Tx) -> list[str]:
    (chat_id,) = tx.execute("SELECT id FROM chats WHERE channel = 'test'").fetchone()
    return [m.text for m in messages.open_context(tx, chat_id, 1 << 40)]


# --- of what no turn has taken -----------------------------------------------------------------


def test_what_waits_is_replaced(rows: tuple[Tx, Group]) -> None:
    """The agent reads the last word only."""
    tx, group = rows
    hear(tx, said("frist", "Al", wa_id="A"), 1000)
    hear(tx, change("edit", text="first"), 1000)
    assert work(tx) == ["first"]
    assert "frist" not in given(tx, group)


def test_an_edit_makes_the_verdict_anew(rows: tuple[Tx, Group]) -> None:
    """Who adds the word asks us, who takes it away does not; /words are typed, not edited into."""
    tx, group = rows
    by_word(tx, group)
    hear(tx, said("hello", "Al", wa_id="A"), 1000)
    hear(tx, change("edit", text="@Andy hello"), 1000)
    assert (work(tx), context(tx)) == (["@Andy hello"], [])
    hear(tx, change("edit", text="/stop"), 1000)
    assert (work(tx), context(tx)) == ([], ["/stop"])


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("before", "after"), [(True, True), (False, True), (True, False)])
def test_an_edit_says_anew_whom_it_mentions(rows: tuple[Tx, Group], early: bool, before: bool, after: bool) -> None:
    """A slip that is mended keeps us asked; who adds or takes away the mention decides anew, in any order."""
    tx, group = rows
    tx.execute("UPDATE groups SET mode = 'mention' WHERE id = ?", (group.id,))
    msgs = [said("@us teh time?", "Al", wa_id="A", mentions_us=before), change("edit", text="@us?", mentions_us=after)]
    for msg in reversed(msgs) if early else msgs:
        hear(tx, msg, 1000)
    assert (work(tx), context(tx)) == ((["@us?"], []) if after else ([], ["@us?"]))


def test_what_was_forwarded_stays_so_when_edited(rows: tuple[Tx, Group]) -> None:
    """Also when a turn has taken it before."""
    tx, group = rows
    hear(tx, said("first", "Al", wa_id="A", forwarded=True), 1000)
    hear(tx, change("edit", text="second"), 1000)
    assert 'forwarded="the words of somebody else">\nsecond' in given(tx, group)
    hear(tx, change("edit", text="third"), 1000)
    assert 'kind="edit" forwarded="the words of somebody else">' in given(tx, group)


def test_what_waits_is_withdrawn(rows: tuple[Tx, Group]) -> None:
    """Nothing of a deleted message is left in its row, and what comes again is not stored again."""
    tx, _ = rows
    original = said("secret", "Al", wa_id="A", quoted="q", quoted_text="secret too")
    hear(tx, original, 1000)
    hear(tx, change("delete"), 1000)
    assert (work(tx), context(tx)) == ([], [])
    assert not any("secret" in str(tuple(r)) for r in tx.execute("SELECT * FROM messages"))
    assert hear(tx, original, 1000) is None
    hear(tx, change("edit", text="back"), 1000)
    assert (work(tx), context(tx)) == ([], [])


# --- of what a turn has taken ------------------------------------------------------------------


def test_an_edit_while_the_turn_runs_is_a_follow_up(rows: tuple[Tx, Group]) -> None:
    """The running agent hears of it."""
    tx, group = rows
    hear(tx, said("seven eggs", "Al", wa_id="A"), 1000)
    given(tx, group)
    assert verdict(tx, change("edit", text="nine eggs")) is Verdict.WORK
    assert work(tx) == ["[edited: nine eggs]"]


def test_an_edit_of_what_is_answered_is_context(rows: tuple[Tx, Group]) -> None:
    """A mended slip is no new question; a word of address that is added is one."""
    tx, group = rows
    hear(tx, said("frist", "Al", wa_id="A"), 1000)
    given(tx, group)
    ended(tx)
    assert verdict(tx, change("edit", text="first")) is Verdict.CONTEXT
    assert context(tx) == ["[edited: first]"]
    by_word(tx, group)
    hear(tx, said("talk", "Al", wa_id="B"), 1000)
    hear(tx, said("@Andy hi", "Al", wa_id="C"), 1000)
    given(tx, group)
    ended(tx)
    assert verdict(tx, change("edit", "B", "@Andy talk")) is Verdict.WORK


def test_a_delete_later_is_told(rows: tuple[Tx, Group]) -> None:
    """As context that names the message; its text is nowhere any more."""
    tx, group = rows
    hear(tx, said("seven eggs", "Al", wa_id="A"), 1000)
    given(tx, group)
    assert verdict(tx, change("delete")) is Verdict.CONTEXT
    hear(tx, said("next", "Al"), 1000)
    assert "[deleted]" in (prompt := given(tx, group))
    assert '<quoted-ab id="1" from="Al"' in prompt
    assert "seven eggs" not in prompt


# --- by whom -----------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize(
    ("msg", "may"),
    [
        (change("edit", text="forged", sender="Olga"), False),
        (change("edit", text="forged", sender="Olga", by_admin=True), False),
        (change("delete", sender="Olga"), False),
        (change("delete", sender="Olga", by_admin=True), True),
        (replace(change("edit", text="forged"), sender=Sender((), "Al")), False),
        (replace(change("delete"), sender=Sender((), "Al")), False),
    ],
)
def test_only_the_sender_changes_a_message(rows: tuple[Tx, Group], taken: bool, msg: Incoming, may: bool) -> None:
    """Also the owner does not speak for others; an admin of the group may delete."""
    tx, group = rows
    hear(tx, said("mine", "Al", wa_id="A"), 1000)
    if taken:
        given(tx, group)
    before = (work(tx), context(tx))
    hear(tx, replace(msg, wa_id="x"), 1000)
    assert ((work(tx), context(tx)) != before) is may
    assert not any("forged" in str(tuple(r)) for r in tx.execute("SELECT * FROM messages"))


def test_nobody_is_not_somebody(rows: tuple[Tx, Group]) -> None:
    """Two unresolved identities are not the same one: neither changes what the other said."""
    tx, _ = rows
    hear(tx, replace(said("mine", wa_id="A"), sender=Sender((), "Al")), 1000)
    hear(tx, replace(change("edit", text="forged"), sender=Sender((), "Bob")), 1000)
    assert context(tx) == ["mine"]


def test_a_copied_id_is_no_way_in(rows: tuple[Tx, Group]) -> None:
    """Who sends from our phone with the id of somebody's message changes only what is their own."""
    tx, _ = rows
    hear(tx, said("Al's", "Al", wa_id="A"), 1000)
    hear(tx, replace(said("mine", "Bob", wa_id="A"), from_me=True), 1000)
    hear(tx, change("edit", text="mine too", sender="Bob"), 1000)
    hear(tx, change("edit", text="Al's too", sender="Al"), 1000)
    assert work(tx) == ["Al's too", "mine too"]


def test_of_a_command_nothing_changes(rows: tuple[Tx, Group]) -> None:
    """It was done."""
    tx, _ = rows
    hear(tx, said("/status", "Al", wa_id="A"), 1000)
    hear(tx, change("edit", text="hello"), 1000)
    hear(tx, change("delete"), 1000)
    assert (work(tx), context(tx)) == ([], [])


# --- before their message ----------------------------------------------------------------------


def test_an_edit_may_come_first(rows: tuple[Tx, Group]) -> None:
    """The message is stored as it was edited, by its sender alone, once."""
    tx, _ = rows
    hear(tx, change("edit", text="forged", sender="Bob"), 1000)
    hear(tx, change("edit", text="second"), 1000)
    hear(tx, change("edit", text="third"), 1000)
    hear(tx, said("first", "Al", wa_id="A"), 1000)
    assert (work(tx), context(tx)) == (["third"], [])
    assert tx.execute("SELECT count(*) FROM early").fetchone()[0] == 0


@pytest.mark.parametrize(
    ("sender", "by_admin", "gone"), [("Al", False, True), ("Bob", False, False), ("Bob", True, True)]
)
def test_a_delete_may_come_first(rows: tuple[Tx, Group], sender: str, by_admin: bool, gone: bool) -> None:
    """Then the message is a row without a word."""
    tx, _ = rows
    hear(tx, change("delete", sender=sender, by_admin=by_admin), 1000)
    hear(tx, said("secret", "Al", wa_id="A"), 1000)
    assert work(tx) == ([] if gone else ["secret"])
    assert any("secret" in str(tuple(r)) for r in tx.execute("SELECT * FROM messages")) is not gone


def test_what_came_too_early_is_forgotten_after_a_day(rows: tuple[Tx, Group]) -> None:
    """And it is never more than a chat's share."""
    tx, _ = rows
    for n in range(changes._EARLY + 10):
        hear(tx, change("edit", f"old{n}", "x"), 1000)
    assert tx.execute("SELECT count(*) FROM early").fetchone()[0] == changes._EARLY
    hear(tx, change("edit", "new", "x"), 1000 + 86_400_001)
    assert [r["target"] for r in tx.execute("SELECT target FROM early")] == ["new"]


def test_of_strangers_nothing_is_kept(rows: tuple[Tx, Group]) -> None:
    """Neither what they edit, delete or quote, nor what they think of it."""
    tx, _ = rows
    for kind in ("edit", "delete", "reaction"):
        msg = replace(change(kind, text="secret", sender="Eve"), chat=("stranger",), quoted_text="secret")
        assert verdict(tx, msg) is Verdict.DROPPED
    for table in ("messages", "early", "people"):
        assert not any(
            "secret" in str(tuple(r)) or "Eve" in str(tuple(r)) for r in tx.execute(f"SELECT * FROM {table}")
        )


# --- reactions ---------------------------------------------------------------------------------


def sent(tx: Tx, text: str, wa_id: str) -> None:
    chat_id = chats.learn_chat(tx, "test", ("family",), "", True, 1).id
    outgoing.sent(tx, outgoing.queue(tx, chat_id, text, OutKind.REPLY, 1), wa_id, 1)


def test_a_reaction_is_context(rows: tuple[Tx, Group]) -> None:
    """It names what it is about, of others and of ours, and never asks for anything."""
    tx, _ = rows
    sent(tx, 'I said "yes"\nand more ' + "x" * 100, "OURS")
    hear(tx, said("seven eggs", "Al", wa_id="A"), 1000)
    assert verdict(tx, change("reaction", "OURS", "👍", "Bob")) is Verdict.CONTEXT
    assert verdict(tx, change("reaction", "A", "❤️", "Bob", mentions_us=True)) is Verdict.CONTEXT
    ours, theirs = context(tx)
    assert ours == "[reacted 👍 to: \"I said 'yes' and more " + "x" * 57 + '…"]'
    assert theirs == '[reacted ❤️ to: "seven eggs"]'


def test_a_person_has_one_reaction_to_a_message(rows: tuple[Tx, Group]) -> None:
    """Another one takes its place, none takes it back; what others think stands."""
    tx, _ = rows
    sent(tx, "yes", "OURS")
    for sign, sender in (("👍", "Bob"), ("👎", "Bob"), ("🎉", "Al")):
        hear(tx, change("reaction", "OURS", sign, sender), 1000)
    assert context(tx) == ['[reacted 👎 to: "yes"]', '[reacted 🎉 to: "yes"]']
    hear(tx, change("reaction", "OURS", "", "Bob"), 1000)
    assert context(tx) == ['[reacted 🎉 to: "yes"]']


def test_a_reaction_to_what_is_not_known_is_nothing(rows: tuple[Tx, Group]) -> None:
    """There is nothing to say of it."""
    tx, _ = rows
    hear(tx, change("reaction", "?", "👍"), 1000)
    assert (work(tx), context(tx)) == ([], [])


def test_a_change_that_comes_twice_counts_once(rows: tuple[Tx, Group]) -> None:
    """The older one of two does not come back."""
    tx, group = rows
    hear(tx, said("first", "Al", wa_id="A"), 1000)
    older = change("edit", text="second", sender="Al")
    for msg in (older, change("edit", text="third"), older):
        hear(tx, msg, 1000)
    assert work(tx) == ["third"]
    given(tx, group)
    assert turns.get(tx, "t0") is not None


def test_what_is_ours_is_not_theirs_to_change(rows: tuple[Tx, Group]) -> None:
    """Nothing is kept of an edit or a delete of our own texts: their message is never to come."""
    tx, _ = rows
    sent(tx, "yes", "OURS")
    hear(tx, change("edit", "OURS", "no"), 1000)
    hear(tx, change("delete", "OURS", by_admin=True), 1000)
    assert tx.execute("SELECT count(*) FROM early").fetchone()[0] == 0
    assert outgoing.by_wa_id(tx, chats.learn_chat(tx, "test", ("family",), "", True, 1).id, "OURS") == "yes"


def test_an_edited_reply_to_us_is_still_one(rows: tuple[Tx, Group]) -> None:
    """An edit says nothing of what was quoted: the message that is edited does."""
    tx, group = rows
    by_word(tx, group)
    sent(tx, "how many?", "OURS")
    hear(tx, said("seven", "Al", wa_id="A", quoted="OURS"), 1000)
    hear(tx, change("edit", text="nine"), 1000)
    assert work(tx) == ["nine"]
