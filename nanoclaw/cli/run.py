"""nanoclaw run: the host until it is stopped; nanoclaw stop: stops it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import typer

from nanoclaw.errors import NanoClawError

STOP_TIMEOUT = 60.0  # seconds; the host's own stages add up to less


def run() -> None:
    """Serve until stopped (Ctrl-C, SIGTERM or `nanoclaw stop`)."""
    asyncio.run(_run())


async def _run() -> None:
    cancel_on(signal.SIGINT)
    with suppress(asyncio.CancelledError):
        async with hosted(_say):
            _say("ready; talk to it with: nanoclaw chat")
            await asyncio.Event().wait()


def cancel_on(*signals: signal.Signals) -> None:
    """From now on these signals cancel the task that called: what it holds open is closed in order."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _say(line: str) -> None:
    typer.echo(line, err=True)


@asynccontextmanager
async def hosted(progress: Callable[[str], None], stderr_level: str = "") -> AsyncIterator[Path]:
    """A host in this process, ready, for as long as the block runs; yields its control.sock."""
    from nanoclaw import logs
    from nanoclaw.config import load, read_credential

    config = load(os.environ)  # a wrong setting is told before the heavy imports
    from nanoclaw import app

    def secrets() -> list[str]:
        credential = read_credential(config.home, os.environ)
        return [credential.secret] if credential else []

    logs.configure(config.home, config.log_level, secrets, stderr=stderr_level)
    ready = asyncio.Event()
    cancel_on(signal.SIGTERM)
    async with asyncio.TaskGroup() as tasks:
        # When it fails, the group cancels the block and raises what it failed of.
        host = tasks.create_task(app.serve(config, os.environ, ready=ready, progress=progress), name="host")
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
