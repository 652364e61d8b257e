"""Runs, their inbox letters and their tool calls."""

import json
from dataclasses import dataclass
from typing import Any

from nanoclaw.mailbox import Answer, Open, Prompt, Stop, ToAgent
from nanoclaw.models import RequestState, RunRow, RunState
from nanoclaw.prompts import AFRESH_NOTE, retry_note
from nanoclaw.store import Tx

_FIRST_PROMPT = 2  # number of a letter: it follows Open


def insert(tx: Tx, run: RunRow, model: str, fallback: str = "") -> None:
    """A starting run; its first letter says what it is, and names its models, none of which has a blank in it."""
    tx.execute(
        "INSERT INTO runs(id, lane, group_id, state, fingerprint, sockets, session, started_at)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
        (run.id, run.lane, run.group_id, run.state, run.fingerprint, run.sockets, run.session, run.started_at),
    )
    add_letter(tx, run.id, Open.kind, f"{model} {fallback}".rstrip())


def get(tx: Tx, run_id: str) -> RunRow | None:
    """One run."""
    row = tx.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    return None if row is None else _run(row)


def of_lane(tx: Tx, lane: str) -> RunRow | None:
    """The lane's living run."""
    row = tx.execute("SELECT * FROM runs WHERE lane = ? AND state <> ?", (lane, RunState.ENDED)).fetchone()
    return None if row is None else _run(row)


def living(tx: Tx) -> list[RunRow]:
    """Every run that has not ended, as far as the store knows."""
    return [_run(r) for r in tx.execute("SELECT * FROM runs WHERE state <> ? ORDER BY started_at", (RunState.ENDED,))]


def hello(tx: Tx, run_id: str) -> None:
    """The agent is up."""
    tx.execute("UPDATE runs SET state = ? WHERE id = ? AND state = ?", (RunState.ALIVE, run_id, RunState.STARTING))


def closing(tx: Tx, run_id: str) -> None:
    """The run takes no more turns."""
    tx.execute("UPDATE runs SET state = ? WHERE id = ? AND state <> ?", (RunState.CLOSING, run_id, RunState.ENDED))


def set_container(tx: Tx, run_id: str, container: str) -> None:
    """The engine's id of the run's container."""
    tx.execute("UPDATE runs SET container = ? WHERE id = ?", (container, run_id))


def set_writes(tx: Tx, run_id: str, writes: tuple[str, ...]) -> None:
    """The folders beside its group's own that the run may write."""
    tx.execute("UPDATE runs SET writes = ? WHERE id = ?", (json.dumps(writes), run_id))


def set_offset(tx: Tx, run_id: str, offset: int) -> None:
    """Everything before this byte of out.ndjson is applied."""
    tx.execute("UPDATE runs SET offset = ? WHERE id = ?", (offset, run_id))


def end(tx: Tx, run_id: str, cause: str, now: int) -> bool:
    """The run has ended; False when it had already. Its letters are of no more use."""
    if not tx.execute(
        "UPDATE runs SET state = ?, ended_at = ?, cause = ? WHERE id = ? AND state <> ?",
        (RunState.ENDED, now, cause, run_id, RunState.ENDED),
    ).rowcount:
        return False
    tx.execute("DELETE FROM letters WHERE run_id = ?", (run_id,))
    return True


def add_letter(tx: Tx, run_id: str, kind: str, ref: str) -> int:
    """A letter for the run's inbox; the file follows by `letters`."""
    n = tx.execute("SELECT coalesce(max(n), 0) + 1 FROM letters WHERE run_id = ?", (run_id,)).fetchone()[0]
    tx.execute("INSERT INTO letters(run_id, n, kind, ref) VALUES(?, ?, ?, ?)", (run_id, n, kind, ref))
    return int(n)


def letters(tx: Tx, run_id: str, after: int = 0) -> list[tuple[int, ToAgent]]:
    """The run's letters behind number `after`, made from the rows that they name."""
    rows = tx.execute("SELECT * FROM letters WHERE run_id = ? AND n > ? ORDER BY n", (run_id, after))
    return [(r["n"], _letter(tx, run_id, r["n"], r["kind"], r["ref"])) for r in rows.fetchall()]


def first_turn(tx: Tx, run_id: str) -> str:
    """The id of the turn that a living run was opened for."""
    row = tx.execute("SELECT ref FROM letters WHERE run_id = ? AND n = ?", (run_id, _FIRST_PROMPT)).fetchone()
    return "" if row is None else str(row["ref"])


def _letter(tx: Tx, run_id: str, n: int, kind: str, ref: str) -> ToAgent:
    if kind == Open.kind:
        row = tx.execute("SELECT session FROM runs WHERE id = ?", (run_id,)).fetchone()
        model, _, fallback = ref.partition(" ")
        return Open(run_id, model, row["session"], fallback_model=fallback)
    if kind == Prompt.kind:
        row = tx.execute("SELECT prompt, images, attempts, script FROM turns WHERE id = ?", (ref,)).fetchone()
        notes = (_afresh(tx, run_id) if n == _FIRST_PROMPT else "", retry_note(row["attempts"]))
        text = "\n\n".join(filter(None, (*notes, row["prompt"])))
        return Prompt(ref, text, tuple(json.loads(row["images"])), row["script"])
    if kind == Stop.kind:
        return Stop(ref)
    row = tx.execute("SELECT ok, answer FROM requests WHERE run_id = ? AND n = ?", (run_id, int(ref))).fetchone()
    return Answer(int(ref), bool(row["ok"]), row["answer"])


def _afresh(tx: Tx, run_id: str) -> str:
    """The note for a run whose lane had a session that was refused."""
    row = tx.execute(
        "SELECT 1 FROM runs r JOIN lanes l ON l.lane = r.lane WHERE r.id = ? AND r.session = '' AND l.refused <> ''",
        (run_id,),
    ).fetchone()
    return "" if row is None else AFRESH_NOTE


@dataclass(frozen=True)
class Call:
    """One tool call of an agent, as stored."""

    run_id: str
    n: int
    turn_id: str
    tool: str
    args: dict[str, Any]
    state: RequestState
    ok: bool
    answer: str
    outgoing_id: int | None


def add_request(tx: Tx, run_id: str, n: int, turn_id: str, tool: str, args: dict[str, Any]) -> bool:
    """Store a tool call; False when it is there already (the letter was read again)."""
    return bool(
        tx.execute(
            "INSERT INTO requests(run_id, n, turn_id, tool, args, state) VALUES(?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (run_id, n, turn_id, tool, json.dumps(args), RequestState.OPEN),
        ).rowcount
    )


def request(tx: Tx, run_id: str, n: int) -> Call | None:
    """One tool call."""
    row = tx.execute("SELECT * FROM requests WHERE run_id = ? AND n = ?", (run_id, n)).fetchone()
    return None if row is None else _call(row)


def unanswered(tx: Tx, run_id: str) -> list[Call]:
    """The run's tool calls that wait for their answer."""
    rows = tx.execute(
        "SELECT * FROM requests WHERE run_id = ? AND state <> ? ORDER BY n", (run_id, RequestState.ANSWERED)
    )
    return [_call(r) for r in rows]


def acted(tx: Tx, run_id: str, n: int, outgoing_id: int) -> None:
    """The call's effect is a row; it is never done again."""
    tx.execute(
        "UPDATE requests SET state = ?, outgoing_id = ? WHERE run_id = ? AND n = ?",
        (RequestState.ACTED, outgoing_id, run_id, n),
    )


def answer(tx: Tx, run_id: str, n: int, ok: bool, text: str) -> None:
    """The call's outcome, and the letter that carries it."""
    tx.execute(
        "UPDATE requests SET state = ?, ok = ?, answer = ? WHERE run_id = ? AND n = ?",
        (RequestState.ANSWERED, ok, text, run_id, n),
    )
    tx.execute("DELETE FROM questions WHERE run_id = ? AND n = ?", (run_id, n))
    add_letter(tx, run_id, Answer.kind, str(n))


def _call(row: dict[str, Any]) -> Call:
    return Call(
        row["run_id"], row["n"], row["turn_id"], row["tool"], json.loads(row["args"]),
        RequestState(row["state"]), bool(row["ok"]), row["answer"], row["outgoing_id"],
    )  # fmt: skip


def _run(row: dict[str, Any]) -> RunRow:
    return RunRow(
        id=row["id"],
        lane=row["lane"],
        group_id=row["group_id"],
        state=RunState(row["state"]),
        fingerprint=row["fingerprint"],
        container=row["container"],
        sockets=row["sockets"],
        offset=row["offset"],
        session=row["session"],
        started_at=row["started_at"],
        writes=tuple(json.loads(row["writes"])),
    )
