"""The stand-ins: a sandbox of plain processes, a channel in memory, a clock, and a whole host around them."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanoclaw import app, control, groups, store
from nanoclaw.channels import Ears, Pace
from nanoclaw.channels.control_sock import Handler, connect
from nanoclaw.config import Config
from nanoclaw.errors import MediaRefused, NotConnected, SandboxError
from nanoclaw.models import Chat, Group, Incoming, Members, Outgoing, Progress, Role, Sender, Sent, TriggerMode
from nanoclaw.sandbox import Death, Exit, Found, Spec
from nanoclaw.store import Store, Tx, chats

ROOT = Path(__file__).parent.parent
AGENT = Path(__file__).parent / "scripted_agent.py"
LIMIT = 25.0  # seconds until what is awaited is missing: a machine may stand still, but a lost wake (30 s) must show
KEY = {"ANTHROPIC_API_KEY": "test-key"}


# --- waiting -----------------------------------------------------------------------------------


async def eventually(check: Callable[[], Any], limit: float = LIMIT, what: Callable[[], object] = lambda: "") -> Any:
    """Poll a condition that no event announces; its value, once it is true."""
    end = time.monotonic() + limit
    while not (value := check()):
        assert time.monotonic() < end, f"not in {limit} s: {what()}"
        await asyncio.sleep(0.01)
    return value


class Clock:
    """The wall clock, which a test can set forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return app.now_ms() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += int(seconds * 1000)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets (pytest's own are not)."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


# --- where agents are --------------------------------------------------------------------------


class ProcessSandbox:
    """Containers are detached processes that outlive the host; a file each in `registry` names them."""

    printed = ""  # what each container says last

    def __init__(self, registry: Path) -> None:
        registry.mkdir(exist_ok=True)
        self.registry = registry
        self.image_id = "image-1"
        self.fault: SandboxError | None = None  # of every call: the engine is gone, say
        self.open_faults: deque[SandboxError] = deque()  # of the next opens
        self.close_faults: deque[SandboxError] = deque()  # and closes
        self.opened: list[Spec] = []
        self.agent: list[str] | None = None  # another program than the scripted agent
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def image(self) -> str:
        self._check()
        return self.image_id

    async def open(self, spec: Spec) -> str:
        self._check()
        if self.open_faults:
            raise self.open_faults.popleft()
        source = {b.target: str(b.source) for b in spec.binds}
        child = subprocess.Popen(
            [
                *(self.agent or [sys.executable, "-S", str(AGENT)]),
                *(source["/run/nanoclaw/inbox"], source["/run/nanoclaw/out.ndjson"]),
            ],
            env={"PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not the host's: whoever reads that waits for its end
        )
        container = f"c-{spec.run_id}"
        self._children[container] = child
        facts = {"run": spec.run_id, "lane": spec.lane, "pid": child.pid, "image": spec.image}
        part = self.registry / f".{container}"
        part.write_text(json.dumps(facts))
        part.rename(self.registry / container)
        self.opened.append(spec)
        return container

    async def wait(self, container: str) -> Exit:
        self._check()
        if (pid := self._pid(container)) is None:
            return Exit(Death.REMOVED, -1)
        await _ended(pid)
        child = self._children.get(container)
        code = child.wait() if child is not None else 0
        return Exit(Death.KILLED if code < 0 else Death.EXITED, code, self.printed)

    async def close(self, container: str) -> None:
        self._check()
        if self.close_faults:
            raise self.close_faults.popleft()
        self.kill(container)
        (self.registry / container).unlink(missing_ok=True)

    async def found(self) -> list[Found]:
        self._check()
        facts = [(p.name, json.loads(p.read_text())) for p in self.registry.glob("c-*")]
        return [
            Found(name, f["run"], f["image"], self._pid(name) is not None, f["lane"], f.get("created", 0))
            for name, f in facts
        ]

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _pid(self, container: str) -> int | None:
        """The process, if it lives and is still that one."""
        try:
            facts = json.loads((self.registry / container).read_text())
            args = Path(f"/proc/{facts['pid']}/cmdline").read_bytes()
        except FileNotFoundError:
            return None
        # Between fork and exec the command line is still the parent's: a child of ours needs no look.
        return int(facts["pid"]) if container in self._living() or facts["run"].encode() in args else None

    def _living(self) -> set[str]:
        return {name for name, child in self._children.items() if child.poll() is None}

    def pids(self) -> list[int]:
        """Every living agent."""
        found = (self._pid(p.name) for p in self.registry.glob("c-*"))
        return [pid for pid in found if pid is not None]

    def kill(self, container: str) -> None:
        """What the kernel does to a container that is out of memory: nobody is asked."""
        if (pid := self._pid(container)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if container in self._children:
            self._children[container].wait()

    def kill_all(self) -> None:
        for path in self.registry.glob("c-*"):
            self.kill(path.name)
        for child in self._children.values():
            child.kill()
            child.wait()


async def _ended(pid: int) -> None:
    """Return when the process has ended, whosever child it is."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


# --- where people are --------------------------------------------------------------------------


class MemoryChannel:
    """A channel whose other side is the test."""

    name = "test"
    pace: Pace | None = None
    verbs: Mapping[str, Handler] = {}
    detail = ""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  # what can be fetched, by ref
        self.groups: dict[str, Members] = {}  # who is in which
        self.sent: list[Outgoing] = []
        self.shown: list[Progress] = []
        self.faults: deque[Exception] = deque()  # of the next sends
        self.connected = True
        self.tries = 0
        self.ears: Ears | None = None
        self._changed = asyncio.Event()

    @property
    def state(self) -> str:
        return "connected" if self.connected else "disconnected"

    @property
    def texts(self) -> list[str]:
        return [out.text for out in self.sent]

    async def run(self, ears: Ears) -> None:
        self.ears = ears
        self._change()
        await asyncio.Event().wait()

    async def send(self, out: Outgoing) -> Sent:
        self.tries += 1
        self._change()
        if not self.connected:
            raise NotConnected("the test is not connected")
        if self.faults:
            raise self.faults.popleft()
        self.sent.append(out)
        self._change()
        return Sent(f"sent-{len(self.sent)}", app.now_ms())

    def show(self, chat: Chat, progress: Progress) -> None:
        self.shown.append(progress)
        self._change()

    def parts(self, text: str) -> list[str]:
        return [text]

    async def members(self, chat: str) -> Members | None:
        return self.groups.get(chat)

    async def fetch(self, ref: str, limit: int) -> bytes:
        if not self.connected:
            raise NotConnected("the test is not connected")
        if len(self.files.get(ref, b"")) > limit or ref not in self.files:
            raise MediaRefused("gone, or too large")
        return self.files[ref]

    def to(self, chat: str) -> list[str]:
        """What one chat was told."""
        return [out.text for out in self.sent if out.chat.jid == chat]

    async def say(self, chat: str, text: str, sender: str = "Ann", *, wa_id: str = "", mentions: bool = False) -> str:
        """Somebody says something; returns the message's id when the host has stored it."""
        await self.until(lambda: self.ears is not None)
        wa_id = wa_id or secrets.token_hex(8)
        assert self.ears is not None
        await self.ears.hear(
            Incoming(
                self.name, (chat,), wa_id, text, Sender((f"jid:{sender}",), sender), app.now_ms(),
                chat_name=chat, is_group=True, mentions_us=mentions,
            )
        )  # fmt: skip
        return wa_id

    async def until(self, wanted: int | Callable[[], object], limit: float = LIMIT) -> None:
        """Return when that many texts were sent, or when the condition holds."""
        check = wanted if callable(wanted) else lambda: len(self.sent) >= wanted
        try:
            async with asyncio.timeout(limit):
                while not check():
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not in {limit} s; sent so far: {[t[:200] for t in self.texts]}") from None

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


# --- the whole ---------------------------------------------------------------------------------


@dataclass
class Hosted:
    """A living host, and the test's hands on it."""

    folder: Path
    config: Config
    sandbox: ProcessSandbox
    channel: MemoryChannel
    store: Store  # a second door to the same database
    clock: Clock
    environ: dict[str, str] = field(default_factory=lambda: dict(KEY))

    def path(self, name: str) -> Path:
        """A file by which test and agent talk."""
        return self.folder / name

    async def group(self, chat: str, *, mode: TriggerMode = TriggerMode.ALWAYS, **people: Role) -> None:
        """Serve a chat by a group with its name, and give people their roles."""
        await self.store.write(add_group, chat, mode, people)

    async def in_main(self, chat: str) -> None:
        """Make it one more chat of the owner's."""
        await self.store.write(join_main, chat)

    async def rows(self, sql: str, *args: object) -> list[dict[str, Any]]:
        """What the store holds."""
        return await self.store.read(lambda tx: [dict(r) for r in tx.execute(sql, args)])

    async def settled(self) -> None:
        """Until every turn has ended and every text is sent."""
        end = time.monotonic() + LIMIT
        while await self.rows(
            "SELECT id FROM turns WHERE state IN ('open', 'given') UNION SELECT o.id FROM outgoing o"
            " JOIN chats c ON c.id = o.chat_id WHERE o.state <> 'sent' AND c.channel = 'test'"
        ):
            assert time.monotonic() < end, "still at work"
            await asyncio.sleep(0.01)

    async def poke(self, lane: str) -> None:
        """Wake the lane and the outbox, as the command line does."""
        async with await connect(self.config.home / "control.sock") as client:
            await client.call("wake", lane=lane)

    async def status(self) -> Mapping[str, Any]:
        async with await connect(self.config.home / "control.sock") as client:
            return await client.call("status")


def add_group(tx: Tx, chat: str, mode: TriggerMode, people: Mapping[str, Role]) -> Group:
    known = chats.learn_chat(tx, "test", (chat,), chat, True, 1)
    for name, role in people.items():
        chats.learn_person(tx, "test", (f"jid:{name}",), name, role)
    return control.add_group(tx, known.id, Group(0, chat, "Andy", mode=mode), 1)


def join_main(tx: Tx, chat: str) -> None:
    main = chats.group_by_folder(tx, "main")
    assert main is not None
    chats.join_group(tx, chats.learn_chat(tx, "test", (chat,), chat, True, app.now_ms()).id, main.id)


@asynccontextmanager
async def hosting(folder: Path, *, environ: Mapping[str, str] = KEY, **settings: Any) -> AsyncIterator[Hosted]:
    """A host with a home in `folder`, which must be short; its agents are gone with the block."""
    sandbox = ProcessSandbox(folder / "registry")
    try:
        async with living(folder, sandbox, environ=environ, **settings) as hosted:
            yield hosted
    finally:
        sandbox.kill_all()


@asynccontextmanager
async def living(
    folder: Path, sandbox: ProcessSandbox, *, environ: Mapping[str, str] = KEY, **settings: Any
) -> AsyncIterator[Hosted]:
    """One life of a host; what runs in the sandbox may come from an earlier one."""
    config = Config(home=folder / "home").model_copy(update=settings)  # unchecked: a test cannot wait ten seconds
    hosted = Hosted(folder, config, sandbox, MemoryChannel(), Store(config.home / "nanoclaw.db"), Clock())
    hosted.environ = dict(environ)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tg:
        host = tg.create_task(
            app.serve(
                config, hosted.environ, ready=ready, sandbox=lambda install: sandbox,
                channels=(hosted.channel,), clock=hosted.clock,
            )
        )  # fmt: skip
        waiting = tg.create_task(ready.wait())
        await asyncio.wait({host, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if host.done():
            await host
        async with app.opened(hosted.store):
            try:
                yield hosted
            finally:
                host.cancel()
                await asyncio.wait({host})


# --- rows without a host -----------------------------------------------------------------------


@contextmanager
def rows_of_one_group(path: Path, chat: str = "family") -> Iterator[tuple[Tx, Group]]:
    """A database with main and one more group, as one open connection, for rules that are one transaction."""
    tx = store._open(path)
    try:
        control.ensure_main(tx, "terminal", "terminal", "terminal:owner", "Andy", 1)
        yield tx, add_group(tx, chat, TriggerMode.ALWAYS, {"Olga": Role.OWNER, "Al": Role.ALLOWED})
    finally:
        tx.close()


@asynccontextmanager
async def family(path: Path) -> AsyncIterator[tuple[Store, groups.Home, Group]]:
    """A home with the group "family" and its store, without a host."""
    home = groups.open_home(path / "h", path / "r")
    groups.make_group(home, "family", os.getuid(), os.getgid())
    async with app.opened(Store(home.db)) as held:
        yield held, home, await held.write(add_group, "family", TriggerMode.ALWAYS, {})


def said(text: str, sender: str = "Olga", *, chat: str = "family", wa_id: str = "", **more: Any) -> Incoming:
    """A message as the channel hears it."""
    who = Sender((f"jid:{sender}",), sender)
    return Incoming("test", (chat,), wa_id or secrets.token_hex(8), text, who, **({"at": 1000} | more))
