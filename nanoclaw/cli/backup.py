"""nanoclaw backup: everything that cannot be had again, in one file; nanoclaw restore: puts one back."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanoclaw import __version__
from nanoclaw.config import Config, home_of, load
from nanoclaw.errors import ConfigError, NanoClawError
from nanoclaw.hints import typed
from nanoclaw.prompts import plain

if TYPE_CHECKING:  # for the commands alone, not for help
    from nanoclaw.ops.backup import Made, Report
    from nanoclaw.ops.restore import Restored

_TOLD = 20  # names of what was left out; the file has them all


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To be written, as in nanoclaw.tar.gz.")],
    with_credential: Annotated[bool, typer.Option("--with-credential", help="The key or token too.")] = False,
    with_whatsapp_session: Annotated[
        bool, typer.Option("--with-whatsapp-session", help="The WhatsApp session too: only to move, never to keep.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write the store, groups, files, sessions, skills and settings into one file, also while the assistant runs."""
    from nanoclaw.ops.backup import Wishes, back_up

    wishes = Wishes(with_credential, with_whatsapp_session)
    with _progress() as report:
        made = back_up(home_of(os.environ), file, wishes, version=__version__, now=_now(), force=force, report=report)
    typer.echo(_made_json(made) if as_json else _made(made))


def _made_json(made: "Made") -> str:
    facts = {"file": str(made.path), "bytes": made.size, "files": len(made.manifest.members)}
    return json.dumps({**facts, "left_out": made.manifest.left_out, "notes": made.manifest.notes})


def _made(made: "Made") -> str:
    lines = [f"{made.path}: {len(made.manifest.members)} files, {made.size / 1e6:.1f} MB"]
    lines += map(typed, made.manifest.notes)
    if left_out := made.manifest.left_out:
        lines.append(f"Left out ({len(left_out)}):")
        lines += [f"  {plain(' '.join(entry.split()))}" for entry in left_out[:_TOLD]]
        lines += [f"  and {len(left_out) - _TOLD} more; the file's manifest.json names them"] * (len(left_out) > _TOLD)
    return "\n".join(lines)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `nanoclaw backup` has written.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without a question.")] = False,
) -> None:
    """Put a backup in the place of this home, which is kept beside it under another name.

    A copy of the database alone, as an upgrade makes it, takes the place of the database; all else stays.
    Nothing is touched before the whole backup is read and checked. What waited when it was made is neither said
    nor answered, because it may have been since; the main chat is told.
    """
    from nanoclaw.ops.migrating import is_copy
    from nanoclaw.ops.restore import restore as put_back

    home = home_of(os.environ).resolve()
    if not yes:
        if not sys.stdin.isatty():
            raise NanoClawError(f"this replaces {home}; say so with: nanoclaw restore --yes")
        typer.confirm(f"Replace {home} by {file}? What is there now is kept beside it", abort=True)
    if is_copy(file):
        with _alone(home):
            typer.echo(_database_put_back(file, home))
        return
    with _alone(home), _progress() as report:
        done = put_back(file, home, now=_now(), agent=_agent(), report=report)
    typer.echo(_done(done, home))


def _database_put_back(file: Path, home: Path) -> str:
    import asyncio

    from loguru import logger

    from nanoclaw.groups import open_home
    from nanoclaw.ops.migrating import put_back
    from nanoclaw.ops.restore import settle

    logger.disable("nanoclaw")  # a command says what it did by itself
    made = file.stat().st_mtime_ns // 1_000_000
    db = open_home(home).db
    before = put_back(file, home)
    settled = asyncio.run(settle(db, made, _now()))
    kept = f" The one that was there is {before}." if before else ""
    return (
        f"{db} is as it was when {file.name} was made.{kept}\n{settled.texts} text(s) and {settled.messages} message(s)"
        " that waited then count as over; the main chat is told."
    )


def _alone(home: Path) -> AbstractContextManager[None]:
    from nanoclaw.app import one_host

    return one_host(home / "nanoclaw.lock") if home.is_dir() else nullcontext()


def _agent() -> tuple[int, int] | None:
    """Whose the agents' files are; None where they are ours."""
    from nanoclaw.sandbox.spec import identity

    if os.geteuid() != 0:
        return None
    try:
        agent_uid = load(os.environ).agent_uid
    except ConfigError:  # a home that is broken is one to be restored
        agent_uid = Config.model_fields["agent_uid"].default
    return identity(0, 0, agent_uid, rootless=False)[:2]


def _done(done: "Restored", home: Path) -> str:
    made = datetime.fromtimestamp(done.manifest.at / 1000).astimezone().strftime("%Y-%m-%d %H:%M")
    lines = [f"{home} is as it was on {made}."]
    if done.before:
        lines.append(f"What was there is in {done.before}; delete it when you miss nothing.")
    if done.kept:
        lines.append(f"Kept from it, because newer: {', '.join(done.kept)}.")
    lines.append(
        f"{done.texts} text(s) and {done.messages} message(s) that waited then count as over; the main chat is told."
        " WhatsApp does not bring again what it has delivered since."
    )
    return "\n".join(filter(None, [*lines, typed(done.note or "")]))


def _now() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _progress() -> Iterator["Report"]:
    """On a terminal: what is being done, and how far."""
    from nanoclaw.ops.backup import silent

    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield report
