"""A host as a process of its own, to be killed: `python -m tests.host HOME REGISTRY [shared]`."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Literal

from nanoclaw import app
from nanoclaw.config import Config
from tests.fakes import KEY, ProcessSandbox

LIFE = 60  # seconds after which it ends, whoever forgot it


async def main(home: Path, registry: Path, whatsapp: Literal["off", "shared"] = "off") -> None:
    ready = asyncio.Event()
    sandbox = ProcessSandbox(registry)
    async with asyncio.TaskGroup() as tg:
        tg.create_task(
            app.serve(Config(home=home, whatsapp=whatsapp), KEY, ready=ready, sandbox=lambda install: sandbox)
        )
        await ready.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    signal.alarm(LIFE)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), "shared" if "shared" in sys.argv[3:] else "off"))
