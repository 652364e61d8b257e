"""`nanoclaw run` as people start it: a process of its own, with nothing changed but its environment."""

import asyncio
import io
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.whatsapp.server import FakeWhatsApp

KEY = "fake-key-for-tests"
PATIENCE = 40.0  # seconds: a start is the import of everything, on a busy machine


class Product:
    """One home, and the hosts that live in it one after the other."""

    def __init__(self, home: Path, whatsapp: FakeWhatsApp, **settings: str) -> None:
        self.home = home
        settings = {"whatsapp": "shared", "home": str(home)} | settings
        self._env = whatsapp.env() | {f"NANOCLAW_{key.upper()}": value for key, value in settings.items()}
        self._env["ANTHROPIC_API_KEY"] = KEY
        self.process: Process | None = None
        self._said: io.BufferedIOBase = io.BytesIO()

    async def start(self) -> None:
        """A new process."""
        # A file: a pipe that nobody reads would fill up, and the host would wait for it in the middle of a log line.
        self._said.close()
        with tempfile.TemporaryFile() as said:
            self._said = os.fdopen(os.dup(said.fileno()), "rb")
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nanoclaw", "run", env=self._env, stdin=DEVNULL, stdout=said, stderr=said
            )

    async def pairing(self, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """What pairing.json says once `true` holds of it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                path = self.home / "whatsapp/pairing.json"
                found = json.loads(path.read_text()) if path.exists() else {}
                if found and true(found):
                    return dict(found)
                assert self.process
                assert self.process.returncode is None, self.last_words()
                await asyncio.sleep(0.02)

    async def link(self, whatsapp: FakeWhatsApp) -> None:
        """Start it, scan what it shows."""
        await self.start()
        whatsapp.scan(await self.qr())
        await self.state("connected")

    def last_words(self) -> str:
        """The end of what it printed."""
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")[-2000:]

    async def state(self, state: str) -> dict[str, Any]:
        """Until it is in this state."""
        return await self.pairing(lambda now: now["state"] == state)

    async def qr(self) -> str:
        """The QR, where a front end finds it."""
        return str((await self.pairing(lambda now: now["qr"]))["qr"])

    async def kill(self) -> None:
        """However it stands, it is gone."""
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self._said.close()

    async def end(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process
        self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()
        return int(self.process.returncode or 0)
