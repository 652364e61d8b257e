"""nanoclaw groups: the chats that are served, each by an agent of its own, and how."""

import json
import os
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import groups
from nanoclaw.control.groups import rename as rename_group
from nanoclaw.control.settings import SETTINGS
from nanoclaw.control.settings import reference as settings_reference
from nanoclaw.errors import Refused
from nanoclaw.models import Group, GroupState
from nanoclaw.notices import unquoted
from nanoclaw.store import Tx, chats

_HELP = """The chats that are served, each by an agent of its own with a folder, and how.

\b
Examples:
  nanoclaw groups chats                    every chat that was seen, newest first, with its number
  nanoclaw groups add 12                   serve chat 12; its folder is named as the chat
  nanoclaw groups add 12 --folder friends
  nanoclaw groups list
  nanoclaw groups show family              what is set
  nanoclaw groups set family who=allowed word=@Bot memory=2048
  nanoclaw groups set family model=default
  nanoclaw groups rename family "The family"
  nanoclaw groups pause family             only read along; `resume` ends it
  nanoclaw groups remove family            serve it no more; its folder is kept

GROUP is a folder, a name or a chat's number. A chat keeps its number for good.
"""
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
GroupArg = Annotated[str, typer.Argument(metavar="GROUP", help="Folder, name or chat's number.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("chats")
def chats_(as_json: Json = False) -> None:
    """List every chat that was seen, newest first."""
    seen = look(groups.seen)
    if as_json:
        typer.echo(json.dumps([asdict(chat) for chat in seen]))
        return
    zone = load(os.environ).zone
    typer.echo("\n".join(f"{chat.number:>5}  {groups.summary(chat, zone)}" for chat in seen) or "No chat was seen yet.")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the groups that are served."""
    found = look(_living)
    if as_json:
        typer.echo(json.dumps([_facts(group) for group in found]))
        return
    for group in found:
        typer.echo(f"{group.folder}: «{unquoted(group.name)}», {group.state}, who: {group.who}, mode: {group.mode}")


@app.command()
def show(group: GroupArg, as_json: Json = False) -> None:
    """Say what is set for a group."""
    if as_json:
        typer.echo(json.dumps(_facts(look(groups.find, group))))
    else:
        typer.echo("\n".join(look(_described, group, load(os.environ).zone)))


@app.command()
def add(
    chat: Annotated[str, typer.Argument(metavar="CHAT", help="Its number in `chats`, a jid, or a name of one chat.")],
    folder: Annotated[str, typer.Option("--folder", help="Letters, digits, - and _; else made of the name.")] = "",
) -> None:
    """Serve a chat by an agent of its own; the chat is told who it is, who may call it and what it keeps."""
    group = do(_add, chat, folder, _now())
    typer.echo(
        f"{group.folder} is served; who may call it: {group.who}. What is set: nanoclaw groups show {group.folder}"
    )


@app.command()
def rename(group: GroupArg, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Give a group another name; its folder stays."""
    typer.echo(f"{do(_rename, group, name, _now()).folder} is called «{unquoted(name)}» now.")


def set_(group: GroupArg, settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...")]) -> None:
    """Change settings of a group, all or none; `default` sets one back."""
    pairs = dict(_pair(text) for text in settings)
    after = do(_set, group, pairs, _now())
    typer.echo("\n".join(f"{after.folder}: {key} = {SETTINGS[key].show(after)}" for key in pairs))


# \b keeps the lines as they are.
set_.__doc__ = f"{set_.__doc__}\n\n\b\n" + "\n".join(
    f"{key}: {setting.help.replace('`', '')}" for key, setting in SETTINGS.items()
)
app.command("set")(set_)


@app.command()
def pause(group: GroupArg) -> None:
    """Only read along: nothing is answered until `resume`."""
    typer.echo(f"{do(_pause, group, _now()).folder} is paused.")


@app.command()
def resume(group: GroupArg) -> None:
    """Answer again, first what has waited."""
    typer.echo(f"{do(_resume, group, _now()).folder} is served again.")


@app.command()
def remove(group: GroupArg) -> None:
    """Serve a group no more: what waits there is dropped, its containers end, its folder is kept."""
    gone = do(_remove, group, _now())
    typer.echo(
        f"{gone.folder} is not served any more; its folder is kept. `nanoclaw groups add` serves the chat again."
    )


@app.command()
def reference() -> None:
    """Print docs/groups.md: every setting, as a table."""
    typer.echo(settings_reference(), nl=False)


def _living(tx: Tx) -> list[Group]:
    return [group for group in chats.groups(tx) if group.state is not GroupState.REMOVED]


def _described(tx: Tx, group: str, zone: str) -> list[str]:
    return groups.describe(tx, groups.find(tx, group), zone)


def _add(tx: Tx, chat: str, folder: str, now: int) -> Group:
    return groups.add(tx, groups.chat_of(tx, chat).number, folder or None, TERMINAL, now)


def _rename(tx: Tx, group: str, name: str, now: int) -> Group:
    return rename_group(tx, groups.find(tx, group), name, TERMINAL, now)


def _set(tx: Tx, group: str, settings: dict[str, str], now: int) -> Group:
    return groups.change(tx, groups.find(tx, group), settings, TERMINAL, now)


def _pause(tx: Tx, group: str, now: int) -> Group:
    return groups.pause(tx, groups.find(tx, group), TERMINAL, now)


def _resume(tx: Tx, group: str, now: int) -> Group:
    return groups.resume(tx, groups.find(tx, group), TERMINAL, now)


def _remove(tx: Tx, group: str, now: int) -> Group:
    return groups.remove(tx, groups.find(tx, group), TERMINAL, now)


def _pair(text: str) -> tuple[str, str]:
    key, eq, value = text.partition("=")
    if not eq:
        raise Refused(f"write settings as KEY=VALUE, not {text[:40]!r}; known are {', '.join(SETTINGS)}")
    return key.strip(), value


def _facts(group: Group) -> dict[str, Any]:
    """A group for programs: its settings by the names that `set` takes."""
    own = {"folder": group.folder, "name": group.name, "state": group.state, "main": group.is_main}
    return {**own, **{key: setting.show(group) for key, setting in SETTINGS.items()}}


def _now() -> int:
    return time.time_ns() // 1_000_000
