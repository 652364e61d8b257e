"""Everything that lives while the host does: wired here, started and stopped in stages."""

import asyncio
import random
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import control
from nanoclaw.app.errands import Pulse, contained, stage
from nanoclaw.app.outside import Outside
from nanoclaw.app.verbs import Verbs
from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import ControlServer
from nanoclaw.channels.terminal import CHAT, OWNER, TerminalChannel
from nanoclaw.commands import Answered
from nanoclaw.config import Config, read_credential
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.ears import Ears
from nanoclaw.errors import SandboxError
from nanoclaw.gateway import CredentialKind
from nanoclaw.gateway.model import ModelGateway
from nanoclaw.groups import Home
from nanoclaw.media import Fetcher
from nanoclaw.meter import DayMeter
from nanoclaw.models import Chat, Progress, Show
from nanoclaw.ops.crashes import Life
from nanoclaw.ops.keeping import Keeping
from nanoclaw.outbox import Outbox
from nanoclaw.run.runner import Runner, Settings
from nanoclaw.sandbox import Found, Sandbox
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.image import resources
from nanoclaw.sandbox.spec import identity
from nanoclaw.schedule import midnight
from nanoclaw.store import Store, outgoing, owners
from nanoclaw.tools import Tools

STOP_GRACE = 5.0  # seconds that a running turn gets to end when the host stops
SEND_GRACE = 2.0  # seconds for the acknowledgement of a text; without it the next life sends it again, counted
_CHANNEL_AGAIN = 5.0  # seconds after which a channel that broke is started again
_PLACEHOLDER = "placeholder-the-real-one-stays-with-the-host"


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
    ) -> None:
        self._config = config
        self._environ = environ
        self._home = home
        self._store = store
        self._sandbox = sandbox
        self._engine = engine
        self._clock = clock
        self._tg = tg
        self._life = life
        self._identity = (0, 0, dict[str, str]())
        self._identify(rootless=False)
        self._news = Pulse()
        self._zone = ZoneInfo(config.zone)
        all_channels: tuple[Channel, ...] = (TerminalChannel(clock), *_whatsapp(config, home, clock), *channels)
        self._channels = {c.name: c for c in all_channels}
        self.outbox = Outbox(store, self._channels, clock)
        self._keeping = Keeping(store, home, config, clock)
        self._meter = DayMeter(store, cap=config.tokens_per_day, zone=self._zone, clock=clock, spawn=self._spawn)
        self._gateway = ModelGateway(config.base_url, self._credential, self._meter)
        self._runner = self._make_runner()
        self._dispatcher = self._make_dispatcher()
        self._outside = self._make_outside()
        self._control = ControlServer(home.control_sock, self._make_verbs().table())

    def _make_runner(self) -> Runner:
        config = self._config
        return Runner(
            store=self._store,
            home=self._home,
            sandbox=self._sandbox,
            gateway=self._gateway,
            meter=self._meter,
            tools=Tools(self._store, self.outbox, self._clock, config.zone, lambda: secrets.token_hex(4)),
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
            clock=self._clock,
            spawn=self._spawn,
        )

    def _make_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            store=self._store,
            runner=self._runner,
            files=Fetcher(self._store, self._home, self._fetch, self._config.zone, self._clock),
            wake_outbox=self.outbox.wake,
            slots=self._config.max_runs,
            zone=self._config.zone,
            idle_timeout=self._config.idle_timeout,
            clock=self._clock,
            new_turn=lambda: str(uuid.uuid4()),
            new_nonce=lambda: secrets.token_hex(4),
            spawn=self._spawn,
        )

    def _make_outside(self) -> Outside:
        return Outside(
            store=self._store,
            sandbox=self._sandbox,
            runner=self._runner,
            dispatcher=self._dispatcher,
            credential=self._credential,
            midnight=self._midnight,
            meet_engine=self._meet_engine,
            spawn=self._spawn,
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
            midnight=self._midnight,
            clock=self._clock,
        )

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self, progress: Callable[[str], None]) -> None:
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
        life = self._life
        if life.wait:
            logger.warning("The last starts ended in crashes: the channels connect in {} s", life.wait)
            progress(f"the last starts ended in crashes: connecting in {life.wait} s (at once: nanoclaw run --now)")
        self._tg.create_task(life.settle(), name="settle")
        for channel in self._channels.values():
            self._tg.create_task(self._live(channel), name=f"channel {channel.name}")
        self._tg.create_task(self._outside.watch(), name="watch")
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

    async def _meet_engine(self) -> None:
        if self._engine is not None:
            self._identify(rootless=(await self._engine.probe()).rootless)

    # --- small things -----------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        """What only the living process knows, for `status`."""
        return {"credential": "given" if self._credential() else "missing: nanoclaw setup", **self._keeping.facts()}

    def _midnight(self) -> int:
        return midnight(self._clock(), self._zone)

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        errand = contained(job, name)
        try:
            task = self._tg.create_task(errand, name=name)
            task.add_done_callback(lambda _: job.close())  # cancelled before its first step, it would be left open
        except RuntimeError:  # the host is past its last stage: what is left is in the rows
            errand.close()
            job.close()


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
