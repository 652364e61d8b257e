"""Questions of agents that wait for somebody's answer."""

import json
from dataclasses import dataclass

from nanoclaw.models import OutState, RequestState, TurnState
from nanoclaw.store import Tx
from nanoclaw.store.runs import Call

_SHOWN = (OutState.SENT, OutState.SENDING, OutState.UNKNOWN)  # the message that asks may have been seen
_WHOLE_SECOND_MS = 1000  # a channel may tell the time in whole seconds


@dataclass(frozen=True)
class Question:
    """One of them. `answer` is what was said, as it was said; "" = nothing yet."""

    run_id: str
    n: int
    chat_id: int
    person_id: int  # who is asked
    outgoing_id: int
    options: tuple[str, ...]
    asked_at: int
    patience: int  # milliseconds
    until: int
    answer: str = ""


def insert(tx: Tx, q: Question) -> None:
    """A tool call that has become a question."""
    tx.execute(
        "INSERT INTO questions(run_id, n, chat_id, person_id, outgoing_id, options, asked_at, patience, until)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (q.run_id, q.n, q.chat_id, q.person_id, q.outgoing_id, json.dumps(q.options), q.asked_at, q.patience, q.until),
    )


def get(tx: Tx, call: Call) -> Question | None:
    """The question that a call has become."""
    row = tx.execute("SELECT * FROM questions WHERE run_id = ? AND n = ?", (call.run_id, call.n)).fetchone()
    return None if row is None else _question(row)


def waiting(tx: Tx, chat_id: int, person_id: int, at: int, now: int) -> list[Question]:
    """What this person was asked there and has not answered, as far as they could know it `at` that time."""
    rows = tx.execute(
        "SELECT q.* FROM questions q JOIN requests r ON r.run_id = q.run_id AND r.n = q.n"
        " JOIN turns t ON t.id = r.turn_id JOIN outgoing o ON o.id = q.outgoing_id"
        " WHERE q.chat_id = ? AND q.person_id = ? AND q.answer = '' AND q.until > ?"
        " AND r.state <> ? AND t.state = ? AND t.run_id = q.run_id AND (o.state IN (?, ?, ?) OR o.unknowns > 0)"
        " AND coalesce(nullif(o.sent_at, 0), q.asked_at) <= ? ORDER BY q.asked_at DESC, q.rowid DESC",
        (chat_id, person_id, now, RequestState.ANSWERED, TurnState.GIVEN, *_SHOWN, at + _WHOLE_SECOND_MS),
    )
    return [_question(row) for row in rows]


def asked_as(tx: Tx, q: Question) -> str:
    """The channel's id of the message that asks; "" while it is not sent."""
    row = tx.execute("SELECT wa_id FROM outgoing WHERE id = ?", (q.outgoing_id,)).fetchone()
    return "" if row is None else str(row["wa_id"])


def answer(tx: Tx, q: Question, text: str) -> None:
    """This was said to it."""
    tx.execute("UPDATE questions SET answer = ? WHERE run_id = ? AND n = ?", (text, q.run_id, q.n))


def rearm(tx: Tx, q: Question, until: int) -> None:
    """It waits until then."""
    tx.execute("UPDATE questions SET until = ? WHERE run_id = ? AND n = ?", (until, q.run_id, q.n))


def _question(row: dict[str, str]) -> Question:
    return Question(
        row["run_id"], int(row["n"]), int(row["chat_id"]), int(row["person_id"]), int(row["outgoing_id"]),
        tuple(json.loads(row["options"])), int(row["asked_at"]), int(row["patience"]), int(row["until"]), row["answer"],
    )  # fmt: skip
