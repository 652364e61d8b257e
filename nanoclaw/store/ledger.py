"""What was used, and what must be remembered of this install."""

from nanoclaw.models import Usage
from nanoclaw.store import Tx


def install_id(tx: Tx, new: str) -> str:
    """This home's id, `new` the first time: labels on containers carry it."""
    tx.execute("INSERT INTO meta(key, value) VALUES('install', ?) ON CONFLICT DO NOTHING", (new,))
    return str(tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()[0])


def add_usage(tx: Tx, group_id: int, run_id: str, used: Usage, now: int) -> None:
    """One model request."""
    tx.execute(
        "INSERT INTO usage(at, group_id, run_id, model, input, output, cache_read, cache_write)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
        (now, group_id, run_id, used.model, used.input, used.output, used.cache_read, used.cache_write),
    )


def tokens_since(tx: Tx, group_id: int, since: int) -> int:
    """What the group used since then, counted as `Usage.tokens` counts."""
    row = tx.execute(
        "SELECT coalesce(sum(input + output + cache_write + cache_read / 10), 0) FROM usage"
        " WHERE group_id = ? AND at >= ?",
        (group_id, since),
    ).fetchone()
    return int(row[0])
