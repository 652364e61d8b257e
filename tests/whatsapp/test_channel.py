"""Linking, texts and what goes wrong, with the real library against a WhatsApp on loopback."""

import asyncio
import ctypes
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from loguru import logger

from nanoclaw.channels.whatsapp import library
from nanoclaw.channels.whatsapp.client import LinkingOver, Qr
from nanoclaw.channels.whatsapp.session import pb
from nanoclaw.errors import NotConnected, OutcomeUnknown, SendRefused
from nanoclaw.models import UNREADABLE, Key, Members, OutKind
from tests.fakes import eventually
from tests.whatsapp.channel import US, Rig, row
from tests.whatsapp.server import PATIENCE, FakeWhatsApp
from tests.whatsapp.wire import Node


@pytest.fixture
def folder(memory: Path) -> Path:
    return memory / "whatsapp"


@pytest.fixture
def rig(folder: Path) -> Rig:
    return Rig(folder)


@pytest.fixture
async def linked(rig: Rig, whatsapp: FakeWhatsApp) -> AsyncIterator[Rig]:
    async with rig.living():
        await rig.link(whatsapp)
        yield rig


def pairing(rig: Rig) -> dict[str, object]:
    return json.loads((rig.folder / "pairing.json").read_text())


async def test_link_and_restart(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """A scanned code links; after a restart nobody has to scan again."""
    async with rig.living():
        await rig.qr()
        shown = pairing(rig)
        assert str(shown["qr"]).startswith("https://wa.me/")
        assert (shown["state"], shown["expires_at"]) == ("linking", rig.now + 60_000)
        await rig.link(whatsapp)
        assert rig.ears.accounts[0].jids == US
        assert pairing(rig)["qr"] == ""
    assert pairing(rig)["state"] == "stopped"
    for name in ("pairing.json", "session.db"):
        assert stat.S_IMODE((rig.folder / name).stat().st_mode) == 0o600
    again = Rig(rig.folder)
    async with again.living():
        await again.state("connected", "linking")
        assert again.channel.state == "connected"
    assert whatsapp.logins == 2


async def test_text_in_and_out(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """A direct text is heard with both jids of its sender, and the answer reaches their phone as it was written."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    wa_id = whatsapp.say(ann, "hello")
    msg = await linked.ears.until(lambda: linked.ears.heard and linked.ears.heard[0])
    assert (msg.wa_id, msg.text, msg.sender.name) == (wa_id, "hello", "Ann")
    assert msg.chat == msg.sender.jids == ("777@lid", "15552223333@s.whatsapp.net")
    sent = await linked.channel.send(row("hi @15552223333 https://example.com", "777@lid"))
    out = await whatsapp.next_sent()
    assert (out.chat, out.text, out.id) == ("777@lid", "hi @15552223333 https://example.com", sent.wa_id)
    assert not out.message.extendedTextMessage.contextInfo.mentionedJID
    assert sent.at > 1_500_000_000_000


async def test_group_reply_quotes(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """A reply in a group carries the message that it answers, and the chat's timer."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    whatsapp.group("1203", "Family", ann)
    await linked.channel.send(row("pong", "1203@g.us", quote=Key("Q1", "777@lid", text="ping"), expires=86400))
    context = (await whatsapp.next_sent()).message.extendedTextMessage.contextInfo
    assert (context.stanzaID, context.participant, context.expiration) == ("Q1", "777@lid", 86400)
    assert context.quotedMessage.conversation == "ping"


async def test_reaction_and_edit_rows(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """A sign on somebody's message, and a new text for one of ours."""
    whatsapp.person("777", "15552223333", "Ann")
    await linked.channel.send(row("👍", "777@lid", OutKind.REACTION, Key("A1", "777@lid")))
    assert (await whatsapp.next_reaction()).message.reactionMessage.key.ID == "A1"
    sent = await linked.channel.send(row("helo", "777@lid"))
    await whatsapp.next_sent()
    await linked.channel.send(row("hello", "777@lid", OutKind.EDIT, Key(sent.wa_id, from_me=True)))
    edit = await whatsapp.next_sent()
    assert edit.node.attrs["edit"] == "1"
    with pytest.raises(SendRefused):
        await linked.channel.send(row("👍", "777@lid", OutKind.REACTION))


async def test_a_call_that_never_began(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """When the connection is given up, who waits behind the others is told so, and not cancelled."""
    whatsapp.person("777", "15552223333", "Ann")
    whatsapp.silent = True
    calls = [asyncio.create_task(linked.channel._session.call(lambda api: api.get_joined_groups())) for _ in range(20)]
    await whatsapp.hear(lambda n: n.child("participating"))
    whatsapp.silent = False
    linked.channel._session.renew("test")
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(a) for a in answers} >= {NotConnected}
    assert not [a for a in answers if isinstance(a, asyncio.CancelledError)]


async def test_prefix_on_a_shared_number(whatsapp: FakeWhatsApp, folder: Path) -> None:
    """People are told who speaks; the owner's own chat is not."""
    rig = Rig(folder, shared=True)
    whatsapp.person("777", "15552223333", "Ann")
    async with rig.living():
        await rig.link(whatsapp)
        await rig.channel.send(row("hi", "777@lid"))
        assert (await whatsapp.next_sent()).text == "*Andy:* hi"
        await rig.channel.send(row("hi", US[0]))
        assert (await whatsapp.next_sent()).text == "hi"
        assert rig.ears.accounts[0].shared


async def test_a_group_may_have_a_prefix_of_its_own(whatsapp: FakeWhatsApp, folder: Path) -> None:
    """On a shared number, as its owner has set it; a text with it is never too long."""
    rig = Rig(folder, shared=True)
    whatsapp.person("777", "15552223333", "Ann")
    async with rig.living():
        await rig.link(whatsapp)
        out = row("hi", "777@lid")
        await rig.channel.send(replace(out, chat=replace(out.chat, prefix="The bot")))
        assert (await whatsapp.next_sent()).text == "*The bot:* hi"
        await rig.channel.send(replace(out, chat=replace(out.chat, jid=US[0], prefix="The bot")))
        assert (await whatsapp.next_sent()).text == "hi"
        longest = max(map(len, rig.channel.parts("word " * 5000)))
        assert longest + len(f"*{'x' * 40}:* ") <= 4000


async def test_burst_in_order(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """Five hundred at once: all, in order."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    for n in range(500):
        whatsapp.say(ann, f"m{n}")
    await linked.ears.until(lambda: len(linked.ears.heard) == 500)
    assert [m.text for m in linked.ears.heard] == [f"m{n}" for n in range(500)]


async def test_stop_while_a_code_is_shown(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """The library never returns from that; we do."""
    async with rig.living():
        await rig.qr()


async def test_stop_in_mid_send(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """A text without its acknowledgement keeps nobody from stopping, and its outcome is said to be unknown."""
    async with rig.living():
        await rig.link(whatsapp)
        whatsapp.person("777", "15552223333", "Ann")
        whatsapp.acks = False
        send = asyncio.create_task(rig.channel.send(row("hi", "777@lid")))
        await whatsapp.next_sent()
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(send, PATIENCE)


async def test_refused(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """An acknowledgement that says no is a refusal, and the connection stays."""
    whatsapp.person("777", "15552223333", "Ann")
    whatsapp.error = 479
    with pytest.raises(SendRefused, match="refused"):
        await linked.channel.send(row("hi", "777@lid"))
    whatsapp.error = 0
    await linked.channel.send(row("again", "777@lid"))
    assert linked.channel.state == "connected"


async def test_line_lost_in_mid_send(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """Nobody knows whether it was taken; the connection comes back."""
    whatsapp.person("777", "15552223333", "Ann")
    whatsapp.acks = False
    send = asyncio.create_task(linked.channel.send(row("hi", "777@lid")))
    await whatsapp.next_sent()
    whatsapp.acks = True
    whatsapp.refuse = True
    whatsapp.drop()
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(send, PATIENCE)
    with pytest.raises(NotConnected):
        await linked.channel.send(row("more", "777@lid"))
    whatsapp.refuse = False
    await linked.state("connected")
    await linked.channel.send(row("more", "777@lid"))


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        (lambda w: w.log_out(), "logged_out"),
        (lambda w: w.replace(), "replaced"),
    ],
)
async def test_final_states(linked: Rig, whatsapp: FakeWhatsApp, trouble, state: str) -> None:
    """What only a person can mend is said and waited for; asked, it is tried again and what happened is told."""
    logins = whatsapp.logins
    trouble(whatsapp)
    await linked.state(state)
    assert "nanoclaw pair" in linked.channel.detail
    with pytest.raises(NotConnected):
        await linked.channel.send(row("hi", "777@lid"))
    assert whatsapp.logins == logins
    linked.channel._session.ask()
    if state == "logged_out":
        whatsapp.scan(await linked.qr())
    await linked.state("connected")
    await linked.ears.until(lambda: linked.ears.told)
    assert state in linked.ears.told[0]


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        ({"reason": "405"}, "outdated"),
        ({"reason": "401"}, "logged_out"),
        ({"reason": "402", "code": "101", "expire": "3600"}, "banned_until"),
        ({"reason": "402", "code": "999", "expire": "3600"}, "banned_until"),
        ({"reason": "400"}, "disconnected"),
    ],
)
async def test_login_refused(rig: Rig, whatsapp: FakeWhatsApp, failure: dict[str, str], state: str) -> None:
    """Each refusal has its state; none spins, none ends the process."""
    async with rig.living():
        await rig.link(whatsapp)
    whatsapp.failure = failure
    again = Rig(rig.folder)
    async with again.living():
        await again.state(state)
        assert again.channel.detail


async def test_a_ban_ends(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """After its time the connection is tried again, and the owner is told."""
    async with rig.living():
        await rig.link(whatsapp)
    whatsapp.failure = {"reason": "402", "code": "101", "expire": "1"}
    again = Rig(rig.folder)
    async with again.living():
        await again.state("banned_until")
        whatsapp.failure = None
        again.now += 3_600_000
        await again.state("connected")
        await again.ears.until(lambda: again.ears.told)


async def test_server_gone_and_back(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """Without a server nothing is dialled by the library, and the first try after its return succeeds."""
    await whatsapp.stop()
    async with rig.living():
        await rig.state("disconnected")
        assert "cannot be reached" in rig.channel.detail
        await whatsapp.start()
        whatsapp.patch()
        await rig.link(whatsapp)
    assert rig.ears.told == []


async def test_store_failing(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """What cannot be stored is kept and tried again, WhatsApp keeps the rest, and nothing is lost or turned around."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    linked.ears.failing = True
    whatsapp.say(ann, "one")
    await linked.state("store_failing")
    whatsapp.say(ann, "two")
    assert "disk is full" in linked.channel.detail
    linked.ears.failing = False
    await linked.ears.until(lambda: len(linked.ears.heard) == 2)
    assert [m.text for m in linked.ears.heard] == ["one", "two"]
    await linked.state("connected")


async def test_a_burst_is_stored_together(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """What comes while a commit takes its time waits for the next one alone, and keeps its order."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    await eventually(lambda: linked.channel.counts["protocol"])  # the phone's settings, which come with the link
    linked.ears.open.clear()
    whatsapp.say(ann, "m0")
    await linked.ears.until(lambda: linked.ears.waiting)
    for n in range(1, 12):
        whatsapp.say(ann, f"m{n}")
    await eventually(lambda: linked.channel._events.qsize() == 11)
    linked.ears.open.set()
    await linked.ears.until(lambda: len(linked.ears.heard) == 12)
    assert [m.text for m in linked.ears.heard] == [f"m{n}" for n in range(12)]
    assert linked.ears.together == [1, 11]


async def test_one_bad_message(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """It is kept as unsupported, and the next one is heard."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    await eventually(lambda: linked.channel.counts["protocol"])  # the phone's settings, which would break instead
    linked.clock_breaks = 1
    whatsapp.say(ann, "bad")
    whatsapp.say(ann, "fine")
    await linked.ears.until(lambda: len(linked.ears.heard) == 2)
    assert [(m.kind, m.text) for m in linked.ears.heard] == [("unsupported", UNREADABLE), ("text", "fine")]


async def test_what_came_while_we_were_away(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """The offline batch comes after the login, in order."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    async with rig.living():
        await rig.link(whatsapp)
        whatsapp.say(ann, "before")
        await rig.ears.until(lambda: rig.ears.heard)
    for n in range(3):
        whatsapp.say(ann, f"m{n}")
    again = Rig(rig.folder)
    async with again.living():
        await again.ears.until(lambda: len(again.ears.heard) == 3)
    assert [m.text for m in again.ears.heard] == ["m0", "m1", "m2"]


async def test_group_names(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """Names and timers are learned without a message."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    whatsapp.group("1203", "Family", ann, expires=86400)
    async with rig.living():
        await rig.link(whatsapp)
        await rig.ears.until(lambda: rig.ears.names.get("1203@g.us") == ("Family", 86400))
        whatsapp.rename("1203", "Friends", ann)
        await rig.ears.until(lambda: rig.ears.names["1203@g.us"] == ("Friends", None))


async def test_keep_alives_missed(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """Nothing is sent into a line that may be dead; when it answers again, rows go on."""
    session = linked.channel._session
    assert session._over
    session._on(pb.KeepAliveTimeout(ErrorCount=1, LastSuccess=1), session._over)
    assert linked.channel.state == "degraded"
    with pytest.raises(NotConnected):
        await linked.channel.send(row("hi", US[0]))
    session._on(pb.KeepAliveRestored(), session._over)
    assert linked.channel.state == "connected"
    await linked.ears.until(lambda: len(linked.ears.accounts) == 2)


async def test_a_session_that_dies(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """The library's end of itself is followed by a new connection."""
    session = linked.channel._session
    assert session._client
    await session._client.api.stop()
    await linked.ears.until(lambda: len(linked.ears.accounts) == 2)
    assert (linked.channel.state, whatsapp.logins) == ("connected", 2)


async def test_codes_that_run_out(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """The next code lasts shorter; after the last one nothing is shown until somebody asks."""
    async with rig.living():
        await rig.qr()
        session = rig.channel._session
        assert session._over
        session._on(Qr("second"), session._over)
        assert pairing(rig)["expires_at"] == rig.now + 20_000
        session._on(LinkingOver("timeout"), session._over)
        assert (pairing(rig)["state"], pairing(rig)["qr"]) == ("unlinked", "")
        assert "passkey" in rig.channel.detail


async def test_a_long_outage_is_told(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """How long, and what may be missing; a short one is not worth a word."""
    for seconds in (5, 600):
        whatsapp.drop()
        await linked.state("disconnected")
        linked.now += seconds * 1000
        await linked.state("connected")
    await linked.ears.until(lambda: linked.ears.told)
    assert len(linked.ears.told) == 1
    assert "10 min" in linked.ears.told[0]


async def test_no_secret_in_the_log(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """Above DEBUG neither codes nor jids, numbers or texts."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="INFO", format="{message}")
    ann = whatsapp.person("777", "15552223333", "Ann")
    async with rig.living():
        code = await rig.qr()
        await rig.link(whatsapp)
        whatsapp.garble(ann)
        whatsapp.say(ann, "a secret")
        await rig.ears.until(lambda: rig.ears.heard)
        await rig.channel.send(row("another", "777@lid"))
        whatsapp.error = 479
        with pytest.raises(SendRefused):
            await rig.channel.send(row("another", "777@lid"))
    logger.remove(sink)
    log = "".join(lines)
    assert "connected" in log
    for secret in (code, code.split(",")[1], "777", "15552223333", "15550001111", "99900011122", "secret", "another"):
        assert secret not in log


def test_the_librarys_errors_are_scrubbed() -> None:
    """What Go says of people stays below INFO."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="INFO", format="{message}")
    said = "failed to send to 777@lid: <message id='A1'> of 15552223333"
    line = pb.LogEntry(Name="Client", Level="ERROR", Message=said).SerializeToString()
    buffer = ctypes.create_string_buffer(line, len(line))
    library._log(ctypes.addressof(buffer), len(line))
    logger.remove(sink)
    assert "failed to send to" in lines[0]
    assert not [word for word in ("777", "A1", "15552223333") if word in lines[0]]


@pytest.mark.parametrize("shared", [False, True])
async def test_who_is_in_a_group_is_learned(whatsapp: FakeWhatsApp, folder: Path, shared: bool) -> None:
    """At each connect, as people come and go, and when it is asked; we are one of them on a shared number alone."""
    ann, bea = whatsapp.person("777", "15552223333", "Ann"), whatsapp.person("778", "", "Bea")
    group, rig = whatsapp.group("1203", "Family", ann), Rig(folder, shared=shared)
    others = (("777@lid", "15552223333@s.whatsapp.net"),)
    async with rig.living():
        await rig.link(whatsapp)
        (first,) = await rig.ears.until(lambda: rig.ears.members_of.get("1203@g.us"))
        assert first.everybody == ((US, *others) if shared else others)
        whatsapp.group_change("1203", ann, Node("add", {}, [Node("participant", {"jid": bea.jid})]))
        whatsapp.group_change("1203", ann, Node("remove", {}, [Node("participant", {"jid": bea.jid})]))
        await rig.ears.until(lambda: len(rig.ears.members_of["1203@g.us"]) == 3)
        assert rig.ears.members_of["1203@g.us"][1:] == [Members(came=("778@lid",)), Members(went=("778@lid",))]
        group.members.append(bea)
        found = await rig.channel.members("1203@g.us")
        assert found is not None
        assert found.everybody is not None
        assert found.everybody[-1] == ("778@lid",)
        assert await rig.channel.members("nonsense") is None
