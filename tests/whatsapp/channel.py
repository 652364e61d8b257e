"""The channel with the real library in it, and a host's ears that keep what they are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from nanoclaw.channels.whatsapp import WhatsApp
from nanoclaw.config import Config, Current
from nanoclaw.errors import StoreError
from nanoclaw.models import Account, Chat, Incoming, Key, Members, Outgoing, OutKind
from tests.whatsapp.server import PATIENCE, FakeWhatsApp

NOW = 1_800_000_000_000
US = ("99900011122@lid", "15550001111@s.whatsapp.net")


class Listener:
    """What a host would have stored."""

    def __init__(self) -> None:
        self.heard: list[Incoming] = []
        self.accounts: list[Account] = []
        self.names: dict[str, tuple[str, int | None]] = {}
        self.members_of: dict[str, list[Members]] = {}
        self.told: list[str] = []
        self.failing = False  # the disk is full
        self.tries = 0
        self.open = asyncio.Event()  # else a commit takes its time
        self.open.set()
        self.waiting = 0  # messages, for that commit
        self.together: list[int] = []  # how many came with each commit
        self._news = asyncio.Event()

    async def hear(self, *messages: Incoming) -> None:
        self.tries += 1
        self.waiting = len(messages)
        self._ring()
        await self.open.wait()
        if self.failing:
            raise StoreError("the disk is full")
        self.heard.extend(messages)
        self.together += [len(messages)] if messages else []
        self._ring()

    async def connected(self, account: Account | None = None) -> None:
        assert account
        self.accounts.append(account)
        self._ring()

    async def named(self, chat: tuple[str, ...], name: str, expires: int | None = None) -> None:
        self.names[chat[0]] = (name, expires)
        self._ring()

    async def members(self, chat: tuple[str, ...], news: Members) -> None:
        self.members_of.setdefault(chat[0], []).append(news)
        self._ring()

    async def tell(self, text: str) -> None:
        self.told.append(text)
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, true: Callable[[], Any]) -> Any:
        """What `true` says once it says something."""
        async with asyncio.timeout(PATIENCE):
            while not (found := true()):
                await self._news.wait()
        return found


class Rig:
    """A channel, its ears, and the folder that outlives it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.now = NOW
        self.clock_breaks = 0  # how many more looks at it
        self.ears = Listener()
        number: Literal["own", "shared"] = "shared" if settings.pop("shared", False) else "own"
        self.settings = Current(Config(home=folder, whatsapp=number, **({"typing": True} | settings)))
        self.channel = WhatsApp(folder, self.settings, clock=self.clock, random=lambda: 0.0)

    def clock(self) -> int:
        """What time it is, unless it breaks."""
        if self.clock_breaks:
            self.clock_breaks -= 1
            raise RuntimeError("boom")
        return self.now

    async def state(self, *words: str) -> None:
        """Until the channel is in one of these states."""
        async with asyncio.timeout(PATIENCE):
            while self.channel.state not in words:
                await self.channel._session.changed.wait()

    @asynccontextmanager
    async def living(self) -> AsyncIterator["Rig"]:
        """The channel, running for the block."""
        run = asyncio.create_task(self.channel.run(self.ears))
        try:
            yield self
        finally:
            run.cancel()
            await asyncio.wait([run], timeout=PATIENCE)
            assert run.done(), "the channel does not stop"
            assert run.cancelled() or run.exception() is None, run.exception()

    async def qr(self) -> str:
        await self.state("linking")
        return self.channel._session.pairing.qr

    async def link(self, server: FakeWhatsApp) -> None:
        server.scan(await self.qr())
        await self.state("connected")
        await self.ears.until(lambda: self.ears.accounts)


def row(text: str, jid: str, kind: OutKind = OutKind.REPLY, quote: Key | None = None, expires: int = 0) -> Outgoing:
    """A row to be sent."""
    chat = Chat(1, "whatsapp", jid, "", jid.endswith("@g.us"), 1, expires)
    return Outgoing(1, chat, "", kind, text, quote)
