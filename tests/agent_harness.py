"""The host's side of one agent in its real container, for tests: letters in, letters out, a scripted model."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from nanoclaw.mailbox import (
    Event,
    Hello,
    Open,
    OutboxReader,
    Prompt,
    Reply,
    ToAgent,
    ToHost,
    TurnDone,
    Watch,
    decode_to_host,
    letter_name,
    put_letter,
)
from nanoclaw.sandbox import Exit, Sandbox, Spec
from tests.model_server import ModelServer

MODEL = "claude-sonnet-5-5"
LIMIT = 60.0  # seconds that a letter may take on a busy machine

L = TypeVar("L", bound=ToHost)


def source(spec: Spec, target: str) -> Path:
    """What the host has mounted there."""
    return next(b.source for b in spec.binds if b.target == target)


@dataclass
class Agent:
    """One run: its mailbox, its model, and all that it wrote so far."""

    spec: Spec
    model: ModelServer
    letters: list[ToHost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._outbox = source(self.spec, "/run/nanoclaw/out.ndjson")
        self._reader = OutboxReader(self._outbox)
        self.ended: asyncio.Future[Exit] | None = None

    def put(self, letter: ToAgent | bytes) -> None:
        """Write the next letter; bytes are taken as they are."""
        inbox, number = source(self.spec, "/run/nanoclaw/inbox"), next(self._numbers)
        if isinstance(letter, bytes):
            (inbox / letter_name(number)).write_bytes(letter)
        else:
            put_letter(inbox, number, letter)

    def read(self) -> list[ToHost]:
        """Every letter so far."""
        self.letters += [decode_to_host(line) for line in self._reader.read()]
        return self.letters

    async def get(self, kind: type[L], where: Callable[[L], bool] = lambda _: True) -> L:
        """The first letter of this kind that fits, of all that came and come; fails when none can come any more."""
        watch = Watch(self._outbox)
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    over = self.ended is not None and self.ended.done()
                    for letter in self.read():
                        if isinstance(letter, kind) and where(letter):
                            return letter
                    assert not over, f"no such {kind.__name__}; the container has ended: {self.ended}"
                    await watch.wait()
        except TimeoutError:
            raise AssertionError(f"no such {kind.__name__}; the last letters are {self.letters[-9:]}") from None
        finally:
            watch.close()

    async def done(self, turn: str) -> TurnDone:
        """The end of this turn."""
        return await self.get(TurnDone, lambda d: turn in d.turns)

    async def ask(self, turn: str, text: str) -> str:
        """Prompt, wait for a good end, and return the reply."""
        self.put(Prompt(turn, text))
        end = await self.done(turn)
        assert end.outcome == "ok", end
        return self.reply(turn)

    async def event(self, turn: str, what: str) -> Event:
        """The first event of this sort in this turn."""
        return await self.get(Event, lambda e: e.turn == turn and e.what == what)

    def reply(self, turn: str) -> str:
        """The whole text that answered it."""
        return "".join(r.text for r in self.letters if isinstance(r, Reply) and turn in r.turns)

    def told(self, what: str) -> list[str]:
        """The texts of the events of one sort."""
        return [e.text for e in self.letters if isinstance(e, Event) and e.what == what]

    async def end(self) -> Exit:
        """How the container ended."""
        assert self.ended is not None
        async with asyncio.timeout(LIMIT):
            return await self.ended

    def close(self) -> None:
        """Let go of the outbox."""
        self._reader.close()


@asynccontextmanager
async def agent_of(sandbox: Sandbox, spec: Spec, *first: ToAgent | bytes, session: str = "") -> AsyncIterator[Agent]:
    """Run the agent of this spec; `first` are letters instead of a good Open, and then no Hello is awaited."""
    socket = source(spec, "/run/nanoclaw/sockets") / "model.sock"
    async with ModelServer(socket=socket) as model:
        socket.chmod(0o666)  # as the gateway does: the folder protects it
        agent = Agent(spec, model)
        for letter in first or (Open(spec.run_id, MODEL, session),):
            agent.put(letter)
        container = await sandbox.open(replace(spec, env={**spec.env, "ANTHROPIC_API_KEY": "placeholder"}))
        agent.ended = asyncio.ensure_future(sandbox.wait(container))
        try:
            if not first:
                await agent.get(Hello)
            yield agent
        finally:
            await sandbox.close(container)
            with suppress(Exception):
                await agent.ended
            agent.close()
