"""`./nanoclaw.sh bench`: warm and cold turns, the host's memory and processor time, beside their floors.

A real host process (`nanoclaw run`), real containers with the real CLI, the stand-in model server here;
times are of one monotonic clock. Quote medians; on a busy machine the minima say more.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanoclaw.channels.control_sock import Client, connect
from tests.bench import floors, tasks, whatsapp
from tests.model_server import ModelServer

IMAGE = "nanoclaw-agent"


@dataclass
class Times:
    """Milliseconds of some turns."""

    request: list[float] = field(default_factory=list)  # message in -> first model request
    text: list[float] = field(default_factory=list)  # last byte of the model -> text at the channel


class Chat:
    """One attached terminal."""

    def __init__(self, client: Client, server: ModelServer) -> None:
        self._client = client
        self._server = server

    async def turn(self, text: str, times: Times) -> None:
        """Say it, and note when the model was asked and when the reply came."""
        number, begun = len(self._server.requests), time.monotonic()
        await self._client.send({"type": "say", "id": uuid.uuid4().hex, "text": text})
        await self._message()
        arrived = time.monotonic()
        seen = self._server.requests[number]
        times.request.append((seen.arrived - begun) * 1000)
        times.text.append((arrived - self._server.requests[-1].last_byte) * 1000)

    async def command(self, text: str) -> None:
        """Say a /word and wait for its answer."""
        await self._client.send({"type": "say", "id": uuid.uuid4().hex, "text": text})
        await self._message()

    async def _message(self) -> None:
        async for frame in self._client:
            if frame.get("type") == "message":
                await self._client.send({"type": "ack", "id": frame["id"]})
                return


@dataclass
class HostProcess:
    """A running host, and how long it took to be ready."""

    pid: int
    socket: Path
    ready_ms: float

    def resident_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1]) / 1024

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def hosted(home: Path, url: str) -> AsyncIterator[HostProcess]:
    """`nanoclaw run` on a fresh home."""
    env = {**os.environ, "NANOCLAW_HOME": str(home), "ANTHROPIC_BASE_URL": url, "NANOCLAW_TOKENS_PER_DAY": "0"}
    env |= {"ANTHROPIC_API_KEY": "fake-key-for-the-bench", "NANOCLAW_LOG_LEVEL": "WARNING"}
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nanoclaw", "run", env=env, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr
        while b"ready" not in (line := await process.stderr.readline()):
            if not line:
                raise SystemExit("the host did not start: run `nanoclaw run` by hand to see why")
        yield HostProcess(process.pid, home / "control.sock", (time.monotonic() - begun) * 1000)
    finally:
        process.terminate()
        await process.wait()


async def _no_run(host: HostProcess) -> None:
    async with await connect(host.socket) as client:
        while (await client.call("status"))["runs"]:
            await asyncio.sleep(0.05)


async def _cold(host: HostProcess, chat: Chat, rounds: int) -> Times:
    times = Times()
    for n in range(rounds + 1):
        await chat.command("/new")
        await _no_run(host)
        await chat.turn(f"cold {n}", times if n else Times())
    return times


async def _warm(chat: Chat, rounds: int) -> Times:
    times = Times()
    for n in range(rounds + 2):
        await asyncio.sleep(0.2)  # as people do: the agent is idle again
        await chat.turn(f"warm {n}", times if n > 1 else Times())
    return times


async def _idle(host: HostProcess, seconds: float) -> float:
    begun = host.cpu_seconds()
    await asyncio.sleep(seconds)
    return (host.cpu_seconds() - begun) / seconds * 100


def _row(table: Table, name: str, values: list[float], floor: list[float] | None, target: str) -> None:
    low = f"{statistics.median(floor):.0f} ({min(floor):.0f})" if floor else ""
    ours = f"{statistics.median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}"
    table.add_row(name, *ours, low, target)


async def _measure(rounds: int, seconds: float) -> Table:
    table = Table("figure", "median", "min", "max", "floor median (min)", "target", title="NanoClaw, measured")
    with tempfile.TemporaryDirectory(prefix="nc-bench-") as folder:
        async with ModelServer() as server, hosted(Path(folder), server.url) as host:
            small = host.resident_mib()
            idle = await _idle(host, seconds)
            async with await connect(host.socket) as client:
                await client.attach()
                chat = Chat(client, server)
                cold = await _cold(host, chat, rounds)
                warm = await _warm(chat, rounds * 2)
                container = _container(Path(folder))
                agent = floors.anonymous_mib(container)
                busy = host.resident_mib()
            await asyncio.sleep(1)
            cold_floor = await floors.cold(server, IMAGE, rounds)
            warm_floor = await floors.warm(server, IMAGE, rounds * 2)
    _row(table, "warm: message in -> model request, ms", warm.request, warm_floor, "<= 45")
    _row(table, "warm: last byte -> text at the channel, ms", warm.text, None, "<= 30")
    _row(table, "cold: message in -> model request, ms", cold.request, cold_floor, "<= 850, <= 1.25 x floor")
    _row(table, "cold: last byte -> text at the channel, ms", cold.text, None, "")
    _row(table, "host ready, ms", [host.ready_ms], None, "< 2000")
    _row(table, "host resident at start, MiB", [small], None, "<= 85")
    _row(table, "host resident after all turns, MiB", [busy], None, "<= 85")
    _row(table, f"host idle over {seconds:.0f} s, % of a core", [idle], None, "<= 0.3")
    _row(table, "idle agent, anonymous MiB", [agent], None, "<= 180")
    return table


def _container(home: Path) -> str:
    """The engine's id of the one container of this home."""
    import sqlite3

    with sqlite3.connect(home / "nanoclaw.db") as db:
        install = db.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()[0]
    found = subprocess.run(
        ["docker", "ps", "-q", "--no-trunc", "--filter", f"label=nanoclaw.install={install}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.split()[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="./nanoclaw.sh bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="cold turns; warm ones are twice as many")
    parser.add_argument("--idle", type=float, default=20, help="seconds over which the idle host is watched")
    parser.add_argument("--whatsapp", type=int, metavar="N", help="instead: the host's memory over N messages")
    parser.add_argument("--tasks", type=int, metavar="N", help="instead: how late N tasks are that are due at once")
    args = parser.parse_args()
    if args.tasks:
        asyncio.run(tasks.run(args.tasks, Console(width=120)))
        return
    if args.whatsapp:
        asyncio.run(whatsapp.run(args.whatsapp, Console(width=120)))
        return
    Console(width=120).print(asyncio.run(_measure(args.rounds, args.idle)))


if __name__ == "__main__":
    main()
