"""The way out: how far a group reaches, what it carried, and which hosts it was refused."""

from dataclasses import dataclass

from nanoclaw.gateway import Level
from nanoclaw.store import Tx

KEPT = 50  # hosts of one group that are remembered as refused


@dataclass(frozen=True)
class Wanted:
    """A host that a group was refused."""

    host: str
    port: int
    at: int  # the last time
    count: int


def group_of_run(tx: Tx, run_id: str) -> int | None:
    """The group whose run it is."""
    row = tx.execute("SELECT group_id FROM runs WHERE id = ?", (run_id,)).fetchone()
    return None if row is None else int(row["group_id"])


def public_until(tx: Tx, group_id: int) -> int:
    """The moment until which it reaches every host, whatever its level; 0 = none was set."""
    return int(tx.execute("SELECT public_until FROM groups WHERE id = ?", (group_id,)).fetchone()[0])


def set_public_until(tx: Tx, group_id: int, until: int) -> None:
    """From now to then it reaches every host."""
    tx.execute("UPDATE groups SET public_until = ? WHERE id = ?", (until, group_id))


def level(tx: Tx, group_id: int, now: int) -> Level:
    """How far it reaches at this moment."""
    row = tx.execute("SELECT network, public_until FROM groups WHERE id = ?", (group_id,)).fetchone()
    return Level.PUBLIC if row["public_until"] > now else Level(row["network"])


def carried(tx: Tx, group_id: int, day: int) -> int:
    """Bytes of the day that began then; of a later one too, so that a clock that is set back forgives nothing."""
    row = tx.execute("SELECT day, bytes FROM traffic WHERE group_id = ?", (group_id,)).fetchone()
    return int(row["bytes"]) if row is not None and row["day"] >= day else 0


def carry(tx: Tx, group_id: int, day: int, count: int) -> None:
    """Count bytes; a new day begins at nothing."""
    tx.execute(
        "INSERT INTO traffic(group_id, day, bytes) VALUES(:group, :day, :count) ON CONFLICT(group_id) DO UPDATE SET"
        " bytes = iif(day >= :day, bytes, 0) + :count, day = max(day, :day)",
        {"group": group_id, "day": day, "count": count},
    )


def want(tx: Tx, group_id: int, host: str, port: int, day: int, now: int) -> bool:
    """A host was refused; whether that is the first time since then."""
    key = (group_id, host, port)
    row = tx.execute("SELECT at FROM wanted WHERE group_id = ? AND host = ? AND port = ?", key).fetchone()
    tx.execute(
        "INSERT INTO wanted(group_id, host, port, at) VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " at = excluded.at, count = count + 1",
        (*key, now),
    )
    tx.execute(
        "DELETE FROM wanted WHERE group_id = ? AND rowid NOT IN"
        " (SELECT rowid FROM wanted WHERE group_id = ? ORDER BY at DESC, rowid DESC LIMIT ?)",
        (group_id, group_id, KEPT),
    )
    return row is None or row["at"] < day


def told(tx: Tx, group_id: int, day: int) -> int:
    """How many of its refused hosts the owner was told of today, counting this one."""
    tx.execute(
        "INSERT INTO traffic(group_id, day, bytes, told) VALUES(:group, :day, 0, 1) ON CONFLICT(group_id) DO UPDATE SET"
        " told = iif(day >= :day, told, 0) + 1, bytes = iif(day >= :day, bytes, 0), day = max(day, :day)",
        {"group": group_id, "day": day},
    )
    return int(tx.execute("SELECT told FROM traffic WHERE group_id = ?", (group_id,)).fetchone()[0])


def wanted(tx: Tx, group_id: int, since: int) -> list[Wanted]:
    """The hosts that it was refused since then, the newest first."""
    rows = tx.execute(
        "SELECT host, port, at, count FROM wanted WHERE group_id = ? AND at >= ? ORDER BY at DESC, rowid DESC",
        (group_id, since),
    )
    return [Wanted(r["host"], r["port"], r["at"], r["count"]) for r in rows]


def unwanted(tx: Tx, group_id: int, host: str) -> None:
    """It is allowed now."""
    tx.execute("DELETE FROM wanted WHERE group_id = ? AND host = ?", (group_id, host))


def once(tx: Tx, key: str) -> bool:
    """Whether this is the first time in this home."""
    return bool(tx.execute("INSERT INTO meta(key, value) VALUES(?, '') ON CONFLICT DO NOTHING", (key,)).rowcount)
