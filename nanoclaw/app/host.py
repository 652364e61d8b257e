"""Everything that lives while the host does: wired here, started and stopped in stages."""

import asyncio
import random
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import __version__, control
from nanoclaw.app.doing import Doing
from nanoclaw.app.effects import Effects
from nanoclaw.app.errands import Pulse, contained, stage, take_more_files
from nanoclaw.app.leaking import tell_of
from nanoclaw.app.live import Live
from nanoclaw.app.outside import Outside
from nanoclaw.app.rows import Rows
from nanoclaw.app.verbs import Verbs
from nanoclaw.app.watching import Watching
from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import ControlServer
from nanoclaw.channels.terminal import CHAT, OWNER, TerminalChannel
from nanoclaw.commands import Answered, House
from nanoclaw.config import Config, Current, read_credential
from nanoclaw.config.leak import Leaks
from nanoclaw.control import house
from nanoclaw.control.firing import Ids
from nanoclaw.control.heartbeat import has_words
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.ears import Ears, tell_main
from nanoclaw.errors import SandboxError
from nanoclaw.gateway.egress import Egress
from nanoclaw.gateway.model import ModelGateway
from nanoclaw.gateway.ways import Ways
from nanoclaw.groups import Home
from nanoclaw.media import Fetcher
from nanoclaw.meter import DayMeter
from nanoclaw.meter.traffic import Traffic
from nanoclaw.models import Chat, Progress, Show
from nanoclaw.ops import status
from nanoclaw.ops.crashes import Life
from nanoclaw.ops.keeping import Keeping
from nanoclaw.outbox import Outbox
from nanoclaw.run import outfit, shipped
from nanoclaw.run.runner import Runner, Settings
from nanoclaw.sandbox import Found, Sandbox
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.engine import address_of
from nanoclaw.sandbox.image import resources
from nanoclaw.sandbox.spec import identity
from nanoclaw.schedule import midnight
from nanoclaw.scheduler import Scheduler
from nanoclaw.store import Store, mounts, outgoing
from nanoclaw.tools import Answers, Kit, Tools

STOP_GRACE = 5.0  # seconds that a running turn gets to end when the host stops
SEND_GRACE = 2.0  # seconds for the acknowledgement of a text; without it the next life sends it again, counted
RESTART_AFTER = 1.0  # seconds in which whoever asked for it can take the answer
_CHANNEL_AGAIN = 5.0  # seconds after which a channel that broke is started again


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
        life: Life,
        log: Callable[[str], None],
        lives_on: bool,
        leaks: Leaks,
    ) -> None:
        self._current = Current(config)
        self._environ = environ
        self._home = home
        self._store = store
        self._sandbox = sandbox
        self._engine = engine
        self._clock = clock
        self._tg = tg
        self._life = life
        self._log = log
        self._lives_on = lives_on
        self._leaks = leaks
        self.restarting = asyncio.Event()
        self._doing = Doing()
        self._identity = (0, 0, dict[str, str]())
        self._identify(rootless=False)
        self._news = Pulse()
        self._answers = Answers()
        own: tuple[Channel, ...] = (TerminalChannel(clock, home.root), *_whatsapp(self._current, home, clock))
        self._channels = {c.name: c for c in (*own, *channels)}
        self.outbox = Outbox(store, self._channels, clock)
        tell_of(leaks, store, clock, self._spawn, self.outbox.wake)
        self._keeping = Keeping(store, home, self._current, clock)
        self._meter = DayMeter(store, self._current, clock, self._spawn, turn_of=self._turn_of, warn=self._warn)
        self._gateway = self._make_ways()
        self._runner = self._make_runner()
        self._dispatcher = self._make_dispatcher()
        self._scheduler = self._make_scheduler()
        self._rows = self._make_rows()
        self._effects = self._make_effects()
        self._settings = Live(self._current, environ, tell=self._tell_main, apply=self._effects)
        self._outside = self._make_outside()
        self._watching = self._make_watching()
        self._control = self._make_control()

    def _make_ways(self) -> Ways:
        traffic = Traffic(self._store, self._midnight, self._clock, self._spawn, self.outbox.wake)
        return Ways(
            ModelGateway(lambda: self._config.base_url, self._credential, self._meter, lambda: self._leaks.found()),
            Egress(traffic, lambda: self._config.base_url),
        )

    def _make_runner(self) -> Runner:
        return Runner(
            store=self._store,
            home=self._home,
            sandbox=self._sandbox,
            gateway=self._gateway,
            meter=self._meter,
            tools=Tools(self._make_kit()),
            outbox=self.outbox,
            show=self._show,
            settings=Settings(
                config=self._current,
                identity=lambda: self._identity[:2],
                env=self._container_env,
                new_id=lambda: secrets.token_hex(4),
                engine=self._engine_address,
                clean=self._leaks.removed,
            ),
            clock=self._clock,
            spawn=self._spawn,
        )

    def _engine_address(self) -> str:
        return address_of(self._environ, self._config.engine)

    def _make_kit(self) -> Kit:
        return Kit(
            store=self._store,
            outbox=self.outbox,
            home=self._home,
            clock=self._clock,
            zone=lambda: self._config.zone,
            new_nonce=lambda: secrets.token_hex(4),
            bring_up=self._keeping.memories.bring_up,
            rest=lambda run_id: self._dispatcher.rest(run_id),
            rise=lambda run_id: self._dispatcher.rise(run_id),
            answers=self._answers,
            leaks=self._leaks,
            reschedule=lambda: self._spawn(self._look(), "rows"),
        )

    def _make_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            store=self._store,
            runner=self._runner,
            files=Fetcher(self._store, self._home, self._fetch, self._current, self._clock),
            wake_outbox=self.outbox.wake,
            config=self._current,
            clock=self._clock,
            new_turn=lambda: str(uuid.uuid4()),
            new_nonce=lambda: secrets.token_hex(4),
            spawn=self._spawn,
        )

    def _make_scheduler(self) -> Scheduler:
        ids = Ids(lambda: str(uuid.uuid4()), lambda: secrets.token_hex(4), partial(has_words, self._home))
        wake = self._dispatcher.wake
        return Scheduler(self._store, ids, wake=wake, wake_outbox=self.outbox.wake, clock=self._clock)

    def _make_effects(self) -> Effects:
        return Effects(
            config=self._current,
            store=self._store,
            lanes=self._dispatcher,
            meter=self._meter,
            keeping=self._keeping,
            log=self._log,
        )

    def _make_rows(self) -> Rows:
        return Rows(
            store=self._store,
            channels=self._channels,
            runner=self._runner,
            dispatcher=self._dispatcher,
            outbox=self.outbox,
            memories=self._keeping.memories,
            clock=self._clock,
            spawn=self._spawn,
        )

    def _make_outside(self) -> Outside:
        return Outside(
            settings=self._settings,
            store=self._store,
            sandbox=self._sandbox,
            runner=self._runner,
            dispatcher=self._dispatcher,
            credential=self._credential,
            midnight=self._midnight,
            meet_engine=self._meet_engine,
            admits=self._meter.admits,
            spawn=self._spawn,
        )

    def _make_watching(self) -> Watching:
        return Watching(
            store=self._store,
            home=self._home,
            sandbox=self._sandbox,
            runner=self._runner,
            channels=self._channels.values(),
            config=self._current,
            clock=self._clock,
            wake_outbox=self.outbox.wake,
        )

    def _make_verbs(self) -> Verbs:
        return Verbs(
            config=self._config,
            store=self._store,
            channels=self._channels,
            dispatcher=self._dispatcher,
            outbox=self.outbox,
            news=self._news,
            life=self._life,
            facts=self._facts,
            changed=self._look,
            clock=self._clock,
        )

    def _make_control(self) -> ControlServer:
        own = {"settings": self._settings.verb, "health": self._watching.health}
        return ControlServer(self._home.control_sock, self._make_verbs().table() | own)

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self, progress: Callable[[str], None]) -> None:
        """Rows first, then what runs already, then the doors: a message finds everything in place."""
        take_more_files()
        await self._store.write(control.ensure_main, CHAT, CHAT, OWNER.jids[0], self._config.name, self._clock())
        await self._effects.people_and_names()
        await asyncio.to_thread(shipped.refresh, resources() / "skills", self._home.shipped)
        await self._store.write(mounts.set_around, self._home.run_dir, self._engine_address())
        await self._store.write(house.restarted, self._clock())
        lost = await self._store.write(outgoing.recover)
        if lost:
            logger.warning("{} texts were being sent when the host ended; they are sent again", lost)
        await self._adopt(progress)
        await self._dispatcher.start()
        self._spawn(self._rows.look(), "rows")  # what was changed while no host lived
        self._tg.create_task(self.outbox.run(), name="outbox")
        life = self._life
        if life.wait:
            logger.warning("The last starts ended in crashes: the channels connect in {} s", life.wait)
            progress(f"the last starts ended in crashes: connecting in {life.wait} s (at once: nanoclaw run --now)")
        self._tg.create_task(life.settle(), name="settle")
        for channel in self._channels.values():
            self._tg.create_task(self._live(channel), name=f"channel {channel.name}")
        self._tg.create_task(self._outside.watch(), name="watch")
        self._tg.create_task(self._watching.run(), name="watching")
        self._tg.create_task(self._keeping.run(), name="keeping")
        self._tg.create_task(self._scheduler.run(), name="scheduler")
        await self._control.start()
        logger.info("Ready: NanoClaw {} with home {}", __version__, self._home.root)

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
        await self._runner.adopt(image, found)
        self._dispatcher.count()
        self._runner.meet(found)
        self._spawn(self._runner.sweep(), "sweep")  # behind: only a lane of theirs waits for it

    async def stop(self) -> None:
        """In stages, each with a limit: no new work, running turns end, containers go, the rest is sent."""
        self._dispatcher.stop()
        await stage("control socket", self._control.close())
        await stage("running turns", self._settle(), STOP_GRACE)
        await stage("containers", self._runner.close_all())
        await stage("containers of nobody", self._runner.sweep())
        await stage("outbox", self.outbox.drain(), SEND_GRACE)
        await stage("gateway", self._gateway.aclose())

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
        return Ears(
            channel, self._store, self._current, self._clock, self._dispatcher.wake, self.outbox.wake, self._act,
            self._house, self._leaks.removed,
        )  # fmt: skip

    def _house(self) -> House:
        """What commands need to know that is no row."""
        others = [c for c in self._channels.values() if c.name != CHAT]
        return House(
            home=self._home,
            zone=self._config.zone,
            model=self._config.model,
            most=status.most(self._config),
            lives_on=self._lives_on,
            connections=lambda: "; ".join(f"{c.name}: {c.state.replace('_', ' ')}" for c in others),
            doing=self._doing.of,
            stand_in=self._meter.stand_ins.of,
            wrong=self._watching.told,
        )

    def _act(self, lane: str, answered: Answered) -> None:
        self._news.ring()
        if answered.answer:
            self._answers.ring()
        if answered.restart:
            asyncio.get_running_loop().call_later(RESTART_AFTER, self.restarting.set)
        if answered.stop:
            self._spawn(self._runner.stop(answered.lane or lane, answered.stop), "stop")
        if answered.retire:
            self._runner.retire(lane)
        if answered.changed:
            self._spawn(self._look(), "rows")
        if answered.forget:
            self._keeping.wake()

    async def _look(self) -> None:
        """Rows were changed by somebody else."""
        self._scheduler.wake()
        await self._rows.look()

    async def _fetch(self, channel: str, ref: str, limit: int) -> bytes:
        return await self._channels[channel].fetch(ref, limit)

    def _show(self, chat: Chat, progress: Progress) -> None:
        self._doing.saw(progress)
        if progress.show is Show.ENDED:
            self._news.ring()
            self._keeping.wake()
        if (channel := self._channels.get(chat.channel)) is not None:
            channel.show(chat, progress)

    # --- what the containers are told -------------------------------------------------------------

    def _credential(self) -> Any:
        return read_credential(self._config.home, self._environ)

    def _container_env(self) -> dict[str, str]:
        return outfit.environment(self._config, self._credential(), self._identity[2])

    def _identify(self, *, rootless: bool) -> None:
        stat = self._home.root.stat()
        self._identity = identity(stat.st_uid, stat.st_gid, self._config.agent_uid, rootless=rootless)

    async def _meet_engine(self) -> None:
        if self._engine is not None:
            self._identify(rootless=(await self._engine.probe()).rootless)

    # --- small things -----------------------------------------------------------------------------

    @property
    def _config(self) -> Config:
        return self._current()

    async def _facts(self) -> dict[str, Any]:
        """What the rows say, and what only the living process knows, for `status`."""
        config = self._config
        return {
            **await status.of_store(self._store, self._clock(), config),
            "slots": config.max_runs,
            "image": config.image,
            "credential": "given" if self._credential() else "missing: nanoclaw setup",
            "fallback": self._meter.stand_ins.facts(),
            **self._settings.facts(),
            **self._keeping.facts(),
            **self._watching.facts(),
        }

    async def _tell_main(self, text: str) -> None:
        await self._store.write(tell_main, text, self._clock())
        self.outbox.wake()

    def _turn_of(self, run_id: str) -> str:
        """The turn that a run works at, for what it costs."""
        return self._runner.turn_of(run_id)

    def _warn(self, text: str) -> None:
        self._spawn(self._tell_main(text), "warning")

    def _midnight(self) -> int:
        return midnight(self._clock(), ZoneInfo(self._config.zone))

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        errand = contained(job, name)
        try:
            task = self._tg.create_task(errand, name=name)
            task.add_done_callback(lambda _: job.close())  # cancelled before its first step, it would be left open
        except RuntimeError:  # the host is past its last stage: what is left is in the rows
            errand.close()
            job.close()


def _whatsapp(config: Current, home: Home, clock: Callable[[], int]) -> tuple[Channel, ...]:
    if config().whatsapp == "off":
        return ()
    from nanoclaw.channels.whatsapp import WhatsApp  # its library is large: only who uses it pays for it

    return (WhatsApp(home.root / "whatsapp", config, clock=clock, random=random.random),)
