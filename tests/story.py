"""What the stories share: a turn that is under way, what the rows say by then, and a host that is killed."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanoclaw import app
from tests.fakes import LIMIT, Hosted, ProcessSandbox, eventually, living


async def busy(host: Hosted, chat: str, text: str = "", sender: str = "Ann") -> Path:
    """A turn that runs until the file that is returned exists."""
    started, go = host.path(f"{chat}-started"), host.path(f"{chat}-go")
    await host.channel.say(chat, f"!mark {started}\n{text}\n!wait {go}".replace("\n\n", "\n"), sender)
    await eventually(started.exists)
    return go


async def states(host: Hosted) -> list[str]:
    return [r["state"] for r in await host.rows("SELECT state FROM turns ORDER BY rowid")]


async def until_state(host: Hosted, *wanted: str) -> None:
    """Until the turns, oldest first, are in these states."""
    async with asyncio.timeout(LIMIT):
        while await states(host) != list(wanted):
            await asyncio.sleep(0.01)


async def until_parked(host: Hosted) -> None:
    await eventually_rows(host, "SELECT 1 FROM lanes WHERE parked <> ''")


async def eventually_rows(host: Hosted, sql: str, *args: object) -> None:
    async with asyncio.timeout(LIMIT):
        while not await host.rows(sql, *args):
            await asyncio.sleep(0.01)


async def forge(host: Hosted, lane: str, data: bytes) -> None:
    """Write this into the outbox of the lane's run, in one piece, as its agent could."""
    (run,) = await host.rows("SELECT id FROM runs WHERE lane = ? AND state <> 'ended'", lane)
    out = os.open(host.config.home / "runs" / run["id"] / "out.ndjson", os.O_WRONLY | os.O_APPEND)
    try:
        assert os.write(out, data) == len(data)
    finally:
        os.close(out)


@asynccontextmanager
async def abandoned(folder: Path, sandbox: ProcessSandbox) -> AsyncIterator[Hosted]:
    """A host that ends without stopping its containers, as if it was killed."""
    with pytest.MonkeyPatch.context() as patch:
        async with living(folder, sandbox) as host:
            yield host
            patch.setattr(app.Host, "stop", _close_doors)


async def _close_doors(host: app.Host) -> None:
    """What the kernel does with the sockets of a killed process."""
    await host._control.close()
    await host._gateway.aclose()


async def in_time(limit: float, attempt: Callable[[str], Awaitable[float]]) -> None:
    """One of three attempts, each in a chat of its own, takes less: a machine may stand still for once."""
    seconds: list[float] = []
    for chat in ("family", "friends", "neighbours"):
        seconds.append(await attempt(chat))
        if seconds[-1] < limit:
            return
    raise AssertionError(f"none of {seconds} is below {limit} s")
