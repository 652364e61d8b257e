"""What must not follow from trouble: lost messages, storms of logins, hanging; with the real library."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from neonize.proto import Neonize_pb2 as pb

from nanoclaw.channels.whatsapp import session as session_module
from nanoclaw.channels.whatsapp.files import ref_of
from nanoclaw.channels.whatsapp.pairing import Pairing, State
from nanoclaw.channels.whatsapp.probe import probe
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import NotConnected
from tests.whatsapp.channel import Rig, row
from tests.whatsapp.connection import Connection
from tests.whatsapp.media import Blob
from tests.whatsapp.server import PATIENCE, FakeWhatsApp, Message

MANY = 300


@pytest.fixture
def rig(memory: Path) -> Rig:
    return Rig(memory / "whatsapp")


@pytest.fixture
async def linked(rig: Rig, whatsapp: FakeWhatsApp) -> AsyncIterator[Rig]:
    async with rig.living():
        await rig.link(whatsapp)
        yield rig


async def stays(rig: Rig, state: str, seconds: float = 0.8) -> None:
    """It is in that state, and leaves it for none."""
    assert rig.channel.state == state
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await rig.channel._session.changed.wait()


# --- nothing lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["renew", "stop"])
async def test_left_in_mid_burst(rig: Rig, whatsapp: FakeWhatsApp, how: str) -> None:
    """What the library has decrypted is heard before it is stopped; WhatsApp sends the rest again."""
    ann = whatsapp.person("777", "15552223333", "Ann")
    again = Rig(rig.folder) if how == "stop" else rig
    async with rig.living():
        await rig.link(whatsapp)
        for node in [whatsapp.stanza(ann, f"m{n}") for n in range(MANY)]:
            whatsapp.deliver(node)
        await rig.ears.until(lambda: len(rig.ears.heard) >= 30)
        if how == "renew":
            rig.channel._session.renew("test")
            await rig.ears.until(lambda: len(rig.ears.heard) >= MANY)
    heard = rig.ears.heard
    if how == "stop":
        async with again.living():
            await again.ears.until(lambda: len(heard) + len(again.ears.heard) >= MANY)
        heard = heard + again.ears.heard
    assert [m.text for m in heard] == [f"m{n}" for n in range(MANY)]


# --- nothing hangs -----------------------------------------------------------------------------


async def test_downloads_that_stall(rig: Rig, whatsapp: FakeWhatsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take nobody else's room, and keep the process from nothing."""
    whatsapp.person("777", "15552223333", "Ann")
    message, given = Message(), asyncio.Queue[str]()
    for name, value in whatsapp.host.put(b"x" * 5000).items():
        setattr(message.imageMessage, name, value)
    ref = ref_of("image", message.imageMessage)

    async def stall(path: str, blob: Blob, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(blob.data) + blob.data[:10])
        given.put_nowait(path)
        await asyncio.Event().wait()

    monkeypatch.setattr(whatsapp.host, "_give", stall)
    async with rig.living():
        await rig.link(whatsapp)
        for _ in range(2):
            fetch = asyncio.create_task(rig.channel.fetch(ref, 1 << 20))
            await given.get()  # its headers
            await given.get()
            fetch.cancel()
            await asyncio.wait([fetch])
        with pytest.raises(NotConnected, match="files"):
            await asyncio.wait_for(rig.channel.fetch(ref, 1 << 20), PATIENCE)
        await asyncio.wait_for(rig.channel.send(row("hi", "777@lid")), PATIENCE)
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("whatsapp")]
    assert ours
    assert all(thread.daemon for thread in ours)


async def test_a_login_that_is_never_answered(
    rig: Rig, whatsapp: FakeWhatsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after a while, and tried again."""
    async with rig.living():
        await rig.link(whatsapp)
    again = Rig(rig.folder)
    with monkeypatch.context() as patched:
        patched.setattr(session_module, "_ANSWER", 0.2)
        patched.setattr(whatsapp, "_welcome", lambda connection: None)
        async with again.living():
            await again.state("disconnected")
            assert "does not answer" in again.channel.detail
            patched.undo()
            await again.state("connected")


async def test_a_silent_line_is_left(linked: Rig) -> None:
    """It is given up after a while, and the owner is told of a long silence."""
    session = linked.channel._session
    assert session._over
    session._on(pb.KeepAliveTimeout(ErrorCount=1, LastSuccess=1), session._over)
    assert session._timer
    linked.now += 600_000
    session._on(pb.KeepAliveRestored(), session._over)
    assert not session._timer
    await linked.ears.until(lambda: linked.ears.told)
    assert "10 min" in linked.ears.told[0]


async def test_pair_misses_no_change(rig: Rig) -> None:
    """One that comes while the last is being told is told too."""
    rig.folder.mkdir(exist_ok=True)
    session = rig.channel._session
    session._note(Pairing(State.LINKING))
    told: list[Any] = []

    class Stream:
        async def send(self, frame: dict[str, Any]) -> None:
            told.append(frame["state"])
            session._note(Pairing(State.CONNECTED))

        async def receive(self) -> None:
            await asyncio.Event().wait()

    await asyncio.wait_for(rig.channel._on_pair({}, Stream()), PATIENCE)  # type: ignore[arg-type]
    assert told == ["linking", "connected"]


# --- no storms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("expire", "lasts"), [({}, 3_600_000), ({"expire": "1"}, 60_000)])
async def test_a_ban_without_a_time(rig: Rig, whatsapp: FakeWhatsApp, expire: dict[str, str], lasts: int) -> None:
    """It is no reason to try at once."""
    async with rig.living():
        await rig.link(whatsapp)
    whatsapp.failure = {"reason": "402", "code": "101", **expire}
    again = Rig(rig.folder)
    async with again.living():
        await again.state("banned_until")
        assert again.channel._session._banned_until == again.now + lasts


async def test_dropped_after_each_login(linked: Rig, whatsapp: FakeWhatsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses grow."""
    welcome = whatsapp._welcome

    def and_drop(connection: Connection) -> None:
        welcome(connection)
        asyncio.get_running_loop().call_later(0.05, connection.drop)

    monkeypatch.setattr(whatsapp, "_welcome", and_drop)
    whatsapp.drop()
    await linked.ears.until(lambda: len(linked.ears.accounts) >= 3)
    assert linked.channel._session._tries >= 2


async def test_an_unknown_error_of_the_stream(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """The connection is given up for a new one."""
    whatsapp.stream_error("599")
    await linked.state("disconnected")
    assert "ended the connection" in linked.channel.detail
    await linked.state("connected")


@pytest.mark.parametrize("state", ["disconnected", "banned_until"])
async def test_logout_in_a_pause(linked: Rig, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """No code is shown that nobody asked for."""
    monkeypatch.setattr(session_module, "_SLICE", 0.05)
    session = linked.channel._session
    if state == "disconnected":
        session.renew("test")
    else:
        session._on_ban(60_000)
    await session._idle.wait()
    assert linked.channel.state == state
    await session.logout()
    linked.now += 61_000
    await stays(linked, "logged_out")
    session.ask()
    await linked.qr()


async def test_a_store_that_recovers_wakes_nobody(linked: Rig, whatsapp: FakeWhatsApp) -> None:
    """What waits for a person waits on."""
    session = linked.channel._session
    whatsapp.replace()
    await linked.state("replaced")
    session.hold("the disk is full")
    session.release()
    await session._idle.wait()
    await stays(linked, "replaced")


# --- the look before a connect -------------------------------------------------------------------


async def test_the_proxy_is_asked(rig: Rig, whatsapp: FakeWhatsApp) -> None:
    """Where it lets nobody through, the library is not let loose."""
    assert await probe() is None
    whatsapp.refuse = True
    async with rig.living():
        await rig.state("disconnected")
        assert "does not let us through" in rig.channel.detail
        assert rig.channel._session._lives == 0


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:80x", "http://[", "http://"])
async def test_a_proxy_that_is_no_address(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is said."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert "HTTPS_PROXY is no address" in (await probe() or "")


async def test_connects_that_fail_become_rare(
    rig: Rig, whatsapp: FakeWhatsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs something for ever; one that succeeds ends that."""
    monkeypatch.setenv(
        "HTTPS_PROXY", f"socks5://127.0.0.1:{whatsapp.port}"
    )  # of which it is only seen that it is there
    whatsapp.refuse = True
    session: Session = rig.channel._session
    async with rig.living():
        await rig.state("disconnected")
        assert session._slowest == 120
        whatsapp.refuse = False
        await rig.link(whatsapp)
        assert session._slowest == 60
