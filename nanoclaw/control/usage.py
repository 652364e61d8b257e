"""What was used, where it went, and what may still be used."""

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw.meter import dollars, first_of_month
from nanoclaw.meter.prices import DOLLAR
from nanoclaw.prompts import plain
from nanoclaw.schedule import midnight
from nanoclaw.store import Tx, spending
from nanoclaw.store.spending import GroupSpent, ModelSpent, Spent

_MODELS = 8  # that are named one by one
_LONGEST = 60  # characters of a model's name


@dataclass(frozen=True)
class Most:
    """The limits in dollars; 0 = none."""

    group_day: float = 0
    main_day: float = 0
    month: float = 0


def usage_text(tx: Tx, now: int, zone: str, most: Most) -> str:
    """Today and this month, by group and by model, for people."""
    groups, models = _read(tx, now, zone)
    day, month = _sum(g.day for g in groups), _sum(g.month for g in groups)
    lines = [f"Today {_told(day)}; this month {_told(month, most.month)}."]
    lines += [_line(g, most) for g in groups if g.month.requests]
    lines += [f"{_name(m)}: {_told(m.spent)} in {m.spent.requests:,} request(s) this month" for m in models[:_MODELS]]
    if month.unpriced:
        lines.append(f"{month.unpriced:,} tokens of this month are of models whose price is not known: no dollars.")
    return "\n".join(lines)


def usage_facts(tx: Tx, now: int, zone: str, most: Most) -> dict[str, Any]:
    """The same for programs; dollars are null where no price is known."""
    groups, models = _read(tx, now, zone)
    return {
        "today": _facts(_sum(g.day for g in groups)),
        "month": _facts(_sum(g.month for g in groups)),
        "limits": {"group_day": most.group_day, "main_day": most.main_day, "month": most.month},
        "groups": [{"group": g.folder, "today": _facts(g.day), "month": _facts(g.month)} for g in groups],
        "models": [
            {"model": m.model, "input": m.input, "output": m.output, "cache_read": m.cache_read,
             "cache_write": m.cache_write, **_facts(m.spent)}
            for m in models
        ],
    }  # fmt: skip


def _read(tx: Tx, now: int, zone: str) -> tuple[list[GroupSpent], list[ModelSpent]]:
    month = first_of_month(now, ZoneInfo(zone))
    return spending.by_group(tx, midnight(now, ZoneInfo(zone)), month), spending.by_model(tx, month)


def _sum(parts: Any) -> Spent:
    total = Spent(0, 0, 0)
    for p in parts:
        total = Spent(
            total.tokens + p.tokens, total.cost + p.cost, total.unpriced + p.unpriced, total.requests + p.requests
        )
    return total


def _line(group: GroupSpent, most: Most) -> str:
    limit = most.main_day if group.is_main else most.group_day
    return f"{group.folder}: today {_told(group.day, limit)}; this month {_told(group.month)}"


def _name(model: ModelSpent) -> str:
    """An agent may have chosen it."""
    return plain(model.model)[:_LONGEST] or "a model without a name"


def _told(spent: Spent, limit: float = 0) -> str:
    """Dollars where they are known, and tokens always."""
    tokens = f"{spent.tokens:,} tokens"
    if spent.unpriced and spent.unpriced == spent.tokens:
        return tokens
    most = f" of ${limit:,.2f}" if limit else ""
    return f"{dollars(spent.cost)}{most} ({tokens})"


def _facts(spent: Spent) -> dict[str, Any]:
    unknown = spent.unpriced and spent.unpriced == spent.tokens
    return {
        "dollars": None if unknown else round(spent.cost / DOLLAR, 6),
        "tokens": spent.tokens,
        "tokens_without_price": spent.unpriced,
        "requests": spent.requests,
    }
