"""nanoclaw setup: from nothing to a first chat, a step at a time; each can be repeated by its name."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nanoclaw.cli.setup import first
from nanoclaw.cli.setup.choices import Number, ask_number, ask_settings, default_of, system_zone
from nanoclaw.cli.setup.credential import Unknown, ask_credential, given, keep_credential, kind_of, write_credential
from nanoclaw.config import load, read_credential
from nanoclaw.config.reading import Source, load_home
from nanoclaw.config.writing import set_settings
from nanoclaw.errors import ConfigError
from nanoclaw.gateway import CredentialKind

__all__ = ["ask_number", "kind_of", "setup", "system_zone", "write_credential"]

EXIT_INCOMPLETE = 2
# What each step settles; the steps without a setting are asked for in a first set-up, and by name.
SETTINGS = {
    "number": ("whatsapp",),
    "name": ("name",),
    "zone": ("zone",),
    "limits": ("budget_month", "budget_main_day"),
}
FIRST_CHAT: dict[str, Callable[[], None]] = {
    "link": first.link,
    "hello": first.hello,
    "group": first.group,
    "reminder": first.reminder,
}
STEPS = ("engine", "key", *SETTINGS, "network", *FIRST_CHAT)
_UNATTENDED = {"whatsapp": "off"}  # what --yes takes where the question suggests something else

Reach = Literal["starter", "none", "public"]


def setup(
    steps: Annotated[list[str] | None, typer.Argument(metavar="[STEP]...", help="Only these, also again.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the defaults, ask nothing.")] = False,
    key_stdin: Annotated[bool, typer.Option("--key-stdin", help="Read the API key or token from stdin.")] = False,
    key_file: Annotated[Path | None, typer.Option(help="Read the API key or token from this file.")] = None,
    replace_key: Annotated[bool, typer.Option("--replace-key", help="Ask for another API key or token.")] = False,
    kind: Annotated[CredentialKind | None, typer.Option(help="What it is, where it does not show.")] = None,
    whatsapp: Annotated[Number | None, typer.Option(help="The assistant's WhatsApp number.")] = None,
    name: Annotated[str | None, typer.Option(help="What the assistant is called.")] = None,
    zone: Annotated[str | None, typer.Option(help="The time zone, as in Europe/Berlin.")] = None,
    budget_month: Annotated[float | None, typer.Option(help="Dollars a month, in all.")] = None,
    budget_main_day: Annotated[float | None, typer.Option(help="Dollars a day in your own chat.")] = None,
    network: Annotated[Reach | None, typer.Option(help="How far your own chat's agent reaches.")] = None,
    chat_later: Annotated[bool, typer.Option("--chat-later", help="End before link, hello, group, reminder.")] = False,
) -> None:
    """Ask for what is missing, from the engine and the key to the first chat; a STEP asks for one thing again.

    \b
    Steps: engine, key, number, name, zone, limits, network, link, hello, group, reminder.
    Without a terminal the options say it, and --yes takes defaults for the rest:
      nanoclaw setup
      nanoclaw setup limits
      nanoclaw setup --key-file key.txt --whatsapp own --name Andy --zone Europe/Berlin --yes
    """
    settings: dict[str, Any] = {"whatsapp": whatsapp, "name": name, "zone": zone}
    settings |= {"budget_month": budget_month, "budget_main_day": budget_main_day}
    said = Said(
        steps=_known(steps or []) + (["key"] if replace_key else []),
        asking=sys.stdin.isatty() and not yes,
        yes=yes,
        secret=given(key_stdin, key_file),
        kind=kind,
        settings={key: value for key, value in settings.items() if value is not None},
        network=network,
        chat_later=chat_later,
    )
    try:
        _set_up(said)
    except Unknown as e:
        typer.echo(f"nanoclaw: {e}", err=True)
        raise typer.Exit(EXIT_INCOMPLETE) from None


@dataclass(frozen=True)
class Said:
    """What the command line says."""

    steps: list[str]
    asking: bool  # somebody sits there
    yes: bool
    secret: str = ""
    kind: CredentialKind | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    network: str | None = None
    chat_later: bool = False


def _known(steps: list[str]) -> list[str]:
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"no step is called {step[:40]!r}: there are {', '.join(STEPS)}")
    return steps


def _set_up(said: Said) -> None:
    config = load(os.environ)  # a broken file is said before anything is asked
    home = config.home
    if said.secret:
        keep_credential(home, said.secret, said.kind, asking=said.asking)
    if said.settings:
        set_settings(home, said.settings)
    missing = _missing(home)
    steps = said.steps or (_first_steps(missing) if said.asking else missing)
    done = (["key"] if said.secret else []) + (list(FIRST_CHAT) if said.chat_later else [])
    steps = [step for step in steps if step not in done]
    if (said.steps or missing) and not said.asking:
        _need_nobody(steps, said)
    if said.network and said.network != "starter":  # which is what main begins with
        first.set_network(said.network)
    for number, step in enumerate(steps, 1):
        if said.asking:
            typer.secho(f"\n{number}/{len(steps)} {step}", bold=True)
        if not (step == "network" and said.network):
            _take(step, home, said.asking)
    _end(home, said)


def _missing(home: Path) -> list[str]:
    """The steps that settle something which was never chosen."""
    sources = load_home(home, os.environ).sources
    unset = [step for step, keys in SETTINGS.items() if all(sources[key] is Source.DEFAULT for key in keys)]
    return ([] if read_credential(home, os.environ) else ["key"]) + unset


def _first_steps(missing: list[str]) -> list[str]:
    """All that a person goes through at first; later only what is missing."""
    return [s for s in STEPS if s in missing or s not in ("key", *SETTINGS)] if "limits" in missing else missing


def _need_nobody(steps: list[str], said: Said) -> None:
    """Without a terminal only what has a default may be left to choose. Raises Unknown."""
    if "key" in steps:
        raise Unknown("no API key or token: run `nanoclaw setup` in a terminal, or `nanoclaw setup --key-file PATH`")
    if alive := [step for step in steps if step in FIRST_CHAT]:
        raise Unknown(f"{alive[0]} needs a terminal")
    if not said.yes and (open_ := [step for step in steps if step in SETTINGS]):
        raise Unknown(f"{', '.join(open_)} not chosen yet: run `nanoclaw setup` in a terminal, or with --yes")


def _take(step: str, home: Path, asking: bool) -> None:
    if step == "engine":
        first.engine()
    elif step == "key":
        ask_credential(home)
    elif step in SETTINGS:
        config = load(os.environ)
        defaults = {key: _UNATTENDED.get(key, default_of(key, config)) for key in SETTINGS[step]}
        set_settings(home, ask_settings(step, config) if asking else defaults)
    elif step == "network":
        first.set_network(first.ask_network() if asking else "starter")
    else:
        FIRST_CHAT[step]()


def _end(home: Path, said: Said) -> None:
    typer.echo(f"Everything is set up in {home}.")
    if said.asking:
        typer.echo(f"One step again: nanoclaw setup STEP ({', '.join(STEPS)}). All at a glance: nanoclaw doctor")
