"""A host to be killed: `python -m tests.chaos.host FOLDER READY_FD`, with its settings in the environment."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from loguru import logger

from nanoclaw import app, config, groups
from nanoclaw.channels import Pace
from nanoclaw.channels.whatsapp import WhatsApp
from nanoclaw.errors import Cause, SandboxError
from tests.fakes import ProcessSandbox

LIFE = 300  # seconds after which it ends, whoever forgot it
FLOOR = 1 << 20  # bytes: the disk is small here, and may be nearly full
REGISTRY, GONE, CLOCK = "registry", "engine-gone", "clock"  # in the folder, by which the storm reaches in


class Moody(ProcessSandbox):
    """An engine that is gone while a file says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / REGISTRY)
        self._gone = folder / GONE

    def _check(self) -> None:
        if self._gone.exists():
            raise SandboxError("the engine does not answer", Cause.ENGINE)


def ahead(folder: Path) -> int:
    """Milliseconds by which the wall clock was set forward (or back)."""
    try:
        return int((folder / CLOCK).read_text())
    except (FileNotFoundError, ValueError):
        return 0


async def main(folder: Path, ready_fd: int) -> None:
    ready = asyncio.Event()
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    sandbox = None if os.environ.get("CHAOS_SANDBOX") == "engine" else lambda install: Moody(folder)
    async with asyncio.TaskGroup() as tg:
        settings = config.load(os.environ)
        clock = lambda: app.now_ms() + ahead(folder)  # noqa: E731
        tg.create_task(app.serve(settings, os.environ, ready=ready, sandbox=sandbox, clock=clock))
        await ready.wait()
        os.write(ready_fd, b"ready\n")


if __name__ == "__main__":
    signal.alarm(LIFE)
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("NANOCLAW_LOG_LEVEL", "INFO"), format="{time:mm:ss.SSS} {message}")
    WhatsApp.pace = Pace(1000, 60_000)  # people are not written to here: a run may say more than a minute allows
    groups.FREE_FLOOR = FLOOR
    try:
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
    except asyncio.CancelledError:
        sys.exit(0)
