"""nanoclaw pending: changes that an agent asked for and only the owner can allow."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.control import pending
from nanoclaw.models import By
from nanoclaw.store import Tx

_HELP = """Changes that an agent asked for, and that only the owner can allow.

\b
Examples:
  nanoclaw pending list         what waits, with its code
  nanoclaw pending yes K7WQ2    do exactly that, once
  nanoclaw pending no K7WQ2     do not, and do not ask again today

The same as /yes CODE and /no CODE in the owner's own chat; a change waits for 10 minutes.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
Code = Annotated[str, typer.Argument(metavar="CODE", help="As the list says it.")]


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what waits."""
    if as_json:
        typer.echo(json.dumps([asdict(w) for w in look(pending.listed, _now())], ensure_ascii=False))
    else:
        typer.echo(look(pending.listed_text, _now()))


@app.command()
def yes(code: Code) -> None:
    """Allow it: it is done at once."""
    _answer(pending.confirm, code)


@app.command()
def no(code: Code) -> None:
    """Refuse it."""
    _answer(pending.refuse, code)


def _answer(verb: Callable[[Tx, str, By, int], pending.Answered], code: str) -> None:
    answered = do(verb, code, TERMINAL, _now())
    typer.echo(answered.text, err=not answered.done)
    if not answered.done:
        raise typer.Exit(1)


def _now() -> int:
    return time.time_ns() // 1_000_000
