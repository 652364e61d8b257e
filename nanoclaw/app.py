"""The composition root: builds everything, owns every coroutine, starts and stops it in stages."""

import asyncio
import fcntl
import os
import random
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import __version__, control
from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import ControlServer, Frame, Stream
from nanoclaw.channels.terminal import CHAT, OWNER, TerminalChannel
from nanoclaw.commands import Answered
from nanoclaw.config import Config, read_credential
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.ears import Ears
from nanoclaw.errors import Cause, HomeError, NanoClawError, SandboxError
from nanoclaw.gateway import CredentialKind
from nanoclaw.gateway.model import ModelGateway
from nanoclaw.groups import Home, open_home
from nanoclaw.media import Fetcher
from nanoclaw.meter import DayMeter
from nanoclaw.models import Chat, Progress, Show
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.crashes import Life
from nanoclaw.ops.keeping import Keeping
from nanoclaw.outbox import Outbox
from nanoclaw.run.runner import Runner, Settings
from nanoclaw.sandbox import Found, Sandbox
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.image import resources
from nanoclaw.sandbox.spec import identity
from nanoclaw.store import Store, ledger, messages, outgoing, owners, turns
from nanoclaw.tools import Tools

STOP_GRACE = 5.0  # seconds that a running turn gets to end when the host stops
SEND_GRACE = 2.0  # seconds for the acknowledgement of a text; without it the next life sends it again, counted
STAGE_LIMIT = 10.0  # seconds for each later stage of a stop
_WATCH = 2.0  # seconds between two looks at what can change outside
_REAP_EVERY = 15  # looks between two searches for containers of nobody
_CHANNEL_AGAIN = 5.0  # seconds after which a channel that broke is started again
_PLACEHOLDER = "placeholder-the-real-one-stays-with-the-host"
# What a parked lane waits for, and which change releases it.
_BY_CREDENTIAL = frozenset({Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA})


def now_ms() -> int:
    """Wall clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def serve(
    config: Config,
    environ: Mapping[str, str],
    *,
    ready: asyncio.Event | None = None,
    progress: Callable[[str], None] = lambda line: None,
    sandbox: Callable[[str], Sandbox] | None = None,
    channels: tuple[Channel, ...] = (),
    clock: Callable[[], int] = now_ms,
    patient: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """The host's life, until cancelled. Raises NanoClawError when it cannot start.

    `patient`: after repeated crashes the channels wait before they connect. `sandbox` makes another one than Docker's
    for an install id; `channels` come beside the terminal.
    """
    home = open_home(config.home, config.run_dir)
    with one_host(home.lock), Life(home.root, clock, sleep, patient=patient) as life:
        async with opened(Store(home.db, Ballast(home.root).drop)) as store:
            install = await store.write(ledger.install_id, uuid.uuid4().hex)
            engine = _docker(config, environ, install, progress) if sandbox is None else None
            box = sandbox(install) if sandbox else engine
            assert box is not None  # noqa: S101 - one of the two lines above made it
            try:
                async with asyncio.TaskGroup() as tg:
                    host = Host(config, environ, home, store, box, engine, channels, clock, tg)
                    await host.start(progress, life)
                    if ready is not None:
                        ready.set()
                    logger.info("Ready: NanoClaw {} with home {}", __version__, home.root)
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await host.stop()
            finally:
                if engine is not None:
                    await engine.stop()


def _docker(config: Config, environ: Mapping[str, str], install: str, progress: Callable[[str], None]) -> DockerSandbox:
    return DockerSandbox(
        install_id=install,
        environ=environ,
        address=config.engine,
        image=config.image,
        base_image=config.base_image,
        progress=progress,
    )


def _whatsapp(config: Config, home: Home, clock: Callable[[], int]) -> tuple[Channel, ...]:
    if config.whatsapp == "off":
        return ()
    from nanoclaw.channels.whatsapp import WhatsApp  # its library is large: only who uses it pays for it

    shared = config.whatsapp == "shared"
    return (
        WhatsApp(
            home.root / "whatsapp",
            shared=shared,
            name=config.name,
            reaction=config.reaction,
            typing=not shared if config.typing is None else config.typing,
            clock=clock,
            random=random.random,
        ),
    )


@contextmanager
def one_host(lock: Path) -> Iterator[None]:
    """Hold the home's lock. Raises HomeError when another host lives there."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise HomeError(f"another NanoClaw runs with {lock.parent}: stop it first (nanoclaw stop)") from None
    try:
        yield
    finally:
        os.close(fd)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    """The store, open for the block."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Host:
    """Everything that lives while the host does, wired by constructor arguments."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        home: Home,
        store: Store,
        sandbox: Sandbox,
        engine: DockerSandbox | None,
        channels: tuple[Channel, ...],
        clock: Callable[[], int],
        tg: asyncio.TaskGroup,
    ) -> None:
        self._config = config
        self._environ = environ
        self._home = home
        self._store = store
        self._sandbox = sandbox
        self._engine = engine
        self._clock = clock
        self._tg = tg
        self._started = time.monotonic()
        self._identity = (0, 0, dict[str, str]())
        self._identify(rootless=False)
        self._looking = False  # whether somebody is asking the engine
        self._news = Pulse()
        self._zone = ZoneInfo(config.zone)
        all_channels: tuple[Channel, ...] = (TerminalChannel(clock), *_whatsapp(config, home, clock), *channels)
        self._channels = {c.name: c for c in all_channels}
        self.outbox = Outbox(store, self._channels, clock)
        self._keeping = Keeping(store, home, config, clock)
        self._meter = DayMeter(store, cap=config.tokens_per_day, zone=self._zone, clock=clock, spawn=self._spawn)
        self._gateway = ModelGateway(config.base_url, self._credential, self._meter)
        self._runner = Runner(
            store=store,
            home=home,
            sandbox=sandbox,
            gateway=self._gateway,
            meter=self._meter,
            tools=Tools(store, self.outbox, clock, config.zone, lambda: secrets.token_hex(4)),
            outbox=self.outbox,
            show=self._show,
            settings=Settings(
                model=config.model,
                skills=resources() / "skills",
                identity=lambda: self._identity[:2],
                env=self._container_env,
                turn_silence=config.turn_silence,
                turn_timeout=config.turn_timeout,
                new_id=lambda: secrets.token_hex(4),
            ),
            clock=clock,
            spawn=self._spawn,
        )
        self._dispatcher = Dispatcher(
            store=store,
            runner=self._runner,
            files=Fetcher(store, home, self._fetch, config.zone, clock),
            wake_outbox=self.outbox.wake,
            slots=config.max_runs,
            zone=config.zone,
            idle_timeout=config.idle_timeout,
            clock=clock,
            new_turn=lambda: str(uuid.uuid4()),
            new_nonce=lambda: secrets.token_hex(4),
            spawn=self._spawn,
        )
        self._control = ControlServer(
            home.control_sock,
            {
                "status": self._on_status,
                "wake": self._on_wake,
                "outcome": self._on_outcome,
                "claim": self._on_claim,
                **{verb: handler for c in self._channels.values() for verb, handler in c.verbs.items()},
            },
        )

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self, progress: Callable[[str], None], life: Life) -> None:
        """Rows first, then what runs already, then the doors: a message finds everything in place."""
        await self._store.write(control.ensure_main, CHAT, CHAT, OWNER.jids[0], self._config.name, self._clock())
        shared = self._config.whatsapp == "shared"
        await self._store.write(owners.settle, "whatsapp", self._config.owners, shared=shared)
        lost = await self._store.write(outgoing.recover)
        if lost:
            logger.warning("{} texts were being sent when the host ended; they are sent again", lost)
        await self._adopt(progress)
        await self._dispatcher.start()
        self._tg.create_task(self.outbox.run(), name="outbox")
        self._life = life
        if life.wait:
            logger.warning("The last starts ended in crashes: the channels connect in {} s", life.wait)
            progress(f"the last starts ended in crashes: connecting in {life.wait} s (at once: nanoclaw run --now)")
        self._tg.create_task(life.settle(), name="settle")
        for channel in self._channels.values():
            self._tg.create_task(self._live(channel), name=f"channel {channel.name}")
        self._tg.create_task(self._watch(), name="watch")
        self._tg.create_task(self._keeping.run(), name="keeping")
        await self._control.start()

    async def _adopt(self, progress: Callable[[str], None]) -> None:
        image, found = "", list[Found]()
        try:
            found = await self._sandbox.found()
            self._runner.swept = True  # also where the image then fails
            image = await self._sandbox.image()
            await self._meet_engine()
        except SandboxError as e:
            logger.error("{}", e)
            progress(str(e))
        await self._runner.adopt(image, {f.run_id: f.container for f in found if f.running and f.image == image})
        self._dispatcher.count()
        self._runner.meet(found)
        self._spawn(self._runner.sweep(), "sweep")  # behind: only a lane of theirs waits for it

    async def stop(self) -> None:
        """In stages, each with a limit: no new work, running turns end, containers go, the rest is sent."""
        self._dispatcher.stop()
        await _stage("control socket", self._control.close())
        await _stage("running turns", self._settle(), STOP_GRACE)
        await _stage("containers", self._runner.close_all())
        await _stage("containers of nobody", self._runner.sweep())
        await _stage("outbox", self.outbox.drain(), SEND_GRACE)
        await _stage("gateway", self._gateway.aclose())

    async def _settle(self) -> None:
        while any(run.turns for run in self._runner.runs.values()):
            await self._news.wait(0.5)

    async def _live(self, channel: Channel) -> None:
        """A channel that breaks is started again; the others do not notice."""
        if channel.name != CHAT:  # the terminal connects to nobody
            await self._life.calm()
        while True:
            try:
                await channel.run(self._ears(channel.name))
            except Exception as e:
                logger.opt(exception=e).error("Channel {} broke; it starts again", channel.name)
            await asyncio.sleep(_CHANNEL_AGAIN)

    # --- a message --------------------------------------------------------------------------------

    def _ears(self, channel: str) -> Ears:
        late_ms = int(self._config.late_after * 1000)
        return Ears(channel, self._store, late_ms, self._clock, self._dispatcher.wake, self.outbox.wake, self._act)

    def _act(self, lane: str, answered: Answered) -> None:
        self._news.ring()
        if answered.stop:
            self._spawn(self._runner.stop(lane, answered.stop), "stop")
        if answered.retire:
            self._runner.retire(lane)
        if answered.forget:
            self._keeping.wake()

    async def _fetch(self, channel: str, ref: str, limit: int) -> bytes:
        return await self._channels[channel].fetch(ref, limit)

    def _show(self, chat: Chat, progress: Progress) -> None:
        if progress.show is Show.ENDED:
            self._news.ring()
            self._keeping.wake()
        if (channel := self._channels.get(chat.channel)) is not None:
            channel.show(chat, progress)

    # --- what the containers are told -------------------------------------------------------------

    def _credential(self) -> Any:
        return read_credential(self._config.home, self._environ)

    def _container_env(self) -> dict[str, str]:
        credential = self._credential()
        oauth = credential is not None and credential.kind is CredentialKind.OAUTH
        name = "CLAUDE_CODE_OAUTH_TOKEN" if oauth else "ANTHROPIC_API_KEY"
        return {name: _PLACEHOLDER, "TZ": self._config.zone, **self._identity[2]}

    def _identify(self, *, rootless: bool) -> None:
        stat = self._home.root.stat()
        self._identity = identity(stat.st_uid, stat.st_gid, self._config.agent_uid, rootless=rootless)

    # --- what changes outside ---------------------------------------------------------------------

    async def _watch(self) -> None:
        self._seen = (self._credential(), self._midnight())
        looks = 0
        while True:
            await asyncio.sleep(_WATCH)
            looks += 1
            await _contained(self._look(seldom=looks % _REAP_EVERY == 0), "watch")

    async def _look(self, *, seldom: bool) -> None:
        credential, midnight = self._seen
        self._seen = (self._credential(), self._midnight())
        if self._seen[0] != credential:
            logger.info("The credential has changed")
            await self._dispatcher.release(_BY_CREDENTIAL)
        if self._seen[1] != midnight:
            await self._dispatcher.release(frozenset({Cause.BUDGET}))
        if seldom:
            await self._dispatcher.retry(frozenset({Cause.DISK}))
        self._dispatcher.sweep(asyncio.get_running_loop().time())
        if not self._looking:
            self._looking = True
            self._spawn(self._look_at_engine(seldom=seldom), "engine")  # beside: an image may take minutes

    async def _look_at_engine(self, *, seldom: bool) -> None:
        try:
            parked = set((await self._store.read(turns.parked_lanes)).values())
            if seldom or Cause.ENGINE in parked or not self._runner.swept:
                await self._reap()
            if Cause.ENGINE in parked:
                await self._meet_engine()
                await self._dispatcher.release(frozenset({Cause.ENGINE}))
            # Seldom: a build that fails is not begun again every other second.
            if seldom and Cause.IMAGE in parked and await self._sandbox.image() != self._runner.unfit:
                await self._dispatcher.release(frozenset({Cause.IMAGE}))
        except SandboxError as e:
            logger.debug("Still not: {}", e)
        finally:
            self._looking = False

    async def _meet_engine(self) -> None:
        if self._engine is not None:
            self._identify(rootless=(await self._engine.probe()).rootless)

    async def _reap(self) -> None:
        """Remove containers of ours that no living run knows."""
        self._runner.meet(await self._sandbox.found())
        self._runner.swept = True
        await self._runner.sweep()

    # --- control.sock -----------------------------------------------------------------------------

    async def _on_wake(self, args: Frame, stream: Stream) -> Frame | None:
        self._dispatcher.wake(str(args.get("lane", "")))
        self.outbox.wake()
        return None

    async def _on_outcome(self, args: Frame, stream: Stream) -> Frame | None:
        while True:
            found = await self._store.read(messages.outcome, CHAT, str(args.get("wa_id", "")))
            if found is None:
                raise NanoClawError("no such message")
            if found.state:
                return {"state": found.state, "turn": found.turn, "error": found.error, "outgoing": found.outgoing}
            await self._news.wait(1.0)

    async def _on_claim(self, args: Frame, stream: Stream) -> Frame | None:
        if self._config.whatsapp != "own":
            raise NanoClawError("a code makes an owner only where the assistant has a number of its own")
        code = f"{secrets.randbelow(10**8):08}"
        return {"code": code, "until": await self._store.write(owners.new_claim, code, self._clock())}

    async def _on_status(self, args: Frame, stream: Stream) -> Frame | None:
        facts = await self._store.read(control.status, self._midnight())
        return {
            "state": "running",
            "version": __version__,
            "pid": os.getpid(),
            "up_seconds": int(time.monotonic() - self._started),
            "credential": "given" if self._credential() else "missing: nanoclaw setup",
            "channels": [
                {"name": c.name, "state": c.state, "detail": self._delay(c) or c.detail}
                for c in self._channels.values()
            ],
            **facts,
            **self._keeping.facts(),
        }

    def _delay(self, channel: Channel) -> str:
        left = self._life.left if channel.name != CHAT else 0
        return f"waiting {left} s after repeated crashes" if left else ""

    def _midnight(self) -> int:
        now = datetime.fromtimestamp(self._clock() / 1000, self._zone)
        return int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        errand = _contained(job, name)
        try:
            task = self._tg.create_task(errand, name=name)
            task.add_done_callback(lambda _: job.close())  # cancelled before its first step, it would be left open
        except RuntimeError:  # the host is past its last stage: what is left is in the rows
            errand.close()
            job.close()


class Pulse:
    """Wakes everybody who waits at this moment."""

    def __init__(self) -> None:
        self._beat = asyncio.Event()

    def ring(self) -> None:
        """Wake them."""
        self._beat.set()
        self._beat = asyncio.Event()

    async def wait(self, limit: float) -> None:
        """Return at the next ring, or after `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._beat.wait()
        except TimeoutError:
            return


async def _contained(job: Coroutine[Any, Any, None], name: str) -> None:
    """The boundary of one errand: it may fail, the host lives."""
    try:
        await job
    except Exception as e:
        logger.opt(exception=not isinstance(e, NanoClawError)).error("{} failed: {}", name, e)


async def _stage(name: str, job: Awaitable[None], limit: float = STAGE_LIMIT) -> None:
    """One stage of a stop: late or broken, the next one follows."""
    try:
        async with asyncio.timeout(limit):
            await job
    except TimeoutError:
        logger.warning("Stopping: {} took longer than {} s", name, limit)
    except Exception as e:
        logger.opt(exception=e).error("Stopping: {} failed", name)
