"""What letters and deaths do to the rows: tables over outcomes and states."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanoclaw import router
from nanoclaw.errors import PARKING, Cause, Refused
from nanoclaw.mailbox import Hello, Prompt, Reply, Request, ToHost, TurnDone
from nanoclaw.models import Authority, Group, Key, RunRow, RunState, Turn, TurnState, Verdict
from nanoclaw.run import letters
from nanoclaw.run.letters import MAX_BAD, MAX_RETRIES, MAX_WAITING, Effects
from nanoclaw.store import Tx, messages, runs, turns
from nanoclaw.tools.chat import MAX_SAID
from nanoclaw.tools.chat import say as queued
from nanoclaw.tools.words import spoken
from tests.fakes import rows_of_one_group, said

NOW = 1_000_000
RUN = "run-1"


@dataclass
class Desk:
    """One run of one group, with turns as wanted."""

    tx: Tx
    group: Group

    def turn(self, turn_id: str, state: TurnState = TurnState.GIVEN, run: str = RUN) -> Turn:
        (chat,) = self.tx.execute("SELECT id FROM chats WHERE group_id = ?", (self.group.id,)).fetchone()
        lane = self.group.lane
        turn = Turn(turn_id, lane, self.group.id, chat, Authority.OWNER, TurnState.OPEN, "prompt")
        turns.insert(self.tx, turn, NOW)
        turns.give(self.tx, turn_id, run, NOW)
        self.tx.execute("UPDATE turns SET state = ? WHERE id = ?", (state, turn_id))
        return self.get(turn_id)

    def get(self, turn_id: str) -> Turn:
        found = turns.get(self.tx, turn_id)
        assert found is not None
        return found

    def apply(self, *batch: ToHost, over_budget: bool = False) -> Effects:
        ready = letters.ready(batch, self.parts)
        return letters.apply(self.tx, RUN, ready, 10, NOW, over_budget=over_budget)

    def parts(self, text: str) -> dict[str, list[str]]:
        """A channel whose texts are cut at every "|"."""
        return {"test": text.split("|"), "other": ["of another channel"]}

    def texts(self) -> list[str]:
        """What the group's chat is told."""
        rows = self.tx.execute(
            "SELECT payload FROM outgoing o JOIN chats c ON c.id = o.chat_id WHERE c.group_id = ? ORDER BY o.id",
            (self.group.id,),
        )
        return [r["payload"] for r in rows]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with rows_of_one_group(tmp_path / "db") as (tx, group):
        runs.insert(tx, RunRow(RUN, group.lane, group.id, RunState.STARTING, "f"), "model")
        yield Desk(tx, group)


def test_a_reply_is_not_lost_with_a_silent_turn(desk: Desk) -> None:
    """It ended together with one that somebody waits for."""
    desk.turn("a")
    desk.turn("b")
    desk.tx.execute("UPDATE turns SET silent = 1 WHERE id = 'b'")
    desk.apply(Reply(("a", "b"), "the bins!"))
    assert desk.texts() == ["the bins!"]


# outcome, status, turn before -> turn after, parked, said
DONE = [
    ("ok", 0, TurnState.GIVEN, TurnState.DONE, ""),
    ("ok", 0, TurnState.STOPPED, TurnState.STOPPED, ""),
    ("ok", 0, TurnState.DONE, TurnState.DONE, ""),
    ("ok", 0, TurnState.FAILED, TurnState.FAILED, ""),
    ("ok", 0, TurnState.OPEN, TurnState.OPEN, ""),
    ("stopped", 0, TurnState.GIVEN, TurnState.OPEN, ""),  # nobody had asked for it
    ("stopped", 0, TurnState.DONE, TurnState.DONE, ""),
    ("error", 401, TurnState.GIVEN, TurnState.PARKED, "credential"),
    ("error", 403, TurnState.GIVEN, TurnState.PARKED, "credential"),
    ("error", 402, TurnState.GIVEN, TurnState.PARKED, "billing"),
    ("error", 400, TurnState.GIVEN, TurnState.FAILED, ""),
    ("error", 404, TurnState.GIVEN, TurnState.FAILED, ""),
    ("error", 429, TurnState.GIVEN, TurnState.OPEN, ""),
    ("error", 500, TurnState.GIVEN, TurnState.OPEN, ""),
    ("error", 502, TurnState.GIVEN, TurnState.OPEN, ""),
    ("error", 529, TurnState.GIVEN, TurnState.OPEN, ""),
    ("error", 0, TurnState.GIVEN, TurnState.FAILED, ""),
    ("nonsense", 0, TurnState.GIVEN, TurnState.FAILED, ""),
    ("error", 401, TurnState.STOPPED, TurnState.STOPPED, ""),
]


@pytest.mark.parametrize(("outcome", "status", "before", "after", "parked"), DONE)
def test_the_end_of_a_turn(
    desk: Desk, outcome: str, status: int, before: TurnState, after: TurnState, parked: str
) -> None:
    """Only a given turn moves; where to, its outcome says."""
    desk.turn("t", before)
    effects = desk.apply(TurnDone(("t",), outcome, "s", status, "why"))
    assert desk.get("t").state is after
    assert turns.parked(desk.tx, desk.group.lane)[0] == parked
    assert effects.ended == ["t"]
    assert effects.succeeded == (outcome == "ok" and before is TurnState.GIVEN)
    assert bool(desk.texts()) == (bool(parked) or (after is TurnState.FAILED and before is TurnState.GIVEN))


# session that the run resumed, turn that it was opened for, status, error, spoke before -> turn after, afresh
REFUSED = [
    ("old", "t", 400, "no", False, TurnState.OPEN, True),
    ("old", "t", 413, "too large", False, TurnState.OPEN, True),
    ("", "earlier", 400, "no", False, TurnState.OPEN, True),
    ("old", "t", 400, "no", True, TurnState.FAILED, True),  # not asked again, but the next turn is in a new session
    ("", "t", 400, "no", False, TurnState.FAILED, False),  # nothing came before it: the message is to blame
    ("old", "t", 404, "no such model", False, TurnState.FAILED, False),
    ("old", "t", 400, "Your credit balance is too low", False, TurnState.PARKED, False),
]


@pytest.mark.parametrize(("resumed", "first", "status", "error", "spoke", "after", "afresh"), REFUSED)
def test_a_conversation_that_is_refused(
    desk: Desk, resumed: str, first: str, status: int, error: str, spoke: bool, after: TurnState, afresh: bool
) -> None:
    """400 behind an earlier conversation: that one is given up, and the turn tried without it."""
    desk.tx.execute("UPDATE runs SET session = ?", (resumed,))
    runs.add_letter(desk.tx, RUN, Prompt.kind, first)
    desk.turn("t")
    if spoke:
        turns.spoke(desk.tx, "t")
    effects = desk.apply(TurnDone(("t",), "error", "now", status, error))
    assert desk.get("t").state is after
    assert bool(effects.spoiled) is afresh
    assert turns.session(desk.tx, desk.group.lane) == ("" if afresh else "now")
    run = runs.get(desk.tx, RUN)
    assert run is not None
    assert (run.state is RunState.CLOSING) is afresh


def test_a_used_up_budget_is_not_a_bad_key(desk: Desk) -> None:
    """Our own 403 means the cap."""
    desk.turn("t")
    desk.apply(TurnDone(("t",), "error", "", 403, "no"), over_budget=True)
    assert turns.parked(desk.tx, desk.group.lane)[0] == Cause.BUDGET


def test_a_budget_that_was_used_up_before_midnight_is_one(desk: Desk) -> None:
    """Our own 403 is known by its words when the day has turned meanwhile."""
    said = "API Error: 403 the daily limit of 5,000,000 tokens is used up; it starts again at midnight"
    for turn, text in (("t", said), ("u", said.replace("daily", "monthly"))):
        desk.turn(turn)
        desk.apply(TurnDone((turn,), "error", "", 403, text), over_budget=False)
        assert turns.parked(desk.tx, desk.group.lane)[0] == Cause.BUDGET


def test_a_turn_that_cost_too_much_fails_and_the_lane_goes_on(desk: Desk) -> None:
    """The next turn has its own limit; so has one after a circle of calls, which nobody calls a bad key."""
    for turn, text in (
        ("t", "API Error: 403 the limit of one turn, $1.00, is used up"),
        ("u", "API Error: 403 Stopped by the gateway: Bash was called 20 times in a row the same way."),
    ):
        desk.turn(turn)
        desk.apply(TurnDone((turn,), "error", "", 403, text))
        assert desk.get(turn).state is TurnState.FAILED
    assert turns.parked(desk.tx, desk.group.lane)[0] == ""
    assert (desk.get("t").error.partition(":")[0], desk.get("u").error.partition(":")[0]) == ("cost", "policy")


@pytest.mark.parametrize(
    ("status", "last"), [(529, TurnState.FAILED), (502, TurnState.FAILED), (429, TurnState.PARKED)]
)
def test_patience_has_an_end(desk: Desk, status: int, last: TurnState) -> None:
    """Five doubling pauses; after them overload is told, and quota parks."""
    desk.turn("t")
    for n in range(MAX_RETRIES):
        desk.apply(TurnDone(("t",), "error", "", status, "busy"))
        turn = desk.get("t")
        assert (turn.state, turn.retries, turn.not_before) == (TurnState.OPEN, n + 1, NOW + 5000 * 2**n)
        turns.give(desk.tx, "t", RUN, NOW)
    desk.apply(TurnDone(("t",), "error", "", status, "busy"))
    assert desk.get("t").state is last
    assert len(desk.texts()) == 1


def test_merged_turns_end_together_with_one_reply(desk: Desk) -> None:
    """The reply goes with the last one, and each knows where its answer is."""
    desk.turn("t1")
    desk.turn("t2")
    desk.apply(Reply(("t1", "t2"), "both"), TurnDone(("t1", "t2"), "ok", "s"))
    assert desk.texts() == ["both"]
    assert {desk.get(t).state for t in ("t1", "t2")} == {TurnState.DONE}
    (row,) = desk.tx.execute("SELECT answered_by FROM turns WHERE id = 't1'").fetchall()
    assert row["answered_by"] == "t2"


ENDS: list[tuple[str, Callable[[Desk], object]]] = [
    ("overload", lambda desk: desk.apply(TurnDone(("a", "b"), "error", "s", 529, "why"))),
    ("death", lambda desk: letters.end_run(desk.tx, RUN, Cause.SANDBOX, "it died", NOW)),
]


@pytest.mark.parametrize(("how", "end"), ENDS)
def test_what_joined_a_turn_acts_with_it(desk: Desk, how: str, end: Callable[[Desk], object]) -> None:
    """A tool acts in the name of the turn that was first, whoever wished it: none of them is asked again."""
    desk.turn("a")
    desk.turn("b")
    turns.spoke(desk.tx, "a")
    desk.turn("late")  # given behind the act, so not what it was for
    end(desk)
    assert [desk.get(t).state for t in ("a", "b")] == [TurnState.FAILED, TurnState.FAILED]
    assert desk.get("late").state is (TurnState.GIVEN if how == "overload" else TurnState.OPEN)
    assert len(desk.texts()) == 2


def test_what_did_not_join_is_asked_again(desk: Desk) -> None:
    """It waited behind the turn that acted, as the end of that one says."""
    desk.turn("a")
    desk.turn("behind")
    turns.spoke(desk.tx, "a")
    desk.apply(TurnDone(("a",), "ok", "s"))
    letters.end_run(desk.tx, RUN, Cause.SANDBOX, "it died", NOW)
    assert [desk.get(t).state for t in ("a", "behind")] == [TurnState.DONE, TurnState.OPEN]


def test_an_interruption_that_nobody_asked_for_is_told_the_second_time(desk: Desk) -> None:
    """The first time the turn is asked again; it is not lost in silence."""
    desk.turn("t")
    desk.apply(TurnDone(("t",), "stopped"))
    assert (desk.get("t").state, desk.texts()) == (TurnState.OPEN, [])
    turns.give(desk.tx, "t", RUN, NOW)
    desk.apply(TurnDone(("t",), "stopped"))
    assert desk.get("t").state is TurnState.FAILED
    assert desk.texts()[0].startswith("Sorry")


def test_what_was_merged_with_a_stopped_turn_is_stopped_too(desk: Desk) -> None:
    """One person's stop ends the one prompt that both had become."""
    desk.turn("t1", TurnState.STOPPED)
    desk.turn("t2")
    desk.apply(TurnDone(("t1", "t2"), "stopped"))
    assert (desk.get("t2").state, desk.texts()) == (TurnState.STOPPED, [])


INTERNAL = ["x <internal>secret a", "secret b", "secret c</internal> y"]


def test_a_reply_in_parts_is_one_text(desk: Desk) -> None:
    """What is internal stays inside wherever the cut is, and people get one message."""
    desk.turn("t")
    desk.apply(*(Reply(("t",), part) for part in INTERNAL), TurnDone(("t",), "ok"))
    assert desk.texts() == ["x  y"]


def test_parts_of_other_turns_are_other_texts(desk: Desk) -> None:
    """Only what belongs together is joined."""
    desk.turn("t1")
    desk.turn("t2")
    desk.apply(Reply(("t1",), "one"), Reply(("t2",), "two"), Reply((), "by the way"))
    assert desk.texts() == ["one", "two", "by the way"]


def test_letters_of_another_run_are_set_aside(desk: Desk) -> None:
    """A turn that this run was not given can be neither answered, ended nor used."""
    desk.turn("other", run="run-2")
    effects = desk.apply(
        Reply(("other",), "stolen"), Request(1, "other", "send_message", {"text": "x"}), TurnDone(("other",), "ok")
    )
    assert desk.get("other").state is TurnState.GIVEN
    assert desk.texts() == []
    assert (effects.calls, effects.ended, effects.bad) == ([], [], 3)


def test_a_request_counts_once(desk: Desk) -> None:
    """A letter that is read again asks for nothing new."""
    desk.turn("t")
    request = Request(1, "t", "send_message", {"text": "x"})
    assert desk.apply(request, request).calls == [1]
    assert desk.apply(request).calls == []


def test_a_session_that_was_given_up_does_not_come_back(desk: Desk) -> None:
    """After /new the run is closing: what it says of its session counts no more."""
    desk.turn("t")
    desk.turn("s")
    desk.apply(Hello("", ""), TurnDone(("s",), "ok", "first"))
    assert turns.session(desk.tx, desk.group.lane) == "first"
    runs.closing(desk.tx, RUN)
    turns.set_session(desk.tx, desk.group.lane, "")
    desk.apply(TurnDone(("t",), "ok", "second"))
    assert turns.session(desk.tx, desk.group.lane) == ""


@pytest.mark.parametrize("session", ["x" * 65, "x" * (1 << 20), "a\0b", "a b", " ", "é", "a/b", "--debug", "a\n"])
def test_what_is_no_session_id_is_not_kept(desk: Desk, session: str) -> None:
    """It would be a part of a command line; the session that was known stays."""
    desk.turn("t")
    turns.set_session(desk.tx, desk.group.lane, "known")
    desk.apply(TurnDone(("t",), "ok", session))
    assert desk.get("t").state is TurnState.DONE
    assert turns.session(desk.tx, desk.group.lane) == "known"


def test_the_end_of_no_turn_names_no_session(desk: Desk) -> None:
    """Nor does the end of a turn that this run was not given."""
    desk.turn("other", run="run-2")
    desk.apply(TurnDone((), "ok", "session"), TurnDone(("other",), "ok", "session"))
    assert turns.session(desk.tx, desk.group.lane) == ""


def test_calls_over_the_limit_are_refused_at_once(desk: Desk) -> None:
    """They are answered and counted; a flood of them is not even written down."""
    desk.turn("t")
    calls = [Request(n, "t", "send_message", {"text": "x"}) for n in range(1, MAX_WAITING + 3)]
    effects = desk.apply(*calls)
    assert (len(effects.calls), effects.refused, effects.bad) == (MAX_WAITING, True, 2)
    desk.apply(*(Request(n, "t", "send_message", {}) for n in range(100, 1000)))
    assert desk.tx.execute("SELECT count(*) FROM requests").fetchone()[0] == MAX_WAITING + 2 + MAX_BAD + 1


@pytest.mark.parametrize("text", ["", "  ", "<internal>only</internal>", "\x1b[0m"])
def test_a_reply_without_words_is_none(desk: Desk, text: str) -> None:
    """Nothing is sent, and the turn has not spoken."""
    desk.turn("t")
    desk.apply(Reply(("t",), text))
    assert desk.texts() == []
    assert not desk.get("t").spoke


DEATHS = [
    (Cause.SANDBOX, 0, False, TurnState.OPEN, 1),
    (Cause.SANDBOX, 1, False, TurnState.FAILED, 1),
    (Cause.SANDBOX, 0, True, TurnState.FAILED, 0),
    (Cause.POLICY, 0, False, TurnState.OPEN, 1),
    (Cause.TIMEOUT, 0, False, TurnState.FAILED, 0),
    (Cause.RESTART, 0, False, TurnState.OPEN, 0),
    (Cause.RESTART, 1, False, TurnState.OPEN, 1),
    (Cause.RESTART, 0, True, TurnState.FAILED, 0),
    *((cause, 1, False, TurnState.PARKED, 1) for cause in sorted(PARKING)),
    (Cause.ENGINE, 0, True, TurnState.FAILED, 0),
]


@pytest.mark.parametrize(("cause", "kills", "spoke", "after", "counted"), DEATHS)
def test_the_end_of_a_run(desk: Desk, cause: Cause, kills: int, spoke: bool, after: TurnState, counted: int) -> None:
    """Open again, failed and told, or parked: by the cause, the deaths before, and whether a chat had heard of it."""
    desk.turn("t")
    desk.tx.execute("UPDATE turns SET kills = ?, spoke = ?", (kills, spoke))
    assert letters.end_run(desk.tx, RUN, cause, "why", NOW) == ["t"]
    turn = desk.get("t")
    assert (turn.state, turn.kills) == (after, counted)
    assert bool(desk.texts()) == (after in (TurnState.FAILED, TurnState.PARKED))
    assert letters.end_run(desk.tx, RUN, cause, "why", NOW) == []


def test_a_stopped_turn_is_never_reopened(desk: Desk) -> None:
    """Whatever happens to its container."""
    desk.turn("t", TurnState.STOPPED)
    assert letters.end_run(desk.tx, RUN, Cause.SANDBOX, "why", NOW) == []
    assert desk.get("t").state is TurnState.STOPPED


def test_an_answer_makes_the_next_trouble_news(desk: Desk) -> None:
    """Told once until it is over, then told again; main learns the detail, the chat does not."""
    for n in (1, 2):
        for t in ("a", "b"):
            desk.turn(f"{t}{n}")
            desk.apply(TurnDone((f"{t}{n}",), "error", "", 401, "secret detail"))
            turns.release(desk.tx, desk.group.lane)
        assert len(desk.texts()) == n
        desk.turn(f"c{n}")
        desk.apply(TurnDone((f"c{n}",), "ok"))
    assert not any("secret detail" in t for t in desk.texts())
    everything = [r["payload"] for r in desk.tx.execute("SELECT payload FROM outgoing")]
    assert sum("secret detail" in t for t in everything) == 2


def rows(desk: Desk) -> list[tuple[int, str, str]]:
    """Part, text and quote of what the chat is told."""
    found = desk.tx.execute("SELECT part, payload, quote FROM outgoing ORDER BY id")
    return [(r["part"], r["payload"], r["quote"]) for r in found]


def asked(desk: Desk, turn_id: str, wa_id: str) -> None:
    """The turn answers this message."""
    router.hear(desk.tx, said("a question", wa_id=wa_id), NOW)
    messages.take(desk.tx, [m.id for m in messages.open_work(desk.tx, desk.group.lane)], turn_id)


def say(desk: Desk, n: int, text: str, turn_id: str = "t") -> int:
    """The agent says something before its answer; the row to wait for."""
    desk.apply(Request(n, turn_id, "send_message", {"text": text}))
    call = runs.request(desk.tx, RUN, n)
    assert call is not None
    return queued(desk.tx, call, spoken(text, desk.parts), NOW)


def test_a_long_reply_is_as_many_rows_as_are_sent(desk: Desk) -> None:
    """Numbered on behind what was said before; the first one quotes the question."""
    desk.turn("t")
    asked(desk, "t", "q")
    assert say(desk, 1, "a|b") == 2
    desk.apply(Reply(("t",), "c|d"), TurnDone(("t",), "ok"))
    assert rows(desk) == [(0, "a", ""), (1, "b", ""), (2, "c", "q"), (3, "d", "")]


@pytest.mark.parametrize(("final", "again"), [("a|b", False), ("b|a", False), ("a", False), ("a|c", True)])
def test_what_the_agent_has_sent_already_is_not_its_answer(desk: Desk, final: str, again: bool) -> None:
    """When all of its parts were sent in this turn."""
    desk.turn("t")
    say(desk, 1, "a|b")
    desk.apply(Reply(("t",), final))
    assert len(rows(desk)) == (4 if again else 2)


def test_what_was_said_in_another_turn_is_said_again(desk: Desk) -> None:
    """The same question may have the same answer."""
    desk.turn("s")
    desk.turn("t")
    say(desk, 1, "a", "s")
    desk.apply(Reply(("t",), "a"))
    assert desk.texts() == ["a", "a"]


def test_what_is_internal_does_not_come_back(desk: Desk) -> None:
    """Not by what the channel makes of the text either, and not over the seam of two parts."""
    desk.turn("t")
    desk.parts = lambda text: {"test": text.replace("&lt;", "<").split("|")}  # type: ignore[method-assign]
    desk.apply(Reply(("t",), "a|b &lt;internal>secret|more secret&lt;/internal> c|d"))
    assert desk.texts() == ["a", "b  c", "d"]


def test_a_text_of_which_the_channel_leaves_nothing_is_none(desk: Desk) -> None:
    """No row, and the turn has not spoken."""
    desk.turn("t")
    desk.apply(Reply(("t",), "| |"), Reply((), "|"))
    assert desk.texts() == []
    assert not desk.get("t").spoke
    with pytest.raises(Refused):
        say(desk, 1, "|")


def test_a_text_for_a_channel_that_is_switched_off_waits_whole(desk: Desk) -> None:
    """It is in parts when it is sent again by a host that serves the channel; none is lost."""
    desk.turn("t")
    desk.parts = lambda text: {"other": ["of another channel"]}  # type: ignore[method-assign]
    desk.apply(Reply(("t",), "a|b"))
    assert desk.texts() == ["a|b"]


def test_nobody_gets_a_book(desk: Desk) -> None:
    """What is over the limit of one text is left out, and the text says so."""
    desk.turn("t")
    desk.apply(Reply(("t",), "x" * 2_000_000))
    (text,) = desk.texts()
    assert text == "x" * 200_000 + "\n\n[Here 1800000 characters are left out: that is too long for a chat.]"


def test_a_flood_of_replies_is_put_into_words_only_so_far(desk: Desk) -> None:
    """Each costs time, though none of them may count: what is more is a letter that no honest agent writes."""
    desk.turn("t1")
    desk.turn("t2")
    worded: list[str] = []
    desk.parts = lambda text: worded.append(text) or {"test": []}  # type: ignore[func-returns-value, method-assign]
    effects = desk.apply(*(Reply((f"t{n % 2 + 1}",), "|") for n in range(1000)))
    assert len(worded) == 2 * MAX_SAID + MAX_BAD
    assert effects.bad == MAX_BAD + 1


def test_an_unsolicited_text_has_parts_too(desk: Desk) -> None:
    """It belongs to no turn."""
    desk.turn("t")
    desk.apply(Reply((), "a|b"))
    assert rows(desk) == [(0, "a", ""), (1, "b", "")]


def test_an_unsolicited_text_is_of_the_last_turns_chat(desk: Desk) -> None:
    """Of a lane with several; a run that was given nothing, or what is for nobody, says nothing."""
    assert not desk.apply(Reply((), "too early")).said
    desk.turn("t")
    desk.tx.execute("UPDATE turns SET silent = 1")
    assert not desk.apply(Reply((), "for nobody")).said
    desk.turn("u")
    desk.tx.execute("UPDATE turns SET chat_id = 1 WHERE id = 'u'")  # main's, on another channel
    assert desk.apply(Reply((), "a|b")).said
    assert [(r["chat_id"], r["payload"], r["turn_id"]) for r in desk.tx.execute("SELECT * FROM outgoing")] == [
        (1, "a|b", "")
    ]


def test_a_stream_of_unsolicited_texts_is_a_flood(desk: Desk) -> None:
    """A few may come; each counts as a letter that no honest agent writes, and so many end a run."""
    desk.turn("t")
    assert [desk.apply(Reply((), f"text {n}")).bad for n in range(5)] == [1] * 5


def test_what_a_turn_answers_as_its_channel_knows_it(desk: Desk) -> None:
    """Every message of its work, oldest first; what was only shown with them is none."""
    desk.turn("t")
    asked(desk, "t", "one")
    asked(desk, "t", "two")
    desk.tx.execute("UPDATE messages SET verdict = ? WHERE wa_id = 'one'", (Verdict.CONTEXT,))
    asked(desk, "t", "three")
    assert messages.keys_of_turn(desk.tx, "t") == (Key("two", "jid:Olga"), Key("three", "jid:Olga"))
