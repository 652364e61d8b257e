"""The stand-in is held to the real library: what it plays is what the library takes for WhatsApp."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.whatsapp import library
from tests.whatsapp.media import Blob
from tests.whatsapp.server import PATIENCE, FakeWhatsApp, Message

library.load()
from neonize.aioze import events  # noqa: E402
from neonize.aioze.client import NewAClient  # noqa: E402
from neonize.exc import NeonizeError, SendMessageError  # noqa: E402
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import AudioMessage  # noqa: E402
from neonize.utils.enum import ChatPresence, ChatPresenceMedia, Presence, ReceiptType  # noqa: E402
from neonize.utils.jid import build_jid  # noqa: E402

NAMED = (
    "PairStatus",
    "Connected",
    "Message",
    "LoggedOut",
    "Disconnected",
    "StreamReplaced",
    "TemporaryBan",
    "ClientOutdated",
    "ConnectFailure",
    "Receipt",
    "GroupInfo",
    "OfflineSyncCompleted",
)


class Threads(ThreadPoolExecutor):
    """A thread for each call, and nobody waits for it: stopped before it is linked, the library never returns."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        Thread(target=self._run, args=(future, call, args, kwargs), daemon=True).start()
        return future

    @staticmethod
    def _run(future: "Future[Any]", call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as e:
            future.set_exception(e)


class Program:
    """The library with a queue for its events, used as plainly as can be."""

    def __init__(self, folder: Path) -> None:
        asyncio.get_running_loop().set_default_executor(Threads())
        self.client = NewAClient(str(folder / "session.db"), uuid=str(folder))
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.task: Any = None
        self.qrs = 0

        @self.client.qr
        async def _qr(_client: Any, data: bytes) -> None:
            self.qrs += 1
            self.events.put_nowait(("qr", data.decode()))

        for name in NAMED:
            self._listen(name)

    def _listen(self, name: str) -> None:
        @self.client.event(getattr(events, f"{name}Ev"))
        async def _event(_client: Any, event: Any) -> None:
            self.events.put_nowait((name, event))

    async def next(self, name: str) -> Any:
        """The next event of that name; others before it are skipped."""
        async with asyncio.timeout(PATIENCE):
            while True:
                kind, event = await self.events.get()
                peer = kind == "Message" and event.Info.Category == "peer"  # what the phone tells its devices
                if kind == name and not peer:
                    return event

    async def connect(self) -> None:
        self.task = await self.client.connect()

    async def link(self, whatsapp: FakeWhatsApp) -> None:
        await self.connect()
        whatsapp.scan(await self.next("qr"))
        await self.next("Connected")

    async def stop(self) -> None:
        await self.client.stop()
        if self.task:
            await asyncio.wait_for(self.task, PATIENCE)


@pytest.fixture
async def program(whatsapp: FakeWhatsApp, memory: Path) -> AsyncIterator[Program]:
    """Linked and connected."""
    made = Program(memory)
    await made.link(whatsapp)
    yield made
    await made.stop()


async def test_group_text(whatsapp: FakeWhatsApp, program: Program) -> None:
    """A group text with a mention and a quote arrives whole, and the answer is read by every member."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    whatsapp.group("1203", "Family", ann)
    said = Message()
    said.extendedTextMessage.text = "@99900011122 hello"
    said.extendedTextMessage.contextInfo.mentionedJID.append("99900011122@lid")
    id = whatsapp.say(ann, said, group="1203")
    heard = await program.next("Message")
    source = heard.Info.MessageSource
    assert (heard.Info.ID, source.Chat.User, source.Sender.User, source.SenderAlt.User) == (
        id,
        "1203",
        "777",
        "15552223333",
    )
    await program.client.send_message(build_jid("1203", "g.us"), Message(conversation="pong"))
    sent = await whatsapp.next_sent()
    assert (sent.chat, sent.text) == ("1203@g.us", "pong")


async def test_linking_by_code(whatsapp: FakeWhatsApp, memory: Path) -> None:
    """A code that the owner types on the phone links as a scan does; a wrong one does not."""
    program = Program(memory)
    await program.connect()
    await program.next("qr")
    code = await program.client.PairPhone("+1 555 000 1111", True)
    whatsapp.enter("1111-1111")
    await whatsapp.hear(lambda node: node.child("link_code_companion_reg", "link_code_pairing_wrapped_key_bundle"))
    assert not whatsapp.linked
    whatsapp.enter(code)
    assert (await program.next("PairStatus")).ID.User == whatsapp.owner.number
    await program.next("Connected")
    await program.stop()


async def test_restart(whatsapp: FakeWhatsApp, memory: Path) -> None:
    """A linked program logs in without a QR, and gets what came while it was away, in order."""
    first = Program(memory)
    await first.link(whatsapp)
    await first.stop()
    ann = whatsapp.person("777", "15552223333")
    ids = [whatsapp.say(ann, f"number {i}") for i in range(3)]
    second = Program(memory)
    await second.connect()
    assert [(await second.next("Message")).Info.ID for _ in ids] == ids
    await second.next("OfflineSyncCompleted")
    for id in ids:
        await whatsapp.acknowledged(id)
    assert second.qrs == 0
    await second.stop()


async def test_the_owner_types(whatsapp: FakeWhatsApp, program: Program) -> None:
    """What the owner types on the phone is heard as from ourselves: to oneself, to Ann, in a group."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    whatsapp.group("1203", "Family", ann)
    seen = []
    for to in ("", ann.jid, "1203@g.us"):
        whatsapp.type("hello", to)
        source = (await program.next("Message")).Info.MessageSource
        seen.append((source.Chat.User, source.IsFromMe, source.Sender.User))
    lid = whatsapp.owner.lid
    assert seen == [(lid, True, lid), ("777", True, lid), ("1203", True, lid)]


async def test_a_number_is_learned(whatsapp: FakeWhatsApp, program: Program) -> None:
    """Somebody known by LID alone can be answered; the number comes with a later message."""
    eve = whatsapp.person("888", name="Eve")
    whatsapp.say(eve, "hi")
    assert (await program.next("Message")).Info.MessageSource.SenderAlt.User == ""
    await program.client.send_message(build_jid("888", "lid"), Message(conversation="pong"))
    assert (await whatsapp.next_sent()).text == "pong"
    eve.number = "15558889999"
    whatsapp.say(eve, "my number")
    assert (await program.next("Message")).Info.MessageSource.SenderAlt.User == "15558889999"


async def test_a_number_is_asked_for(whatsapp: FakeWhatsApp, program: Program) -> None:
    """A person can be written to by number alone; our own phone gets a copy."""
    whatsapp.person("777", "15552223333")
    await program.client.send_message(build_jid("15552223333", "s.whatsapp.net"), Message(conversation="hello"))
    sent = await whatsapp.next_sent()
    assert (sent.chat.partition("@")[0] in ("777", "15552223333"), sent.text) == (True, "hello")


async def test_twice_and_out_of_order(whatsapp: FakeWhatsApp, program: Program) -> None:
    """The same stanza twice is one message; a later one may overtake."""
    ann = whatsapp.person("777")
    one, two, three = (whatsapp.stanza(ann, word) for word in ("one", "two", "three"))
    for node in (one, one, three, two):
        whatsapp.deliver(node)
    heard = [(await program.next("Message")).Message.conversation for _ in range(3)]
    assert heard == ["one", "three", "two"]


async def test_undecryptable(whatsapp: FakeWhatsApp, program: Program) -> None:
    """What cannot be decrypted is asked for again, and read when it comes."""
    ann = whatsapp.person("777")
    whatsapp.say(ann, "hello")
    await program.next("Message")
    id = whatsapp.garble(ann)
    await whatsapp.hear(lambda node: node.tag == "receipt" and node.attrs.get("type") == "retry")
    whatsapp.say(ann, "again", id=id)
    assert (await program.next("Message")).Message.conversation == "again"


async def test_acknowledgements(whatsapp: FakeWhatsApp, program: Program) -> None:
    """A refusal raises; without an acknowledgement the send waits, though the message has arrived."""
    whatsapp.person("777")
    chat = build_jid("777", "lid")
    whatsapp.error = 479
    with pytest.raises(SendMessageError, match="479"):
        await program.client.send_message(chat, Message(conversation="refused"))
    whatsapp.error, whatsapp.acks = 0, False
    send = asyncio.ensure_future(program.client.send_message(chat, Message(conversation="unheard")))
    assert (await whatsapp.next_sent()).text == "unheard"
    assert not send.done()
    whatsapp.acknowledge()
    await send


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        ({"reason": "401"}, "LoggedOut"),
        ({"reason": "405"}, "ClientOutdated"),
        ({"reason": "402", "code": "101", "expire": "3600"}, "TemporaryBan"),
        ({"reason": "400"}, "ConnectFailure"),
    ],
)
async def test_a_login_fails(whatsapp: FakeWhatsApp, program: Program, failure: dict[str, str], event: str) -> None:
    """What the server answers at a login is what the library makes of it."""
    whatsapp.failure = failure
    whatsapp.drop()
    await program.next(event)


async def test_a_ban_with_an_unknown_code(whatsapp: FakeWhatsApp, program: Program) -> None:
    """It ends the library's session with an error: its event cannot be encoded."""
    whatsapp.failure = {"reason": "402", "code": "999", "expire": "60"}
    whatsapp.drop()
    with pytest.raises(NeonizeError):
        await asyncio.wait_for(program.task, PATIENCE)
    program.task = None


async def test_the_stream_ends(whatsapp: FakeWhatsApp, program: Program) -> None:
    """Another program with the session, or the owner on the phone, throws us out."""
    whatsapp.replace()
    await program.next("StreamReplaced")


async def test_unlinked_on_the_phone(whatsapp: FakeWhatsApp, program: Program) -> None:
    """The owner removes the device."""
    whatsapp.log_out()
    await program.next("LoggedOut")


async def test_unlinked_by_us(whatsapp: FakeWhatsApp, program: Program) -> None:
    """The program unlinks itself; its session is worth nothing afterwards."""
    await program.client.logout()
    assert not whatsapp.linked


async def test_the_line_breaks(whatsapp: FakeWhatsApp, program: Program) -> None:
    """The library comes back by itself, also when the server was gone for a moment."""
    whatsapp.drop()
    await program.next("Disconnected")
    await program.next("Connected")
    await whatsapp.stop()
    await program.next("Disconnected")
    await whatsapp.start()
    await program.next("Connected")


async def test_groups(whatsapp: FakeWhatsApp, program: Program) -> None:
    """Members, admins, names and timers, asked for and told."""
    ann, ben = whatsapp.person("777", "15552223333"), whatsapp.person("888")
    whatsapp.group("1203", "Family", ann, ben, admins=(ann,), expires=86400)
    (joined,) = await program.client.get_joined_groups()
    assert (joined.GroupName.Name, joined.GroupEphemeral.DisappearingTimer) == ("Family", 86400)
    assert [p.JID.User for p in joined.Participants if p.IsAdmin] == ["777"]
    assert [p.PhoneNumber.User for p in joined.Participants] == ["15550001111", "15552223333", ""]
    whatsapp.rename("1203", "Kin", ann)
    assert (await program.next("GroupInfo")).Name.Name == "Kin"
    whatsapp.set_timer("1203", 604800, ann)
    assert (await program.next("GroupInfo")).Ephemeral.DisappearingTimer == 604800
    info = await program.client.get_group_info(build_jid("1203", "g.us"))
    assert info.GroupName.Name == "Kin"


async def test_media(whatsapp: FakeWhatsApp, program: Program) -> None:
    """A file is fetched and decrypted; one that is gone, or is not what it claims, is an error."""
    ann, sound = whatsapp.person("777"), bytes(range(256)) * 100
    fields = whatsapp.host.put(sound, "Audio", mimetype="audio/ogg", URL="")
    whatsapp.say(ann, Message(audioMessage=AudioMessage(**fields)))
    heard = await program.next("Message")
    assert await program.client.download_any(heard.Message) == sound
    whatsapp.host.blob(fields["directPath"]).status = 404
    with pytest.raises(NeonizeError):
        await program.client.download_any(heard.Message)
    lie = whatsapp.host.put(sound, "Audio", URL="", fileLength=7)  # which the library does not mind
    assert await program.client.download_any(Message(audioMessage=AudioMessage(**lie))) == sound
    lie = whatsapp.host.put(sound, "Audio", URL="", fileSHA256=bytes(32))
    with pytest.raises(NeonizeError):
        await program.client.download_any(Message(audioMessage=AudioMessage(**lie)))


async def test_signs_of_life(whatsapp: FakeWhatsApp, program: Program) -> None:
    """Presence (the account's name has come with its settings), typing, read receipts and reactions are captured."""
    whatsapp.person("777")
    ann = build_jid("777", "lid")
    await whatsapp.hear(lambda node: node.child("sync", "collection"))
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await program.client.send_presence(Presence.AVAILABLE)
                break
            except NeonizeError:  # the settings are on their way
                await asyncio.sleep(0.02)
    assert (await whatsapp.hear(lambda node: node.tag == "presence")).attrs["type"] == "available"
    composing = ChatPresence.CHAT_PRESENCE_COMPOSING
    await program.client.send_chat_presence(ann, composing, ChatPresenceMedia.CHAT_PRESENCE_MEDIA_TEXT)
    assert (await whatsapp.hear(lambda node: node.tag == "chatstate")).child("composing")
    await program.client.mark_read("M1", chat=ann, sender=ann, receipt=ReceiptType.READ, timestamp=1)
    await whatsapp.hear(lambda node: node.tag == "receipt" and node.attrs.get("type") == "read")
    await program.client.send_message(ann, await program.client.build_reaction(ann, ann, "M1", "👀"))
    assert (await whatsapp.next_reaction()).message.reactionMessage.text == "👀"


async def test_keys_run_low(whatsapp: FakeWhatsApp, program: Program) -> None:
    """The program brings more one-time keys when few are left; without any it can still be written to."""
    ann, ben = whatsapp.person("777"), whatsapp.person("888")
    whatsapp.few_prekeys(0)
    await whatsapp.hear(lambda node: node.tag == "iq" and node.child("list") and len(whatsapp.prekeys) > 10)
    whatsapp.prekeys.clear()
    whatsapp.say(ann, "hello")
    whatsapp.say(ben, "hello")
    assert {(await program.next("Message")).Info.MessageSource.Sender.User for _ in range(2)} == {"777", "888"}


async def test_an_unmodified_program(whatsapp: FakeWhatsApp, memory: Path) -> None:
    """A subprocess meets this server through a proxy and TLS, by its environment alone."""
    code = f"""
import asyncio
from neonize.aioze.client import NewAClient
from neonize.aioze.events import ConnectedEv, MessageEv
client = NewAClient({str(memory / "session.db")!r})
@client.qr
async def qr(_, data): print("QR", data.decode(), flush=True)
@client.event(MessageEv)
async def message(c, e):
    if e.Message.conversation: await c.send_message(e.Info.MessageSource.Chat, "echo " + e.Message.conversation)
async def main(): await (await client.connect())
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=whatsapp.env(), stdout=PIPE, stderr=DEVNULL
    )
    assert process.stdout
    try:
        async with asyncio.timeout(PATIENCE):
            while not (line := (await process.stdout.readline()).decode()).startswith("QR "):
                assert line
        whatsapp.scan(line.split()[1])
        await whatsapp.login()
        whatsapp.say(whatsapp.person("777"), "hello")
        assert (await whatsapp.next_sent()).text == "echo hello"
        assert set(whatsapp.hosts) == {"web.whatsapp.com:443"}
    finally:
        process.kill()
        await process.communicate()


async def test_a_flood_in_order(whatsapp: FakeWhatsApp, program: Program) -> None:
    """500 messages at once arrive complete and in order."""
    ann = whatsapp.person("777")
    for i in range(500):
        whatsapp.say(ann, str(i))
    heard = [(await program.next("Message")).Message.conversation for _ in range(500)]
    assert heard == [str(i) for i in range(500)]


async def test_wrapped_edited_deleted(whatsapp: FakeWhatsApp, program: Program) -> None:
    """Wrappers are taken off by the library; edits and deletes come as protocol messages."""
    ann = whatsapp.person("777")
    wrapped = Message()
    wrapped.ephemeralMessage.message.viewOnceMessage.message.imageMessage.caption = "look"
    whatsapp.say(ann, wrapped)
    heard = await program.next("Message")
    assert (heard.Message.imageMessage.caption, heard.IsEphemeral, heard.IsViewOnce) == ("look", True, True)
    gone = Message()
    gone.protocolMessage.type, gone.protocolMessage.key.ID = gone.protocolMessage.REVOKE, "M1"
    whatsapp.say(ann, gone, edit="7")
    assert (await program.next("Message")).Message.protocolMessage.key.ID == "M1"
    better = Message()
    better.protocolMessage.type, better.protocolMessage.key.ID = better.protocolMessage.MESSAGE_EDIT, "M2"
    better.protocolMessage.editedMessage.conversation = "better"
    whatsapp.say(ann, better, edit="1")
    assert (await program.next("Message")).Message.protocolMessage.editedMessage.conversation == "better"


async def test_huge_and_lying_bodies(whatsapp: FakeWhatsApp) -> None:
    """A body of any size costs the stand-in no memory; it may claim another length, or none."""

    async def take(path: str, most: int) -> tuple[bytes, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", whatsapp.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: mmg.whatsapp.net\r\n\r\n".encode())
        head, size = await reader.readuntil(b"\r\n\r\n"), 0
        while size < most and (data := await reader.read(1 << 16)):
            size += len(data)
        writer.transport.abort()
        return head, size

    huge = whatsapp.host.put_blob(Blob(b"start", size=1 << 40))
    head, size = await take(huge, 10 << 20)
    assert (f"Content-Length: {1 << 40}".encode() in head, size >= 10 << 20) == (True, True)
    assert whatsapp.host.taken[huge.partition("?")[0]] < 20 << 20
    silent = whatsapp.host.put_blob(Blob(b"body", claimed=-1))
    assert await take(silent, 100) == (b"HTTP/1.1 200 Loopback\r\nConnection: close\r\n\r\n", 4)
    short = whatsapp.host.put_blob(Blob(b"body", claimed=100))
    assert (await take(short, 100))[1] == 4
