"""A way to take the engine away from one host, and to give it back."""

import asyncio
import os
from pathlib import Path

from nanoclaw.sandbox.engine import address_of


class Door:
    """A socket in front of the engine's own, which can be shut: as if the engine were gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: asyncio.Server | None = None
        self._guests: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        self.path.unlink()
        for writers in self._guests.values():
            for writer in writers:
                writer.close()
        await asyncio.gather(*self._guests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_unix_connection(address_of(os.environ).removeprefix("unix://"))
        task = asyncio.current_task()
        assert task is not None
        self._guests[task] = (writer, ahead)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, ahead))
            group.create_task(_pump(behind, writer))
        del self._guests[task]


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
