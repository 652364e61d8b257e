"""Rows -> channels: texts beside files, paced, in order per chat, tried again until it is known."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loguru import logger

from nanoclaw import failpoints, notices
from nanoclaw.channels import Channel, Pace
from nanoclaw.errors import Busy, NotConnected, OutcomeUnknown, SendRefused, StoreError
from nanoclaw.models import Outgoing, OutKind, OutState
from nanoclaw.store import Store, Tx, chats, outgoing

MAX_TRIES = 3  # refusals after which a row is dead
MAX_UNKNOWN = 5  # times that it may be sent without anybody learning whether it came
RETRY_MS = 20_000  # between two tries of a refused row: three fall into a minute
MAX_BUSY = 600.0  # seconds that a row waits for room; from then on that is a refusal, so that main hears of it
FILES = 2  # on their way at a time, of a channel: one that hangs must not hold up all others
_POLL = 30.0  # seconds; a wake is the rule, this finds what a lost hint left
_TROUBLE = 1.0  # seconds after a read that failed
_FINAL = frozenset({OutState.SENT, OutState.DEAD, OutState.DUPLICATE})
_QUIET = frozenset({OutKind.NOTICE, OutKind.REACTION, OutKind.EDIT})  # nobody is told that one of these is dead


class Bucket:
    """What may be said now: each text takes a token, and they come back in time. In memory: a restart fills it."""

    def __init__(self, pace: Pace, now: float) -> None:
        self._pace = pace
        self._tokens = float(pace.burst)
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until the next text may go; `now` in seconds."""
        per_second = self._pace.per_minute / 60
        self._tokens = min(self._pace.burst, self._tokens + (now - self._at) * per_second)
        self._at = now
        return max(0.0, (1 - self._tokens) / per_second)

    def take(self) -> None:
        """A text goes."""
        self._tokens -= 1

    def put(self) -> None:
        """It did not."""
        self._tokens += 1


@dataclass
class _Way:
    """Of a channel, for its texts or for its files: a large file that is on its way holds up no other chat's texts."""

    channel: Channel
    files: bool
    flag: asyncio.Event = field(default_factory=asyncio.Event)  # to be taken before rows are looked for
    choosing: asyncio.Lock = field(default_factory=asyncio.Lock)  # two senders of files never take the same chat
    away: bool = False  # it was not connected when last asked

    def wake(self) -> None:
        """For all who serve it: each has the flag of its own look."""
        self.flag.set()
        self.flag = asyncio.Event()


class Outbox:
    """The only place from which anything is said."""

    def __init__(
        self,
        store: Store,
        channels: Mapping[str, Channel],
        clock: Callable[[], int],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._channels = channels
        self._clock = clock
        self._seconds = seconds
        self._buckets = {name: Bucket(c.pace, seconds()) for name, c in channels.items() if c.pace is not None}
        self._ways = {(c.name, files): _Way(c, files) for c in channels.values() for files in (False, True)}
        self._waiting: dict[int, set[asyncio.Event]] = {}  # who waits for the outcome of a row
        self._sending: set[int] = set()  # rows in flight
        self._busy: dict[int, float] = {}  # rows for which there was no room, since when
        self._number = itertools.count(1)
        self._served: dict[int, int] = {}  # by chat, when it had its turn: a long text must not keep all others waiting
        self._closing = False
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """Rows may be due, or a channel may be connected: a hint, never the truth."""
        for way in self._ways.values():
            way.wake()

    def parts(self, text: str) -> dict[str, list[str]]:
        """An agent's text as each channel will send it. May take a second for a long one."""
        return {name: channel.parts(text) for name, channel in self._channels.items()}

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as tg:
            for way in self._ways.values():
                for _ in range(FILES if way.files else 1):
                    tg.create_task(self._serve(way), name=f"outbox {way.channel.name}{' files' * way.files}")

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

    async def _serve(self, way: _Way) -> None:
        while True:
            flag = way.flag
            try:
                while await self.tick(way.channel, files=way.files):
                    pass
                await self._rest(way, flag)
            except StoreError as e:
                logger.error("{}", e)
                await asyncio.sleep(_TROUBLE)

    async def _rest(self, way: _Way, flag: asyncio.Event) -> None:
        # A channel that is away wakes us when it is back: no row of it is due before.
        due = None if way.away else await self._store.read(outgoing.next_try, way.channel.name, files=way.files)
        left = _POLL if due is None else (due - self._clock()) / 1000
        wait = min(_POLL, max(0.05, left)) if left > 0 else _TROUBLE  # it waits for one of the same chat, in flight
        wait = min(wait, self._paced(way.channel.name) or _POLL)
        try:
            async with asyncio.timeout(wait):
                await flag.wait()
        except TimeoutError:
            return

    def _paced(self, channel: str) -> float:
        bucket = self._buckets.get(channel)
        return 0.0 if bucket is None else bucket.wait(self._seconds())

    async def tick(self, channel: Channel, *, files: bool = False) -> bool:
        """Send the next row that is due, of the files or of all others; False when there is none, none may go yet, or
        nothing is connected."""
        if self._paced(channel.name):
            return False
        way = self._ways[channel.name, files]
        row: Outgoing | None = None
        try:
            async with way.choosing:
                row = await self._store.read(outgoing.next_due, channel.name, self._clock(), self._served, files=files)
                if row is None or self._closing:
                    return False
                self._served[row.chat.id] = next(self._number)
                self._sending.add(row.id)
                await self._store.insist(outgoing.sending, row.id)
            failpoints.hit("sending")
            moved = await self._send(way, row)
        finally:
            if row is not None:
                self._over(row.id)
        if moved:  # else nothing is new, and they would wake each other for ever
            self._ways[channel.name, False].wake()
            self._ways[channel.name, True].wake()
        return moved

    def _over(self, out_id: int) -> None:
        self._sending.discard(out_id)
        self._idle.set()
        for waiting in self._waiting.get(out_id, ()):
            waiting.set()

    async def _send(self, way: _Way, row: Outgoing) -> bool:
        way.away = False
        bucket = self._buckets.get(way.channel.name)
        if bucket is not None:
            bucket.take()
        try:
            sent = await way.channel.send(row)
        except Busy as e:
            if bucket is not None:
                bucket.put()
            await self._no_room(row, str(e))
            return True
        except NotConnected:
            way.away = True
            if bucket is not None:
                bucket.put()
            await self._store.insist(outgoing.back, row.id, free=True)
            return False
        except SendRefused as e:
            await self._refused(row, str(e))
        except OutcomeUnknown as e:
            logger.warning("Outcome of row {} is unknown ({})", row.id, e)
            await self._store.insist(unknown, row, self._clock())
            self.wake()  # main may be told of it
        except Exception as e:  # the boundary of one row: a broken adapter must not stop the others
            logger.opt(exception=e).error("Channel {} broke on row {}", way.channel.name, row.id)
            await self._refused(row, type(e).__name__)
        else:
            failpoints.hit("sent")
            await self._store.insist(outgoing.sent, row.id, sent.wa_id, sent.at)
            logger.info("Sent row {}", row.id)
        self._busy.pop(row.id, None)
        return True

    async def _no_room(self, row: Outgoing, why: str) -> None:
        """It waits, as long as that is not for ever."""
        if self._seconds() - self._busy.setdefault(row.id, self._seconds()) >= MAX_BUSY:
            await self._refused(row, why)
        else:
            await self._store.insist(outgoing.back, row.id, error=why, next_try=self._clock() + RETRY_MS, free=True)

    async def _refused(self, row: Outgoing, why: str) -> None:
        await self._store.insist(refused, row, why, self._clock())
        self.wake()  # main may be told of it


def refused(tx: Tx, row: Outgoing, why: str, now: int) -> None:
    """The other side said no: again in a while, in which only this chat waits, or never."""
    if outgoing.refusals(tx, row.id) >= MAX_TRIES:
        _bury(tx, row, why, now)
    else:
        outgoing.back(tx, row.id, error=why, next_try=now + RETRY_MS)


def unknown(tx: Tx, row: Outgoing, now: int) -> None:
    """Sent again, at once the first time: a channel that never knows must not flood the chat."""
    before = outgoing.unknowns(tx, row.id)
    outgoing.unknown(tx, row.id, now + RETRY_MS if before else 0)
    if before + 1 >= MAX_UNKNOWN:
        _bury(tx, row, f"it was sent {MAX_UNKNOWN} times, and nobody knows whether it came", now)


def _bury(tx: Tx, row: Outgoing, why: str, now: int) -> None:
    """Dead, and main is told, unless that is the very chat which cannot be reached."""
    logger.error("Row {} is given up: {}", row.id, why)
    outgoing.dead(tx, row.id, why)
    main = chats.main_chat(tx)
    if main is not None and main.id != row.chat.id and row.kind not in _QUIET:
        text = notices.undelivered(row.chat.channel, row.chat.name, why)
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
