"""The terminal channel: clients come and go, and nothing is lost or sent twice without need."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.channels import Channel
from nanoclaw.channels.control_sock import Client, ControlServer, Frame, connect
from nanoclaw.channels.terminal import CHAT, TerminalChannel
from nanoclaw.errors import NanoClawError, NotConnected, StoreError
from nanoclaw.models import Account, Chat, Incoming, Key, Members, Outgoing, OutKind, Progress, Sender, Show

NOW = 1_790_000_000_000
TERMINAL = Chat(1, CHAT, CHAT, "Terminal", False, 1)
HELLO = Outgoing(7, TERMINAL, "t1", OutKind.REPLY, "Hello", quote=Key("u1"))


class Room:
    """A terminal channel behind a real control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Incoming] = []
        self.ready = asyncio.Semaphore(0)
        self.channel = TerminalChannel(lambda: NOW)
        self.server = ControlServer(path, self.channel.verbs)

    async def hear(self, *messages: Incoming) -> None:
        if any(message.text == "unstorable" for message in messages):
            raise StoreError("the disk is full; make room")
        self.heard.extend(messages)

    async def connected(self, account: Account | None = None) -> None:
        self.ready.release()

    async def named(self, chat: tuple[str, ...], name: str, expires: int | None = None) -> None:
        raise AssertionError("a terminal learns no names")

    async def members(self, chat: tuple[str, ...], news: Members) -> None:
        raise AssertionError("a terminal is no group")

    async def tell(self, text: str) -> None:
        raise AssertionError("a terminal has no troubles")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client that has attached."""
        async with await connect(self.path) as client:
            await client.attach()
            await self.ready.acquire()
            yield client


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path / "control.sock")
    await room.server.start()
    async with asyncio.TaskGroup() as tasks:
        living = tasks.create_task(room.channel.run(room))
        yield room
        living.cancel()
        await room.server.close()


async def receive(client: Client) -> Frame:
    frame = await client.receive()
    assert frame is not None
    return frame


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something that no event tells is so; the test's time limit bounds it."""
    while not true():
        await asyncio.sleep(0.001)


def test_it_is_a_channel() -> None:
    """The Protocol holds (mypy checks it here)."""
    channel: Channel = TerminalChannel(lambda: NOW)
    assert (channel.name, channel.state) == ("terminal", "idle")


async def test_what_is_said_is_heard(room: Room) -> None:
    """`heard` comes after the message was handed over, with the id that the client chose."""
    async with room.client() as client:
        assert room.channel.state == "attached"
        await client.send({"type": "say", "id": "u1", "text": "hi"})
        assert await receive(client) == {"type": "heard", "id": "u1"}
    owner = Sender(("terminal:owner",), "Owner")
    assert room.heard == [Incoming(CHAT, (CHAT,), "u1", "hi", owner, NOW, chat_name="Terminal")]
    await until(lambda: room.channel.state == "idle")


async def test_what_was_not_stored_is_not_heard(room: Room) -> None:
    """The client learns why, and gets no `heard`."""
    async with room.client() as client:
        await client.send({"type": "say", "id": "u1", "text": "unstorable"})
        with pytest.raises(NanoClawError, match="disk is full"):
            await client.receive()


async def test_nobody_attached(room: Room) -> None:
    """The row stays queued."""
    with pytest.raises(NotConnected):
        await room.channel.send(HELLO)


async def test_sent_when_the_first_client_takes_it(room: Room) -> None:
    """All clients see it; one acknowledgement is enough, more do no harm."""
    async with room.client() as one, room.client() as two, asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(room.channel.send(HELLO))
        frame = {"type": "message", "id": 7, "text": "Hello", "kind": "reply", "quote": "u1"}
        assert await receive(one) == frame
        assert await receive(two) == frame
        assert not sending.done()
        await two.send({"type": "ack", "id": 99})
        await two.send({"type": "ack", "id": 7})
        sent = await sending
        assert (sent.wa_id, sent.at) == ("7", NOW)
        await one.send({"type": "ack", "id": 7})
        await one.send({"type": "say", "id": "u2", "text": "still here"})
        assert (await receive(one))["type"] == "heard"


async def test_the_last_client_leaves_without_taking_it(room: Room) -> None:
    """NotConnected: the row costs no attempt and waits for the next terminal."""
    async with asyncio.TaskGroup() as tasks:
        async with room.client() as client:
            sending = tasks.create_task(_refused(room))
            await receive(client)
        assert await sending


async def _refused(room: Room) -> bool:
    with pytest.raises(NotConnected):
        await room.channel.send(HELLO)
    return True


async def test_who_attaches_meanwhile_can_take_it(room: Room) -> None:
    """A message that was shown to a client that left is shown to the one that came."""
    async with asyncio.TaskGroup() as tasks:
        async with room.client() as one:
            sending = tasks.create_task(room.channel.send(HELLO))
            await receive(one)
            two = await connect(room.path)
            await two.attach()
            assert (await receive(two))["id"] == 7
        await two.send({"type": "ack", "id": 7})
        assert (await sending).wa_id == "7"
        await two.close()


async def test_progress_is_shown_and_never_waits(room: Room) -> None:
    """Provisional output goes to all; for a client that does not read it is dropped, not collected."""
    room.channel.show(TERMINAL, Progress("t1", Show.TEXT, "nobody here"))
    async with room.client() as client:
        room.channel.show(TERMINAL, Progress("t1", Show.TEXT, "Hel"))
        assert await receive(client) == {"type": "progress", "turn": "t1", "show": "text", "text": "Hel"}
        for _ in range(1000):
            room.channel.show(TERMINAL, Progress("t1", Show.TEXT, "x" * 10_000))
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(room.channel.send(HELLO))
            pieces = 0
            while (await receive(client))["type"] == "progress":
                pieces += 1
            assert 0 < pieces < 100
            await client.send({"type": "ack", "id": 7})
            await sending


async def test_a_client_that_never_reads_is_dropped(room: Room) -> None:
    """One that is suspended holds up neither the others nor the host's memory."""
    async with room.client(), room.client() as awake:
        for n in range(30):
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(room.channel.send(replace(HELLO, id=n, text="x" * 1_000_000)))
                assert (await receive(awake))["id"] == n
                await awake.send({"type": "ack", "id": n})
                await sending
        await until(lambda: len(room.channel._clients) == 1)


@pytest.mark.parametrize("frame", [{"type": "say", "id": 5, "text": "x"}, {"type": "say", "id": "", "text": "x"}, {}])
async def test_a_frame_that_is_none(room: Room, frame: Frame) -> None:
    """Told and dropped; the channel lives."""
    async with room.client() as client:
        await client.send(frame)
        with pytest.raises(NanoClawError, match="does not know"):
            await client.receive()
    async with room.client() as client:
        assert room.channel.state == "attached"
    assert room.heard == []
