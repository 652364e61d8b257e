"""The look once a minute at what can rot: samples are taken here, ops.troubles says what they mean."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loguru import logger

import nanoclaw
from nanoclaw.app.errands import contained
from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import Frame, Stream
from nanoclaw.config import Config
from nanoclaw.errors import NanoClawError, SandboxError
from nanoclaw.gateway import egress, model
from nanoclaw.groups import Home
from nanoclaw.models import is_of_task
from nanoclaw.ops import status, troubles
from nanoclaw.ops.troubles import Fault, Known, Sample, Trouble
from nanoclaw.run import Run
from nanoclaw.run.runner import Runner
from nanoclaw.sandbox import Sandbox
from nanoclaw.store import Store, condition, watch

EVERY = 60.0  # seconds between two looks
BEAT = 1.0  # seconds between two looks of the loop at the clock
PATIENCE = 10.0  # seconds that an engine, or the store, may take to answer
SLACK = 120.0  # seconds by which a turn may be over its limit: its end is under way
WAITS = 300_000  # ms that work may wait where there is room for it
_DEAF = 30.0  # seconds that a row may wait to be written until a new start is better
_DOOR = 2.0  # seconds for a connection to a socket of ours
_LEAP_MS = 3_600_000  # ms for which a leap of the clock is named
_TRYING = frozenset({"connecting", "disconnected", "degraded", "store_failing"})  # all else is told by the channel


class Watching:
    """Samples, memory and news of it. Nothing that it looks at can hold it up for long."""

    def __init__(
        self,
        *,
        store: Store,
        home: Home,
        sandbox: Sandbox,
        runner: Runner,
        channels: Iterable[Channel],
        config: Callable[[], Config],
        clock: Callable[[], int],
        wake_outbox: Callable[[], None],
    ) -> None:
        self._store = store
        self._home = home
        self._sandbox = sandbox
        self._runner = runner
        self._channels = tuple(channels)
        self._config = config
        self._clock = clock
        self._wake_outbox = wake_outbox
        self._stall = 0.0
        self._still = 0  # looks in a row before which the loop stood still for long
        self._found: dict[Trouble, Fault] = {}
        self._memory: dict[Trouble, Known] = {}
        self._unsaid: list[tuple[Trouble, str, bool]] = []  # what main is to be told, and whether it has begun
        self._asked: dict[str, asyncio.Task[None]] = {}  # of whom no answer may have come yet
        self._tasks = asyncio.TaskGroup()
        self._engine = ""  # why it did not answer
        self._trying: dict[str, float] = {}  # channel -> since when, on the monotonic clock
        self._leaps = Leaps(clock)
        self._machine = Machine(home)

    async def run(self) -> None:
        """For as long as the host lives."""
        async with self._tasks:
            self._tasks.create_task(self._beat(), name="beat")
            await contained(self._remember(), "watching")
            while True:
                await asyncio.to_thread(self._machine.live)
                await contained(self.look(), "watching")
                await asyncio.sleep(EVERY)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(BEAT)
            self._stall = max(self._stall, loop.time() - before - BEAT)

    async def _remember(self) -> None:
        """What main was told in an earlier life is not told again."""
        for word, (at, is_open) in (await self._store.read(watch.told)).items():
            with suppress(ValueError):  # a word of another version
                seen = troubles.HOLD if is_open else 0
                self._memory[Trouble(word)] = Known(at, seen=seen, told_at=at, open=is_open)

    # --- one look ---------------------------------------------------------------------------------

    async def look(self) -> None:
        """Take a sample, and tell what follows from it."""
        sample = await self._sample()
        self._still = self._still + 1 if sample.stall > troubles.STANDSTILL else 0
        self._found = troubles.faults(sample)
        before, now = self._memory, self._clock()
        judged = troubles.judge(self._found, before, now)
        self._memory = judged.memory
        for trouble in judged.begun:
            logger.warning("Watching: {} {}", trouble, self._found[trouble].said)
        for trouble in judged.ended:
            logger.info("Watching: {} is over", trouble)
        for trouble in judged.told:
            text = troubles.text(trouble, self._found[trouble], self._memory[trouble])
            self._unsaid.append((trouble, text, True))
        for trouble in judged.over:
            self._unsaid.append((trouble, troubles.over_text(trouble, before[trouble], now), False))
        await self._say(now)

    async def _say(self, now: int) -> None:
        """What cannot be stored now is tried again with the next look; what was stored all the same is not doubled."""
        if not self._unsaid:
            return
        for trouble, text, begins in tuple(self._unsaid):
            if trouble not in troubles.UNTOLD:
                write = (
                    self._store.write(watch.tell, trouble, troubles.PARKS.get(trouble, ""), text, now)
                    if begins
                    else self._store.write(watch.over, trouble, text, now)
                )
                try:
                    async with asyncio.timeout(PATIENCE):
                        await write
                except (NanoClawError, TimeoutError) as e:
                    logger.warning("Main is told later of {}: {}", trouble, e or "the store does not answer")
                    return
            self._unsaid.remove((trouble, text, begins))
        self._wake_outbox()

    async def _sample(self) -> Sample:
        stall, self._stall = self._stall, 0.0
        engine = self._ask("engine", self._ask_engine)
        asked = {engine}
        if self._store.fault:  # a write that waits is seen without
            asked.add(self._ask("store", self._probe_store))
        await asyncio.wait(asked, timeout=PATIENCE)
        if not engine.done():
            self._engine = "it has not answered yet"
        waiting, waited = self._store.behind()
        working = [run for run in self._runner.runs.values() if run.started.is_set() and not run.gone and not run.end]
        sockets = {run.row.lane: self._home.sockets(run.row.sockets) for run in working if run.row.container}
        seen = await asyncio.to_thread(self._machine.look, sockets)
        return Sample(
            stall=stall,
            waited=waited,
            waiting=waiting,
            fault=self._store.fault,
            engine=self._engine,
            stuck=await self._stuck(),
            late=tuple(run.row.lane for run in working if self._is_late(run)),
            away=self._away(time.monotonic()),
            leap=self._leaps.look(),
            **seen,
        )

    def _ask(self, whom: str, question: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """One question at a time: who does not answer is not asked again until then."""
        task = self._asked.get(whom)
        if task is None or task.done():
            errand = contained(question(), f"asking the {whom}")
            task = self._asked[whom] = self._tasks.create_task(errand, name=f"asking the {whom}")
        return task

    async def _probe_store(self) -> None:
        with suppress(NanoClawError):  # the store keeps why
            await self._store.write(watch.probe, self._clock())

    async def _ask_engine(self) -> None:
        try:
            await self._sandbox.found()
        except SandboxError as e:
            self._engine = str(e).rstrip(".")
        else:
            self._engine = ""

    async def _stuck(self) -> tuple[str, ...]:
        """Lanes that could have begun long ago."""
        runs = self._runner.runs
        busy = {lane for lane, run in runs.items() if run.turns} | self._runner.opening
        if len(busy) >= (most := self._config().max_runs):
            return ()
        tasks_wait = sum(is_of_task(lane) for lane in busy) >= max(most - 1, 1)
        before = self._clock() - WAITS
        try:
            async with asyncio.timeout(PATIENCE):
                lanes = await self._store.read(condition.lanes)
        except (NanoClawError, TimeoutError):
            return ()
        return tuple(
            lane.lane
            for lane in lanes
            if lane.active and not lane.cause and 0 < lane.oldest < before and lane.lane not in busy
            if not (tasks_wait and is_of_task(lane.lane))
        )

    def _is_late(self, run: Run) -> bool:
        limit = run.group.limits.turn_timeout or self._config().turn_timeout
        return bool(run.turns) and asyncio.get_running_loop().time() - run.busy_since > limit + SLACK

    def _away(self, now: float) -> Mapping[str, float]:
        trying = {c.name for c in self._channels if c.state in _TRYING}
        self._trying = {name: self._trying.get(name, now) for name in trying}
        return {name: now - since for name, since in self._trying.items()}

    # --- what others are told ---------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """For `nanoclaw status`: what is wrong by the last look, and whether the engine answered."""
        return {
            "engine": self._engine or "answers",
            "watch": [
                {
                    "cause": str(trouble),
                    "since": self._memory[trouble].since,
                    "said": fault.said,
                    "mend": troubles.MEND[trouble],
                    "lanes": list(fault.lanes),
                    "told": self._memory[trouble].open and trouble not in troubles.UNTOLD,
                }
                for trouble, fault in self._found.items()
                if trouble in self._memory
            ],
        }

    def told(self) -> list[str]:
        """The same for /status in main; any thread may ask."""
        found, memory = self._found, self._memory
        return [troubles.text(t, fault, memory[t]) for t, fault in found.items() if t in memory]

    async def health(self, args: Frame, stream: Stream) -> Frame:
        """The `health` verb: what a new start of the process may mend; that it answers at all says the rest."""
        waiting, waited = self._store.behind()
        if self._store.fault:
            return {"fatal": f"rows cannot be written: {self._store.fault}"}
        if waited > _DEAF:
            return {"fatal": f"{waiting} row(s) wait to be written, for up to {waited:.0f} s"}
        if self._still >= troubles.HOLD:
            return {"fatal": f"it stood still for {troubles.STANDSTILL:.0f} s and more, {self._still} looks in a row"}
        return {"fatal": ""}


class Leaps:
    """How far the wall clock was set, beside the time that went by; a machine that slept has not set it."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._before = self._offset()
        self._leap = 0.0
        self._until = 0.0  # on the clock that nobody sets

    def _offset(self) -> float:
        return self._clock() / 1000 - _boot_time()

    def look(self) -> float:
        """Seconds, for an hour after it was set; 0 when it was not."""
        offset, now = self._offset(), _boot_time()
        if abs(step := offset - self._before) > troubles.LEAP:
            self._leap, self._until = step, now + _LEAP_MS / 1000
        elif now >= self._until:
            self._leap = 0.0
        self._before = offset
        return self._leap


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Machine:
    """What files and sockets say. Called in a thread."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._log = home.logs / "nanoclaw.log"
        self._logs = self._log.exists()
        self._program = _stamp()

    def live(self) -> None:
        """Leave the sign that a host lives."""
        with suppress(OSError):
            status.live(self._home)

    def look(self, sockets: Mapping[str, Path]) -> dict[str, Any]:
        """Fields of a Sample; `sockets` by lane."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            disk = os.statvfs(self._home.root)
            free, names = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
        except OSError:
            free, names = None, None
        return {
            "wal": _size(status.wal_of(self._home)),
            "free": free,
            "names": names,
            "mute": tuple(lane for lane, folder in sockets.items() if not _accepts(folder)),
            "log": self._lost(),
            "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "files_most": 0 if soft == resource.RLIM_INFINITY else soft,
            "program": _stamp() != self._program,
        }

    def _lost(self) -> str:
        """Why the log takes no lines; the library that writes it says so on stderr alone."""
        if not self._logs:
            self._logs = self._log.exists()
            return ""
        if not self._log.exists():
            return "its file is gone"
        return "" if os.access(self._log, os.W_OK) else "its file cannot be written"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _accepts(folder: Path) -> bool:
    try:
        for name in (model.SOCKET, egress.SOCKET):
            with socket.socket(socket.AF_UNIX) as knocking:
                knocking.settimeout(_DOOR)
                knocking.connect(str(folder / name))
    except OSError:
        return False
    return True


def _stamp() -> int:
    """Another number once the program's files are others."""
    found = []
    for path in Path(nanoclaw.__path__[0]).rglob("*.py"):
        with suppress(OSError):
            at = path.stat()
            found.append((str(path), at.st_mtime_ns, at.st_size))
    return hash(tuple(sorted(found)))
