"""What tokens cost: the table beside this file, read once; in billionths of a dollar, so that sums are exact."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nanoclaw.models import Usage

DOLLAR = 1_000_000_000
_PER_TOKEN = DOLLAR // 1_000_000  # of a price in dollars per million


@dataclass(frozen=True)
class Price:
    """Of one token each."""

    input: int
    output: int
    write_5m: int
    write_1h: int
    read: int


@dataclass(frozen=True)
class Model:
    """The prices of one family of models."""

    short: Price
    long: Price
    long_from: int  # tokens of prompt above which `long` counts; 0 = never

    def at(self, prompt: int) -> Price:
        """The prices for a prompt of so many tokens."""
        return self.long if self.long_from and prompt > self.long_from else self.short


@dataclass(frozen=True)
class Prices:
    """The whole table."""

    models: Mapping[str, Model]
    search: int

    def of(self, model: str) -> Model | None:
        """The prices of a model, None when nobody knows them. A digit behind a family's number makes another one."""
        found = [
            name for name in self.models if model == name or model.startswith((name + "-", name + "@", name + "["))
        ]
        return self.models[max(found, key=len)] if found else None

    def cost(self, used: Usage) -> int | None:
        """What a request cost, None when nobody knows."""
        if (model := self.of(used.model)) is None:
            return None
        price = model.at(used.input + used.cache_read + used.cache_write)
        hour = min(used.cache_write_1h, used.cache_write)
        return (
            used.input * price.input
            + used.output * price.output
            + (used.cache_write - hour) * price.write_5m
            + hour * price.write_1h
            + used.cache_read * price.read
            + used.searches * self.search
        )


@cache
def table() -> Prices:
    """The shipped one."""
    read = tomllib.loads(Path(__file__).with_name("prices.toml").read_text("utf-8"))
    search = read.pop("search")
    models = {name: Model(_price(row), _price(row, "long_"), row.get("long", 0)) for name, row in read.items()}
    return Prices(models, round(search * DOLLAR))


def _price(row: Mapping[str, float], prefix: str = "") -> Price:
    keys = ("input", "output", "write_5m", "write_1h", "read")
    return Price(*(round(row.get(prefix + key, row[key]) * _PER_TOKEN) for key in keys))


def dollars(amount: int) -> str:
    """For people: $0.12, and what is less than a cent as more than nothing."""
    return "< $0.01" if 0 < amount < DOLLAR // 100 else f"${amount / DOLLAR:,.2f}"


# Of a short message: what the pinned Claude Code sends along (a request of 49 KB, at four bytes a token), which the
# first of a conversation writes to the cache and the next ones read from it; the message itself, and a short reply.
_PROMPT, _MESSAGE, _REPLY = 12_000, 300, 200


def about(model: str) -> tuple[int, int] | None:
    """What a short message costs, roughly: the first of a conversation, and one of the next. None: nobody knows."""
    first = table().cost(Usage(model, output=_REPLY, cache_write=_PROMPT + _MESSAGE))
    further = table().cost(Usage(model, output=_REPLY, cache_write=_MESSAGE + _REPLY, cache_read=_PROMPT))
    return None if first is None or further is None else (first, further)
