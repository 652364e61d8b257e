"""Rows to channels: which is next, and where each of them ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanoclaw.app import opened
from nanoclaw.errors import NotConnected, OutcomeUnknown, SendRefused
from nanoclaw.models import OutKind, OutState
from nanoclaw.outbox import MAX_TRIES, RETRY_MS, Outbox
from nanoclaw.store import Store, Tx, outgoing
from tests.fakes import MemoryChannel, rows_of_one_group

FAMILY, OTHER = 2, 3


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Tx]:
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        tx.execute("INSERT INTO chats(channel, name, seen) VALUES('test', 'other', 1)")
        tx.execute("INSERT INTO chat_jids(jid, channel, chat_id, rank) VALUES('other', 'test', ?, 0)", (OTHER,))
        yield tx


class Desk:
    """An outbox, its channel, and a clock that stands still."""

    def __init__(self, store: Store) -> None:
        self.now = 1_000_000
        self.channel = MemoryChannel()
        self.store = store
        self.outbox = Outbox(store, {"test": self.channel}, lambda: self.now)

    async def tick(self) -> bool:
        return await self.outbox.tick(self.channel)


@asynccontextmanager
async def at_work(path: Path) -> AsyncIterator[Desk]:
    async with opened(Store(path / "db")) as store:
        yield Desk(store)


def queue(tx: Tx, chat: int, *texts: str, kind: OutKind = OutKind.REPLY, turn: str = "") -> list[int]:
    return [outgoing.queue(tx, chat, t, kind, 1, turn_id=turn, part=n) for n, t in enumerate(texts)]


async def test_in_order_per_chat_and_commands_first(tmp_path: Path, tx: Tx) -> None:
    """A host's short answer does not wait behind long replies."""
    queue(tx, FAMILY, "one", "two")
    queue(tx, OTHER, "three")
    queue(tx, FAMILY, "status", kind=OutKind.COMMAND)
    async with at_work(tmp_path) as desk:
        while await desk.tick():
            pass
        assert desk.channel.to("family") == ["status", "one", "two"]
        assert desk.channel.to("other") == ["three"]


async def test_a_refused_row_holds_its_chat_alone(tmp_path: Path, tx: Tx) -> None:
    """The other chat goes on; after the pause the row is tried again, and dead in the end with its later parts."""
    first, second = queue(tx, FAMILY, "one", "two", turn="t")
    queue(tx, OTHER, "three")
    async with at_work(tmp_path) as desk:
        desk.channel.faults.append(SendRefused("no"))
        assert await desk.tick()
        assert await desk.tick()
        assert not await desk.tick()
        assert desk.channel.texts == ["three"]
        for _ in range(MAX_TRIES - 1):
            desk.now += RETRY_MS
            desk.channel.faults.append(SendRefused("no"))
            assert await desk.tick()
        assert await desk.store.read(outgoing.state, first) == (OutState.DEAD, "no")
        assert await desk.store.read(outgoing.state, second) == (OutState.DEAD, "no")


async def test_a_clock_that_was_set_back_keeps_nothing_waiting(tmp_path: Path, tx: Tx) -> None:
    """A refused row is tried again within its minute, whatever the time is by then."""
    queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        desk.channel.faults.append(SendRefused("no"))
        assert await desk.tick()
        assert not await desk.tick()
        desk.now -= 3_600_000
        assert await desk.tick()
        assert desk.channel.texts == ["one"]


async def test_a_drained_outbox_begins_nothing(tmp_path: Path, tx: Tx) -> None:
    """It waits for what is under way, and for nothing else."""
    queue(tx, FAMILY, "one", "two")
    async with at_work(tmp_path) as desk:
        sending = asyncio.ensure_future(desk.tick())
        await desk.channel.until(lambda: desk.channel.tries)
        await desk.outbox.drain()
        assert await desk.store.read(outgoing.counts) == {"queued": 1}
        assert await sending
        assert not await desk.tick()


async def test_what_was_never_known_is_sent_again_at_once_and_then_slowly(tmp_path: Path, tx: Tx) -> None:
    """Each such case is counted."""
    (row,) = queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        desk.channel.faults.extend([OutcomeUnknown("?")] * 2)
        assert await desk.tick()
        assert await desk.tick()
        assert not await desk.tick()
        assert await desk.store.read(outgoing.next_try, "test") == desk.now + RETRY_MS
        desk.now += RETRY_MS
        assert await desk.tick()
        assert await desk.store.read(outgoing.state, row) == (OutState.SENT, "")
        assert tx.execute("SELECT unknowns FROM outgoing").fetchone()["unknowns"] == 2


async def test_not_connected_costs_nothing(tmp_path: Path, tx: Tx) -> None:
    """However often it is tried."""
    queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        desk.channel.faults.extend([NotConnected("away")] * 5)
        for _ in range(5):
            assert not await desk.tick()
        assert await desk.tick()
        assert tx.execute("SELECT attempts FROM outgoing").fetchone()["attempts"] == 1


async def test_what_was_being_sent_at_a_crash_is_unknown(tmp_path: Path, tx: Tx) -> None:
    """The next start sends it again, and counts it."""
    (row,) = queue(tx, FAMILY, "one")
    outgoing.sending(tx, row)
    async with at_work(tmp_path) as desk:
        assert not await desk.tick()
        assert await desk.store.write(outgoing.recover) == 1
        assert await desk.tick()
        assert desk.channel.texts == ["one"]


async def test_settled_waits_for_the_end(tmp_path: Path, tx: Tx) -> None:
    """Until the row is sent; or until the time is over, and then it says where the row is."""
    (row,) = queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        assert await desk.outbox.settled(row, 0.01) == (OutState.QUEUED, "")
        waiting = asyncio.ensure_future(desk.outbox.settled(row, 5))
        await asyncio.sleep(0)
        await desk.tick()
        assert await waiting == (OutState.SENT, "")


def test_a_notice_is_told_once_until_forgotten(tx: Tx) -> None:
    """Per cause and chat."""
    for _ in range(2):
        outgoing.tell_once(tx, "a", FAMILY, "x", 1)
        outgoing.tell_once(tx, "b", FAMILY, "x", 1)
        outgoing.tell_once(tx, "a", OTHER, "x", 1)
    assert tx.execute("SELECT count(*) FROM outgoing").fetchone()[0] == 3
    outgoing.forget_notices(tx, "a")
    outgoing.tell_once(tx, "a", FAMILY, "x", 1)
    assert tx.execute("SELECT count(*) FROM outgoing").fetchone()[0] == 4
