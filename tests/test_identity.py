"""Who is who: several jids are one row, one number is not for ever one person's, and who may is never guessed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw import control
from nanoclaw.dispatcher import claim
from nanoclaw.models import Account, Group, Incoming, OutKind, Role, Sender, TriggerMode, Verdict
from nanoclaw.router import Heard, hear
from nanoclaw.store import Tx, chats, ledger, messages, outgoing, owners, turns
from tests.fakes import add_group, rows_of_one_group, said

LID, PN, OTHER, OTHER_PN = "7@lid", "49151@s.whatsapp.net", "8@lid", "49152@s.whatsapp.net"
US = ("1@lid", "100@s.whatsapp.net")
W = "whatsapp"


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def learn(tx: Tx, *jids: str, role: Role | None = None) -> tuple[int, Role]:
    return chats.learn_person(tx, W, jids, "Ann", role)


def jids_of(tx: Tx, person_id: int) -> set[str]:
    return {r["jid"] for r in tx.execute("SELECT jid FROM person_jids WHERE person_id = ?", (person_id,))}


# --- people ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(PN, LID), (LID, PN)])
def test_two_rows_that_turn_out_to_be_one_are_merged(rows: tuple[Tx, Group], first: str, second: str) -> None:
    """Nothing of either is lost, and the higher role holds, whichever of them had it."""
    tx, group = rows
    one, _ = learn(tx, first, role=Role.ALLOWED)
    two, _ = learn(tx, second)
    assert one != two
    chat_id = chats.learn_chat(tx, "test", ("family",), "", True, 1).id
    for n, person_id in enumerate((one, two)):
        messages.insert(
            tx, said("hi", wa_id=str(n)), chat_id=chat_id, person_id=person_id, lane=group.lane,
            verdict=Verdict.CONTEXT, state=messages.MessageState.OPEN, now=1,
        )  # fmt: skip
    merged, role = learn(tx, LID, PN)
    assert role is Role.ALLOWED
    assert jids_of(tx, merged) == {LID, PN}
    assert [r[0] for r in tx.execute("SELECT DISTINCT person_id FROM messages")] == [merged]
    assert learn(tx, PN) == learn(tx, LID) == (merged, Role.ALLOWED)
    assert tx.execute("SELECT count(*) FROM people WHERE id IN (?, ?)", (one, two)).fetchone()[0] == 1


def test_a_number_that_changed_hands_takes_no_role_along(rows: tuple[Tx, Group]) -> None:
    """Another LID is another person: the number is theirs now, the role stays with whom it was given to."""
    tx, _ = rows
    old, _ = learn(tx, LID, PN, role=Role.OWNER)
    new, role = learn(tx, OTHER, PN)
    assert (new != old, role) == (True, Role.GUEST)
    assert learn(tx, PN) == (new, Role.GUEST)
    assert learn(tx, LID) == (old, Role.OWNER)
    assert jids_of(tx, old) == {LID}


def test_rows_with_different_lids_are_never_merged(rows: tuple[Tx, Group]) -> None:
    """Also when both were there before they met."""
    tx, _ = rows
    old, _ = learn(tx, LID, PN, role=Role.OWNER)
    new, _ = learn(tx, OTHER)
    assert learn(tx, OTHER, PN) == (new, Role.GUEST)
    assert learn(tx, LID) == (old, Role.OWNER)


def test_who_has_a_new_number_has_left_the_old_one(rows: tuple[Tx, Group]) -> None:
    """Whoever writes from the old number next is somebody else."""
    tx, _ = rows
    owner, _ = learn(tx, LID, PN, role=Role.OWNER)
    assert learn(tx, LID, OTHER_PN) == (owner, Role.OWNER)
    assert learn(tx, PN)[1] is Role.GUEST


def test_a_look_at_a_stranger_keeps_nothing(rows: tuple[Tx, Group]) -> None:
    """`person` tells the role and makes no row; what changed hands is not theirs."""
    tx, _ = rows
    before = tx.execute("SELECT count(*) FROM people").fetchone()[0]
    assert chats.person(tx, W, (LID, PN)) is None
    assert tx.execute("SELECT count(*) FROM people").fetchone()[0] == before
    learn(tx, LID, PN, role=Role.OWNER)
    assert chats.person(tx, W, (OTHER, PN)) is None
    found = chats.person(tx, W, (LID, OTHER_PN))
    assert found is not None
    assert found[1] is Role.OWNER


def test_channels_are_worlds_of_their_own(rows: tuple[Tx, Group]) -> None:
    """The same jid elsewhere is somebody else."""
    tx, _ = rows
    learn(tx, PN, role=Role.OWNER)
    assert chats.learn_person(tx, "test", (PN,), "")[1] is Role.GUEST


def test_an_unresolved_identity_has_no_authority(rows: tuple[Tx, Group]) -> None:
    """Its words are context, a command of it is words, and nothing it says makes it somebody."""
    tx, _ = rows
    for text in ("hello", "/stop"):
        heard = hear(tx, replace(said(text), sender=Sender((), "Olga")), 1000)
        assert heard == Heard(Verdict.CONTEXT, "family")
    assert {r["role"] for r in tx.execute("SELECT role FROM messages JOIN people p ON p.id = person_id")} == {"guest"}
    assert chats.learn_person(tx, W, (), "x", Role.OWNER)[1] is Role.GUEST
    assert tx.execute("SELECT count(*) FROM outgoing").fetchone()[0] == 0


# --- chats -------------------------------------------------------------------------------------


def test_a_chat_is_sent_to_by_its_lid(rows: tuple[Tx, Group]) -> None:
    """In whatever order the jids came."""
    tx, _ = rows
    assert chats.learn_chat(tx, W, (PN,), "", False, 1).jid == PN
    assert chats.learn_chat(tx, W, (LID, PN), "", False, 2).jid == LID
    assert chats.learn_chat(tx, W, (PN,), "", False, 3).jid == LID


def test_two_chats_that_turn_out_to_be_one_are_merged(rows: tuple[Tx, Group]) -> None:
    """The served one's group, id and rows hold; a message that both had is one."""
    tx, _ = rows
    plain = chats.learn_chat(tx, W, (LID,), "", False, 5)
    served = chats.learn_chat(tx, W, (PN,), "Ann", False, 3)
    group = control.add_group(tx, served.id, Group(0, "ann", "Andy", mode=TriggerMode.ALWAYS), 1)
    chats.set_expires(tx, plain.id, 60)
    person_id, _ = learn(tx, LID)
    for chat_id, wa_id in ((plain.id, "a"), (plain.id, "b"), (served.id, "a")):
        messages.insert(
            tx, said("hi", wa_id=wa_id), chat_id=chat_id, person_id=person_id, lane="ann",
            verdict=Verdict.CONTEXT, state=messages.MessageState.OPEN, now=1,
        )  # fmt: skip
        outgoing.tell_once(tx, "cause", chat_id, "text", 1)
    merged = chats.learn_chat(tx, W, (LID, PN), "", False, 9)
    assert (merged.id, merged.group_id, merged.jid, merged.name) == (served.id, group.id, LID, "Ann")
    assert merged.expires == 60
    kept = tx.execute("SELECT wa_id FROM messages WHERE chat_id = ? ORDER BY wa_id", (merged.id,))
    assert [r["wa_id"] for r in kept] == ["a", "b"]
    assert tx.execute("SELECT count(*) FROM outgoing WHERE chat_id = ?", (merged.id,)).fetchone()[0] == 2
    assert tx.execute("SELECT count(*) FROM chats WHERE channel = ?", (W,)).fetchone()[0] == 1
    assert tx.execute("SELECT count FROM chats WHERE id = ?", (merged.id,)).fetchone()[0] == 3


def test_a_chat_whose_number_changed_hands_is_another(rows: tuple[Tx, Group]) -> None:
    """Nobody gets into a served chat by a recycled SIM."""
    tx, _ = rows
    old = chats.learn_chat(tx, W, (LID, PN), "", False, 1)
    control.add_group(tx, old.id, Group(0, "ann", "Andy", mode=TriggerMode.ALWAYS), 1)
    new = chats.learn_chat(tx, W, (OTHER, PN), "", False, 2)
    assert (new.id != old.id, new.group_id) == (True, None)


def test_what_waits_in_two_served_chats_goes_to_the_one_that_is_kept(rows: tuple[Tx, Group]) -> None:
    """Its agent answers there; what is over stays where it was."""
    tx, _ = rows
    for folder, jid in (("ann", LID), ("number", PN)):
        chat_id = chats.know_chat(tx, W, (jid,), "", False, 1)
        control.add_group(tx, chat_id, Group(0, folder, "Andy", mode=TriggerMode.ALWAYS), 1)
        hear(tx, direct(f"old {folder}", jid), 1000)
        tx.execute("UPDATE messages SET state = 'handled' WHERE text LIKE 'old%'")
        hear(tx, direct(f"new {folder}", jid), 1000)
    hear(tx, direct("both", LID, PN), 1000)
    assert [m.text for m in messages.open_work(tx, "ann")] == ["new ann", "new number", "both"]
    assert [r["lane"] for r in tx.execute("SELECT lane FROM messages WHERE text LIKE 'old%'")] == ["ann", "number"]


def test_a_name_and_a_timer_are_learned_without_a_message(rows: tuple[Tx, Group]) -> None:
    """Of a group that nobody wrote in there is a row then; a timer alone makes none."""
    tx, _ = rows
    chats.name_chat(tx, W, ("1203@g.us",), "Club", None)
    chats.name_chat(tx, W, ("1203@g.us",), "", 604800)
    chats.name_chat(tx, W, ("1204@g.us",), "", 604800)
    (row,) = tx.execute("SELECT name, is_group, expires, count FROM chats WHERE channel = ?", (W,))
    assert tuple(row) == ("Club", 1, 604800, 0)


# --- owners ------------------------------------------------------------------------------------


def meet(tx: Tx, *jids: str, shared: bool) -> None:
    owners.meet_account(tx, Account(W, jids, shared), 1000)


def from_us(text: str, *chat: str, us: tuple[str, ...] = US) -> Incoming:
    return replace(said(text), channel=W, chat=chat, sender=Sender(us, "me"), from_me=True)


def direct(text: str, *jids: str) -> Incoming:
    return replace(said(text), channel=W, chat=jids, sender=Sender(jids, "Somebody"))


def verdict(tx: Tx, msg: Incoming) -> Verdict | None:
    heard = hear(tx, msg, 1000)
    return None if heard is None else heard.verdict


def test_on_a_shared_number_we_are_the_owner(rows: tuple[Tx, Group]) -> None:
    """What is typed in "message yourself" is the owner's work for main, by either jid."""
    tx, _ = rows
    meet(tx, *US, shared=True)
    for jid in US:
        heard = hear(tx, from_us("hello", jid), 1000)
        assert heard == Heard(Verdict.WORK, "main")
    assert {m.role for m in messages.open_work(tx, "main")} == {Role.OWNER}
    assert verdict(tx, direct("hello", LID, PN)) is Verdict.DROPPED
    assert verdict(tx, from_us("hello", LID, PN)) is Verdict.DROPPED


def test_what_our_own_phone_says_is_context(rows: tuple[Tx, Group]) -> None:
    """With a number of its own, and also before anybody knows who we are."""
    tx, _ = rows
    typed = replace(said("hello", "Olga"), from_me=True)
    assert hear(tx, replace(typed, wa_id="1"), 1000) == Heard(Verdict.CONTEXT, "family")
    owners.meet_account(tx, Account("test", US, False), 1000)
    for n, text in enumerate(("hello", "/stop"), 2):
        assert hear(tx, replace(typed, wa_id=str(n), text=text), 1000) == Heard(Verdict.CONTEXT, "family")


def test_another_account_makes_the_former_owner_a_guest(rows: tuple[Tx, Group]) -> None:
    """The new number's human is the owner; the old one is a stranger whose chat is no longer main's."""
    tx, _ = rows
    meet(tx, *US, shared=True)
    meet(tx, LID, PN, shared=True)
    assert learn(tx, LID)[1] is Role.OWNER
    assert learn(tx, US[0])[1] is Role.GUEST
    assert chats.learn_chat(tx, W, US, "", False, 1).group_id is None
    assert verdict(tx, from_us("hello", LID, us=(LID, PN))) is Verdict.WORK


def test_the_same_account_again_changes_nothing(rows: tuple[Tx, Group]) -> None:
    """Also when its LID was learned meanwhile."""
    tx, _ = rows
    meet(tx, US[1], shared=True)
    meet(tx, *US, shared=True)
    meet(tx, *US, shared=True)
    assert [learn(tx, jid)[1] for jid in US] == [Role.OWNER] * 2
    assert verdict(tx, from_us("hello", US[0])) is Verdict.WORK


def test_an_account_that_is_shared_no_more_makes_no_owner(rows: tuple[Tx, Group]) -> None:
    """Neither the assistant itself, nor, before the first connection already, who it was before."""
    tx, _ = rows
    meet(tx, *US, shared=True)
    owners.settle(tx, W, (), shared=False)
    assert learn(tx, *US)[1] is Role.GUEST
    assert ledger.account(tx, W) is None
    assert verdict(tx, from_us("hello", *US)) is Verdict.DROPPED
    meet(tx, *US, shared=True)
    meet(tx, *US, shared=False)
    assert learn(tx, *US)[1] is Role.GUEST


def test_the_last_chat_of_main_is_not_changed_by_a_connection(rows: tuple[Tx, Group]) -> None:
    """The host speaks where the owner spoke last: a reconnect is no word of theirs."""
    tx, _ = rows
    owners.meet_account(tx, Account(W, US, True), 1000)
    hear(tx, replace(said("hi"), channel="terminal", chat=("terminal",), sender=Sender(("terminal:owner",))), 2000)
    owners.meet_account(tx, Account(W, US, True), 3000)
    chat = chats.main_chat(tx)
    assert chat is not None
    assert chat.channel == "terminal"


LISTED = "+49151"


def test_owners_are_who_is_listed(rows: tuple[Tx, Group]) -> None:
    """From the start by number, under the LID that comes with it; who is listed no more is a guest outside main."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    assert hear(tx, direct("hello", LID, PN), 1000) == Heard(Verdict.WORK, "main")
    assert learn(tx, LID)[1] is Role.OWNER
    owners.settle(tx, W, (), shared=False)
    assert learn(tx, LID)[1] is Role.GUEST
    assert verdict(tx, direct("hello", LID)) is Verdict.DROPPED


def test_a_listed_number_is_given_once(rows: tuple[Tx, Group]) -> None:
    """Who gets the number of an owner later gets nothing else, also after a restart."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    hear(tx, direct("hello", LID, PN), 1000)
    for _ in range(2):
        assert verdict(tx, direct("I have the SIM", OTHER, PN)) is Verdict.DROPPED
        learn(tx, OTHER, PN)  # as in a group where both are
        owners.settle(tx, W, (LISTED,), shared=False)
    assert learn(tx, LID)[1] is Role.OWNER
    assert learn(tx, OTHER)[1] is Role.GUEST


def test_a_listed_owner_outlives_the_account(rows: tuple[Tx, Group]) -> None:
    """Who was the account and is listed besides stays an owner when another number is linked."""
    tx, _ = rows
    meet(tx, LID, PN, shared=True)
    owners.settle(tx, W, (LISTED,), shared=True)
    meet(tx, *US, shared=True)
    assert learn(tx, LID)[1] is Role.OWNER


def test_who_gets_an_owners_number_does_not_get_into_main(rows: tuple[Tx, Group]) -> None:
    """Also when main's chat was known by the number alone; nothing that waits there is answered any more."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    assert verdict(tx, direct("hello", PN)) is Verdict.WORK
    learn(tx, LID, PN)  # as in a group where the owner writes
    assert verdict(tx, direct("who is this?", OTHER, PN)) is Verdict.DROPPED
    assert chats.learn_chat(tx, W, (OTHER, PN), "", False, 1).group_id is None
    assert messages.open_work(tx, "main") == []
    assert hear(tx, direct("me again", LID, OTHER_PN), 1000) == Heard(Verdict.WORK, "main")


@pytest.mark.parametrize("sender", [(), (OTHER,)])
def test_whoever_else_writes_in_an_owners_chat_is_not_heard(rows: tuple[Tx, Group], sender: tuple[str, ...]) -> None:
    """A bot, or nobody that can be made out: the chat stays the owner's."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    hear(tx, direct("hello", LID, PN), 1000)
    assert verdict(tx, replace(direct("beep", LID), sender=Sender(sender, "Bot"))) is Verdict.DROPPED
    assert verdict(tx, from_us("typed on our own phone", LID)) is Verdict.CONTEXT
    assert [m.text for m in messages.open_work(tx, "main")] == ["hello"]


def test_of_an_owner_no_more_nothing_is_answered(rows: tuple[Tx, Group]) -> None:
    """Neither what waits for a turn nor a turn that waits; what they said in other groups is a guest's."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    club = chats.know_chat(tx, W, ("1203@g.us",), "", True, 1)
    control.add_group(tx, club, Group(0, "club", "Andy", mode=TriggerMode.ALWAYS), 1)
    hear(tx, direct("first", LID, PN), 1000)
    main = chats.main_group(tx)
    assert claim(tx, "main", main, lambda a: True, None, turn_id="t", nonce="ab", zone="UTC", now=1) is not None
    hear(tx, direct("second", LID, PN), 1000)
    hear(tx, replace(direct("in the club", LID, PN), chat=("1203@g.us",), is_group=True), 1000)
    owners.settle(tx, W, (), shared=False)
    assert messages.open_work(tx, "main") == []
    assert turns.current(tx, "main") is None
    assert messages.lanes_with_work(tx) == ["club"]
    assert [m.role for m in messages.open_work(tx, "club")] == [Role.GUEST]


def test_a_group_is_served_by_nobodys_presence(rows: tuple[Tx, Group]) -> None:
    """An owner who writes in a group that nobody added does not add it, to main least of all."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, *US, shared=False)
    msg = replace(direct("hello", LID, PN), chat=("1203@g.us",), is_group=True)
    assert verdict(tx, msg) is Verdict.DROPPED


def test_the_assistant_is_no_owner(rows: tuple[Tx, Group]) -> None:
    """An owner's number that becomes its own makes no owner of it."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=False)
    meet(tx, LID, PN, shared=False)
    assert learn(tx, LID)[1] is Role.GUEST


def test_on_a_shared_number_chats_with_owners_are_private(rows: tuple[Tx, Group]) -> None:
    """Two people talk there; main is the account's own chat alone."""
    tx, _ = rows
    owners.settle(tx, W, (LISTED,), shared=True)
    meet(tx, *US, shared=True)
    assert verdict(tx, direct("hello", LID, PN)) is Verdict.DROPPED


# --- ourselves ---------------------------------------------------------------------------------


def test_an_echo_is_nothing(rows: tuple[Tx, Group]) -> None:
    """By its id in this chat, never by its text: a person may type what we would say."""
    tx, _ = rows
    meet(tx, *US, shared=True)
    add_group(tx, "elsewhere", TriggerMode.ALWAYS, {})
    (own,) = [r["id"] for r in tx.execute("SELECT id FROM chats WHERE channel = ?", (W,))]
    outgoing.sent(tx, outgoing.queue(tx, own, "*Andy:* done", OutKind.REPLY, 1), "ECHO", 1)
    assert verdict(tx, replace(from_us("*Andy:* done", *US), wa_id="ECHO")) is Verdict.DROPPED
    assert verdict(tx, from_us("*Andy:* done", *US)) is Verdict.WORK
    assert verdict(tx, from_us("Andy: do it", *US)) is Verdict.WORK
    assert verdict(tx, replace(direct("x", *US), wa_id="ECHO")) is Verdict.WORK  # not from us: no echo
