"""The verbs of control.sock that need the living process: what the command line asks of it."""

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nanoclaw import __version__
from nanoclaw.app.errands import Pulse
from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import Frame, Handler, Stream
from nanoclaw.channels.terminal import CHAT
from nanoclaw.config import Config
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import NanoClawError
from nanoclaw.ops.crashes import Life
from nanoclaw.outbox import Outbox
from nanoclaw.store import Store, messages, owners


class Verbs:
    """One method for each; the channels bring their own."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        channels: Mapping[str, Channel],
        dispatcher: Dispatcher,
        outbox: Outbox,
        news: Pulse,
        life: Life,
        facts: Callable[[], Awaitable[dict[str, Any]]],
        changed: Callable[[], Awaitable[None]],
        clock: Callable[[], int],
    ) -> None:
        self._config = config
        self._store = store
        self._channels = channels
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._news = news
        self._life = life
        self._facts = facts
        self._changed = changed
        self._clock = clock
        self._started = time.monotonic()

    def table(self) -> dict[str, Handler]:
        """By name."""
        own: dict[str, Handler] = {
            "status": self._status,
            "wake": self._wake,
            "changed": self._on_changed,
            "outcome": self._outcome,
            "claim": self._claim,
        }
        return own | {verb: handler for c in self._channels.values() for verb, handler in c.verbs.items()}

    async def _wake(self, args: Frame, stream: Stream) -> Frame | None:
        self._dispatcher.wake(str(args.get("lane", "")))
        self._outbox.wake()
        return None

    async def _on_changed(self, args: Frame, stream: Stream) -> Frame | None:
        await self._changed()
        return None

    async def _outcome(self, args: Frame, stream: Stream) -> Frame | None:
        while True:
            found = await self._store.read(messages.outcome, CHAT, str(args.get("wa_id", "")))
            if found is None:
                raise NanoClawError("no such message")
            if found.state:
                return {"state": found.state, "turn": found.turn, "error": found.error, "outgoing": found.outgoing}
            await self._news.wait(1.0)

    async def _claim(self, args: Frame, stream: Stream) -> Frame | None:
        if self._config.whatsapp != "own":
            raise NanoClawError("a code makes an owner only where the assistant has a number of its own")
        code = f"{secrets.randbelow(10**8):08}"
        return {"code": code, "until": await self._store.write(owners.new_claim, code, self._clock())}

    async def _status(self, args: Frame, stream: Stream) -> Frame | None:
        return {
            "state": "running",
            "version": __version__,
            "pid": os.getpid(),
            "up_seconds": int(time.monotonic() - self._started),
            "channels": [
                {"name": c.name, "state": c.state, "detail": self._delay(c) or c.detail}
                for c in self._channels.values()
            ],
            **await self._facts(),
        }

    def _delay(self, channel: Channel) -> str:
        left = self._life.left if channel.name != CHAT else 0
        return f"waiting {left} s after repeated crashes" if left else ""
