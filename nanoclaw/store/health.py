"""How the database is, seen from beside it: nothing is written, and nothing is left there."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nanoclaw.errors import StoreError
from nanoclaw.models import OutState
from nanoclaw.store import MIGRATIONS, Tx
from nanoclaw.store.condition import looking

_FINDINGS = 5  # more of them help nobody
_STEPS = 20_000  # of the database's machine between two looks at the time: some ms


@dataclass(frozen=True)
class Health:
    """What a look found."""

    schema: int  # migrations that the file has seen
    known: int  # and that this program knows
    damage: tuple[str, ...] = ()
    lost: int = 0  # rows that name rows which are not there
    whole: bool = True  # False: the time was over before all of it was looked through


def look(path: Path, patience: float) -> Health:
    """Look through the file for at most `patience` seconds. Raises StoreError."""
    known = _known()
    with _opened(path) as tx:
        schema = int(tx.execute("PRAGMA user_version").fetchone()[0])
        until = time.monotonic() + patience
        tx.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        damage: tuple[str, ...] = ()
        try:
            rows = tx.execute(f"PRAGMA quick_check({_FINDINGS})")
            if damage := tuple(str(row[0]) for row in rows if row[0] != "ok"):
                return Health(schema, known, damage)
            lost = len(tx.execute("PRAGMA foreign_key_check").fetchall())
        except sqlite3.OperationalError as e:
            if "interrupted" not in str(e):
                raise
            return Health(schema, known, damage, whole=False)
        except sqlite3.DatabaseError as e:
            return Health(schema, known, (str(e),))
    return Health(schema, known, lost=lost)


def fits(path: Path) -> bool:
    """Whether there are rows, and of this version."""
    if not path.exists():
        return False
    try:
        with _opened(path) as tx:
            return bool(tx.execute("PRAGMA user_version").fetchone()[0] == _known())
    except StoreError:
        return False


def newest(tx: Tx) -> int:
    """When the last row was written by this machine's clock, in ms; 0 for never."""
    row = tx.execute(
        "SELECT max(at) AS at FROM (SELECT max(started_at) AS at FROM runs UNION ALL SELECT max(at) FROM audit"
        " UNION ALL SELECT max(at) FROM usage UNION ALL SELECT max(created_at) FROM outgoing)"
    ).fetchone()
    return int(row["at"] or 0)


def given_up(tx: Tx, since: int) -> int:
    """How many texts from then on could not be delivered."""
    asked = "SELECT count(*) AS n FROM outgoing WHERE state = ? AND created_at >= ?"
    return int(tx.execute(asked, (OutState.DEAD, since)).fetchone()["n"])


def checkpoint(path: Path) -> None:
    """Write what waits beside the database into it. Only for who holds the home's lock. Raises StoreError."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as tx:
            tx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as e:
        raise StoreError(f"{path} cannot be written: {e}") from None


def journal_size(path: Path) -> int:
    """Bytes that wait beside the database to be written into it."""
    with suppress(FileNotFoundError):
        return Path(f"{path}-wal").stat().st_size
    return 0


@contextmanager
def _opened(path: Path) -> Iterator[Tx]:
    try:
        with closing(looking(path)) as tx:
            yield tx
    except sqlite3.Error as e:
        raise StoreError(f"{path} cannot be read: {e}") from None


def _known() -> int:
    return len(list(MIGRATIONS.glob("*.sql")))
