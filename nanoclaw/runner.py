"""The runs: open the sandbox, give it turns, take what comes out, close it."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loguru import logger

from nanoclaw import failpoints, letters
from nanoclaw.errors import Cause, SandboxError, UnsafePath
from nanoclaw.gateway import Gateway
from nanoclaw.groups import Home, binds, make_group, make_run, read_memory, remove_run
from nanoclaw.mailbox import (
    HOST_EVERY,
    HOST_FILE,
    MAX_OUTBOX,
    Alive,
    Event,
    Hello,
    LetterError,
    OutboxAbuse,
    OutboxReader,
    ProtocolMismatch,
    ToHost,
    Watch,
    decode_to_host,
    put_letter,
)
from nanoclaw.meter import DayMeter
from nanoclaw.models import Chat, Group, Progress, RunRow, RunState, Show, Turn
from nanoclaw.outbox import Outbox
from nanoclaw.run import Run, RunGone, begin, decoded, give, obituary
from nanoclaw.sandbox import Death, Exit, Sandbox, Spec
from nanoclaw.store import Store, chats, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools import Tools

ALIVE_LIMIT = 35.0  # seconds without an Alive letter: three of them are missing
START_LIMIT = 60.0  # seconds until the first one; a cold start takes about one
STOP_LIMIT = 1.5  # seconds after a Stop letter until the container is killed
MAX_BAD = 100  # letters that cannot be read before the run is ended
_ENGINE_RETRY = 1.0  # seconds between two questions to an engine that is gone
_SHOWN = {x.value: x for x in Show}


@dataclass(frozen=True)
class Settings:
    """What the runner needs to know of the configuration."""

    model: str
    skills: Path
    identity: Callable[[], tuple[int, int]]  # uid and gid inside; who owns what the agents write
    env: Callable[[], dict[str, str]]  # what the container is told of the outside: the placeholder, the zone
    turn_silence: float
    turn_timeout: float
    new_id: Callable[[], str]  # 8 hex digits


class Runner:
    """Every living run, by lane. Rows first, then files, then the container."""

    def __init__(
        self,
        *,
        store: Store,
        home: Home,
        sandbox: Sandbox,
        gateway: Gateway,
        meter: DayMeter,
        tools: Tools,
        outbox: Outbox,
        show: Callable[[Chat, Progress], None],
        settings: Settings,
        clock: Callable[[], int],
        spawn: Callable[[Awaitable[None], str], None],
    ) -> None:
        self._store = store
        self._home = home
        self._sandbox = sandbox
        self._gateway = gateway
        self._meter = meter
        self._tools = tools
        self._outbox = outbox
        self._show = show
        self._settings = settings
        self._clock = clock
        self._spawn = spawn
        self._image = ""  # as of the last start of a container
        self.misfit = ""  # an image whose agent speaks another protocol: not to be tried again
        self.runs: dict[str, Run] = {}
        # The dispatcher's ears: a lane can go on; a run is over; a turn was answered.
        self.on_free: Callable[[str], None] = lambda lane: None
        self.on_end: Callable[[str], None] = lambda lane: None
        self.on_success: Callable[[], None] = lambda: None

    # --- opening and giving ---------------------------------------------------------------------

    def fingerprint(self, group: Group) -> str:
        """What a run of this group is made of now; a warm run with another one takes no more turns."""
        made_of = {
            "image": self._image,
            "model": group.model or self._settings.model,
            "env": self._settings.env(),
            "group": asdict(group),
            "memory": read_memory(self._home, group.folder).hex(),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()

    async def open(self, group: Group, turn: Turn) -> Run:
        """A new run of the turn's lane with the turn as its first prompt; the container starts behind it."""
        self._image = await self._sandbox.image()
        user = self._settings.identity()
        make_group(self._home, group.folder, *user)  # before the fingerprint: it makes the first CLAUDE.md
        row = RunRow(
            id=self._settings.new_id(),
            lane=turn.lane,
            group_id=group.id,
            state=RunState.STARTING,
            fingerprint=self.fingerprint(group),
            sockets=self._settings.new_id(),
            started_at=self._clock(),
        )
        with ExitStack() as undo:
            undo.callback(remove_run, self._home, row.id, row.sockets)
            make_run(self._home, row.id, row.lane, row.sockets, *user)
            reader = undo.enter_context(closing(OutboxReader(self._home.outbox(row.id))))
            row = await self._store.write(begin, row, group.model or self._settings.model, turn, self._clock())
            undo.pop_all()
        failpoints.hit("given")
        run = self._new_run(row, group, reader, [turn])
        self.runs[turn.lane] = run
        self._spawn(self._life(run), f"run {row.id}")
        logger.info("Opened run {} for lane {}", row.id, row.lane)
        return run

    async def give(self, run: Run, turn: Turn) -> None:
        """One more turn for a living run. Raises RunGone when it takes none."""
        if run.closing:
            raise RunGone("the run is closing")
        given = await self._store.write(give, run.row.id, turn, self._clock())
        failpoints.hit("given")
        run.last_sign = self._loop_time()
        if not run.turns:
            run.busy_since = run.last_sign
        run.turns.append(given)
        await self._deliver(run)
        await self._tell(given, Show.TAKEN)
        logger.info("Gave turn {} to run {}", turn.id, run.row.id)

    async def _deliver(self, run: Run) -> None:
        """Write the files of letters that are rows already; what is there is left as it is."""
        for n, letter in await self._store.read(runs.letters, run.row.id, run.delivered):
            put_letter(self._home.inbox(run.row.id), n, letter)
            failpoints.hit("letter")
            run.delivered = max(run.delivered, n)

    async def adopt(self, image: str, containers: dict[str, str]) -> None:
        """After a restart: keep the runs whose container (by run id) lives and fits; end the others."""
        self._image = image
        adopted: list[tuple[Run, list[Call]]] = []
        for row in await self._store.read(runs.living):
            run = await self._readopted(row, image, containers.get(row.id, ""))
            if run is None:
                await self._give_up(row)
            else:
                adopted.append((run, await self._store.read(runs.unanswered, row.id)))
        for run, calls in adopted:  # without a pause: none may end before the dispatcher has counted it
            self.runs[run.row.lane] = run
            for call in calls:
                self._spawn(self._answer(run, call.n), f"tool of {run.row.id}")
            self._spawn(self._life(run), f"run {run.row.id}")
            logger.info("Adopted run {} of lane {}", run.row.id, run.row.lane)

    async def _give_up(self, row: RunRow) -> None:
        """End a run that cannot be adopted; what it had answered before it died is not asked again."""
        try:
            with closing(OutboxReader(self._home.outbox(row.id), row.offset)) as reader:
                while lines := reader.read():
                    batch = [x for line in lines if (x := decoded(line)) is not None]
                    await self._store.write(
                        letters.apply, row.id, batch, reader.offset, self._clock(), over_budget=False
                    )
        except Exception as e:  # the boundary of one run: whatever it left behind, the host starts
            logger.warning("The last letters of run {} could not be taken: {}", row.id, type(e).__name__)
        await self._store.write(letters.end_run, row.id, Cause.RESTART, "the host restarted", self._clock())
        self._clear_away(row)

    def _clear_away(self, row: RunRow) -> None:
        try:
            remove_run(self._home, row.id, row.sockets)
        except (UnsafePath, OSError) as e:
            logger.error("The folders of run {} could not be removed: {}", row.id, e)

    async def _readopted(self, row: RunRow, image: str, container: str) -> Run | None:
        if not container or not image:
            return None
        group = await self._store.read(chats.group, row.group_id)
        try:
            reader = OutboxReader(self._home.outbox(row.id), row.offset)
            reader.check()
        except (OSError, OutboxAbuse):
            return None
        await self._store.write(runs.set_container, row.id, container)
        given = await self._store.read(turns.of_run, row.id)
        return self._new_run(replace(row, container=container), group, reader, given)

    def _new_run(self, row: RunRow, group: Group, reader: OutboxReader, given: list[Turn]) -> Run:
        now = self._loop_time()
        return Run(row, group, reader, given, last_alive=now, last_sign=now, busy_since=now, idle_since=now)

    # --- the life of one run --------------------------------------------------------------------

    async def _life(self, run: Run) -> None:
        """From the container's start to the last row of its end; the one place where a run ends."""
        with logger.contextualize(run=run.row.id, lane=run.row.lane):
            try:
                end = await self._live(run)
            except SandboxError as e:
                end = Exit(Death.EXITED, -1)
                run.end = run.end or (e.cause, str(e))
            except Exception as e:  # the boundary of one run: its trouble is told, no other run hears of it
                logger.opt(exception=e).error("Run {} broke", run.row.id)
                end = Exit(Death.EXITED, -1)
                run.end = run.end or (Cause.SANDBOX, f"{type(e).__name__}: {e}")
            await self._bury(run, end)

    async def _live(self, run: Run) -> Exit:
        await self._meter.open(run.row.id, run.row.group_id, run.group.limits.tokens_per_day)
        await self._gateway.open(run.row.id, self._home.sockets(run.row.sockets), search=run.group.is_main)
        await self._deliver(run)
        for turn in run.turns:
            await self._tell(turn, Show.TAKEN)
        if not run.row.container:
            container = await self._sandbox.open(self._spec(run, self._image))
            failpoints.hit("container")
            await self._store.write(runs.set_container, run.row.id, container)
            run.row = replace(run.row, container=container)
        if run.end is not None:  # it was closed while it started
            await self._kill(run, *run.end)
        watch = Watch(self._home.outbox(run.row.id))
        try:
            async with asyncio.TaskGroup() as tg:
                tg.create_task(self._follow(run, watch), name="follow")
                pulse = tg.create_task(self._pulse(run), name="pulse")
                end = await self._death(run)
                pulse.cancel()
                run.gone = True
                watch.ring()  # not cancelled: letters that are read and not yet rows would be lost
        finally:
            watch.close()
        return end

    def _spec(self, run: Run, image: str) -> Spec:
        limits = run.group.limits
        row = run.row
        uid, gid = self._settings.identity()
        return Spec(
            run_id=row.id,
            lane=row.lane,
            image=image,
            uid=uid,
            gid=gid,
            binds=binds(self._home, run.group, row.lane, row.id, row.sockets, self._settings.skills),
            env=self._settings.env(),
            memory_mb=limits.memory_mb,
            cpus=limits.cpus,
            pids=limits.pids,
        )

    async def _death(self, run: Run) -> Exit:
        while True:
            try:
                return await self._sandbox.wait(run.row.container)
            except SandboxError as e:  # the engine is gone; the container may live on without it
                if run.end is not None or self._loop_time() - run.last_alive > ALIVE_LIMIT:
                    run.end = run.end or (Cause.ENGINE, str(e))
                    return Exit(Death.REMOVED, -1)
                await asyncio.sleep(_ENGINE_RETRY)

    async def _follow(self, run: Run, watch: Watch) -> None:
        """Take letters until the container is gone, and then what it said last."""
        try:
            while True:
                gone = run.gone
                if await self._take(run):
                    continue
                if gone:
                    return
                await watch.wait()
        except OutboxAbuse as e:
            await self._kill(run, Cause.POLICY, str(e))

    async def _take(self, run: Run) -> bool:
        """Take the letters that are there: events are shown, all others are one transaction with the offset."""
        lines = run.reader.read()
        run.heard = run.heard or bool(lines)
        durable: list[ToHost] = []
        for line in lines:
            letter = await self._decoded(run, line)
            run.greeted = run.greeted or isinstance(letter, Hello)
            if isinstance(letter, Alive):
                run.last_alive = self._loop_time()
            elif isinstance(letter, Event):
                await self._event(run, letter)
            elif letter is not None:
                durable.append(letter)
        if durable:
            await self._apply(run, durable)
        if run.reader.offset > MAX_OUTBOX and not run.closing:
            self.retire(run.row.lane)
        return bool(lines)

    async def _decoded(self, run: Run, line: bytes) -> ToHost | None:
        try:
            return decode_to_host(line)
        except LetterError as e:
            if isinstance(e, ProtocolMismatch) and not run.greeted:
                self.misfit = self._image
                await self._kill(run, Cause.IMAGE, f"the agent image does not fit this program: {e}")
                return None
            run.bad += 1
            logger.warning("Set aside a letter: {}", e)
            if run.bad > MAX_BAD:
                await self._kill(run, Cause.POLICY, f"more than {MAX_BAD} letters that cannot be read")
        return None

    async def _event(self, run: Run, event: Event) -> None:
        run.last_sign = self._loop_time()
        turn = next((t for t in run.turns if t.id == event.turn), None)
        if turn is not None and event.what in _SHOWN:
            await self._tell(turn, _SHOWN[event.what], event.text)

    async def _apply(self, run: Run, batch: list[ToHost]) -> None:
        over = bool(self._meter.refusal(run.row.id))
        failpoints.hit("apply")
        effects = await self._store.insist(
            letters.apply, run.row.id, batch, run.reader.offset, self._clock(), over_budget=over
        )
        failpoints.hit("applied")
        run.last_alive = run.last_sign = self._loop_time()
        if effects.said:
            self._outbox.wake()
        for n in effects.calls:
            self._spawn(self._answer(run, n), f"tool {n} of {run.row.id}")
        if effects.ended:
            await self._ended(run, effects.ended)
        if effects.succeeded:
            self.on_success()

    async def _ended(self, run: Run, ids: list[str]) -> None:
        for turn in [t for t in run.turns if t.id in ids]:
            await self._tell(turn, Show.ENDED)
        run.turns = await self._store.read(turns.of_run, run.row.id)
        for turn_id in ids:
            if (done := run.stopping.pop(turn_id, None)) is not None:
                done.set()
        if not run.turns:
            run.idle_since = self._loop_time()
            if run.closing:
                self._spawn(self.close(run.row.lane), f"close {run.row.lane}")
        self.on_free(run.row.lane)

    async def _answer(self, run: Run, n: int) -> None:
        call = await self._store.read(runs.request, run.row.id, n)
        if call is not None:
            await self._tools.handle(call)
            if not run.died.is_set():
                await self._deliver(run)

    async def _pulse(self, run: Run) -> None:
        """The host is alive, so says the file; is the agent?"""
        while True:
            (self._home.inbox(run.row.id) / HOST_FILE).touch()
            await self._check(run, self._loop_time())
            await asyncio.sleep(HOST_EVERY)

    async def _check(self, run: Run, now: float) -> None:
        if now - run.last_alive > (ALIVE_LIMIT if run.heard else START_LIMIT):
            await self._kill(run, Cause.SANDBOX, "the agent gave no sign of life")
        elif run.turns and now - run.last_sign > self._settings.turn_silence:
            await self._kill(run, Cause.TIMEOUT, f"no progress for {self._settings.turn_silence:.0f} s")
        elif run.turns and now - run.busy_since > self._settings.turn_timeout:
            await self._kill(run, Cause.TIMEOUT, f"longer than {self._settings.turn_timeout:.0f} s")

    # --- closing --------------------------------------------------------------------------------

    async def stop(self, lane: str, turn_id: str) -> None:
        """A turn was stopped in the store: interrupt it, and kill its container if that does not help."""
        run = self.runs.get(lane)
        turn = next((t for t in run.turns if t.id == turn_id), None) if run else None
        if run is None or turn is None:
            return
        done = run.stopping.setdefault(turn_id, asyncio.Event())
        run.turns.remove(turn)
        await self._deliver(run)
        await self._tell(turn, Show.ENDED)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await done.wait()
        except TimeoutError:
            await self._kill(run, Cause.RESTART, "stopped")

    def retire(self, lane: str) -> None:
        """The lane's run takes no more turns and ends when it is idle."""
        if (run := self.runs.get(lane)) is not None:
            run.closing = True
            if not run.turns:
                self._spawn(self.close(lane), f"close {lane}")

    async def close(self, lane: str) -> None:
        """End the lane's run at once and return when it is over; what it was given is open again."""
        run = self.runs.get(lane)
        if run is not None:
            run.closing = True
            await self._kill(run, Cause.RESTART, "closed")
            await run.died.wait()

    async def close_all(self) -> None:
        """End every run: the host stops."""
        async with asyncio.TaskGroup() as tg:
            for lane in list(self.runs):
                tg.create_task(self.close(lane), name=f"close {lane}")

    async def _kill(self, run: Run, cause: Cause, detail: str) -> None:
        run.end = run.end or (cause, detail)
        run.closing = True
        if run.row.container:
            try:
                await self._sandbox.close(run.row.container)
            except SandboxError as e:
                logger.warning("The container could not be removed now: {}", e)

    async def _bury(self, run: Run, end: Exit) -> None:
        run.closing = True
        cause, detail = run.end or (Cause.SANDBOX, obituary(end, run.group.limits.memory_mb))
        ids = await self._store.insist(letters.end_run, run.row.id, cause, detail, self._clock())
        logger.info("Run {} ended: {} ({})", run.row.id, cause, detail)
        try:
            for turn in run.turns:
                await self._tell(turn, Show.ENDED)
            await self._gateway.close(run.row.id)
            await self._kill(run, cause, detail)
        except Exception as e:  # whatever stayed behind: the lane goes on, the slot is free
            logger.opt(exception=e).error("Run {} could not be cleared away", run.row.id)
        self._meter.close(run.row.id)
        run.reader.close()
        self._clear_away(run.row)
        for done in run.stopping.values():
            done.set()
        self.runs.pop(run.row.lane, None)
        run.died.set()
        if ids:
            self._outbox.wake()
        self.on_end(run.row.lane)

    async def _tell(self, turn: Turn, show: Show, text: str = "") -> None:
        self._show(await self._store.read(chats.chat, turn.chat_id), Progress(turn.id, show, text))

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()
