"""nanoclaw memory: what the agents remember, what they remembered before, and the way back."""

import json
import os
import time
from collections.abc import Callable
from typing import Annotated

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import home_of, load
from nanoclaw.control import groups, memory
from nanoclaw.groups import GLOBAL, MAIN, Home, open_home
from nanoclaw.models import By
from nanoclaw.store import Tx
from nanoclaw.store.memory import KEPT, Version

_HELP = f"""What each group's agent remembers: its CLAUDE.md, of which {KEPT} versions are kept.

\b
Examples:
  nanoclaw memory show                    of the main group
  nanoclaw memory diff family             what changed since the version before
  nanoclaw memory versions family         what can be brought back
  nanoclaw memory undo family             the version before; once more: the one before that
  nanoclaw memory undo family --version 7
  nanoclaw memory reset family            begin anew; notes and files stay
  nanoclaw memory forget family           keep no earlier version: a secret stood in one
  nanoclaw memory show global             what the agents of all groups read

GROUP is a folder, a name or a chat's number, as in `nanoclaw groups`, or `global`. The file is plain Markdown
(groups/GROUP/CLAUDE.md in NanoClaw's home): edit it as you like, the next turn goes by it.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
GroupArg = Annotated[str, typer.Argument(metavar="[GROUP]", help="Folder, name or chat's number; else main.")]
BackOpt = Annotated[int, typer.Option("--back", min=1, max=KEPT, help="How many versions back.")]
VersionOpt = Annotated[int, typer.Option("--version", min=0, help="The version with this number.", show_default=False)]
JsonOpt = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def show(group: GroupArg = "") -> None:
    """Print the memory as it is."""
    typer.echo(look(_text, _home(), group))


@app.command()
def versions(group: GroupArg = "", as_json: JsonOpt = False) -> None:
    """List what is kept, newest first."""
    found, zone = look(_versions, _home(), group), load(os.environ).zone
    if as_json:
        facts = [{"version": v.n, "at": v.at, "who": v.who, "of": v.of, "bytes": len(v.text)} for v in found]
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join(memory.listed(found, zone)) or "Nothing is kept yet.")


@app.command()
def diff(group: GroupArg = "", back: BackOpt = 1, version: VersionOpt = 0) -> None:
    """Show what changed since an earlier version."""
    typer.echo(look(_diff, _home(), group, _where(back, version)))


@app.command()
def undo(group: GroupArg = "", back: BackOpt = 1, version: VersionOpt = 0) -> None:
    """Bring an earlier version back; what stands there now is kept as one."""
    _change(lambda tx, home, folder, by, now: memory.undo(tx, home, folder, _where(back, version), by, now), group)


@app.command()
def reset(group: GroupArg = "") -> None:
    """Begin with an empty memory; what stands there now is kept as a version."""
    _change(memory.reset, group)


@app.command()
def forget(group: GroupArg = "") -> None:
    """Remove all earlier versions; the memory as it is stays."""
    _change(memory.forget, group)


def _change(verb: Callable[[Tx, Home, str, By, int], str], group: str) -> None:
    """The row, and then the file: a host that lives may have written it meanwhile."""
    home, now = _home(), time.time_ns() // 1_000_000

    def change(tx: Tx) -> str:
        return verb(tx, home, _folder(tx, group), TERMINAL, now)

    told = do(change)
    do(memory.settle, home, now)
    typer.echo(told)


def _text(tx: Tx, home: Home, name: str) -> str:
    return memory.show(tx, home, _folder(tx, name))


def _versions(tx: Tx, home: Home, name: str) -> list[Version]:
    return memory.versions(tx, home, _folder(tx, name))


def _diff(tx: Tx, home: Home, name: str, where: str) -> str:
    return memory.diff(tx, home, _folder(tx, name), where)


def _folder(tx: Tx, name: str) -> str:
    if name.lower() == GLOBAL:
        return GLOBAL
    return groups.find(tx, name or MAIN).folder


def _where(back: int, version: int) -> str:
    return f"#{version}" if version else str(back)


def _home() -> Home:
    return open_home(home_of(os.environ))
