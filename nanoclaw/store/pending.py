"""Changes that wait for the owner's word, each under its code."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nanoclaw.store import Tx

_TRIES = "wrong codes"  # in meta


class State(StrEnum):
    """Where a change is; one that waits past its `until` is as if it had never been asked."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"  # by the owner: not to be asked again for a day


@dataclass(frozen=True)
class Change:
    """One change, as it was asked for. `digest` binds the code to the sentence that was shown."""

    code: str
    verb: str
    args: dict[str, Any]
    digest: str
    asker: str
    until: int
    state: State = State.WAITING


def insert(tx: Tx, change: Change, now: int) -> None:
    """It waits from now on; an old one's code may be given again."""
    tx.execute(
        "INSERT OR REPLACE INTO pending(code, change, hash, asker, state, created_at, until)"
        " VALUES(?, ?, ?, ?, ?, ?, ?)",
        (
            *(change.code, json.dumps([change.verb, change.args]), change.digest, change.asker),
            *(change.state, now, change.until),
        ),
    )


def get(tx: Tx, code: str) -> Change | None:
    """The change with this code, in whatever state."""
    row = tx.execute("SELECT * FROM pending WHERE code = ?", (code,)).fetchone()
    return None if row is None else _change(row)


def same(tx: Tx, digest: str, now: int) -> Change | None:
    """The same change, where it waits or was refused."""
    row = tx.execute(
        "SELECT * FROM pending WHERE hash = ? AND (state = ? OR (state = ? AND until > ?)) ORDER BY state LIMIT 1",
        (digest, State.REFUSED, State.WAITING, now),
    ).fetchone()
    return None if row is None else _change(row)


def waiting(tx: Tx, now: int) -> list[Change]:
    """What waits, oldest first."""
    rows = tx.execute(
        "SELECT * FROM pending WHERE state = ? AND until > ? ORDER BY created_at, rowid", (State.WAITING, now)
    )
    return [_change(row) for row in rows]


def asked(tx: Tx, asker: str) -> int:
    """How much this one has asked for, as far back as rows are kept."""
    return int(tx.execute("SELECT count(*) FROM pending WHERE asker = ?", (asker,)).fetchone()[0])


def answer(tx: Tx, code: str, state: State) -> None:
    """The owner has spoken; what it was about is not kept."""
    tx.execute("UPDATE pending SET state = ?, change = '[\"\", {}]' WHERE code = ?", (state, code))


def expire(tx: Tx, now: int) -> None:
    """Nothing waits any more."""
    tx.execute("UPDATE pending SET until = ? WHERE state = ? AND until > ?", (now, State.WAITING, now))


def forget(tx: Tx, before: int) -> None:
    """Rows from before that moment go."""
    tx.execute("DELETE FROM pending WHERE created_at < ?", (before,))


def wrong(tx: Tx) -> int:
    """One more wrong code; how many in a row."""
    row = tx.execute(
        "INSERT INTO meta(key, value) VALUES(?, '1') ON CONFLICT(key) DO UPDATE SET value = value + 1 RETURNING value",
        (_TRIES,),
    ).fetchone()
    return int(row["value"])


def right(tx: Tx) -> None:
    """The row of wrong codes is over."""
    tx.execute("DELETE FROM meta WHERE key = ?", (_TRIES,))


def _change(row: dict[str, Any]) -> Change:
    verb, args = json.loads(row["change"])
    return Change(row["code"], verb, args, row["hash"], row["asker"], row["until"], State(row["state"]))
