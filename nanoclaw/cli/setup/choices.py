"""What is to be chosen once: number, name, time zone, limits. Each question says what its answers mean."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import typer

from nanoclaw.cli.setup.credential import lines_of
from nanoclaw.config import Config
from nanoclaw.config.reading import value_of
from nanoclaw.errors import ConfigError
from nanoclaw.meter.prices import about, dollars

_NUMBERS = """Which WhatsApp number shall the assistant have?
  own     one of its own, as on a spare SIM (recommended): its messages ring on your phone, others can write to it
  shared  yours (quick to try): you talk to it in "message yourself". It reads all your chats along, though it keeps
          nothing of those that you do not add; WhatsApp does not notify you of your own account's messages, so its
          reminders are silent; and it never shows "typing", which would mute your phone
  off     none: only the terminal, for now"""
_LIMITS = """What may it cost? {costs}
At a limit it stops and says so; 0 is no limit. One turn: at most {turn:g} dollars, a group and day: {group:g}."""

Number = Literal["own", "shared", "off"]


def ask_settings(step: str, config: Config) -> dict[str, Any]:
    """The answers of a step, each one checked as the settings' file would."""
    if step == "number":
        return {"whatsapp": ask_number(config.whatsapp if config.whatsapp != "off" else "own")}
    if step == "name":
        return {"name": _ask("name", "What is the assistant called?", config.name)}
    if step == "zone":
        return {"zone": _ask("zone", "Your time zone", default_of("zone", config))}
    typer.echo(_LIMITS.format(costs=costs_text(config.model), turn=config.budget_turn, group=config.budget_group_day))
    month = _ask("budget_month", "Dollars a month, in all", f"{config.budget_month:g}")
    day = _ask("budget_main_day", "Dollars a day in your own chat", f"{config.budget_main_day:g}")
    return {"budget_month": month, "budget_main_day": day}


def default_of(key: str, config: Config) -> Any:
    """What is set, or where nothing was ever chosen, what is likely."""
    unset = Config.model_fields[key].default
    if key == "zone" and config.zone == unset:
        return system_zone(Path("/"), os.environ)
    return getattr(config, key)


def ask_number(default: str = "own") -> Number:
    """Which WhatsApp number, with what each choice means."""
    return cast(Number, typer.prompt(f"{_NUMBERS}\nNumber", default=default, value_proc=_number))


def _number(answer: str) -> str:
    if (word := answer.strip().lower()) not in get_args(Number):
        raise typer.BadParameter(f"one of {', '.join(get_args(Number))}")
    return word


def _ask(key: str, question: str, default: str) -> Any:
    """One setting; what it may not be is asked again."""

    def checked(answer: str) -> Any:
        try:
            return value_of(key, answer.strip())
        except ConfigError as e:
            raise typer.BadParameter(str(e)) from None

    return typer.prompt(question, default=default, value_proc=checked)


def costs_text(model: str) -> str:
    """What a short message costs with this model, for people."""
    if (guess := about(model)) is None:
        return f"Nobody knows what {model} costs: the limits in dollars do not hold for it, that in tokens does."
    first, further = (_cents(amount) for amount in guess)
    return f"A short message costs about {further} with {model}, the first of a conversation about {first}."


def _cents(amount: int) -> str:
    """In billionths of a dollar, for people."""
    cents = amount / 1e7
    return dollars(amount) if cents >= 100 else "1 cent" if round(cents, 1) == 1 else f"{cents:.2g} cents"


def system_zone(root: Path, environ: Mapping[str, str]) -> str:
    """The machine's time zone by its name, as far as it says; else UTC."""
    candidates = [environ.get("TZ", "").removeprefix(":")]
    candidates += lines_of(root / "etc/timezone")[:1]
    link = root / "etc/localtime"
    if link.is_symlink():
        candidates.append(str(link.readlink()).rpartition("zoneinfo/")[2])
    return next((zone for zone in map(str.strip, candidates) if _is_zone(zone)), "UTC")


def _is_zone(name: str) -> bool:
    try:
        value_of("zone", name)
    except ConfigError:
        return False
    return True
