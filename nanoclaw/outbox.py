"""Rows -> channels: one sender per channel, in order per chat, tried again until it is known."""

import asyncio
from collections.abc import Callable, Mapping

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.channels import Channel
from nanoclaw.errors import NotConnected, OutcomeUnknown, SendRefused, StoreError
from nanoclaw.models import Outgoing, OutState
from nanoclaw.store import Store, outgoing

MAX_TRIES = 3  # refusals after which a row is dead
RETRY_MS = 20_000  # between two tries of a refused row: three fall into a minute
_POLL = 30.0  # seconds; a wake is the rule, this finds what a lost hint left
_TROUBLE = 1.0  # seconds after a read that failed
_FINAL = frozenset({OutState.SENT, OutState.DEAD, OutState.DUPLICATE})


class Outbox:
    """The only place from which anything is said."""

    def __init__(self, store: Store, channels: Mapping[str, Channel], clock: Callable[[], int]) -> None:
        self._store = store
        self._channels = channels
        self._clock = clock
        self._flags = {name: asyncio.Event() for name in channels}
        self._waiting: dict[int, set[asyncio.Event]] = {}  # who waits for the outcome of a row
        self._sending: set[str] = set()  # channels with a row in flight
        self._closing = False
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """Rows may be due, or a channel may be connected: a hint, never the truth."""
        for flag in self._flags.values():
            flag.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as tg:
            for channel in self._channels.values():
                tg.create_task(self._serve(channel), name=f"outbox {channel.name}")

    async def drain(self) -> None:
        """Begin no other row, and return when what is being sent has its outcome: the host stops."""
        self._closing = True
        while self._sending:
            self._idle.clear()
            await self._idle.wait()

    async def settled(self, out_id: int, limit: float) -> tuple[OutState, str]:
        """Where the row is once it is sent or dead, or after `limit` seconds; with its error."""
        moved = asyncio.Event()
        self._waiting.setdefault(out_id, set()).add(moved)
        try:
            async with asyncio.timeout(limit):
                while (found := await self._store.read(outgoing.state, out_id))[0] not in _FINAL:
                    await moved.wait()
                    moved.clear()
                return found
        except TimeoutError:
            return await self._store.read(outgoing.state, out_id)
        finally:
            self._waiting[out_id].discard(moved)
            if not self._waiting[out_id]:
                del self._waiting[out_id]

    async def _serve(self, channel: Channel) -> None:
        flag = self._flags[channel.name]
        while True:
            flag.clear()
            try:
                while await self.tick(channel):
                    pass
                await self._rest(channel.name, flag)
            except StoreError as e:
                logger.error("{}", e)
                await asyncio.sleep(_TROUBLE)

    async def _rest(self, channel: str, flag: asyncio.Event) -> None:
        due = await self._store.read(outgoing.next_try, channel)
        wait = _POLL if due is None else max(0.05, min(_POLL, (due - self._clock()) / 1000))
        try:
            async with asyncio.timeout(wait):
                await flag.wait()
        except TimeoutError:
            return

    async def tick(self, channel: Channel) -> bool:
        """Send the next row that is due; False when there is none or the channel is not connected."""
        row = await self._store.read(outgoing.next_due, channel.name, self._clock())
        if row is None or self._closing:
            return False
        self._sending.add(channel.name)
        try:
            await self._store.insist(outgoing.sending, row.id)
            failpoints.hit("sending")
            return await self._send(channel, row)
        finally:
            self._sending.discard(channel.name)
            self._idle.set()
            for moved in self._waiting.get(row.id, ()):
                moved.set()

    async def _send(self, channel: Channel, row: Outgoing) -> bool:
        try:
            sent = await channel.send(row)
        except NotConnected:
            await self._store.insist(outgoing.back, row.id, free=True)
            return False
        except SendRefused as e:
            await self._refused(row, str(e))
        except OutcomeUnknown as e:
            logger.warning("Outcome of row {} is unknown ({}); it is sent again", row.id, e)
            # At once the first time; a channel that never knows must not flood the chat.
            next_try = self._clock() + RETRY_MS if row.attempts else 0
            await self._store.insist(outgoing.unknown, row.id, next_try)
        except Exception as e:  # the boundary of one row: a broken adapter must not stop the others
            logger.opt(exception=e).error("Channel {} broke on row {}", channel.name, row.id)
            await self._refused(row, type(e).__name__)
        else:
            failpoints.hit("sent")
            await self._store.insist(outgoing.sent, row.id, sent.wa_id, sent.at)
            logger.info("Sent row {}", row.id)
        return True

    async def _refused(self, row: Outgoing, why: str) -> None:
        if row.attempts + 1 >= MAX_TRIES:
            logger.error("Row {} is dead after {} tries: {}", row.id, MAX_TRIES, why)
            await self._store.insist(outgoing.dead, row.id, why)
        else:
            await self._store.insist(outgoing.back, row.id, error=why, next_try=self._clock() + RETRY_MS)
