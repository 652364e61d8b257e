"""What was used and what it cost, summed up. Amounts are billionths of a dollar."""

from dataclasses import dataclass

from nanoclaw.store import Tx

_TOKENS = "coalesce(sum(input + output + cache_write + cache_read / 10), 0)"  # as `Usage.tokens` counts


@dataclass(frozen=True)
class Spent:
    """Of some requests."""

    tokens: int  # as they count against limits
    cost: int
    unpriced: int  # tokens, of those, whose price nobody knows
    requests: int = 0


@dataclass(frozen=True)
class GroupSpent:
    """Of one group since the beginning of the month, and of that since the beginning of the day."""

    group_id: int
    folder: str
    is_main: bool
    day: Spent
    month: Spent


@dataclass(frozen=True)
class ModelSpent:
    """Of one model since some moment."""

    model: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    spent: Spent


def by_group(tx: Tx, day: int, month: int) -> list[GroupSpent]:
    """Every group, main first; those that used nothing too."""
    days, months = _sums(tx, day), _sums(tx, month)
    nothing = Spent(0, 0, 0)
    rows = tx.execute("SELECT id, folder, is_main FROM groups ORDER BY is_main DESC, folder").fetchall()
    return [
        GroupSpent(r["id"], r["folder"], bool(r["is_main"]), days.get(r["id"], nothing), months.get(r["id"], nothing))
        for r in rows
    ]


def by_model(tx: Tx, since: int) -> list[ModelSpent]:
    """Every model that was used since then, the dearest first."""
    rows = tx.execute(
        "SELECT model, sum(input) AS i, sum(output) AS o, sum(cache_read) AS r, sum(cache_write) AS w,"  # noqa: S608 - our own words
        f" {_TOKENS} AS tokens, coalesce(sum(cost), 0) AS cost, count(*) AS n,"
        " coalesce(sum(iif(cost IS NULL, input + output + cache_write + cache_read / 10, 0)), 0) AS unpriced"
        " FROM usage WHERE at >= ? GROUP BY model ORDER BY cost DESC, tokens DESC",
        (since,),
    )
    return [
        ModelSpent(
            row["model"], row["i"], row["o"], row["r"], row["w"],
            Spent(row["tokens"], row["cost"], row["unpriced"], row["n"]),
        )
        for row in rows
    ]  # fmt: skip


def by_open_turn(tx: Tx) -> dict[str, int]:
    """What the turns that have not ended cost so far."""
    rows = tx.execute(
        "SELECT turn_id, coalesce(sum(cost), 0) AS cost FROM usage WHERE turn_id IN"
        " (SELECT id FROM turns WHERE state IN ('open', 'given', 'parked')) GROUP BY turn_id"
    )
    return {row["turn_id"]: int(row["cost"]) for row in rows}


def _sums(tx: Tx, since: int) -> dict[int, Spent]:
    rows = tx.execute(
        f"SELECT group_id, {_TOKENS} AS tokens, coalesce(sum(cost), 0) AS cost, count(*) AS n,"  # noqa: S608
        " coalesce(sum(iif(cost IS NULL, input + output + cache_write + cache_read / 10, 0)), 0) AS unpriced"
        " FROM usage WHERE at >= ? GROUP BY group_id",
        (since,),
    )
    return {row["group_id"]: Spent(row["tokens"], row["cost"], row["unpriced"], row["n"]) for row in rows}
