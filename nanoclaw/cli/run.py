"""nanoclaw run: the host until it is stopped; nanoclaw stop: stops it; and how commands reach one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nanoclaw.cli.environment import complete
from nanoclaw.errors import NanoClawError, NotRunning
from nanoclaw.hints import UNDER_COMPOSE, typed

STOP_TIMEOUT = 60.0  # seconds; the host's own stages add up to less


def run(
    now: Annotated[bool, typer.Option("--now", help="Connect at once, also after repeated crashes.")] = False,
    no_backup: Annotated[
        bool, typer.Option("--no-backup", help="Let a newer version change the database without a copy of it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log to the log files alone.")] = False,
) -> None:
    """Serve until stopped (Ctrl-C, SIGTERM or `nanoclaw stop`)."""
    complete()
    from nanoclaw.app import Restart

    again = False
    try:
        asyncio.run(_run(now, backup=not no_backup, quiet=quiet))
    except* Restart:
        again = True
    if again:
        _begin_anew()


def _begin_anew() -> None:
    """The same command in the same process, whoever looks after it: a shell, a service manager, an engine."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        if stream.fileno() != number:  # moved out of a library's way
            os.dup2(stream.fileno(), number)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


async def _run(now: bool, *, backup: bool, quiet: bool) -> None:
    cancel_on(signal.SIGINT)
    level = "CRITICAL" if quiet else ""
    with suppress(asyncio.CancelledError):
        async with hosted(_say, level, now, lives_on=True, backup=backup) as path, asyncio.TaskGroup() as tasks:
            _say(
                "ready; talk to it with: nanoclaw chat"
                if _has_key()
                else "ready, but without a key or token: nanoclaw setup"
            )
            tasks.create_task(_show_codes(path), name="codes")
            await asyncio.Event().wait()


def _has_key() -> bool:
    from nanoclaw.config import home_of, read_credential

    return read_credential(home_of(os.environ), os.environ) is not None


async def _show_codes(path: Path) -> None:
    """While WhatsApp waits to be linked: its codes, or where nobody looks one line of advice."""
    from nanoclaw.cli import pair
    from nanoclaw.cli.pair_screen import Lines, Scroll
    from nanoclaw.config import load

    config = load(os.environ)
    if config.whatsapp != "off":
        # The engine's log is where one looks first: the library offers six codes and then waits to be asked.
        seen = sys.stderr.isatty() or UNDER_COMPOSE in os.environ
        view = Scroll(pair.whose_phone(config)) if seen else Lines(pair.where_the_code_is(config.home))
        with suppress(NanoClawError):  # the host serves on, whatever becomes of this view
            await pair.follow(path, view, {"watch": True}, lambda now, offered: False)


def cancel_on(*signals: signal.Signals) -> None:
    """From now on these signals cancel the task that called: what it holds open is closed in order."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _say(line: str) -> None:
    typer.echo(typed(line), err=True)


@dataclass(frozen=True)
class Reached:
    """A living host."""

    path: Path  # its control.sock
    ours: bool  # it lives in this process


@asynccontextmanager
async def reach(progress: Callable[[str], None]) -> AsyncIterator[Reached]:
    """The living host, else one that lives as long as the block."""
    from nanoclaw.channels.control_sock import connect
    from nanoclaw.config import home_of

    path = home_of(os.environ) / "control.sock"
    try:
        client = await connect(path)
    except NotRunning:
        quiet = "DEBUG" if os.environ.get("NANOCLAW_LOG_LEVEL") == "DEBUG" else "CRITICAL"
        async with hosted(progress, stderr_level=quiet) as path:
            yield Reached(path, True)
    else:
        await client.close()
        yield Reached(path, False)


@asynccontextmanager
async def hosted(
    progress: Callable[[str], None],
    stderr_level: str = "",
    now: bool = False,
    lives_on: bool = False,
    backup: bool = True,
) -> AsyncIterator[Path]:
    """A host in this process, ready, for as long as the block runs; yields its control.sock.

    `now`: its channels connect at once, as where a person sits, whatever crashed before. `lives_on`: the caller
    begins it anew when app.Restart comes out. `backup`: as app.serve.
    """
    from nanoclaw import logs
    from nanoclaw.config import known_secrets, load

    config = load(os.environ)  # a wrong setting is told before the heavy imports
    if config.whatsapp != "off":
        from nanoclaw.cli.descriptors import set_apart

        set_apart(config.home)
    from nanoclaw import app

    def log(level: str) -> None:
        logs.configure(config.home, level, partial(known_secrets, config.home, os.environ), stderr=stderr_level)

    log(config.log_level)
    ready = asyncio.Event()
    cancel_on(signal.SIGTERM)
    async with asyncio.TaskGroup() as tasks:
        # When it fails, the group cancels the block and raises what it failed of.
        patient = not now and not sys.stdin.isatty()
        serving = app.serve(
            config, os.environ, ready=ready, progress=progress, patient=patient, lives_on=lives_on, log=log,
            backup=backup,
        )  # fmt: skip
        host = tasks.create_task(serving, name="host")
        try:
            await ready.wait()
            yield config.home / "control.sock"
        finally:
            host.cancel()


def stop() -> None:
    """Stop the host of this home, and wait until it has ended."""
    asyncio.run(_stop())


async def _stop() -> None:
    from nanoclaw.channels.control_sock import connect
    from nanoclaw.config import home_of

    async with await connect(home_of(os.environ) / "control.sock") as client:
        pid = client.host
        try:
            if not pid:
                raise ProcessLookupError
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            raise NanoClawError("the assistant runs in another container; stop it there") from None
        except PermissionError:
            raise NanoClawError(f"process {pid} is another user's; stop it as that user") from None
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await client.ended()
        except TimeoutError:
            raise NanoClawError(
                f"process {pid} did not end within {STOP_TIMEOUT:.0f} s; kill -9 {pid} ends it"
            ) from None
    sys.stderr.write("stopped\n")
