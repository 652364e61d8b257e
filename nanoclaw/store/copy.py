"""The database as a whole: a copy of one that lives, whether it is sound, and what counts in one that was put back."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.errors import Cause, StoreError
from nanoclaw.models import MessageState, OutState, TurnState, Verdict
from nanoclaw.store import Tx, runs, turns

_PAGES = 4096  # of a step between two reports: some 16 MB
_FINDINGS = 20  # more of them help nobody


def copy(source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """A copy of the database as it is at this moment, in one file; whoever writes there is not held up.

    `progress` hears of bytes. Raises StoreError.
    """
    try:
        with closing(read_only(source)) as tx, closing(sqlite3.connect(target, isolation_level=None)) as to:
            size = tx.execute("PRAGMA page_size").fetchone()[0]
            # One view for all steps: else the copy would begin anew whenever somebody commits.
            tx.execute("BEGIN")
            tx.execute("SELECT count(*) FROM sqlite_master").fetchone()
            tx.backup(
                to, pages=_PAGES, progress=lambda status, left, total: progress((total - left) * size, total * size)
            )
            to.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as e:
        raise StoreError(f"{source} cannot be copied: {e}") from None


def torn(path: Path) -> list[str]:
    """How the file is damaged; nothing when it is whole."""
    try:
        with closing(read_only(path)) as tx:
            return [str(row[0]) for row in tx.execute(f"PRAGMA integrity_check({_FINDINGS})") if row[0] != "ok"]
    except sqlite3.Error as e:
        return [f"it cannot be read: {e}"]


def findings(path: Path) -> list[str]:
    """What is wrong with the database, in the file or between its rows; nothing when it is sound."""
    if told := torn(path):
        return told
    with closing(read_only(path)) as tx:
        lost = tx.execute("PRAGMA foreign_key_check").fetchmany(_FINDINGS)
    return [f"row {row[1]} of {row[0]} names a row of {row[2]} that is not there" for row in lost]


def schema(path: Path) -> int:
    """How many migrations the database has seen. Raises StoreError."""
    try:
        with closing(read_only(path)) as tx:
            return int(tx.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as e:
        raise StoreError(f"{path} cannot be read: {e}") from None


def install(tx: Tx) -> str:
    """The label of this home's containers; "" before the first start."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()
    return "" if row is None else str(row["value"])


def install_of(path: Path) -> str:
    """The same of a database that nobody has open; "" also where there is none."""
    try:
        with closing(read_only(path)) as tx:
            return install(tx)
    except sqlite3.Error:
        return ""


def trace(path: Path) -> str:
    """Changes with whatever is received, done or sent: the same one means that nothing was. Raises StoreError."""
    try:
        with closing(read_only(path)) as tx:
            counts = [
                tuple(row)
                for table in ("messages", "turns", "outgoing", "firings")
                for row in tx.execute(f"SELECT state, count(*), max(rowid) FROM {table} GROUP BY state")  # noqa: S608
            ]
    except sqlite3.Error as e:
        raise StoreError(f"{path} cannot be read: {e}") from None
    return str(counts)


@dataclass(frozen=True)
class Settled:
    """What a database that was put back had waiting: it is neither said nor done again."""

    texts: int
    messages: int


def settle(tx: Tx, now: int) -> Settled:
    """Nobody knows which of what waited when this copy was made was sent or answered since: it counts as over."""
    for run in runs.living(tx):
        runs.end(tx, run.id, "restored", now)
    waiting = (TurnState.OPEN, TurnState.GIVEN, TurnState.PARKED)
    ended = [row["id"] for row in tx.execute("SELECT id FROM turns WHERE state IN (?, ?, ?)", waiting)]
    answers = (Verdict.WORK, Verdict.COMMAND, Verdict.ANSWER)
    messages = tx.execute(
        "UPDATE messages SET state = ? WHERE state IN (?, ?) AND verdict IN (?, ?, ?)",
        (MessageState.HANDLED, MessageState.OPEN, MessageState.TAKEN, *answers),
    ).rowcount
    for turn_id in ended:
        turns.end(tx, turn_id, TurnState.FAILED, now, error=Cause.RESTART)
    texts = tx.execute(
        "UPDATE outgoing SET state = ?, error = 'restored from a backup' WHERE state IN (?, ?, ?)",
        (OutState.DEAD, OutState.QUEUED, OutState.SENDING, OutState.UNKNOWN),
    ).rowcount
    return Settled(texts, messages)


def read_only(path: Path) -> Tx:
    """A connection that makes and changes nothing. Raises sqlite3.Error."""
    tx = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=10)
    tx.row_factory = sqlite3.Row
    return tx
