"""nanoclaw people: who is known, who may call the assistant, who may not."""

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.control import people
from nanoclaw.store import Tx

_HELP = """Who is known, who may call the assistant, and who may not.

\b
Examples:
  nanoclaw people list
  nanoclaw people allow +4915112345678    wherever allowed people may, and in a direct chat
  nanoclaw people allow 7                 by the number of their direct chat: nanoclaw groups chats
  nanoclaw people deny +4915112345678     what they say is only read along, until they are allowed

Owners are made by `nanoclaw pair` and the setting `owners`. How many people a group hears: nanoclaw groups set.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
PersonArg = Annotated[
    str, typer.Argument(metavar="PERSON", help="A phone number as in +49…, a jid, or the number of a direct chat.")
]


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List everybody of whom something is known, owners first."""
    found = look(people.listed)
    if as_json:
        typer.echo(json.dumps([{k: v for k, v in asdict(person).items() if k != "number"} for person in found]))
    else:
        typer.echo("\n".join(map(people.summary, found)))


@app.command()
def allow(person: PersonArg) -> None:
    """Let somebody call the assistant."""
    typer.echo(do(_allow, person, _now()))


@app.command()
def deny(person: PersonArg) -> None:
    """Let somebody not call the assistant."""
    typer.echo(do(_deny, person, _now()))


def _allow(tx: Tx, ref: str, now: int) -> str:
    person = people.allow(tx, ref, TERMINAL, now)
    return f"{people.called(person)} is allowed.{people.resting(tx, person)}"


def _deny(tx: Tx, ref: str, now: int) -> str:
    person = people.deny(tx, ref, TERMINAL, now)
    return f"{people.called(person)} is denied.{people.resting(tx, person)}"


def _now() -> int:
    return time.time_ns() // 1_000_000
