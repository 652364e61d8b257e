"""/words: what is one, who may use which where, what is answered, and what is left to do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nanoclaw import commands, router
from nanoclaw.commands import COMMANDS, Answered, Asked, House
from nanoclaw.commands.base import Command, May
from nanoclaw.control import groups, memory
from nanoclaw.errors import Refused
from nanoclaw.groups import FIRST_MEMORY, MEMORY_FILE, Home, make_group, open_home
from nanoclaw.meter.standin import StandIn
from nanoclaw.models import (
    Authority,
    By,
    Chat,
    Group,
    GroupState,
    Incoming,
    MessageState,
    OutKind,
    Role,
    RunRow,
    RunState,
    Sender,
    Turn,
    TurnState,
    Usage,
    Verdict,
)
from nanoclaw.store import Tx, audit, chats, ledger, messages, outgoing, people, runs, turns
from tests.fakes import ROOT, rows_of_one_group, said

NOW = 100_000  # `said` is of 99 seconds before


@dataclass
class Rows:
    """Main and the group "family", with one person of each role, and a home."""

    tx: Tx
    family: Group
    home: Home

    @property
    def main(self) -> Group:
        return chats.main_group(self.tx)

    def chat(self, group: Group) -> Chat:
        (chat_id,) = self.tx.execute("SELECT id FROM chats WHERE group_id = ?", (group.id,)).fetchone()
        return chats.chat(self.tx, chat_id)

    def person(self, role: Role) -> int:
        name = {Role.OWNER: "Olga", Role.ALLOWED: "Al", Role.GUEST: "Gus"}[role]
        return chats.learn_person(self.tx, "test", (f"jid:{name}",), name, role)[0]

    def asked(self, group: Group, role: Role = Role.OWNER, **more: object) -> Asked:
        house = House(home=self.home, model="claude-usual")
        group = replace(chats.group(self.tx, group.id), is_main=group.is_main)
        asked = Asked(group, role, NOW, self.chat(group), person_id=self.person(role), house=house)
        return replace(asked, **more)

    def do(self, text: str, group: Group | None = None, role: Role = Role.OWNER, **more: object) -> Answered | None:
        found = commands.find(text)
        assert found is not None, text
        return commands.run(self.tx, found, self.asked(group or self.family, role, **more))

    def told(self, text: str, group: Group | None = None, role: Role = Role.OWNER, **more: object) -> str:
        answered = self.do(text, group, role, **more)
        assert answered is not None
        return answered.text

    def turn(self, state: TurnState, *senders: Role, run: str = "r", turn_id: str = "t") -> None:
        """A turn of the family's lane, asked for by these people."""
        group, chat = self.family, self.chat(self.family)
        if runs.get(self.tx, run) is None:
            runs.insert(self.tx, RunRow(run, group.lane, group.id, RunState.ALIVE, "f"), "m")
        turns.insert(self.tx, Turn(turn_id, group.lane, group.id, chat.id, Authority.OWNER, TurnState.OPEN, "p"), NOW)
        turns.give(self.tx, turn_id, run, NOW)
        self.tx.execute("UPDATE turns SET state = ? WHERE id = ?", (state, turn_id))
        messages.take(self.tx, [self.work(role) for role in senders], turn_id)

    def work(self, role: Role) -> int:
        return messages.insert(
            self.tx, said("work"), chat_id=self.chat(self.family).id, person_id=self.person(role),
            lane=self.family.lane, verdict=Verdict.WORK, state=MessageState.OPEN, now=NOW,
        )  # fmt: skip

    def states(self) -> dict[str, str]:
        return {row["id"]: row["state"] for row in self.tx.execute("SELECT id, state FROM turns")}


@pytest.fixture
def rows(folder: Path) -> Iterator[Rows]:
    home = open_home(folder / "home")
    for name in ("main", "family"):
        make_group(home, name, 0, 0)
    with rows_of_one_group(home.db) as (tx, group):
        yield Rows(tx, group, home)


# --- what is a command ---------------------------------------------------------------------------

FOUND = [
    *(("/stop", "stop"), (" /StOp\n", "stop"), ("/help", "help"), ("/new", "new"), ("/STATUS\t", "status")),
    *((" /forget \n ALL", "forget all"), ("/forget", "forget"), ("/forget  today ", "forget today")),
    *(("/\uff33\uff34\uff2f\uff30", "stop"), ("\uff0fstop", "stop"), ("/sto\u017f"[:4] + "p", "stop")),  # full width
    *(("\u200f/help", "help"), ("\u00a0/help\u00a0", "help"), ("/help\u2003", "help")),  # marks and blanks of all kinds
    *(("/stop now", "stop now"), ("/stop\nit", "stop it"), ("/forget me", "forget me"), ("/yes K7WQ2", "yes K7WQ2")),
    *(("/Memory UNDO #3", "memory undo #3"), ("/pause Our Family", "pause Our Family")),
    *(
        (x, "")
        for x in ("stop", "/stopx", "//stop", "/ stop", "/", "", " ", "/unknown", "see /stop", "/stop.", "-/stop")
    ),
    *((x, "") for x in ("\u2044stop", "\u2215stop", "\u29f8stop", "\\stop", "/st op", "/s\u200btop", "/\u0455top")),
]


@pytest.mark.parametrize(("text", "command"), FOUND)
def test_what_is_a_command(text: str, command: str) -> None:
    """The first word, or two; case and blanks are forgiven, and what follows is as it was typed."""
    found = commands.find(text)
    assert (f"{found.word} {' '.join(found.args)}".strip() if found else "") == command


def test_a_long_text_is_looked_at_no_further_than_a_command_may_go() -> None:
    """A megabyte behind the word costs nothing."""
    found = commands.find("/stop " + "x " * 500_000)
    assert found is not None
    assert len(found.args) < 2000


# --- who may, and where ---------------------------------------------------------------------------

# word -> owner, allowed, guest; a command of the main chat is refused elsewhere, and to nobody else heard at all.
ROLES = {
    "help": ("yes", "yes", "yes"),
    "status": ("yes", "yes", "silence"),
    "stop": ("yes", "yes", "of their own turn"),
    "new": ("yes", "yes", "silence"),
    "tasks": ("yes", "yes", "silence"),
    "tasks pause": ("yes", "silence", "silence"),
    "tasks resume": ("yes", "silence", "silence"),
    "tasks run": ("yes", "silence", "silence"),
    "tasks cancel": ("yes", "silence", "silence"),
    "heartbeat": ("yes", "silence", "silence"),
    "heartbeat on": ("yes", "silence", "silence"),
    "heartbeat off": ("yes", "silence", "silence"),
    "usage": ("in main", "silence", "silence"),
    "forget": ("yes", "in their own chat", "silence"),
    "forget today": ("yes", "in their own chat", "silence"),
    "forget all": ("yes", "in their own chat", "silence"),
    "memory": ("yes", "yes", "silence"),
    "memory diff": ("yes", "yes", "silence"),
    "memory undo": ("yes", "silence", "silence"),
    "memory reset": ("yes", "silence", "silence"),
    "groups": ("in main", "silence", "silence"),
    "groups add": ("in main", "silence", "silence"),
    "pause": ("yes", "silence", "silence"),
    "resume": ("yes", "silence", "silence"),
    "model": ("yes", "silence", "silence"),
    "mounts": ("yes", "silence", "silence"),
    "network": ("yes", "silence", "silence"),
    "network allow": ("yes", "silence", "silence"),
    "network deny": ("yes", "silence", "silence"),
    "network public": ("yes", "silence", "silence"),
    "network none": ("yes", "silence", "silence"),
    "allow": ("in main", "silence", "silence"),
    "deny": ("in main", "silence", "silence"),
    "yes": ("in main", "silence", "silence"),
    "no": ("in main", "silence", "silence"),
    "restart": ("in main", "silence", "silence"),
}
CELLS = [(word, role, cell) for word, cells in ROLES.items() for role, cell in zip(Role, cells, strict=True)]
ELSEWHERE = "works in your own chat with me alone"


def test_the_table_is_whole() -> None:
    """No command without its row, no row without its command, and the README shows the same."""
    assert set(ROLES) == set(COMMANDS)
    assert [(w, r, str(COMMANDS[w].may.get(r, "silence"))) for w in ROLES for r in Role] == CELLS


@pytest.mark.parametrize(("word", "role", "cell"), CELLS)
def test_who_may_use_it_in_a_group(rows: Rows, word: str, role: Role, cell: str) -> None:
    """Who may not gets silence; the owner hears where it works; of a group belongs to all of it."""
    answered = rows.do(f"/{word}", role=role)
    text = answered.text if answered is not None else None
    if cell == "silence":
        assert answered is None
    elif cell == "in main":
        assert text is not None
        assert ELSEWHERE in text
    elif cell == "in their own chat":
        assert text == "Only my owner can do that in a group."
    elif cell == "of their own turn":
        assert text == ""
    else:
        assert text
        assert ELSEWHERE not in text


@pytest.mark.parametrize(("word", "role", "cell"), CELLS)
def test_who_may_use_it_in_main(rows: Rows, word: str, role: Role, cell: str) -> None:
    """There the owner may use everything; whoever else might get into that chat gains nothing by it."""
    answered = rows.do(f"/{word}", rows.main, role)
    assert (answered is None) is (cell == "silence")
    if answered is not None and role is Role.OWNER:
        assert answered.text
        assert ELSEWHERE not in answered.text


@pytest.mark.parametrize("role", [Role.ALLOWED, Role.GUEST])
@pytest.mark.parametrize("word", [w for w in COMMANDS if COMMANDS[w].of_group])
def test_nobody_but_the_owner_names_another_group(rows: Rows, word: str, role: Role) -> None:
    """Neither in main nor elsewhere: silence, or how it is written, and nothing of that group."""
    for group in (rows.main, rows.family):
        answered = rows.do(f"/{word} main", group, role)
        assert answered is None or answered.text.startswith("Write it as: /")
        assert answered is None or "GROUP" not in answered.text


def test_a_direct_chat_is_its_own_persons(rows: Rows) -> None:
    """An allowed person may have forgotten what was said there."""
    chat = replace(rows.chat(rows.family), is_group=False)
    assert "Of this chat I keep" in rows.told("/forget", role=Role.ALLOWED, chat=chat)
    assert rows.told("/forget all", role=Role.ALLOWED, chat=chat).startswith("Forgotten")


def test_the_readme_shows_the_table() -> None:
    """It is made from the code: `python -c "from nanoclaw.commands import table; print(table())"`."""
    shown = (ROOT / "README.md").read_text("utf-8").partition("<!-- commands -->")[2].partition("<!-- /commands -->")
    assert shown[0].strip() == commands.table()


@pytest.mark.parametrize("role", Role)
def test_help_shows_each_person_what_they_may_use(rows: Rows, role: Role) -> None:
    """No more and no less than what is not refused there."""
    for group in (rows.main, rows.family):
        text = rows.told("/help", group, role)
        shown = {line.partition(":")[0].split(" [")[0].removeprefix("/") for line in text.splitlines()}
        shown = {" ".join(w for w in word.split() if w.islower()) for word in shown}
        chat = rows.chat(group)
        may = {w: str(c.may[role]) for w, c in COMMANDS.items() if role in c.may}
        hidden = {w for w, m in may.items() if m == "in main" and not group.is_main}
        hidden |= {w for w, m in may.items() if m == "in their own chat" and chat.is_group}
        assert shown == set(may) - hidden
        assert ("[GROUP]" in text) is (role is Role.OWNER and group.is_main)


def test_a_guest_is_told_that_a_few_times(rows: Rows) -> None:
    """Who floods a chat with /help gets silence; /stop is still heard."""
    answers = [router.hear(rows.tx, said("/help", "Gus"), NOW) for _ in range(commands.MAX_HELP + 3)]
    texts = [h.answered.text for h in answers if h is not None and h.answered is not None]
    assert [bool(text) for text in texts] == [True] * commands.MAX_HELP + [False] * 3
    for n in range(20):  # neither do many, each of them for the first time
        router.hear(rows.tx, said("/help", f"Guest {n}"), NOW)
    (count,) = rows.tx.execute("SELECT count(*) FROM outgoing").fetchone()
    assert count == commands.MAX_HELP
    assert rows.told("/help", role=Role.ALLOWED)


# --- whatever runs at that moment -----------------------------------------------------------------

STATES = ["idle", "waiting", "given", "stopped", "parked", "closing"]


def in_state(rows: Rows, state: str) -> None:
    if state == "idle":
        return
    if state == "waiting":
        rows.work(Role.ALLOWED)
        return
    turn = {"stopped": TurnState.STOPPED, "parked": TurnState.PARKED}.get(state, TurnState.GIVEN)
    rows.turn(turn, Role.ALLOWED)
    if state == "parked":
        turns.park(rows.tx, rows.family.lane, "billing", "pay", NOW)
    if state == "closing":
        runs.closing(rows.tx, "r")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_works_in_every_state(rows: Rows, word: str, state: str) -> None:
    """Each role is answered, or not, as if nothing ran; and no command but /stop and /forget ends a turn."""
    in_state(rows, state)
    before = rows.states()
    for role in reversed(Role):  # the owner last: their word may change what the others find
        answered = rows.do(f"/{word}", role=role)
        assert (answered is None) is (ROLES[word][list(Role).index(role)] == "silence")
    if word not in ("stop", "forget today", "forget all"):
        assert rows.states() == before


@pytest.mark.parametrize("word", COMMANDS)
def test_what_touches_a_running_turn_is_not_done_late(rows: Rows, word: str) -> None:
    """It says how late it is; what only tells something tells it."""
    rows.turn(TurnState.GIVEN, Role.OWNER)
    turns.set_session(rows.tx, rows.family.lane, "s")
    group = rows.main if str(COMMANDS[word].may[Role.OWNER]) == "in main" else rows.family
    answered = rows.do(f"/{word}", group, age_ms=60_001)
    assert answered is not None
    late = {"stop", "new", "forget today", "forget all", "memory undo", "memory reset", "tasks cancel", "restart"}
    late |= {"heartbeat on", "heartbeat off"}
    assert ("1 minute(s) ago" in answered.text) is (word in late)
    assert (answered.stop, answered.retire, answered.restart) == ("", False, False)
    assert (turns.session(rows.tx, rows.family.lane), rows.states()) == ("s", {"t": "given"})


@pytest.mark.parametrize("word", COMMANDS)
def test_arguments_that_make_no_sense(rows: Rows, word: str) -> None:
    """The answer is how it is written, or what is wrong with them; nothing is done."""
    command = COMMANDS[word]
    group = rows.main if str(command.may[Role.OWNER]) == "in main" else rows.family
    before = audit.newest(rows.tx, 100)
    text = rows.told(f"/{word} one two three four", group)
    if not command.of_group and command.takes != "PERSON" and command.takes != "[PERSON]":
        assert text == f"Write it as: {command.usage(word, Role.OWNER, group)}"
    assert text
    assert audit.newest(rows.tx, 100) == before


# --- /stop, /new, /status ------------------------------------------------------------------------


@pytest.mark.parametrize("state", [TurnState.GIVEN, TurnState.OPEN, TurnState.PARKED])
def test_stop_ends_the_turn_in_the_same_transaction(rows: Rows, state: TurnState) -> None:
    """Running, waiting or parked: it is stopped, and a run that has it gets the letter."""
    rows.turn(state, Role.ALLOWED)
    answered = rows.do("/stop")
    assert answered is not None
    assert (answered.text, answered.stop, answered.lane) == ("Stopped.", "t", "family")
    assert rows.states() == {"t": "stopped"}
    kinds = [letter.kind for _, letter in runs.letters(rows.tx, "r")]
    assert ("stop" in kinds) == (state is TurnState.GIVEN)
    assert rows.told("/stop") == "Nothing is running."
    assert [(e.who, e.verb, e.detail) for e in audit.newest(rows.tx, 9)] == [("owner", "stop", "family")]


def test_stop_reaches_a_task_that_runs_beside(rows: Rows) -> None:
    """Where the group's own lane is idle, its task's turn is meant."""
    turns.ensure_lane(rows.tx, "family#task-1", rows.family.id)
    rows.turn(TurnState.GIVEN, Role.OWNER)
    rows.tx.execute("UPDATE turns SET lane = 'family#task-1'")
    assert rows.told("/stop", role=Role.GUEST) == ""
    answered = rows.do("/stop")
    assert answered is not None
    assert (answered.stop, answered.lane) == ("t", "family#task-1")


GUESTS = [
    (TurnState.GIVEN, (Role.GUEST,), True),
    (TurnState.OPEN, (Role.GUEST, Role.GUEST), True),
    (TurnState.PARKED, (Role.GUEST,), True),
    (TurnState.GIVEN, (Role.ALLOWED,), False),
    (TurnState.GIVEN, (Role.GUEST, Role.OWNER), False),
    (TurnState.OPEN, (Role.OWNER,), False),
    (TurnState.GIVEN, (), False),  # nobody's: a task's, say
    (TurnState.DONE, (Role.GUEST,), False),
]


@pytest.mark.parametrize(("state", "senders", "stops"), GUESTS)
def test_a_guest_stops_their_own_turn_alone(
    rows: Rows, state: TurnState, senders: tuple[Role, ...], stops: bool
) -> None:
    """A turn that others asked for as well is not a guest's to stop: silence."""
    rows.turn(state, *senders)
    answered = rows.do("/stop", role=Role.GUEST)
    assert answered is not None
    assert (answered.text, answered.stop) == (("Stopped.", "t") if stops else ("", ""))
    assert rows.states() == {"t": "stopped" if stops else state}


def test_a_guest_does_not_stop_what_joined_their_turn(rows: Rows) -> None:
    """A follow-up of the owner's is answered together with it."""
    rows.turn(TurnState.GIVEN, Role.GUEST)
    rows.turn(TurnState.GIVEN, Role.OWNER, turn_id="t2")
    assert rows.told("/stop", role=Role.GUEST) == ""
    assert rows.states() == {"t": "given", "t2": "given"}


@pytest.mark.parametrize("first", ["t", "t2"])
def test_a_guest_does_not_stop_a_task_that_answers_with_their_turn(rows: Rows, first: str) -> None:
    """Nobody's message made it, so it is not theirs."""
    rows.turn(TurnState.GIVEN, *([Role.GUEST] if first == "t" else []))
    rows.turn(TurnState.GIVEN, *([Role.GUEST] if first == "t2" else []), turn_id="t2")
    assert rows.told("/stop", role=Role.GUEST) == ""
    assert rows.states() == {"t": "given", "t2": "given"}


def test_a_guest_takes_back_what_waits_if_it_is_all_theirs(rows: Rows) -> None:
    """Before a turn was made of it."""
    rows.work(Role.GUEST)
    rows.work(Role.ALLOWED)
    assert rows.told("/stop", role=Role.GUEST) == ""
    rows.tx.execute("DELETE FROM messages WHERE person_id = ?", (rows.person(Role.ALLOWED),))
    assert rows.told("/stop", role=Role.GUEST) == "Stopped."
    assert messages.count_work(rows.tx, rows.family.lane) == 0


def test_new_forgets_the_session_and_retires_the_run(rows: Rows) -> None:
    """The run takes no more turns; without one there is nothing to retire."""
    turns.set_session(rows.tx, rows.family.lane, "s")
    first = rows.do("/new", role=Role.ALLOWED)
    assert first is not None
    assert not first.retire
    assert turns.session(rows.tx, rows.family.lane) == ""
    rows.turn(TurnState.GIVEN, Role.ALLOWED)
    second = rows.do("/new")
    assert second is not None
    assert second.retire
    row = runs.get(rows.tx, "r")
    assert row is not None
    assert row.state is RunState.CLOSING
    who = [entry.who for entry in audit.newest(rows.tx, 9)]
    assert who == [f"person {rows.person(Role.ALLOWED)}", "owner"]


def test_status_names_what_is_wrong(rows: Rows) -> None:
    """A parked lane says so; why, and what to do, in main alone."""
    turns.park(rows.tx, rows.family.lane, "billing", "pay", 1)
    assert "is kept" in rows.told("/status")
    assert "pay" not in rows.told("/status")
    assert "check the account's billing" in rows.told("/status", replace(rows.family, is_main=True))


def test_status_in_main_names_what_is_wrong_elsewhere(rows: Rows) -> None:
    """Parked lanes and texts that are given up; the others hear nothing of them."""
    turns.park(rows.tx, "main", "quota", "", 1)
    rows.tx.execute(
        "INSERT INTO outgoing(chat_id, kind, payload, state, created_at) VALUES(2, 'reply', 'x', 'dead', 1)"
    )
    for is_main in (True, False):
        text = rows.told("/status", replace(rows.family, is_main=is_main))
        assert ("[main: quota]" in text) is is_main
        assert ("1 text(s) could not be delivered" in text) is is_main
        assert "not sent yet" not in text


def test_status_of_a_group_counts_its_own_texts(rows: Rows) -> None:
    """What waits for others is no matter of theirs."""
    for _ in range(2):
        outgoing.queue(rows.tx, rows.chat(rows.main).id, "x", OutKind.REPLY, NOW)
    assert "not sent yet" not in rows.told("/status", role=Role.ALLOWED)
    assert "2 text(s) are not sent yet" in rows.told("/status", rows.main)
    outgoing.queue(rows.tx, rows.chat(rows.family).id, "x", OutKind.REPLY, NOW)
    assert "1 text(s) are not sent yet" in rows.told("/status", role=Role.ALLOWED)


def test_status_says_what_the_turn_does_now(rows: Rows) -> None:
    """Connection, for how long, the tool, what waits, and what today has used."""
    rows.turn(TurnState.GIVEN, Role.ALLOWED)
    rows.work(Role.ALLOWED)
    house = House(home=rows.home, connections=lambda: "whatsapp: connected", doing={"t": "WebSearch"}.__getitem__)
    ledger.add_usage(rows.tx, rows.family.id, "r", Usage("m", 1000, 234), NOW)
    text = rows.told("/status", role=Role.ALLOWED, house=house, now=NOW + 12_345)
    assert "whatsapp: connected" in text
    assert "answers for now" not in text
    house = replace(house, stand_in=lambda group_id: StandIn("family", "haiku", "opus", NOW))
    other = rows.told("/status", role=Role.ALLOWED, house=house)
    assert "haiku answers for now, because opus is overloaded." in other
    assert "working for 12 s (now: WebSearch); 1 message(s) wait" in text
    assert "Today: 1,234 tokens" in text


# --- groups, people, memory ----------------------------------------------------------------------


def test_groups_lists_and_adds(rows: Rows) -> None:
    """A numbered list, newest first; the number serves exactly that chat, whatever is said meanwhile."""
    club = chats.learn_chat(rows.tx, "test", ("club",), "Chess «club»", True, NOW)
    chats.learn_chat(rows.tx, "test", ("other",), "Other", True, NOW + 1)
    lines = rows.told("/groups", rows.main).splitlines()
    assert [line.partition(".")[0] for line in lines[:2]] == [str(club.id + 1), str(club.id)]
    assert "«Chess 'club'»" in lines[1]
    answered = rows.do(f"/groups add {club.id}", rows.main)
    assert answered is not None
    assert answered.changed
    group = chats.group_by_folder(rows.tx, "chess-club")
    assert group is not None
    assert chats.chat(rows.tx, club.id).group_id == group.id
    assert "group already" in rows.told(f"/groups add {club.id}", rows.main)
    assert "who: " in rows.told("/groups chess-club", rows.main)
    assert rows.told("/groups add club", rows.main).startswith("Write it as: /groups add")


def test_pause_and_resume(rows: Rows) -> None:
    """In main by name, in a group that group; main itself cannot be."""
    assert "Paused" in rows.told("/pause FAMILY", rows.main)
    assert chats.group(rows.tx, rows.family.id).state is GroupState.PAUSED
    assert "answer in family again" in rows.told("/resume")
    assert chats.group(rows.tx, rows.family.id).state is GroupState.ACTIVE
    assert "cannot be paused" in rows.told("/pause", rows.main)
    assert "no group 'nobody'" in rows.told("/pause nobody", rows.main)


def test_model(rows: Rows) -> None:
    """Shown and set, of this group or in main of any; a slip in a group's name is no model."""
    assert "claude-usual, the default" in rows.told("/model")
    assert "claude-other answers in family" in rows.told("/model claude-other")
    assert rows.told("/model family", rows.main) == "family is answered by claude-other."
    assert "claude-usual answers in family" in rows.told("/model family default", rows.main)
    assert rows.told("/model famly", rows.main) == "There is no group or model named 'famly'."
    assert chats.main_group(rows.tx).model == ""
    assert rows.told("/model family main", role=Role.OWNER) == "Write it as: /model [MODEL]"


def test_allow_and_deny(rows: Rows) -> None:
    """By number, with what it means; alone, who may."""
    assert "is allowed" in rows.told("/allow +49 151 1234 5678", rows.main)
    assert "+4915112345678): allowed" in rows.told("/allow", rows.main)
    assert "is denied" in rows.told("/deny +4915112345678", rows.main)
    assert "+4915112345678): denied" in rows.told("/allow", rows.main)
    assert "terminal alone" in rows.told("/deny jid:Olga", rows.main)


def test_people_and_chats_have_one_numbering(rows: Rows) -> None:
    """The number that /groups shows; a name alone is nobody's, since people choose theirs."""
    ann = chats.learn_chat(rows.tx, "whatsapp", ("77@lid", "4977777777@s.whatsapp.net"), "Ann", False, NOW)
    assert f"{ann.id}. «Ann»" in rows.told("/groups", rows.main)
    assert rows.told(f"/allow {ann.id}", rows.main) == "somebody without a name (+4977777777) is allowed."
    assert "that is a group" in rows.told(f"/deny {rows.chat(rows.family).id}", rows.main).lower()
    assert "no chat has the number 99" in rows.told("/allow 99", rows.main).lower()
    chats.learn_person(rows.tx, "whatsapp", ("666@lid",), "Mum")
    assert "say 666@lid, if that is who you mean" in rows.told("/allow Mum", rows.main)
    assert "+4977777777): allowed" in rows.told("/allow", rows.main)
    assert "666@lid" not in rows.told("/allow", rows.main)


def test_network(rows: Rows) -> None:
    """Shown, opened by host or for an hour, closed."""
    assert "reaches nothing" in rows.told("/network")
    told = rows.told("/network allow family example.org", rows.main)
    assert told == "example.org is on the list of family: family reaches the hosts of its list, by https."
    assert "example.org" in rows.told("/network")
    assert "For an hour" in rows.told("/network public")
    for verb, where in (("deny", "off"), ("allow", "on")):  # neither changes what holds in that hour
        told = rows.told(f"/network {verb} example.org")
        assert told.startswith(f"example.org is {where} the list of family: family reaches every host of the internet")
        assert "until" in told
    assert "nothing" in rows.told("/network none")
    assert rows.told("/network allow").startswith("Write it as: /network allow HOST")


def test_memory_can_be_taken_back(rows: Rows) -> None:
    """Shown, compared, brought back and begun anew; the file follows once the row is on the disk."""
    file = rows.home.group_dir("family") / MEMORY_FILE
    file.write_text("# Memory\n\nnonsense\n")
    assert "nonsense" in rows.told("/memory", role=Role.ALLOWED)
    answered = rows.do("/memory reset")
    assert answered is not None
    assert answered.changed
    memory.settle(rows.tx, rows.home, NOW)
    assert file.read_text() == FIRST_MEMORY
    assert "nonsense" in rows.told("/memory diff")
    rows.told("/memory undo family 1", rows.main)
    memory.settle(rows.tx, rows.home, NOW)
    assert "nonsense" in file.read_text()
    assert rows.told("/memory undo two") == "Write it as: /memory undo [N]"


# --- what is no command though it reads like one ------------------------------------------------


def heard(rows: Rows, msg: Incoming) -> Verdict:
    done = router.hear(rows.tx, msg, NOW)
    assert done is not None
    return done.verdict


@pytest.mark.parametrize(
    "more",
    [
        {"forwarded": True},
        {"kind": "image"},
        {"kind": "poll"},
        {"kind": "contact"},
        {"kind": "reaction", "target": "x"},
        {"kind": "edit", "target": "x"},
    ],
    ids=str,
)
def test_only_what_was_typed_is_a_command(rows: Rows, more: dict[str, object]) -> None:
    """Neither a forwarded text nor a caption, a poll, a reaction or an edit: nothing is answered by the host."""
    assert heard(rows, replace(said("hello", wa_id="x"))) is Verdict.WORK
    assert heard(rows, replace(said("/pause"), **more)) is not Verdict.COMMAND
    assert chats.group(rows.tx, rows.family.id).state is GroupState.ACTIVE


def test_an_edit_that_came_first_makes_no_command(rows: Rows) -> None:
    """What the message said when it was typed is what counts."""
    heard(rows, replace(said("/pause"), kind="edit", target="late"))
    assert heard(rows, said("hello", wa_id="late")) is Verdict.WORK
    assert chats.group(rows.tx, rows.family.id).state is GroupState.ACTIVE


def test_nobody_in_particular_commands_nothing(rows: Rows) -> None:
    """A sender whose identity is not resolved."""
    assert heard(rows, replace(said("/pause"), sender=Sender(()))) is Verdict.CONTEXT


def test_what_a_guest_may_not_is_not_given_to_the_agent_either(rows: Rows) -> None:
    """It ends where it was heard."""
    done = router.hear(rows.tx, said("/pause", "Gus"), NOW)
    assert done is not None
    assert (done.verdict, done.answered) == (Verdict.COMMAND, None)
    assert messages.count_work(rows.tx, rows.family.lane) == 0


def test_a_command_is_heard_once(rows: Rows) -> None:
    """Also when the other side sends it again."""
    first = router.hear(rows.tx, said("/pause", wa_id="once"), NOW)
    assert first is not None
    assert router.hear(rows.tx, said("/pause", wa_id="once"), NOW) is None


@pytest.mark.parametrize("role", [Role.ALLOWED, Role.GUEST])
@pytest.mark.parametrize("who", ["owner", "paused", "later"])
def test_who_may_not_call_there_does_not_command_either(rows: Rows, who: str, role: Role) -> None:
    """Where the owner alone is heard, in a group that is paused, and of a guest who joined later: silence."""
    rows.turn(TurnState.GIVEN, role)
    turns.set_session(rows.tx, rows.family.lane, "s")
    if who == "later" and role is Role.GUEST:
        people.learn_members(rows.tx, rows.chat(rows.family).id, [("jid:Al",)], NOW)
    elif who == "paused":
        groups.pause(rows.tx, rows.family, By("owner"), NOW)
    else:
        groups.change(rows.tx, rows.family, {"who": "owner"}, By("owner"), NOW)
    for word in COMMANDS:
        assert rows.do(f"/{word}", role=role) is None
    assert (turns.session(rows.tx, rows.family.lane), rows.states()) == ("s", {"t": "given"})
    assert rows.told("/stop") == "Stopped."


def test_who_was_denied_gets_silence(rows: Rows) -> None:
    """Also where guests are heard."""
    rows.person(Role.GUEST)
    rows.told("/deny jid:Gus", rows.main)
    done = router.hear(rows.tx, said("/help", "Gus"), NOW)
    assert done is not None
    assert done.answered is None


def test_a_refusal_leaves_nothing_half_done(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a verb wrote before it refused is undone, and the refusal is the answer."""

    def half(tx: Tx, asked: Asked) -> Answered:
        turns.set_session(tx, asked.group.lane, "half")
        raise Refused("no further")

    monkeypatch.setitem(COMMANDS, "half", Command("", {Role.OWNER: May.YES}, half))
    assert rows.told("/half") == "No further."
    assert turns.session(rows.tx, rows.family.lane) == ""
