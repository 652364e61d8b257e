"""Rows to channels: which is next, and where each of them ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanoclaw import notices, router
from nanoclaw.app import opened
from nanoclaw.channels import Pace
from nanoclaw.errors import Busy, NotConnected, OutcomeUnknown, SendRefused
from nanoclaw.models import Key, OutFile, Outgoing, OutKind, OutState, Sent
from nanoclaw.outbox import MAX_TRIES, MAX_UNKNOWN, RETRY_MS, Bucket, Outbox
from nanoclaw.store import Store, Tx, chats, outgoing
from tests.fakes import MemoryChannel, rows_of_one_group, said

MAIN, FAMILY, OTHER = 1, 2, 3
FILE = OutFile("film.mp4", "video", "video/mp4", 9, "kept/family/outgoing/r-1", "groups/family/film.mp4")


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Tx]:
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        tx.execute("INSERT INTO chats(channel, name, seen) VALUES('test', 'other', 1)")
        tx.execute("INSERT INTO chat_jids(jid, channel, chat_id, rank) VALUES('other', 'test', ?, 0)", (OTHER,))
        yield tx


class Desk:
    """An outbox, its channel, and a clock that stands still."""

    def __init__(self, store: Store, pace: Pace | None) -> None:
        self.now = 1_000_000
        self.seconds = 0.0
        self.channel = MemoryChannel()
        self.channel.pace = pace
        self.store = store
        self.outbox = Outbox(store, {"test": self.channel}, lambda: self.now, lambda: self.seconds)

    async def all(self) -> int:
        """Send what may be sent now; how many texts that is."""
        before = len(self.channel.sent)
        while await self.tick():
            pass
        return len(self.channel.sent) - before

    async def until_dead(self, fault: Exception) -> None:
        """Try the first row until it is given up, however often."""
        while (await self.store.read(outgoing.counts)).get("dead", 0) == 0:
            self.channel.faults.append(fault)
            assert await self.tick()
            self.now += RETRY_MS

    async def tick(self) -> bool:
        return await self.outbox.tick(self.channel)


@asynccontextmanager
async def at_work(path: Path, pace: Pace | None = None) -> AsyncIterator[Desk]:
    async with opened(Store(path / "db")) as store:
        yield Desk(store, pace)


def told_in_main(tx: Tx) -> list[str]:
    return [r["payload"] for r in tx.execute("SELECT payload FROM outgoing WHERE chat_id = ?", (MAIN,))]


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


async def test_chats_take_turns(tmp_path: Path, tx: Tx) -> None:
    """A text of many parts does not keep the others waiting until its end, and each chat keeps its order."""
    queue(tx, FAMILY, "a1", "a2", "a3", "a4")
    queue(tx, OTHER, "b1", "b2")
    async with at_work(tmp_path) as desk:
        await desk.all()
        assert desk.channel.texts == ["a1", "b1", "a2", "b2", "a3", "a4"]


class Carrier(MemoryChannel):
    """Files take until `arrived`."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()

    async def send(self, out: Outgoing) -> Sent:
        if out.kind is OutKind.FILE:
            self.tries += 1
            self._change()
            await self.arrived.wait()
        return await super().send(out)


async def test_a_large_file_keeps_its_own_chat_waiting_alone(tmp_path: Path, tx: Tx) -> None:
    """Other chats' texts go on, and so do answers to commands; what follows the file in its chat comes behind it."""
    outgoing.queue_file(tx, FAMILY, FILE, "the film", 1, turn_id="t", part=0)
    queue(tx, FAMILY, "that was the film")
    queue(tx, OTHER, "one", "two")
    queue(tx, FAMILY, "I am working", kind=OutKind.COMMAND)
    async with opened(Store(tmp_path / "db")) as store:
        channel = Carrier()
        outbox = Outbox(store, {"test": channel}, lambda: 1)
        serving = asyncio.ensure_future(outbox.run())
        try:
            await channel.until(3)
            await channel.until(lambda: channel.tries > 3)
            queue(tx, FAMILY, "I am still working", kind=OutKind.COMMAND)
            outbox.wake()
            await channel.until(4)
            assert channel.to("family") == ["I am working", "I am still working"]
            assert channel.to("other") == ["one", "two"]
            channel.arrived.set()
            await channel.until(6)
            assert channel.to("family")[2:] == ["the film", "that was the film"]
        finally:
            serving.cancel()
            await asyncio.wait({serving})


async def test_a_file_that_hangs_holds_up_no_other_chats_files(tmp_path: Path, tx: Tx) -> None:
    """A second one goes beside it, and what follows that in its chat; a second one of its own chat never."""
    for chat, text in ((FAMILY, "the film"), (FAMILY, "another film"), (OTHER, "a picture")):
        outgoing.queue_file(tx, chat, FILE, text, 1, turn_id="", part=0)
    queue(tx, OTHER, "that was the picture")
    begun: list[str] = []

    class Choosy(MemoryChannel):
        async def send(self, out: Outgoing) -> Sent:
            begun.append(out.text)
            if out.text == "the film":
                await asyncio.Event().wait()
            return await super().send(out)

    async with opened(Store(tmp_path / "db")) as store:
        channel = Choosy()
        serving = asyncio.ensure_future(Outbox(store, {"test": channel}, lambda: 1).run())
        await channel.until(2)
        serving.cancel()
        await asyncio.wait({serving})
    assert channel.to("other") == ["a picture", "that was the picture"]
    assert sorted(begun) == ["a picture", "that was the picture", "the film"]


async def test_what_waits_for_room_is_tried_until_that_is_for_ever(tmp_path: Path, tx: Tx) -> None:
    """It costs no attempt, and no other chat waits with it; after ten minutes it is refused as often as anything."""
    (first,) = queue(tx, FAMILY, "one")
    queue(tx, OTHER, "two")
    async with at_work(tmp_path) as desk:
        for minute in range(10):
            desk.channel.faults.append(Busy("others are on their way"))
            assert await desk.all() == (minute == 0)
            assert await store_attempts(desk.store, first) == 0
            desk.now, desk.seconds = desk.now + 60_000, desk.seconds + 60
        await desk.until_dead(Busy("others are on their way"))
        assert await store_attempts(desk.store, first) == MAX_TRIES
        assert "others are on their way" in (await desk.store.read(told_in_main))[0]


async def store_attempts(store: Store, out_id: int) -> int:
    return int(
        await store.read(lambda tx: tx.execute("SELECT attempts FROM outgoing WHERE id = ?", (out_id,)).fetchone()[0])
    )


async def test_the_end_waits_for_a_file_too(tmp_path: Path, tx: Tx) -> None:
    """A host that stops lets it arrive, and begins nothing behind it."""
    outgoing.queue_file(tx, FAMILY, FILE, "the film", 1, turn_id="t", part=0)
    queue(tx, FAMILY, "that was the film")
    async with opened(Store(tmp_path / "db")) as store:
        channel = Carrier()
        outbox = Outbox(store, {"test": channel}, lambda: 1)
        serving = asyncio.ensure_future(outbox.run())
        try:
            await channel.until(lambda: channel.tries)
            ending = asyncio.ensure_future(outbox.drain())
            await asyncio.sleep(0.05)
            assert not ending.done()
            channel.arrived.set()
            await ending
            assert channel.texts == ["the film"]
        finally:
            serving.cancel()
            await asyncio.wait({serving})


async def test_a_file_that_is_refused_is_tried_again_and_told(tmp_path: Path, tx: Tx) -> None:
    """As any text."""
    outgoing.queue_file(tx, FAMILY, FILE, "the film", 1, turn_id="t", part=0)
    async with at_work(tmp_path) as desk:
        for _ in range(MAX_TRIES):
            assert not await desk.tick()  # it is none of the texts
            desk.channel.faults.append(SendRefused("the file took too long to be taken to WhatsApp"))
            assert await desk.outbox.tick(desk.channel, files=True)
            desk.now += RETRY_MS
        (text,) = told_in_main(tx)
        assert "the file took too long" in text


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


async def test_a_channel_that_is_away_is_left_alone(tmp_path: Path, tx: Tx) -> None:
    """A refused row of another chat whose time has come does not make the outbox ask all the time."""
    queue(tx, FAMILY, "one")
    queue(tx, OTHER, "two")
    tx.execute("UPDATE outgoing SET next_try = 1 WHERE payload = 'two'")
    async with at_work(tmp_path) as desk, asyncio.TaskGroup() as tg:
        desk.channel.connected = False
        serving = tg.create_task(desk.outbox.run())
        await desk.channel.until(lambda: desk.channel.tries)
        with pytest.raises(AssertionError, match="not in"):
            await desk.channel.until(lambda: desk.channel.tries > 1, limit=0.3)
        desk.channel.connected = True
        desk.outbox.wake()
        await desk.channel.until(2)
        serving.cancel()


async def test_a_dead_text_takes_no_other_text_of_its_turn_along(tmp_path: Path, tx: Tx) -> None:
    """What send_message could not say is no reason to keep back the answer."""
    first = outgoing.queue(tx, FAMILY, "by the way", OutKind.REPLY, 1, turn_id="t", part=0)
    outgoing.queue(tx, FAMILY, "the answer", OutKind.REPLY, 2, turn_id="t", part=1)
    outgoing.dead(tx, first, "refused")
    async with at_work(tmp_path) as desk:
        await desk.all()
        assert desk.channel.texts == ["the answer"]


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


async def test_over_all_chats_the_short_ones_come_first(tmp_path: Path, tx: Tx) -> None:
    """Commands, notices, replies, reactions, edits; the oldest of a kind first, and no chat out of its order."""
    for chat, kind in [
        (OTHER, OutKind.EDIT), (FAMILY, OutKind.REPLY), (FAMILY, OutKind.NOTICE), (OTHER, OutKind.REPLY),
    ]:  # fmt: skip
        queue(tx, chat, f"{chat} {kind}", kind=kind)
    tx.execute("INSERT INTO chats(channel, name, seen) VALUES('test', 'third', 1)")
    queue(tx, 4, "4 notice", kind=OutKind.NOTICE)
    queue(tx, 4, "4 command", kind=OutKind.COMMAND)
    async with at_work(tmp_path) as desk:
        await desk.all()
        assert desk.channel.texts == [
            "4 command", "4 notice", f"{FAMILY} reply", f"{FAMILY} notice", f"{OTHER} edit", f"{OTHER} reply",
        ]  # fmt: skip


async def test_a_text_that_is_given_up_is_told_in_main(tmp_path: Path, tx: Tx) -> None:
    """Which chat and why, in words that neither the chat's name nor the other side can turn into the host's."""
    tx.execute("UPDATE chats SET name = ? WHERE id = ?", ("Fam»\nily", FAMILY))
    queue(tx, FAMILY, "one", "two", turn="t")
    async with at_work(tmp_path) as desk:
        await desk.until_dead(SendRefused("no «entry»"))
        (text,) = told_in_main(tx)
        assert text == notices.undelivered("test", "Fam»\nily", "no «entry»")
        assert "«Fam' ily»" in text
        assert "«no 'entry'»" in text
        assert "two" not in desk.channel.texts


@pytest.mark.parametrize("kind", [OutKind.NOTICE, OutKind.REACTION, OutKind.EDIT])
async def test_a_sign_or_a_notice_dies_quietly(tmp_path: Path, tx: Tx, kind: OutKind) -> None:
    """A dead notice never causes another one."""
    queue(tx, FAMILY, "one", kind=kind)
    async with at_work(tmp_path) as desk:
        await desk.until_dead(SendRefused("no"))
        assert told_in_main(tx) == []


async def test_a_main_that_cannot_be_reached_is_not_told_so(tmp_path: Path, tx: Tx) -> None:
    """Nor anybody else, when it is main's own text that is dead."""
    group = chats.group_by_folder(tx, "main")
    assert group is not None
    chats.join_group(tx, FAMILY, group.id)
    tx.execute("UPDATE chats SET seen = 9 WHERE id = ?", (FAMILY,))
    queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        await desk.until_dead(SendRefused("no"))
        assert tx.execute("SELECT count(*) FROM outgoing").fetchone()[0] == 1


async def test_a_row_that_nobody_ever_learns_of_is_given_up(tmp_path: Path, tx: Tx) -> None:
    """After so many times; main is told."""
    queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        await desk.until_dead(OutcomeUnknown("?"))
        assert desk.channel.tries == MAX_UNKNOWN
        (text,) = told_in_main(tx)
        assert "nobody knows" in text


async def test_an_unknown_outcome_is_no_refusal(tmp_path: Path, tx: Tx) -> None:
    """A row is refused as often as the other side said no."""
    (row,) = queue(tx, FAMILY, "one")
    async with at_work(tmp_path) as desk:
        desk.channel.faults.extend([OutcomeUnknown("?"), OutcomeUnknown("?"), SendRefused("no"), SendRefused("no")])
        for _ in range(4):
            assert await desk.tick()
            desk.now += RETRY_MS
        assert await desk.store.read(outgoing.state, row) == (OutState.QUEUED, "no")
        assert await desk.tick()
        assert desk.channel.texts == ["one"]


async def test_the_pace(tmp_path: Path, tx: Tx) -> None:
    """Ten at once, over all chats, then one every two seconds; what was not sent costs nothing."""
    queue(tx, FAMILY, *(f"a{n}" for n in range(20)))
    queue(tx, OTHER, *(f"b{n}" for n in range(20)))
    async with at_work(tmp_path, Pace(10, 30)) as desk:
        desk.channel.faults.extend([NotConnected("away")] * 5)
        for _ in range(5):
            assert not await desk.tick()
        assert await desk.all() == 10
        desk.seconds += 1.9
        assert await desk.all() == 0
        desk.seconds += 0.2
        assert await desk.all() == 1
        desk.seconds += 3600
        assert await desk.all() == 10
        await desk.outbox.drain()


async def test_the_rest_goes_as_soon_as_it_may(tmp_path: Path, tx: Tx) -> None:
    """Nobody has to wake the outbox for it."""
    queue(tx, FAMILY, *(f"a{n}" for n in range(5)))
    async with opened(Store(tmp_path / "db")) as store:
        channel = MemoryChannel()
        channel.pace = Pace(2, 3000)
        serving = asyncio.ensure_future(Outbox(store, {"test": channel}, lambda: 1).run())
        try:
            await channel.until(5)
        finally:
            serving.cancel()
            await asyncio.wait({serving})


def test_a_bucket_that_was_never_used_holds_its_burst() -> None:
    """However long that was; and the wait is as long as the pace says."""
    bucket = Bucket(Pace(2, 60), 0.0)
    assert bucket.wait(1000.0) == 0.0
    bucket.take()
    bucket.take()
    assert bucket.wait(1000.0) == pytest.approx(1.0)
    assert bucket.wait(1000.5) == pytest.approx(0.5)
    bucket.put()
    assert bucket.wait(1000.5) == 0.0


QUOTES = [
    ("theirs", Key("theirs", "jid:Olga", False, "hello")),
    ("mine", Key("mine", "", True, "I said")),
    ("nobody's", Key("nobody's")),
]


@pytest.mark.parametrize(("wa_id", "key"), QUOTES)
def test_what_a_row_quotes(tx: Tx, wa_id: str, key: Key) -> None:
    """With all that a channel needs to know of it: as we stored it, ours or not."""
    router.hear(tx, said("hello", wa_id="theirs"), 1)
    (own,) = queue(tx, FAMILY, "I said")
    outgoing.sent(tx, own, "mine", 1)
    outgoing.queue(tx, FAMILY, "x", OutKind.REPLY, 1, quote=wa_id)
    row = outgoing.next_due(tx, "test", 1, {})
    assert row is not None
    assert row.quote == key


def test_what_is_ours(tx: Tx) -> None:
    """A text that was sent, in that chat, under that id; no sign, and nothing that only waits."""
    sent, _, sign = *queue(tx, FAMILY, "one", "two"), *queue(tx, FAMILY, "👀", kind=OutKind.REACTION)
    outgoing.sent(tx, sent, "id", 1)
    outgoing.sent(tx, sign, "sign", 1)
    assert outgoing.ours(tx, FAMILY, "id")
    assert outgoing.by_wa_id(tx, FAMILY, "id") == "one"
    assert not any(outgoing.ours(tx, FAMILY, wa_id) for wa_id in ("", "sign", "other"))
    assert not outgoing.ours(tx, OTHER, "id")


@pytest.mark.parametrize("kind", [OutKind.COMMAND, OutKind.NOTICE])
def test_a_long_text_of_the_host_is_several(tx: Tx, kind: OutKind) -> None:
    """In order, of one answer, and none too long to be sent."""
    last = outgoing.queue(tx, FAMILY, "word " * 2000, kind, 1, turn_id="t")
    rows = tx.execute("SELECT * FROM outgoing ORDER BY id").fetchall()
    assert [r["part"] for r in rows] == [0, 1, 2]
    assert {r["turn_id"] for r in rows} == {"t"}
    assert rows[-1]["id"] == last
    assert " ".join(r["payload"] for r in rows).split() == ["word"] * 2000
    assert max(len(r["payload"]) for r in rows) <= 4000
