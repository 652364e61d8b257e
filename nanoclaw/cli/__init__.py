"""The command line: one file per noun, no rule of its own; every refusal is one line on stderr."""

import os
import sys
from asyncio import CancelledError
from typing import Annotated, NoReturn, TextIO

import typer

from nanoclaw import __version__
from nanoclaw.cli import (
    backup,
    chat,
    config,
    doctor,
    groups,
    heartbeat,
    image,
    log,
    logs,
    memory,
    mounts,
    network,
    pair,
    pending,
    people,
    run,
    service,
    setup,
    status,
    tasks,
    uninstall,
    upgrade,
    usage,
)
from nanoclaw.errors import NanoClawError
from nanoclaw.hints import typed

# \b keeps the lines as they are.
_HELP = """An assistant that answers with Claude Code in a locked-down container.

\b
Examples:
  nanoclaw setup                    ask once for what is missing
  nanoclaw chat                     talk to the assistant here
  nanoclaw chat -m "What is new?"   one message, one reply
  nanoclaw pair                     link WhatsApp
  nanoclaw run                      serve until stopped; `up` does so in the background
  nanoclaw groups chats             the chats that it saw; `groups add` serves one
  nanoclaw status                   how it is doing
  nanoclaw doctor                   what is wrong, and the command that mends it
  nanoclaw backup FILE              everything worth keeping, in one file

Settings: ~/.nanoclaw/nanoclaw.toml (NANOCLAW_HOME names another folder).
"""

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help takes longer to import than all of the rest
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nanoclaw {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Global options only."""


app.command("chat")(chat.chat)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("usage")(usage.usage)
app.command("stop")(run.stop)
app.command("up")(service.up)
app.command("logs")(logs.logs)
app.command("setup")(setup.setup)
app.command("pair")(pair.pair)
app.command("logout")(pair.logout)
app.command("log")(log.log)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("uninstall")(uninstall.uninstall)
app.command("upgrade")(upgrade.upgrade)
app.command("self-check", hidden=True)(upgrade.self_check)
app.add_typer(tasks.app, name="tasks")
app.add_typer(heartbeat.app, name="heartbeat")
app.add_typer(pending.app, name="pending")
app.add_typer(memory.app, name="memory")
app.add_typer(image.app, name="image")
app.add_typer(mounts.app, name="mounts")
app.add_typer(groups.app, name="groups")
app.add_typer(people.app, name="people")
app.add_typer(config.app, name="config")
app.add_typer(service.app, name="service")
app.add_typer(network.app, name="network")


def main() -> None:
    """The console script. A NanoClawError, alone or in a group of tasks, becomes one line and exit code 1."""
    os.umask(0o077)  # nothing that we make is for other users
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from nanoclaw.cli.descriptors import fill_in

        fill_in()
    for stream in (sys.stdout, sys.stderr):
        _never_fail(stream)
    try:
        app()
    except (Exception, CancelledError) as e:
        if os.environ.get("NANOCLAW_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        _end(e)


def _never_fail(stream: TextIO) -> None:
    """A terminal that knows no umlaut gets a question mark instead of a traceback."""
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="replace")


def _end(e: BaseException) -> NoReturn:
    while isinstance(e, BaseExceptionGroup):  # the first is the cause; the rest broke because of it
        e = e.exceptions[0]
    if isinstance(e, CancelledError):  # a signal ended it
        sys.exit(1)
    told = str(e)
    if not isinstance(e, NanoClawError):
        told = f"internal error ({type(e).__name__}: {e}); NANOCLAW_LOG_LEVEL=DEBUG shows where"
    typer.echo(f"nanoclaw: {typed(' '.join(told.split()))}", err=True)
    sys.exit(1)
