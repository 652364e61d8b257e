"""Signs of life, files, groups' admins and the owner's verbs, with the real library against a WhatsApp on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels.control_sock import Client, ControlServer, connect
from nanoclaw.channels.whatsapp.files import ref_of
from nanoclaw.channels.whatsapp.session import Up, pb
from nanoclaw.errors import MediaRefused, NanoClawError, NotConnected
from nanoclaw.models import Chat, Key, Progress, Show
from tests.whatsapp.channel import US, Rig, row
from tests.whatsapp.media import MediaHost
from tests.whatsapp.server import FakeWhatsApp, Message, Person
from tests.whatsapp.wire import Node

CHAT = Chat(1, "whatsapp", "777@lid", "Ann", False, 1)
TAKEN = Progress("t1", Show.TAKEN, messages=(Key("A1", "777@lid"), Key("A2", "777@lid")))
ENDED = Progress("t1", Show.ENDED)

Linker = Callable[..., Awaitable[Rig]]


@pytest.fixture
def folder(memory: Path) -> Path:
    return memory / "whatsapp"


@pytest.fixture
async def link(whatsapp: FakeWhatsApp, folder: Path) -> AsyncIterator[Linker]:
    """Makes a linked channel with the settings that a test wants."""
    async with asyncio.TaskGroup() as tg:
        done, out = asyncio.Event(), asyncio.Event()
        rigs: list[Rig] = []

        async def live(rig: Rig, up: asyncio.Event) -> None:
            async with rig.living():
                await rig.link(whatsapp)
                up.set()
                await done.wait()
            out.set()

        async def make(**settings: Any) -> Rig:
            rig, up = Rig(folder, **settings), asyncio.Event()
            rigs.append(rig)
            tg.create_task(live(rig, up))
            await up.wait()
            return rig

        yield make
        done.set()


@pytest.fixture
def ann(whatsapp: FakeWhatsApp) -> Person:
    return whatsapp.person("777", "15552223333", "Ann")


# --- signs of life -------------------------------------------------------------------------------


def chat_state(kind: str) -> Callable[[Node], bool]:
    return lambda node: node.tag == "chatstate" and node.child(kind) is not None


@pytest.mark.parametrize("over", [ENDED, Progress("t1", Show.LATER)])
async def test_own_number_shows_that_it_works(
    link: Linker, whatsapp: FakeWhatsApp, ann: Person, over: Progress
) -> None:
    """A reaction on the newest message, a receipt for all, typing while the turn runs and until it is put off."""
    rig = await link()
    rig.channel.show(CHAT, TAKEN)
    seen = (await whatsapp.next_reaction()).message.reactionMessage
    assert (seen.text, seen.key.ID) == ("👀", "A2")
    receipt = await whatsapp.hear(lambda n: n.tag == "receipt" and n.attrs.get("type") == "read")
    listed = receipt.child("list")
    assert [receipt.attrs["id"], *(i.attrs["id"] for i in (listed.children("item") if listed else []))] == ["A1", "A2"]
    await whatsapp.hear(chat_state("composing"))
    rig.channel.show(CHAT, over)
    await whatsapp.hear(chat_state("paused"))


async def test_shared_number_only_reacts(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """The owner's phone is not muted, and nobody learns that the owner has read."""
    rig = await link(shared=True, typing=False)
    rig.channel.show(CHAT, TAKEN)
    await whatsapp.next_reaction()
    rig.channel.show(CHAT, ENDED)
    rig.channel.show(CHAT, TAKEN)
    await whatsapp.next_reaction()  # signs are shown one after the other: those of the first turn are out
    with pytest.raises(TimeoutError):  # nothing announces that it stays away
        await whatsapp.hear(shows_presence, timeout=0.3)


async def test_a_group_may_have_a_sign_of_its_own(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """Or none, while the others have theirs."""
    rig = await link(typing=False)
    rig.channel.show(replace(CHAT, reaction="none"), TAKEN)
    for reaction, shown in (("🤖", "🤖"), ("", "👀")):
        rig.channel.show(replace(CHAT, reaction=reaction), TAKEN)
        assert (await whatsapp.next_reaction()).message.reactionMessage.text == shown


def shows_presence(node: Node) -> bool:
    return node.tag == "chatstate" or node.attrs.get("type") in ("read", "available")


async def test_signs_without_a_connection(folder: Path) -> None:
    """They are dropped."""
    rig = Rig(folder)
    rig.channel.show(CHAT, TAKEN)
    with pytest.raises(NotConnected):
        await rig.channel.send(row("hi", "777@lid"))


# --- files ---------------------------------------------------------------------------------------


async def heard_picture(rig: Rig, whatsapp: FakeWhatsApp, ann: Person, **fields: Any) -> str:
    message = Message()
    for name, value in fields.items():
        setattr(message.imageMessage, name, value)
    message.imageMessage.mimetype = "image/png"
    wa_id = whatsapp.say(ann, message)
    msg = await rig.ears.until(lambda: next((m for m in rig.ears.heard if m.wa_id == wa_id), None))
    return msg.media[0].ref


async def test_a_file_is_fetched(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """From WhatsApp's own server, whatever address the sender wrote."""
    rig = await link()
    data = bytes(range(256)) * 100
    ref = await heard_picture(rig, whatsapp, ann, **whatsapp.host.put(data, URL="http://127.0.0.1:1/evil"))
    assert await rig.channel.fetch(ref, 1 << 20) == data


async def test_a_file_that_is_too_large(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """A size that the sender lies about does not bring more than was allowed."""
    rig = await link()
    fields = whatsapp.host.put(b"x" * 100, fileLength=5)
    whatsapp.host.blob(fields["directPath"]).size = 50 << 20
    ref = await heard_picture(rig, whatsapp, ann, **fields)
    with pytest.raises(MediaRefused, match="larger"):
        await rig.channel.fetch(ref, 1 << 20)
    assert len(whatsapp.host.asked) == 1  # for the headers; the library, which reads all, was not let loose


@pytest.mark.parametrize("fault", ["gone", "silent size", "other bytes", "elsewhere"])
async def test_a_file_that_will_never_come(link: Linker, whatsapp: FakeWhatsApp, ann: Person, fault: str) -> None:
    """It is refused for good, in a sentence."""
    rig = await link()
    fields = whatsapp.host.put(b"x" * 100)
    blob = whatsapp.host.blob(fields["directPath"])
    match fault:
        case "gone":
            blob.status = 410
        case "silent size":
            blob.claimed = -1
        case "other bytes":
            blob.data = b"y" * len(blob.data)
        case "elsewhere":
            blob.status, blob.headers = 404, {"Location": "http://127.0.0.1:1/"}
    ref = await heard_picture(rig, whatsapp, ann, **fields)
    with pytest.raises(MediaRefused):
        await rig.channel.fetch(ref, 1 << 20)


@pytest.mark.parametrize(
    "path",
    ["", "v/1", "//evil/v", "/v/../x", "/v//x", "/v@evil", "/v\n1", "https://evil/v", "/v x", "/" + "a" * 2000],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    """Such a file is never asked for."""
    message = Message()
    for name, value in (MediaHost().put(b"x") | {"directPath": path}).items():
        setattr(message.imageMessage, name, value)
    assert ref_of("image", message.imageMessage) == ""


# --- groups --------------------------------------------------------------------------------------


async def test_a_delete_by_an_admin(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """Who may delete what others wrote is asked of WhatsApp, not of the message."""
    bob = whatsapp.person("888", "15554445555", "Bob")
    whatsapp.group("1203", "Family", ann, bob, admins=(ann,))
    rig = await link()
    for person in (ann, bob):
        gone = Message()
        gone.protocolMessage.type = 0
        gone.protocolMessage.key.ID = "X1"
        gone.protocolMessage.key.remoteJID = "1203@g.us"
        whatsapp.say(person, gone, group="1203")
    await rig.ears.until(lambda: len(rig.ears.heard) == 2)
    assert [(m.kind, m.by_admin) for m in rig.ears.heard] == [("delete", True), ("delete", False)]


async def test_what_comes_before_we_know_who_we_are(memory: Path) -> None:
    """It waits for that, in its order: a mention of us would be nobody's else."""
    rig = Rig(memory / "whatsapp")
    arrived = rig.channel._session._heard
    for wa_id in ("M1", "M2"):
        event = pb.Message()
        event.Info.ID = wa_id
        event.Info.MessageSource.Chat.User, event.Info.MessageSource.Chat.Server = "1203", "g.us"
        event.Info.MessageSource.Sender.User, event.Info.MessageSource.Sender.Server = "777", "lid"
        event.Message.extendedTextMessage.text = "@us"
        event.Message.extendedTextMessage.contextInfo.mentionedJID.append(US[0])
        arrived(event)
    async with asyncio.TaskGroup() as tg:
        listening = tg.create_task(rig.channel._listen(rig.ears, tg))
        arrived(Up((pb.JID(User="99900011122", Server="lid"),)))
        await rig.ears.until(lambda: len(rig.ears.heard) == 2)
        listening.cancel()
    assert [(m.wa_id, m.mentions_us) for m in rig.ears.heard] == [("M1", True), ("M2", True)]
    assert rig.ears.accounts


async def test_undecryptable(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """It is counted, its sender is asked again, and the next message is heard."""
    rig = await link()
    whatsapp.garble(ann)
    await whatsapp.hear(lambda n: n.tag == "receipt" and n.attrs.get("type") == "retry")
    whatsapp.say(ann, "hello")
    await rig.ears.until(lambda: rig.ears.heard)
    assert rig.channel.counts["undecryptable"] == 1


# --- verbs ---------------------------------------------------------------------------------------


class Door:
    """The channel's verbs behind a control socket."""

    def __init__(self, rig: Rig, path: Path) -> None:
        self.server = ControlServer(path, rig.channel.verbs)
        self.path = path

    async def __aenter__(self) -> Client:
        await self.server.start()
        self.client = await connect(self.path)
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()


async def test_pair_by_phone_code(whatsapp: FakeWhatsApp, folder: Path) -> None:
    """The code is streamed to who asked, and typed on the phone it links."""
    rig = Rig(folder)
    async with rig.living(), Door(rig, folder / "s") as client:
        await rig.qr()
        await client.send({"verb": "pair", "args": {"phone": "+1 (555) 000-1111"}})
        states = []
        async for frame in client:
            states.append(frame["state"])
            if frame["code"]:
                assert json.loads((folder / "pairing.json").read_text())["code"] == frame["code"]
                whatsapp.enter(frame["code"])
        assert states[0] == "linking"
        assert states[-1] == "connected"


async def test_pair_refuses_what_is_no_number(whatsapp: FakeWhatsApp, folder: Path) -> None:
    """It says how to write one."""
    rig = Rig(folder)
    async with rig.living(), Door(rig, folder / "s") as client:
        await rig.qr()
        with pytest.raises(NanoClawError, match="country code"):
            await client.call("pair", phone="0151 23")


async def test_a_round_that_fails_waits_for_somebody(whatsapp: FakeWhatsApp, folder: Path) -> None:
    """No loop of codes; who asks gets new ones."""
    rig = Rig(folder)
    async with rig.living(), Door(rig, folder / "s") as client:
        await rig.qr()
        whatsapp.drop()
        await rig.state("unlinked")
        assert "nanoclaw pair" in rig.channel.detail
        assert "passkey" in rig.channel.detail
        await client.send({"verb": "pair", "args": {}})
        async for frame in client:
            if frame["qr"]:
                whatsapp.scan(frame["qr"])
        assert rig.channel.state == "connected"
        assert rig.ears.told == []


async def test_logout(link: Linker, whatsapp: FakeWhatsApp, folder: Path) -> None:
    """The device is gone on the phone, the keys are gone here, and a new link works."""
    rig = await link()
    async with Door(rig, folder / "s") as client:
        assert await client.call("logout") == {"detail": ""}
        assert not whatsapp.linked
        assert not (folder / "session.db").exists()
        assert rig.channel.state == "logged_out"
        await client.send({"verb": "pair", "args": {}})
        async for frame in client:
            if frame["qr"]:
                whatsapp.scan(frame["qr"])
        assert rig.channel.state == "connected"


async def test_signs_and_name_follow_the_settings_at_once(link: Linker, whatsapp: FakeWhatsApp, ann: Person) -> None:
    """Without another connection: another sign, no typing any more, another name before its texts."""
    rig = await link(shared=True)
    rig.channel.show(CHAT, TAKEN)
    assert (await whatsapp.next_reaction()).message.reactionMessage.text == "👀"
    await whatsapp.hear(chat_state("composing"))
    rig.settings.put(rig.settings().model_copy(update={"reaction": "👍", "typing": False, "name": "Bea"}))
    rig.channel.show(CHAT, TAKEN)
    assert (await whatsapp.next_reaction()).message.reactionMessage.text == "👍"
    await whatsapp.hear(chat_state("paused"))  # though the turn runs on
    await rig.channel.send(row("hello", str(ann.jid)))
    assert (await whatsapp.next_sent()).text == "*Bea:* hello"
