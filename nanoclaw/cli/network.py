"""nanoclaw network: how far each group's agent reaches out of its sandbox."""

import json
import os
import time
from typing import Annotated, Any

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import groups, network
from nanoclaw.gateway import Level
from nanoclaw.models import Group, GroupState
from nanoclaw.store import Tx, chats

_HELP = """How far each group's agent reaches: none, its list of hosts, or public.

\b
Examples:
  nanoclaw network show                         every group
  nanoclaw network allow family example.org     by https, from now on
  nanoclaw network allow family '*.example.org'   every host below it
  nanoclaw network allow dev git.example.org:8443
  nanoclaw network deny family old.example.org  cut off at once
  nanoclaw network level family none            nothing, whatever the list says
  nanoclaw network level dev public --hours 1   every host, for an hour

GROUP is a folder, a name or a chat's number, as in `nanoclaw groups`. Names are looked up by the host, addresses of
your own networks are never reached, and a host sees only what the agent sends it.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
GroupArg = Annotated[str, typer.Argument(metavar="GROUP", help="Folder, name or chat's number.")]
HostArg = Annotated[str, typer.Argument(metavar="HOST", help="As in example.org, *.example.org, example.org:8443.")]


@app.command()
def show(
    group: Annotated[str, typer.Argument(metavar="[GROUP]", help="Only this one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what groups reach, and what they were refused."""
    config = load(os.environ)
    if as_json:
        typer.echo(json.dumps(look(_facts, group, _now())))
    else:
        typer.echo("\n\n".join(look(_texts, group, _now(), config.zone)))


@app.command()
def allow(group: GroupArg, host: HostArg) -> None:
    """Put a host on the group's list; it counts at once."""
    told, pattern = do(_allow, group, host, _now())
    typer.echo(f"{told} may connect to {pattern}.")


@app.command()
def deny(group: GroupArg, host: HostArg) -> None:
    """Take a host from the group's list; what is open to it is cut off."""
    told, pattern = do(_deny, group, host, _now())
    typer.echo(f"{told} may not connect to {pattern} any more.")


@app.command()
def level(
    group: GroupArg,
    level: Annotated[Level, typer.Argument(help="How far.")],
    hours: Annotated[int, typer.Option(min=0, max=network.MAX_HOURS, help="With public: how long; 0 = for good.")] = 0,
) -> None:
    """Set how far a group reaches."""
    now = _now()
    typer.echo(do(_level, group, level, now, now + hours * network.HOUR_MS if hours else 0, load(os.environ).zone))


def _texts(tx: Tx, name: str, now: int, zone: str) -> list[str]:
    return [network.listed_text(tx, group, now, group.zone or zone) for group in _meant(tx, name)]


def _facts(tx: Tx, name: str, now: int) -> list[dict[str, Any]]:
    return [network.facts(tx, group, now) for group in _meant(tx, name)]


def _meant(tx: Tx, name: str) -> list[Group]:
    if name:
        return [groups.find(tx, name)]
    return [group for group in chats.groups(tx) if group.state is not GroupState.REMOVED]


def _allow(tx: Tx, name: str, host: str, now: int) -> tuple[str, str]:
    group = groups.find(tx, name)
    return group.folder, network.allow_host(tx, group, host, TERMINAL, now)


def _deny(tx: Tx, name: str, host: str, now: int) -> tuple[str, str]:
    group = groups.find(tx, name)
    return group.folder, network.deny_host(tx, group, host, TERMINAL, now)


def _level(tx: Tx, name: str, level: Level, now: int, until: int, zone: str) -> str:
    network.set_level(tx, groups.find(tx, name), level, TERMINAL, now, until)
    return network.listed_text(tx, groups.find(tx, name), now, zone)


def _now() -> int:
    return time.time_ns() // 1_000_000
