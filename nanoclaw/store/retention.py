"""Rows that are old enough to go, in slices from the oldest on: no statement here takes long."""

from dataclasses import dataclass

from nanoclaw.models import MessageState, OutState, RunState, TurnState, Verdict
from nanoclaw.store import Tx

SLICE = 200  # rows that are looked at in one transaction
_EARLY_MS = 86_400_000  # that a change waits for its message
_PAGES = 256  # that are given back to the disk in one transaction: 1 MiB


@dataclass(frozen=True)
class Old:
    """Which rows of a table go when they are old. Rows of a table are about as old as their rowids are small."""

    table: str
    age: str  # the column of its time
    only: str = "true"


# In this order: a row goes after those that name it.
_OUTGOING = Old("outgoing", "created_at", f"state IN ('{OutState.SENT}', '{OutState.DEAD}', '{OutState.DUPLICATE}')")
_MESSAGES = Old(
    "messages",
    "saved_at",
    f"state IN ('{MessageState.HANDLED}', '{MessageState.WITHDRAWN}')"
    f" OR (state = '{MessageState.OPEN}' AND verdict = '{Verdict.CONTEXT}')",
)
_RUNS = Old("runs", "ended_at", f"state = '{RunState.ENDED}'")  # its tool calls go with it
_TURNS = Old(
    "turns",
    "ended_at",
    f"state IN ('{TurnState.DONE}', '{TurnState.FAILED}', '{TurnState.STOPPED}')"  # noqa: S608 - words of our own
    " AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.turn_id = turns.id)"
    " AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.turn_id = turns.id)",
)
MESSAGES = (_OUTGOING, _MESSAGES, _RUNS, _TURNS)
USAGE = Old("usage", "at")
AUDIT = Old("audit", "at")
FIRINGS = Old("firings", "at", "state <> 'open'")
TASKS = Old(
    "tasks",
    "ended_at",
    "state IN ('done', 'cancelled') AND NOT EXISTS (SELECT 1 FROM firings f WHERE f.task_id = tasks.id)"
    " AND id < (SELECT max(id) FROM tasks)",  # else its number would be another's, who is asked for by it
)
# A task's lane; one that fires again gets a new row.
LANES = Old(
    "lanes",
    "parked_at",
    "lane LIKE '%#task-%' AND parked = '' AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.lane = lanes.lane)",
)
_UNUSED = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} x WHERE x.chat_id = chats.id)"  # noqa: S608
    for table in ("messages", "outgoing", "turns", "tasks")
)
# Strangers: chats that nobody serves, of which nothing is kept but that they wrote.
STRANGERS = Old("chats", "seen", f"group_id IS NULL AND seen > 0 AND {_UNUSED}")


def slice_of(tx: Tx, old: Old, after: int, before: int) -> tuple[int, int]:
    """Remove what is older than `before` among the next rows behind rowid `after`.

    The rowid up to which they were looked at (0 when nothing more is to be found), and how many are gone.
    """
    rows = tx.execute(
        f"SELECT rowid AS id, {old.age} AS age FROM {old.table} WHERE rowid > ? ORDER BY rowid LIMIT ?",  # noqa: S608
        (after, SLICE),
    ).fetchall()
    if not rows:
        return 0, 0
    last = int(rows[-1]["id"])
    gone = tx.execute(
        f"DELETE FROM {old.table} WHERE rowid > ? AND rowid <= ? AND {old.age} < ? AND ({old.only})",  # noqa: S608
        (after, last, before),
    ).rowcount
    # Strangers' chats are not in the order of their last message; there are never many.
    seen_all = len(rows) < SLICE or (old is not STRANGERS and all(0 < row["age"] >= before for row in rows))
    return (0 if seen_all else last), gone


def early(tx: Tx, now: int) -> None:
    """Changes whose message never came."""
    tx.execute("DELETE FROM early WHERE at < ?", (now - _EARLY_MS,))


def noted(tx: Tx, now: int) -> int:
    """When this was asked last, 0 for never; from here on it is `now`."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'retention'").fetchone()
    tx.execute(
        "INSERT INTO meta(key, value) VALUES('retention', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        (str(now),),
    )
    return 0 if row is None else int(row["value"])


def shrink(tx: Tx) -> int:
    """Give free pages back to the disk; how many are left. (A database of an earlier version keeps them for reuse.)"""
    if tx.execute("PRAGMA auto_vacuum").fetchone()[0] != 2:  # 2: incremental
        return 0
    tx.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    return int(tx.execute("PRAGMA freelist_count").fetchone()[0])


def sessions(tx: Tx) -> dict[str, str]:
    """Each lane's session that the next run resumes."""
    return {row["lane"]: row["session"] for row in tx.execute("SELECT lane, session FROM lanes")}


def ended(tx: Tx, run_ids: list[str]) -> dict[str, str]:
    """Of these runs, those that live no more, with their sockets ("" for a run that nobody knows)."""
    found = {}
    for run_id in run_ids:
        row = tx.execute("SELECT state, sockets FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None or row["state"] == RunState.ENDED:
            found[run_id] = "" if row is None else str(row["sockets"])
    return found
