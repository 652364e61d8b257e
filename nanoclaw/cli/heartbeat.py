"""nanoclaw heartbeat: an agent that looks by itself whether something is to be done."""

import os
import time
from typing import Annotated

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import groups, heartbeat
from nanoclaw.groups import MAIN
from nanoclaw.store import Tx, chats

_HELP = """Let a group's agent look now and then whether something in its HEARTBEAT.md wants to be done. Off by default.

\b
Examples:
  nanoclaw heartbeat on --every 30m                          in main
  nanoclaw heartbeat on family --every 1h --quiet 22:00-07:00
  nanoclaw heartbeat off family
  nanoclaw heartbeat status                                  of all groups

The agent keeps groups/<folder>/HEARTBEAT.md itself: tell it what to look after. While there is nothing but headings
in it no model is asked. What it answers goes to the chat, but for HEARTBEAT_OK, its word for nothing new.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
GroupArg = Annotated[str, typer.Argument(metavar="[GROUP]", help="Folder, name or chat's number; else main.")]


@app.command()
def on(
    group: GroupArg = MAIN,
    every: Annotated[str, typer.Option(help=f'A length, as in "1h"; {heartbeat.EVERY} where none was said.')] = "",
    quiet: Annotated[
        str | None, typer.Option(help='Hours without it, as in "22:00-07:00", in the group\'s zone; "" for none.')
    ] = None,
) -> None:
    """Switch it on, or change it."""
    typer.echo(do(_on, group, every, quiet, load(os.environ).zone, _now()))


@app.command()
def off(group: GroupArg = MAIN) -> None:
    """Switch it off."""
    typer.echo(do(_off, group, _now()))


@app.command()
def status(
    group: Annotated[str, typer.Argument(metavar="[GROUP]", help="Folder, name or chat's number; else all.")] = "",
) -> None:
    """Say how it stands."""
    typer.echo("\n".join(look(_lines, group, _now())))


def _on(tx: Tx, group: str, every: str, quiet: str | None, zone: str, now: int) -> str:
    found = groups.find(tx, group)
    return heartbeat.line(heartbeat.turn_on(tx, found, every, quiet, zone, TERMINAL, now), found, now)


def _off(tx: Tx, group: str, now: int) -> str:
    found = groups.find(tx, group)
    heartbeat.turn_off(tx, found, TERMINAL, now)
    return heartbeat.line(None, found, now)


def _lines(tx: Tx, group: str, now: int) -> list[str]:
    found = [groups.find(tx, group)] if group else chats.groups(tx)
    return [heartbeat.line(heartbeat.find(tx, one), one, now) for one in found]


def _now() -> int:
    return time.time_ns() // 1_000_000
