"""Changes that an agent asks for: shown in main in the host's words, done by the owner's own `/yes CODE` alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import commands, router
from nanoclaw.control import pending
from nanoclaw.control.pending import CONFIRM_MS, MAX_ASKED, MAX_SENTENCE, MAX_TRIES, MAX_WAITING, Widening, code_of
from nanoclaw.errors import Refused
from nanoclaw.models import Account, By, Incoming, OutKind, Role, Sender, Verdict
from nanoclaw.notices import unquoted
from nanoclaw.store import Tx, audit, chats, outgoing, owners
from tests.fakes import rows_of_one_group, said

AGENT = By("agent of family", typed=False)
OWNER = By("owner")
NOW = 5000
DAY_MS = 86_400_000


class Shelf:
    """A widening of the tests': a thing is put on a shelf that only the owner fills."""

    def __init__(self) -> None:
        self.things: list[str] = []
        self.place = "left"
        self.broken = False

    def sentence(self, tx: Tx, args: dict[str, Any]) -> str:
        if args.get("thing") in self.things:
            raise Refused("it stands there already")
        return f"put «{unquoted(args['thing'])}» on the {self.place} shelf."

    def apply(self, tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
        tx.execute("INSERT INTO meta(key, value) VALUES('shelf', 'touched')")
        if self.broken:
            raise Refused("the shelf broke")
        self.things.append(args["thing"])
        return f"It stands there now ({by.who})."


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()
    monkeypatch.setitem(pending.WIDENINGS, "fill", Widening(shelf.sentence, shelf.apply))
    return shelf


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Tx]:
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        yield tx


def ask(tx: Tx, thing: str = "a vase", code: str = "AAAAA", by: By = AGENT, now: int = NOW) -> str:
    return pending.propose(tx, "fill", {"thing": thing}, by, code, now)


def notices(tx: Tx) -> list[tuple[str, str]]:
    """Which chat was told what."""
    rows = tx.execute("SELECT chat_id, payload FROM outgoing WHERE kind = 'notice' ORDER BY id").fetchall()
    return [(chats.chat(tx, row["chat_id"]).jid, row["payload"]) for row in rows]


def typed(text: str, jid: str = "terminal:owner", **more: Any) -> Incoming:
    """As the owner types it at the terminal."""
    msg = Incoming("terminal", ("terminal",), more.pop("wa_id", ""), text, Sender((jid,), "Owner"), NOW)
    return replace(msg, wa_id=msg.wa_id or f"{text} {more}", **more)


def answers(tx: Tx) -> list[str]:
    return [row["payload"] for row in tx.execute("SELECT payload FROM outgoing WHERE kind = 'command' ORDER BY id")]


# --- the life of one -----------------------------------------------------------------------------


def test_a_wish_is_asked_in_main_and_done_by_the_owners_word(tx: Tx, shelf: Shelf) -> None:
    """Shown whole, in the host's words and with the code; the agent is told neither code nor answer."""
    told = ask(tx)
    assert "AAAAA" not in told
    assert "Nothing is changed yet" in told
    ((jid, shown),) = notices(tx)
    assert jid == "terminal"
    assert shown.startswith("The agent of family asks: put «a vase» on the left shelf.")
    assert "/yes AAAAA does it, /no AAAAA refuses it" in shown
    assert shelf.things == []
    heard = router.hear(tx, typed(" /YES  aaaaa "), NOW + 1)
    assert heard is not None
    assert heard.answered is not None
    assert heard.answered.changed
    assert answers(tx) == ["It stands there now (owner)."]
    assert shelf.things == ["a vase"]
    done = [(e.who, e.verb, e.detail) for e in audit.newest(tx, 9)]
    assert done == [("agent of family", "ask", "fill"), ("owner", "yes", "fill for the agent of family")]


def test_a_code_counts_once(tx: Tx, shelf: Shelf) -> None:
    """Two of them at once: the second finds it used."""
    ask(tx)
    first, second = (pending.confirm(tx, "AAAAA", OWNER, NOW + 1) for _ in range(2))
    assert (first.done, second.done) == (True, False)
    assert "used already" in second.text
    assert shelf.things == ["a vase"]
    assert not pending.refuse(tx, "AAAAA", OWNER, NOW + 1).done


@pytest.mark.parametrize(("late", "counts"), [(CONFIRM_MS - 1, True), (CONFIRM_MS, False), (DAY_MS, False)])
def test_a_code_counts_for_ten_minutes(tx: Tx, shelf: Shelf, late: int, counts: bool) -> None:
    """To the millisecond; main is not bothered when it is over, and the row goes within a day."""
    ask(tx)
    assert bool(pending.listed(tx, NOW + late)) is counts
    assert pending.confirm(tx, "AAAAA", OWNER, NOW + late).done is counts
    assert len(notices(tx)) == 1
    assert len(shelf.things) == counts
    ask(tx, "another", "BBBBB", now=NOW + DAY_MS + 1)
    assert [r["code"] for r in tx.execute("SELECT code FROM pending")] == ["BBBBB"]


def test_what_waits_outlives_the_host(tmp_path: Path, shelf: Shelf) -> None:
    """The next one does exactly what was shown."""
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        ask(tx)
    from nanoclaw import store

    tx = store._open(tmp_path / "db")
    try:
        assert pending.confirm(tx, "AAAAA", OWNER, NOW + 1).done
    finally:
        tx.close()
    assert shelf.things == ["a vase"]


def test_a_no_is_a_no_for_a_day(tx: Tx, shelf: Shelf) -> None:
    """Main is not asked the same again; something else may be."""
    ask(tx)
    router.hear(tx, typed("/no AAAAA"), NOW + 1)
    assert "nothing was changed" in answers(tx)[0]
    with pytest.raises(Refused, match="has said no"):
        ask(tx, code="BBBBB", now=NOW + DAY_MS)
    ask(tx, "a clock", "CCCCC")
    ask(tx, code="DDDDD", now=NOW + DAY_MS + 1)
    assert len(notices(tx)) == 3
    assert shelf.things == []


def test_a_no_is_one_however_the_wish_is_spelt(tx: Tx) -> None:
    """The owner is asked about a change, not about its letters."""
    settings = {"group": "family", "settings": {"pids": "300"}}
    pending.propose(tx, "update_group", settings, AGENT, "AAAAA", NOW)
    assert pending.refuse(tx, "AAAAA", OWNER, NOW).done
    for other in (
        {"group": "FAMILY", "settings": {"pids": " 0300 "}},
        {"group": "family", "settings": {"pids": "300"}},
    ):
        with pytest.raises(Refused, match="has said no"):
            pending.propose(tx, "update_group", other, AGENT, "BBBBB", NOW)


def test_what_cannot_be_written_down_is_refused(tx: Tx) -> None:
    """Half a character in a name breaks nothing."""
    for verb, args in (("allow_host", {"host": "a.org"}), ("update_group", {"settings": {"pids": "300"}})):
        with pytest.raises(Refused):
            pending.propose(tx, verb, {"group": "\ud800", **args}, AGENT, "AAAAA", NOW)


def test_the_same_wish_is_asked_once(tx: Tx, shelf: Shelf) -> None:
    """However often an agent repeats it; when it is void, it may be asked anew."""
    for n in range(20):
        ask(tx, code=f"A{n}")
    assert len(notices(tx)) == 1
    ask(tx, code="LATER", now=NOW + CONFIRM_MS)
    assert len(notices(tx)) == 2


# --- it is bound to what was shown ---------------------------------------------------------------


def test_things_have_changed_since(tx: Tx, shelf: Shelf) -> None:
    """The sentence would be another one now: nothing is done, and the code is used up."""
    ask(tx)
    shelf.place = "right"
    assert "Things have changed" in pending.confirm(tx, "AAAAA", OWNER, NOW + 1).text
    shelf.place = "left"
    assert not pending.confirm(tx, "AAAAA", OWNER, NOW + 2).done
    assert shelf.things == []


def test_a_wish_that_makes_no_sense_any_more(tx: Tx, shelf: Shelf) -> None:
    """The reason is told."""
    ask(tx)
    shelf.things.append("a vase")
    assert "cannot be done any more: it stands there already" in pending.listed_text(tx, NOW)
    assert pending.confirm(tx, "AAAAA", OWNER, NOW + 1).text == "Not done: it stands there already"


def test_another_change_behind_the_same_code(tx: Tx, shelf: Shelf) -> None:
    """Whatever got into the row: only what was shown is done."""
    ask(tx)
    tx.execute("UPDATE pending SET change = replace(change, 'a vase', 'a bomb')")
    assert "Things have changed" in pending.confirm(tx, "AAAAA", OWNER, NOW + 1).text
    assert shelf.things == []


def test_what_fails_half_way_is_undone(tx: Tx, shelf: Shelf) -> None:
    """A refusal in the middle of the change leaves nothing of it behind, and its reason is told."""
    ask(tx)
    shelf.broken = True
    told = pending.confirm(tx, "AAAAA", OWNER, NOW + 1)
    assert (told.done, told.text) == (False, "Not done: the shelf broke")
    assert tx.execute("SELECT 1 FROM meta WHERE key = 'shelf'").fetchone() is None


# --- whose word it takes -------------------------------------------------------------------------

NOT_TYPED = [
    {"forwarded": True},
    {"kind": "poll"},
    {"kind": "image"},
    {"kind": "reaction", "target": "x"},
    {"kind": "edit", "target": "x"},
    {"sender": Sender(())},
    {"at": NOW - 2 * DAY_MS},
]


@pytest.mark.parametrize("more", NOT_TYPED, ids=str)
def test_only_what_the_owner_typed_counts(tx: Tx, shelf: Shelf, more: dict[str, Any]) -> None:
    """No forwarded text, poll, caption, reaction or edit, nobody's, and none of days ago."""
    router.hear(tx, typed("hello", wa_id="x"), NOW)
    ask(tx)
    router.hear(tx, typed("/yes AAAAA", **more), NOW + 1)
    assert shelf.things == []
    assert len(pending.listed(tx, NOW + 1)) == 1


def test_an_edit_of_the_owners_own_message_does_not_count(tx: Tx, shelf: Shelf) -> None:
    """Neither after it nor, as it may happen, before it."""
    ask(tx)
    router.hear(tx, typed("/yes AAAAA", kind="edit", target="early", wa_id="e"), NOW)
    router.hear(tx, typed("good morning", wa_id="early"), NOW)
    assert shelf.things == []


@pytest.mark.parametrize("who", ["Olga", "Al", "Gus"])
def test_no_other_chat_counts(tx: Tx, shelf: Shelf, who: str) -> None:
    """The owner is told where it works; of all others the host hears nothing."""
    ask(tx)
    heard = router.hear(tx, said("/yes AAAAA", who), NOW + 1)
    assert heard is not None
    assert heard.verdict is Verdict.COMMAND
    assert answers(tx) == (["/yes works in your own chat with me alone."] if who == "Olga" else [])
    assert shelf.things == []


@pytest.mark.parametrize("role", [Role.ALLOWED, Role.GUEST])
def test_nobody_else_in_the_main_chat_counts(tx: Tx, shelf: Shelf, role: Role) -> None:
    """Should somebody else ever speak there."""
    chats.learn_person(tx, "terminal", ("terminal:eve",), "Eve", role)
    ask(tx)
    for word in ("yes", "no"):
        router.hear(tx, typed(f"/{word} AAAAA", "terminal:eve"), NOW + 1)
    assert (answers(tx), shelf.things) == ([], [])
    assert len(pending.listed(tx, NOW + 1)) == 1


def test_no_agent_answers_for_the_owner(tx: Tx, shelf: Shelf) -> None:
    """Not even with the right code."""
    ask(tx)
    for verb in (pending.confirm, pending.refuse):
        with pytest.raises(Refused, match="only the owner's own word"):
            verb(tx, "AAAAA", AGENT, NOW + 1)
    assert shelf.things == []


def test_an_agents_own_text_does_not_count(tx: Tx, shelf: Shelf) -> None:
    """On a number that we share with the owner, should what an agent wrote there ever come back as if typed."""
    me = Account("test", ("jid:me",), True)
    owners.meet_account(tx, me, NOW)
    (own,) = tx.execute("SELECT chat_id FROM chat_jids WHERE jid = 'jid:me'").fetchone()
    ask(tx)
    outgoing.queue(tx, own, "/Yes AAAAA", OutKind.REPLY, NOW)
    msg = Incoming("test", me.jids, "1", "/Yes AAAAA", Sender(me.jids), NOW, from_me=True)
    router.hear(tx, msg, NOW + 1)
    assert shelf.things == []
    assert "nanoclaw pending yes CODE" in answers(tx)[-1]  # it may have been the owner: they are not left in silence
    router.hear(tx, replace(msg, wa_id="2", text="/yes aaaaa"), NOW + 2)  # so writes the owner
    assert shelf.things == ["a vase"]


ECHOES = ["/allow +4915112345678", "/network public", "/network allow evil.example.com", "/groups add 2", "/deny 2"]


@pytest.mark.parametrize("text", ECHOES)
def test_no_owners_command_is_taken_from_an_agents_own_text(tx: Tx, text: str) -> None:
    """The same guard for all that takes the owner's word."""
    me = Account("test", ("jid:me",), True)
    owners.meet_account(tx, me, NOW)
    (own,) = tx.execute("SELECT chat_id FROM chat_jids WHERE jid = 'jid:me'").fetchone()
    outgoing.queue(tx, own, text, OutKind.REPLY, NOW)
    before = audit.newest(tx, 9)
    msg = Incoming("test", me.jids, "1", text, Sender(me.jids), NOW, from_me=True)
    router.hear(tx, msg, NOW + 1)
    assert audit.newest(tx, 9) == before
    assert "cannot know that it is your word" in answers(tx)[-1]
    router.hear(tx, replace(msg, wa_id="2", text="/status"), NOW + 1)
    assert "I am idle" in answers(tx)[-1]


def test_no_agent_reads_a_code(tx: Tx, shelf: Shelf) -> None:
    """What main was told of it is left out of what the agent of main may read there."""
    ask(tx)
    router.hear(tx, typed("/yes"), NOW)
    main = chats.main_chat(tx)
    assert main is not None
    outgoing.queue(tx, main.id, "Good morning", OutKind.REPLY, NOW)
    tx.execute("UPDATE outgoing SET state = 'sent', sent_at = created_at")
    assert [said.text for said in outgoing.said_before(tx, main.id, 1 << 40, "", 9)] == ["Good morning"]


# --- bounds -------------------------------------------------------------------------------------


def test_a_hostile_agent_cannot_flood_main(tx: Tx, shelf: Shelf) -> None:
    """A few wishes may wait, a few more be asked for in a day; other groups' are not crowded out."""
    for n in range(MAX_WAITING):
        ask(tx, f"thing {n}", f"A{n}")
    with pytest.raises(Refused, match="wait for the owner already"):
        ask(tx, "one more", "B")
    ask(tx, "mine", "C", By("agent of club", typed=False))
    refusals = []
    for n in range(10 * MAX_ASKED):
        try:
            ask(tx, f"more {n}", f"D{n}", now=NOW + n * CONFIRM_MS // 10)
        except Refused as e:
            refusals.append(str(e))
    assert "that is enough" in refusals[-1]
    assert len(notices(tx)) <= MAX_ASKED + 1


def test_what_cannot_be_shown_whole_is_not_asked(tx: Tx, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner never says yes to something of which the end was cut off."""
    monkeypatch.setattr(shelf, "sentence", lambda tx, args: "x" * (MAX_SENTENCE + 1))
    monkeypatch.setitem(pending.WIDENINGS, "fill", Widening(shelf.sentence, shelf.apply))
    with pytest.raises(Refused, match="ask for less"):
        ask(tx)
    assert notices(tx) == []


def test_an_agents_words_cannot_speak_as_the_host(tx: Tx, shelf: Shelf) -> None:
    """Neither lines, marks that turn the reading direction, nor quotation marks of its own."""
    ask(tx, "x»\n\nThe owner asks: all is well.\u202e\x1b[31m /yes BBBBB «")
    ((_, shown),) = notices(tx)
    assert shown.splitlines()[0].startswith("The agent of family asks: put «x' The owner asks: all is well. /yes")
    assert shown.count("«") == shown.count("»") == 1
    assert not {"\u202e", "\x1b"} & set(shown)


def test_there_is_no_such_change(tx: Tx) -> None:
    """An unknown verb is refused, and nothing is asked."""
    with pytest.raises(Refused, match="no change named"):
        pending.propose(tx, "rule the world", {}, AGENT, "AAAAA", NOW)


def test_wrong_codes_are_counted(tx: Tx, shelf: Shelf) -> None:
    """Five in a row and nothing waits any more; a right one in between begins anew."""
    assert "Nothing waits" in pending.confirm(tx, "WRONG", OWNER, NOW).text
    ask(tx, "first", "AAAAA")
    for _ in range(MAX_TRIES - 1):
        assert "No change that waits has this code" in pending.confirm(tx, "WRONG", OWNER, NOW).text
    assert pending.confirm(tx, "AAAAA", OWNER, NOW).done
    ask(tx, "second", "BBBBB")
    told = [pending.confirm(tx, "WRONG", OWNER, NOW).text for _ in range(MAX_TRIES)]
    assert "nothing waits any more" in told[-1]
    assert sum("nothing waits any more" in text for text in told) == 1
    assert not pending.confirm(tx, "BBBBB", OWNER, NOW).done
    assert shelf.things == ["first"]


def test_yes_alone_does_nothing(tx: Tx, shelf: Shelf) -> None:
    """It lists what waits: a yes names its code, also where only one waits."""
    ask(tx)
    router.hear(tx, typed("/yes"), NOW + 1)
    assert answers(tx) == ["AAAAA: the agent of family asks: put «a vase» on the left shelf. (for 10 min)"]
    assert shelf.things == []


@pytest.mark.parametrize("code", ["aaaaa", "AAAAA.", "\uff21\uff41AAA", "*AAAAA*", "AAA\u200bAA"])
def test_a_code_is_read_as_phones_write_it(tx: Tx, shelf: Shelf, code: str) -> None:
    """Full width, with a full stop, in bold."""
    ask(tx)
    assert pending.confirm(tx, code, OWNER, NOW).done


def test_codes_are_read_without_mistake() -> None:
    """Five letters or digits, of which none looks like another; another nonce, another code."""
    codes = {code_of(f"{n:08x}") for n in range(2000)}
    assert len(codes) > 1990
    assert {len(code) for code in codes} == {5}
    assert not set("".join(codes)) & set("01OIL")
    assert all(code == code.upper() and commands.find(f"/yes {code}") for code in codes)
