"""The runs: open the sandbox, give it turns, take what comes out, close it."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.config import Config
from nanoclaw.control import memory
from nanoclaw.errors import Cause, SandboxError, StoreError, UnsafePath
from nanoclaw.gateway import Gateway
from nanoclaw.groups import (
    Home,
    check_room,
    check_session,
    make_group,
    make_run,
    read_memory,
    remove_other_runs,
    remove_run,
    remove_state,
    set_aside_session,
)
from nanoclaw.mailbox import HOST_EVERY, HOST_FILE, OutboxAbuse, OutboxReader, Watch, put_letter
from nanoclaw.meter import DayMeter, Spawn
from nanoclaw.models import Chat, Group, Progress, RunRow, RunState, Show, Turn, is_of_task
from nanoclaw.outbox import Outbox
from nanoclaw.run import Run, RunGone, begin, give, letters, obituary, outfit
from nanoclaw.run.extras import Extras
from nanoclaw.run.listener import Listener
from nanoclaw.sandbox import Bind, Death, Exit, Found, Sandbox, Spec
from nanoclaw.store import Store, chats, runs, turns
from nanoclaw.store.runs import Call
from nanoclaw.tools import Tools

ALIVE_LIMIT = 35.0  # seconds without an Alive letter: three of them are missing
START_LIMIT = 60.0  # seconds until the first one; a cold start takes about one
STOP_LIMIT = 1.5  # seconds after a Stop letter until the container is killed
ROOM_EVERY = 60.0  # seconds between two looks at the disk that a run uses
_ENGINE_RETRY = 1.0  # seconds between two questions to an engine that is gone


@dataclass(frozen=True)
class Settings:
    """What the runner needs to know of the configuration."""

    config: Callable[[], Config]
    identity: Callable[[], tuple[int, int]]  # uid and gid inside; who owns what the agents write
    env: Callable[[], dict[str, str]]  # what the container is told of the outside: the placeholder, the zone
    new_id: Callable[[], str]  # 8 hex digits
    engine: Callable[[], str] = str  # its address: no agent may reach what listens there
    clean: Callable[[str], str] = str  # a text of an agent's without what nobody may say


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
        spawn: Spawn,
    ) -> None:
        self._store = store
        self._home = home
        self._sandbox = sandbox
        self._gateway = gateway
        self._meter = meter
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        self._spawn = spawn
        self._extras = Extras(store, home, settings.engine, outbox, clock)
        self._image = ""  # as of the last start of a container
        self.unfit = ""  # an image whose agent speaks another protocol: not to be tried again
        self.swept = False  # whether the engine has said since the start which containers it has
        self._strays: dict[str, Found] = {}  # those that no run knows, by container
        self._sweeping = asyncio.Lock()
        self._listener = Listener(
            store=store, meter=meter, tools=tools, outbox=outbox, show=show, clock=clock, spawn=spawn, hands=self,
            clean=settings.clean,
        )  # fmt: skip
        self.runs: dict[str, Run] = {}
        self.opening: set[str] = set()  # lanes that have a slot for a run to be made: an image for it may take long
        # The dispatcher's ears: a lane can go on; a run is over; a turn was answered.
        self.on_free: Callable[[str], None] = lambda lane: None
        self.on_end: Callable[[str], None] = lambda lane: None
        self.on_success: Callable[[], None] = lambda: None

    # --- opening and giving ---------------------------------------------------------------------

    def fingerprint(self, group: Group) -> str:
        """What a run of this group is made of now; a warm run with another one takes no more turns."""
        made_of = {
            "image": self._image,
            "model": group.model or self._settings.config().model,
            "runtime": self._settings.config().runtime,
            "env": self._settings.env(),
            "group": asdict(group),
            "mounts": self._extras.fingerprint(group),
            "memory": read_memory(self._home, group.folder).hex(),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()

    async def fits(self, run: Run, group: Group) -> bool:
        """Whether a warm run is still what its group needs."""
        return run.row.fingerprint == self.fingerprint(group) and await self._extras.hold(run)

    async def open(self, group: Group, turn: Turn) -> Run:
        """A new run of the turn's lane with the turn as its first prompt; the container starts behind it."""
        self._image = await self._sandbox.image()
        await self._alone(turn.lane, everywhere=bool(group.mounts))
        await asyncio.to_thread(check_room, self._home, group.folder, turn.lane)
        user = self._settings.identity()
        make_group(self._home, group.folder, *user)  # before the fingerprint: it makes the first CLAUDE.md
        await self._store.write(memory.look_at, self._home, group.folder, self._clock())  # so does this: it writes it
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
            model = group.model or self._settings.config().model
            row = await self._store.write(begin, row, model, turn, self._clock(), group.fallback_model)
            self._look_at_session(row)
            undo.pop_all()
        failpoints.hit("given")
        run = self._new_run(row, group, reader, [turn])
        self.runs[turn.lane] = run
        self._spawn(self._life(run), f"run {row.id}")
        logger.info("Opened run {} for lane {}", row.id, row.lane)
        return run

    def _look_at_session(self, row: RunRow) -> None:
        """Its agent may have put anything in the transcript's place: the lane begins anew then, and goes on."""
        if not row.session:
            return
        try:
            why = check_session(self._home, row.lane, row.session, f"{row.id}.refused")
        except (UnsafePath, FileNotFoundError) as e:  # the CLI meets it in its own sandbox
            why = str(e)
        if why:
            logger.warning("The session of lane {} is not resumed: {}", row.lane, why)

    async def _alone(self, lane: str, *, everywhere: bool) -> None:
        """A session is open in one container: what an earlier life left of this lane goes first.

        `everywhere`: so does all else that it left, because nobody knows what it may write.
        """
        if not self.swept:
            raise SandboxError("the engine did not say yet which containers it has", Cause.ENGINE)
        try:
            for stray in [s for s in self._strays.values() if everywhere or s.lane in (lane, "")]:
                await self._remove(stray)
        except SandboxError as e:  # parked until it can be removed, whatever is wrong with it
            raise SandboxError(str(e), Cause.ENGINE) from None

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
        await self.deliver(run)
        await self._listener.tell(run, given, Show.TAKEN)
        logger.info("Gave turn {} to run {}", turn.id, run.row.id)

    async def deliver(self, run: Run) -> None:
        """Write the files of letters that are rows already; what is there is left as it is."""
        for n, letter in await self._store.read(runs.letters, run.row.id, run.delivered):
            put_letter(self._home.inbox(run.row.id), n, letter)
            failpoints.hit("letter")
            run.delivered = max(run.delivered, n)

    async def adopt(self, image: str, found: list[Found]) -> None:
        """After a restart: keep the runs whose container is among those found, lives and fits; end the others."""
        containers = {f.run_id: f.container for f in found if f.running and f.image == image}
        self._image = image
        adopted: list[tuple[Run, list[Call]]] = []
        for row in await self._store.read(runs.living):
            run = await self._readopted(row, image, containers.get(row.id, ""))
            if run is None:
                await self._give_up(row)
            else:
                adopted.append((run, await self._store.read(runs.unanswered, row.id)))
        try:
            state = self._home.state_dir
            kept = {n for r, _ in adopted for n in (r.row.id, r.row.sockets, state(r.row.lane).name)}
            kept |= {n for f in found if f.is_probed(self._clock()) for n in (f.run_id, state(f.lane).name)}
            await asyncio.to_thread(remove_other_runs, self._home, kept)
        except (UnsafePath, OSError) as e:
            logger.error("What runs left behind could not be removed: {}", e)
        for run, calls in adopted:  # without a pause: none may end before the dispatcher has counted it
            self.runs[run.row.lane] = run
            for call in calls:
                self._spawn(self._listener.answer(run, call.n), f"tool of {run.row.id}")
            self._spawn(self._life(run), f"run {run.row.id}")
            if run.closing:
                self.retire(run.row.lane)
            logger.info("Adopted run {} of lane {}", run.row.id, run.row.lane)

    def meet(self, found: list[Found]) -> None:
        """What the engine has: the containers that no living run knows are to be removed."""
        known = {run.row.id for run in self.runs.values()}
        now = self._clock()
        self._strays = {f.container: f for f in found if f.run_id not in known and not f.is_probed(now)}

    async def sweep(self) -> None:
        """Remove them, one at a time: a lane that waits for its own comes next. Raises SandboxError."""
        for stray in list(self._strays.values()):
            await self._remove(stray)

    async def _remove(self, stray: Found) -> None:
        async with self._sweeping:
            if stray.container in self._strays:
                await self._sandbox.close(stray.container)
                self._strays.pop(stray.container, None)
                logger.warning("Removed the container of run {}, which nobody knows", stray.run_id)

    async def _give_up(self, row: RunRow) -> None:
        """End a run that cannot be adopted; what it had answered before it died is not asked again."""
        try:
            await self._listener.last_words(row.id, OutboxReader(self._home.outbox(row.id), row.offset))
        except Exception as e:  # the boundary of one run: whatever it left behind, the host starts
            logger.warning("The last letters of run {} could not be taken: {}", row.id, type(e).__name__)
        await self._store.write(letters.end_run, row.id, Cause.RESTART, "the host restarted", self._clock())
        self._clear_away(row)

    def _set_aside(self, run: Run) -> None:
        """No agent may resume what the model's API refuses; people may still want to read it."""
        try:
            if run.spoiled:
                set_aside_session(self._home, run.row.lane, run.spoiled)
                logger.warning("The session {} was refused by the model's API and is set aside", run.spoiled)
        except (UnsafePath, FileNotFoundError) as e:
            logger.warning("The refused session {} could not be set aside: {}", run.spoiled, e)

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
        return Run(
            row, group, reader, given, last_alive=now, last_sign=now, busy_since=now, idle_since=now, measured=now
        )

    def turn_of(self, run_id: str) -> str:
        """The turn that a run works at, "" between turns: what it asks of the model then belongs to none."""
        run = next((run for run in self.runs.values() if run.row.id == run_id), None)
        return run.turns[0].id if run is not None and run.turns else ""

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
        await self.deliver(run)
        for turn in run.turns:
            await self._listener.tell(run, turn, Show.TAKEN)
        if not run.row.container:
            extra = await self._extras.give(run, self.runs.values, self.close)
            container = await self._sandbox.open(self._spec(run, self._image, extra))
            failpoints.hit("container")
            await self._store.write(runs.set_container, run.row.id, container)
            run.row = replace(run.row, container=container)
            run.last_alive = self._loop_time()  # looking through its folders may have taken long
        run.started.set()
        if run.end is not None:  # it was closed while it started
            await self.kill(run, *run.end)
        watch = Watch(self._home.outbox(run.row.id))
        try:
            async with asyncio.TaskGroup() as tg:
                tg.create_task(self._listener.follow(run, watch), name="follow")
                pulse = tg.create_task(self._pulse(run), name="pulse")
                end = await self._death(run)
                pulse.cancel()
                run.gone = True
                watch.ring()  # not cancelled: letters that are read and not yet rows would be lost
        finally:
            watch.close()
        return end

    def _spec(self, run: Run, image: str, extra: tuple[Bind, ...]) -> Spec:
        return outfit.spec(
            self._home,
            run.group,
            run.row,
            image=image,
            runtime=self._settings.config().runtime,
            user=self._settings.identity(),
            env=self._settings.env(),
            extra=extra,
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

    async def _pulse(self, run: Run) -> None:
        """The host is alive, so says the file; is the agent?"""
        while True:
            with suppress(OSError):  # a full disk, say: the next round writes what is missing
                (self._home.inbox(run.row.id) / HOST_FILE).touch()
                await self.deliver(run)
            await self._check(run, self._loop_time())
            await self._check_room(run, self._loop_time())
            await asyncio.sleep(HOST_EVERY)

    async def _check(self, run: Run, now: float) -> None:
        config = self._settings.config()
        if run.end is not None:  # the engine did not do it when it was asked first
            await self.kill(run, *run.end)
        elif now - run.last_alive > (ALIVE_LIMIT if run.heard else START_LIMIT):
            await self.kill(run, Cause.SANDBOX, "the agent gave no sign of life")
        elif run.turns and now - run.last_sign > config.turn_silence + run.patience:
            await self.kill(run, Cause.TIMEOUT, f"no progress for {now - run.last_sign:.0f} s")
        elif run.turns and now - run.busy_since > (limit := run.group.limits.turn_timeout or config.turn_timeout):
            await self.kill(run, Cause.TIMEOUT, f"longer than {limit:.0f} s")
        elif run.outlived(self._clock()):
            self.retire(run.row.lane)

    async def _check_room(self, run: Run, now: float) -> None:
        if run.end is not None or now - run.measured < ROOM_EVERY:
            return
        run.measured = now
        try:
            await asyncio.to_thread(check_room, self._home, run.group.folder, run.row.lane)
        except SandboxError as e:
            await self.kill(run, e.cause, str(e))

    # --- closing --------------------------------------------------------------------------------

    async def stop(self, lane: str, turn_id: str) -> None:
        """A turn was stopped in the store: interrupt it, and kill its container if that does not help."""
        run = self.runs.get(lane)
        turn = next((t for t in run.turns if t.id == turn_id), None) if run else None
        if run is None or turn is None:
            return
        done = run.stopping.setdefault(turn_id, asyncio.Event())
        run.turns.remove(turn)
        try:
            await self.deliver(run)
            await self._listener.tell(run, turn, Show.ENDED)
            async with asyncio.timeout(STOP_LIMIT):
                await done.wait()
        except (TimeoutError, OSError, StoreError):  # it did not hear, or could not be told
            await self.kill(run, Cause.RESTART, "stopped")

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
            await self.kill(run, Cause.RESTART, "closed")
            await run.died.wait()

    async def close_all(self) -> None:
        """End every run: the host stops."""
        async with asyncio.TaskGroup() as tg:
            for lane in list(self.runs):
                tg.create_task(self.close(lane), name=f"close {lane}")

    async def misfit(self, run: Run, detail: str) -> None:
        """Its image speaks another protocol: end the run, and do not try that image again."""
        self.unfit = self._image
        await self.kill(run, Cause.IMAGE, detail)

    async def kill(self, run: Run, cause: Cause, detail: str) -> None:
        """End the run for this cause (the first one counts); the rest follows from its container's death."""
        run.end = run.end or (cause, detail)
        run.closing = True
        if run.row.container:
            try:
                await self._sandbox.close(run.row.container)
            except SandboxError as e:
                logger.warning("The container could not be removed now: {}", e)
                # It may outlive its run: then it goes before the lane's next one is opened.
                self._strays[run.row.container] = Found(run.row.container, run.row.id, "", True, run.row.lane)

    async def _bury(self, run: Run, end: Exit) -> None:
        run.closing = True
        run.started.set()
        cause, told = run.end or (Cause.SANDBOX, obituary(end, run.group.limits.memory_mb))
        detail = self._settings.clean(told)
        ids = await self._store.insist(letters.end_run, run.row.id, cause, detail, self._clock())
        logger.info("Run {} ended: {} ({})", run.row.id, cause, detail)
        try:
            for turn in run.turns:
                await self._listener.tell(run, turn, Show.ENDED)
            await self._gateway.close(run.row.id)
            await self.kill(run, cause, detail)
            if is_of_task(run.row.lane):  # nothing of it is in the next one
                await asyncio.to_thread(remove_state, self._home, run.row.lane)
        except Exception as e:  # whatever stayed behind: the lane goes on, the slot is free
            logger.opt(exception=e).error("Run {} could not be cleared away", run.row.id)
        self._meter.close(run.row.id)
        run.reader.close()
        self._set_aside(run)
        self._clear_away(run.row)
        for done in run.stopping.values():
            done.set()
        self.runs.pop(run.row.lane, None)
        run.died.set()
        if ids:
            self._outbox.wake()
        self.on_end(run.row.lane)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()
