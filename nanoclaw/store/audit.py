"""Who did what: an append-only record of verbs, never of what people wrote."""

from dataclasses import dataclass

from nanoclaw.models import By
from nanoclaw.store import Tx, storable

_DETAIL = 500  # characters that are kept


@dataclass(frozen=True)
class Entry:
    """One thing that was done."""

    id: int
    at: int
    who: str
    verb: str
    detail: str


def note(tx: Tx, by: By, verb: str, detail: str, now: int) -> None:
    """Record it in the transaction that does it."""
    row = (now, by.who, verb, storable(" ".join(detail[:_DETAIL].split())))
    tx.execute("INSERT INTO audit(at, who, verb, detail) VALUES(?, ?, ?, ?)", row)


def newest(tx: Tx, limit: int, before: int = 2**62) -> list[Entry]:
    """The newest entries with an id below `before`, oldest first."""
    rows = tx.execute("SELECT * FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?", (before, limit)).fetchall()
    return [Entry(r["id"], r["at"], r["who"], r["verb"], r["detail"]) for r in reversed(rows)]
