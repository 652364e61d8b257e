"""How the house stands, in figures: what `status` tells of the rows. No texts."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from nanoclaw.errors import StoreError
from nanoclaw.models import GroupState, MessageState, OutState, TurnState, Verdict
from nanoclaw.store import Tx
from nanoclaw.store.copy import read_only
from nanoclaw.store.tasks import TaskState

P = ParamSpec("P")
T = TypeVar("T")
_NEWEST = 200  # rows among which the last sent text is looked for


def peek(path: Path, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `fn` reads of the database at `path`, whether a host lives or not; nothing is made or changed.

    Raises StoreError, also where an older program left it without what `fn` looks for.
    """
    try:
        with closing(looking(path)) as tx:
            return fn(tx, *args, **kwargs)
    except sqlite3.Error as e:
        raise StoreError(f"{path} cannot be read: {e}") from None


def looking(path: Path) -> Tx:
    """A connection that makes and changes nothing, beside the database neither. Raises sqlite3.Error."""
    if path.with_name(path.name + "-wal").exists():
        return read_only(path)
    # The file is all there is. To say so keeps the library from leaving a log of this user's beside it.
    tx = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    tx.row_factory = sqlite3.Row
    return tx


@dataclass(frozen=True)
class LaneState:
    """A lane that has something to do, or would have. Times in milliseconds since 1970, 0 = none."""

    lane: str
    group_id: int
    cause: str  # why it is parked; "" = it is not
    parked_at: int
    given: int  # turns that a run works at
    open: int  # turns that wait, or are parked
    messages: int  # that no turn has claimed
    given_at: int  # of the oldest given turn
    oldest: int  # when the oldest of what waits could have begun
    active: bool  # its group answers


def lanes(tx: Tx) -> list[LaneState]:
    """Every lane that works, waits or is parked."""
    rows = tx.execute(
        "WITH t AS (SELECT lane, sum(state = :given) AS given, sum(state <> :given) AS open,"
        " min(iif(state = :given, given_at, NULL)) AS given_at,"
        " min(iif(state = :open, max(created_at, not_before), NULL)) AS oldest"
        " FROM turns WHERE state IN ('open', 'given', 'parked') GROUP BY lane),"
        " m AS (SELECT lane, count(*) AS n, min(saved_at) AS oldest FROM messages"
        " WHERE state = 'open' AND verdict = :work AND state = :message GROUP BY lane),"
        " k AS (SELECT lane FROM lanes WHERE parked <> '' UNION SELECT lane FROM t UNION SELECT lane FROM m)"
        " SELECT k.lane, g.id AS group_id, coalesce(l.parked, '') AS parked, coalesce(l.parked_at, 0) AS parked_at,"
        " g.state AS state, coalesce(t.given, 0) AS given,"
        " coalesce(t.open, 0) AS open, coalesce(m.n, 0) AS messages, coalesce(t.given_at, 0) AS given_at,"
        " coalesce(min(coalesce(t.oldest, m.oldest), coalesce(m.oldest, t.oldest)), 0) AS oldest"
        " FROM k LEFT JOIN lanes l ON l.lane = k.lane LEFT JOIN t ON t.lane = k.lane LEFT JOIN m ON m.lane = k.lane"
        " JOIN groups g ON g.id = coalesce(l.group_id, (SELECT id FROM groups WHERE folder = k.lane)) ORDER BY k.lane",
        {"given": TurnState.GIVEN, "open": TurnState.OPEN, "work": Verdict.WORK, "message": MessageState.OPEN},
    )
    return [
        LaneState(
            r["lane"], r["group_id"], r["parked"], r["parked_at"], r["given"], r["open"], r["messages"], r["given_at"],
            r["oldest"], r["state"] == GroupState.ACTIVE,
        )
        for r in rows
    ]  # fmt: skip


def last_heard(tx: Tx) -> int:
    """When the newest message was stored; 0 for none."""
    row = tx.execute("SELECT saved_at FROM messages ORDER BY id DESC LIMIT 1").fetchone()
    return 0 if row is None else int(row["saved_at"])


def last_said(tx: Tx) -> int:
    """When the newest text was sent; 0 for none."""
    row = tx.execute(
        "SELECT coalesce(max(sent_at), 0) AS at FROM (SELECT sent_at FROM outgoing WHERE state = ? ORDER BY id DESC"
        " LIMIT ?)",
        (OutState.SENT, _NEWEST),
    ).fetchone()
    return int(row["at"])


def tasks(tx: Tx, now: int) -> dict[str, int | None]:
    """How many are active, due by now and failing, and when the next one is due."""
    row = tx.execute(
        "SELECT count(*) AS active, coalesce(sum(next_due <= ? OR asked > 0), 0) AS due,"
        " coalesce(sum(failures > 0), 0) AS failing, min(iif(next_due > ?, next_due, NULL)) AS next"
        " FROM tasks WHERE state = ?",
        (now, now, TaskState.ACTIVE),
    ).fetchone()
    return {"active": row["active"], "due": row["due"], "failing": row["failing"], "next": row["next"]}
