"""Turns and lanes: the unit of work, and the queue that it waits in."""

import json
from collections.abc import Sequence

from nanoclaw.errors import Cause
from nanoclaw.models import Authority, MessageState, Origin, Turn, TurnState, Verdict
from nanoclaw.store import Tx, messages

_PERHAPS = 2  # of `spoke`: a tool acted in the run that the turn was given to, for this one or another


def ensure_lane(tx: Tx, lane: str, group_id: int) -> None:
    """The lane's row, made if it is new."""
    tx.execute("INSERT INTO lanes(lane, group_id) VALUES(?, ?) ON CONFLICT DO NOTHING", (lane, group_id))


def session(tx: Tx, lane: str) -> str:
    """The lane's resumable session, or ""."""
    row = tx.execute("SELECT session FROM lanes WHERE lane = ?", (lane,)).fetchone()
    return "" if row is None else str(row["session"])


def set_session(tx: Tx, lane: str, value: str) -> None:
    """The next run of the lane resumes this session; "" starts afresh."""
    tx.execute("UPDATE lanes SET session = ?, refused = '' WHERE lane = ?", (value, lane))


def refuse_session(tx: Tx, lane: str, value: str) -> None:
    """The model's API does not take this session any more: the next run starts afresh, and is told so."""
    tx.execute("UPDATE lanes SET session = '', refused = ? WHERE lane = ?", (value, lane))


def parked(tx: Tx, lane: str) -> tuple[str, int, str]:
    """Why ("" if it is not), since when, and the detail for main."""
    row = tx.execute("SELECT parked, parked_at, detail FROM lanes WHERE lane = ?", (lane,)).fetchone()
    return ("", 0, "") if row is None else (row["parked"], row["parked_at"], row["detail"])


def parked_lanes(tx: Tx) -> dict[str, str]:
    """Every parked lane with its cause."""
    return {r["lane"]: r["parked"] for r in tx.execute("SELECT lane, parked FROM lanes WHERE parked <> ''")}


def park(tx: Tx, lane: str, cause: str, detail: str, now: int) -> None:
    """The lane waits for a person or a setting, its open turns with it."""
    tx.execute(
        "UPDATE lanes SET parked = ?, parked_at = ?, detail = ? WHERE lane = ? AND parked <> ?",
        (cause, now, detail, lane, Cause.LOOP),  # what a person has to end is not ended by another trouble's end
    )
    tx.execute(
        "UPDATE turns SET state = ?, error = ? WHERE lane = ? AND state = ?",
        (TurnState.PARKED, cause, lane, TurnState.OPEN),
    )


def release(tx: Tx, lane: str, *, by_person: bool = False) -> None:
    """The lane goes on; a loop is ended by a person of authority alone."""
    if not by_person and parked(tx, lane)[0] == Cause.LOOP:
        return
    tx.execute("UPDATE lanes SET parked = '', parked_at = 0, detail = '' WHERE lane = ?", (lane,))
    tx.execute(
        "UPDATE turns SET state = ?, error = '', retries = 0, not_before = 0 WHERE lane = ? AND state = ?",
        (TurnState.OPEN, lane, TurnState.PARKED),
    )


def insert(tx: Tx, turn: Turn, now: int) -> None:
    """A new open turn with its exact prompt."""
    tx.execute(
        "INSERT INTO turns"
        "(id, lane, group_id, chat_id, origin, authority, state, prompt, images, not_before, firing_id, silent,"
        " script, created_at) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(turn.id, turn.lane, turn.group_id, turn.chat_id, turn.origin, turn.authority, turn.state),
            *(turn.prompt, json.dumps(turn.images), turn.not_before, turn.firing, turn.silent),
            *(turn.script, now),
        ),
    )


def get(tx: Tx, turn_id: str) -> Turn | None:
    """One turn, or None for an id that we never gave out."""
    row = tx.execute("SELECT * FROM turns WHERE id = ?", (turn_id,)).fetchone()
    return None if row is None else _turn(row)


def next_open(tx: Tx, lane: str) -> Turn | None:
    """The lane's oldest open turn, due or not: what comes behind it waits."""
    row = tx.execute(
        "SELECT * FROM turns WHERE lane = ? AND state = ? ORDER BY rowid LIMIT 1", (lane, TurnState.OPEN)
    ).fetchone()
    return None if row is None else _turn(row)


def next_of_people(tx: Tx, lane: str) -> Turn | None:
    """As `next_open`, of what people wrote."""
    row = tx.execute(
        "SELECT * FROM turns WHERE lane = ? AND state = ? AND origin <> ? ORDER BY rowid LIMIT 1",
        (lane, TurnState.OPEN, Origin.TASK),
    ).fetchone()
    return None if row is None else _turn(row)


def of_run(tx: Tx, run_id: str) -> list[Turn]:
    """The turns that this run was given and has not ended, oldest first."""
    rows = tx.execute("SELECT * FROM turns WHERE run_id = ? AND state = ? ORDER BY rowid", (run_id, TurnState.GIVEN))
    return [_turn(r) for r in rows]


def last_of_run(tx: Tx, run_id: str) -> Turn | None:
    """The turn that this run was given last, in whatever state."""
    row = tx.execute("SELECT * FROM turns WHERE run_id = ? ORDER BY rowid DESC LIMIT 1", (run_id,)).fetchone()
    return None if row is None else _turn(row)


def all_silent(tx: Tx, run_id: str) -> bool:
    """Whether nothing that this run was given is answered to anybody."""
    row = tx.execute("SELECT min(silent) AS silent FROM turns WHERE run_id = ?", (run_id,)).fetchone()
    return bool(row["silent"])


def current(tx: Tx, lane: str) -> Turn | None:
    """What the lane works at: its oldest given turn, else its oldest open one."""
    row = tx.execute(
        "SELECT * FROM turns WHERE lane = ? AND state IN (?, ?, ?) ORDER BY state <> ?, rowid LIMIT 1",
        (lane, TurnState.GIVEN, TurnState.OPEN, TurnState.PARKED, TurnState.GIVEN),
    ).fetchone()
    return None if row is None else _turn(row)


def working(tx: Tx) -> list[Turn]:
    """Every turn that a run was given and has not ended, oldest first."""
    return [_turn(r) for r in tx.execute("SELECT * FROM turns WHERE state = ? ORDER BY rowid", (TurnState.GIVEN,))]


def working_beside(tx: Tx, group_id: int, lane: str) -> Turn | None:
    """The oldest turn that a run of the group has in another lane than this one: a task's."""
    return next((t for t in working(tx) if t.group_id == group_id and t.lane != lane), None)


def give(tx: Tx, turn_id: str, run_id: str, now: int) -> None:
    """The turn is in the run's inbox from here on."""
    tx.execute(
        "UPDATE turns SET state = ?, run_id = ?, attempts = attempts + 1, given_at = ? WHERE id = ?",
        (TurnState.GIVEN, run_id, now, turn_id),
    )


def woken(tx: Tx, turn_id: str, prompt: str) -> None:
    """Its script has asked for the model, with this prompt: no later try runs it again."""
    tx.execute("UPDATE turns SET prompt = ?, script = '' WHERE id = ?", (prompt, turn_id))


def end(tx: Tx, turn_id: str, state: TurnState, now: int, *, error: str = "", cost: float = 0.0) -> None:
    """The turn's end; its messages are handled with it."""
    tx.execute(
        "UPDATE turns SET state = ?, error = ?, cost = cost + ?, ended_at = ? WHERE id = ?",
        (state, error, cost, now, turn_id),
    )
    messages.handle(tx, turn_id)


def drop_waiting(tx: Tx, chat_id: int) -> None:
    """What no run has begun for this chat is never begun."""
    tx.execute(
        "UPDATE turns SET state = ?, ended_at = created_at WHERE chat_id = ? AND state IN (?, ?)",
        (TurnState.STOPPED, chat_id, TurnState.OPEN, TurnState.PARKED),
    )


def unmake(tx: Tx, person_id: int) -> None:
    """What no run has begun of what this person asked for, alone or with others, is said anew: it waits for a turn."""
    rows = tx.execute(
        "UPDATE turns SET state = ?, ended_at = created_at WHERE state IN (?, ?)"
        " AND id IN (SELECT turn_id FROM messages WHERE person_id = ? AND verdict = ?) RETURNING id",
        (TurnState.STOPPED, TurnState.OPEN, TurnState.PARKED, person_id, Verdict.WORK),
    ).fetchall()
    for row in rows:
        tx.execute("UPDATE messages SET state = ?, turn_id = NULL WHERE turn_id = ?", (MessageState.OPEN, row["id"]))


def drop_group(tx: Tx, group_id: int, now: int) -> None:
    """Whatever the group's lanes work at, or wait for, has ended."""
    tx.execute(
        "UPDATE turns SET state = ?, ended_at = ? WHERE group_id = ? AND state IN (?, ?, ?)",
        (TurnState.STOPPED, now, group_id, TurnState.OPEN, TurnState.GIVEN, TurnState.PARKED),
    )
    for lane in lanes_of(tx, group_id):
        release(tx, lane, by_person=True)


def lanes_of(tx: Tx, group_id: int) -> list[str]:
    """Every lane of a group."""
    return [r["lane"] for r in tx.execute("SELECT lane FROM lanes WHERE group_id = ?", (group_id,))]


def add_cost(tx: Tx, turn_id: str, cost: float) -> None:
    """What a turn that goes on, or ended before, has cost."""
    tx.execute("UPDATE turns SET cost = cost + ? WHERE id = ?", (cost, turn_id))


def answered_by(tx: Tx, turn_id: str, other: str) -> None:
    """The reply of this turn is with another one that ended together with it."""
    tx.execute("UPDATE turns SET answered_by = ? WHERE id = ?", (other, turn_id))


def reopen(tx: Tx, turn_id: str, *, not_before: int = 0, killed: bool = False, retried: bool = False) -> None:
    """The turn is to be given again."""
    tx.execute(
        "UPDATE turns SET state = ?, run_id = '', not_before = ?, kills = kills + ?, retries = retries + ?"
        " WHERE id = ?",
        (TurnState.OPEN, not_before, killed, retried, turn_id),
    )


def replied(tx: Tx, turn_id: str) -> None:
    """A chat has heard the agent's reply to this turn: it is never run again."""
    tx.execute("UPDATE turns SET spoke = 1 WHERE id = ?", (turn_id,))


def spoke(tx: Tx, turn_id: str) -> None:
    """A tool acted for this turn: it is never run again.

    Nor are the others that its run had by then: what joins a turn acts in its name. `joined` says which did not.
    """
    replied(tx, turn_id)
    tx.execute(
        f"UPDATE turns SET spoke = {_PERHAPS} WHERE spoke = 0 AND state = ?"  # noqa: S608
        " AND run_id = (SELECT run_id FROM turns WHERE id = ? AND run_id <> '')",
        (TurnState.GIVEN, turn_id),
    )


def joined(tx: Tx, run_id: str, ids: Sequence[str]) -> None:
    """These end together, as one turn: what the run has besides was none of it."""
    tx.execute(
        f"UPDATE turns SET spoke = 0 WHERE spoke = {_PERHAPS} AND run_id = ? AND state = ?"  # noqa: S608
        " AND id NOT IN (SELECT value FROM json_each(?))",
        (run_id, TurnState.GIVEN, json.dumps(ids)),
    )


def _turn(row: dict[str, str]) -> Turn:
    return Turn(
        id=row["id"],
        lane=row["lane"],
        group_id=int(row["group_id"]),
        chat_id=int(row["chat_id"]),
        authority=Authority(row["authority"]),
        state=TurnState(row["state"]),
        prompt=row["prompt"],
        images=tuple(json.loads(row["images"])),
        origin=Origin(row["origin"]),
        attempts=int(row["attempts"]),
        kills=int(row["kills"]),
        retries=int(row["retries"]),
        not_before=int(row["not_before"]),
        run_id=row["run_id"],
        spoke=bool(row["spoke"]),
        error=row["error"],
        given_at=int(row["given_at"]),
        firing=None if row["firing_id"] is None else int(row["firing_id"]),
        silent=bool(row["silent"]),
        script=row["script"],
    )
