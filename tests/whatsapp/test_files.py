"""What agents send besides words: files, signs, edits and questions, as a phone gets them."""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from neonize.exc import UploadError
from neonize.proto.Neonize_pb2 import UploadResponse

from nanoclaw import app, groups
from nanoclaw.channels.whatsapp import client, outbound, uploads
from nanoclaw.channels.whatsapp.uploads import upload
from nanoclaw.errors import Busy, NotConnected, SendRefused
from nanoclaw.models import OutFile, OutKind
from nanoclaw.store import Store
from tests.fakes import ROOT, ProcessSandbox, eventually
from tests.whatsapp.channel import Rig, row
from tests.whatsapp.server import FakeWhatsApp

PATIENCE = 120.0  # seconds: a process starts, and the library writes its first keys
UP = UploadResponse(
    url="https://mmg.whatsapp.net/v/1", DirectPath="/v/1", MediaKey=b"k" * 32, FileSHA256=b"s" * 32,
    FileEncSHA256=b"e" * 32, FileLength=9, Handle="",
)  # fmt: skip
SIX = [
    ("a.png", b"\x89PNG\r\n\x1a\n", "imageMessage", "Image"),
    ("a.mp4", b"\0\0\0\x20ftypisom", "videoMessage", "Video"),
    ("a.ogg", b"OggS" + bytes(24) + b"OpusHead", "audioMessage", "Audio"),
    ("a.mp3", b"ID3\x04", "audioMessage", "Audio"),
    ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "stickerMessage", "Image"),
    ("a.pdf", b"%PDF-1.7", "documentMessage", "Document"),
]


@pytest.mark.parametrize("kind", ["image", "video", "voice", "audio", "sticker", "document"])
def test_a_file_is_shown_as_what_it_is(kind: str) -> None:
    """With what a phone needs to open it, a caption where it shows one, and the chat's timer."""
    file = OutFile("a.bin", kind, "x/y", 9, "kept/family/outgoing/r-1", "groups/family/a.bin")
    out = replace(row("", "777@lid", OutKind.FILE, expires=604800), file=file)
    message = outbound.file_message(out, file, UP, "*Andy:* Look")
    part = getattr(message, {"voice": "audio"}.get(kind, kind) + "Message")
    assert (part.URL, part.directPath, part.mediaKey) == (UP.url, UP.DirectPath, UP.MediaKey)
    assert (part.fileSHA256, part.fileEncSHA256, part.fileLength, part.mimetype) == (b"s" * 32, b"e" * 32, 9, "x/y")
    assert part.contextInfo.expiration == 604800
    assert getattr(part, "caption", "") == ("*Andy:* Look" if kind in ("image", "video", "document") else "")
    assert getattr(part, "PTT", False) is (kind == "voice")
    assert getattr(part, "fileName", "") == ("a.bin" if kind == "document" else "")


async def test_a_copy_that_is_gone_is_said(memory: Path, whatsapp: FakeWhatsApp) -> None:
    """The row is dead then; no other waits for it."""
    rig = Rig(memory / "whatsapp")
    file = OutFile("a.bin", "image", "image/png", 5, "kept/family/outgoing/r-1", "groups/family/a.bin")
    with pytest.raises(SendRefused, match="copy of the file is gone"):
        await rig.channel.send(replace(row("", "777@lid", OutKind.FILE), file=file))


async def test_a_lost_connection_is_no_refusal_of_the_file(tmp_path: Path) -> None:
    """It is sent when WhatsApp is back; but no file holds all others up by that for ever."""

    class Lost:
        uploads = None

        async def call(self, _: object) -> Any:
            raise UploadError("failed to refresh media connections: websocket disconnected before info query returned")

    (tmp_path / "r-1").write_bytes(b"x")
    session: Any = Lost()
    file, cut = OutFile("a.png", "image", "image/png", 1, "r-1", "groups/family/a.png"), Counter[str]()
    for _ in range(3):
        with pytest.raises(NotConnected):
            await upload(session, tmp_path, file, cut)
    with pytest.raises(SendRefused):
        await upload(session, tmp_path, file, cut)


async def test_an_upload_that_takes_too_long_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any text that was not taken; a large file has more time."""

    class Slow:
        uploads = None

        async def call(self, _: object) -> Any:
            await asyncio.Event().wait()

    (tmp_path / "r-1").write_bytes(b"x")
    monkeypatch.setattr(uploads, "_LIMIT", 0.01)
    session: Any = Slow()
    file = OutFile("a.png", "image", "image/png", 1, "r-1", "groups/family/a.png")
    for _ in range(3):
        with pytest.raises(SendRefused, match="took too long"):
            await upload(session, tmp_path, file, Counter())


async def test_no_upload_takes_the_room_of_texts(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library never gives one up: two hang at most, and calls of other kinds go on beside them."""
    hold = threading.Event()
    monkeypatch.setattr(client, "_go", SimpleNamespace(UploadX=hold.wait, SendX=lambda: b"sent", Stop=lambda _: None))
    one = client.Client(memory / "session.db", "uuid", (), lambda _: None)
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.UploadX(), 0.05)
        with pytest.raises(Busy):
            await one.UploadX()
        assert await one.SendX() == b"sent"
        assert one.uploads.haunted
        session: Any = SimpleNamespace(uploads=one.uploads)
        file = OutFile("a.png", "image", "image/png", 1, "gone", "groups/family/a.png")
        with pytest.raises(Busy):  # its copy is not even looked for
            await upload(session, memory, file, Counter())
    finally:
        hold.set()


async def test_two_files_that_hang_end_no_others(
    memory: Path, whatsapp: FakeWhatsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library gives neither up: a new connection has room for the next one, as far as memory goes, and texts go
    on."""
    hold, begun = threading.Event(), list[int]()

    def hang(*_: object) -> None:
        begun.append(1)
        hold.wait()

    real = client._go

    class Go:
        Upload = staticmethod(hang)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(client, "_go", Go())
    monkeypatch.setattr(uploads, "_LIMIT", 0.3)
    (memory / "r-1").write_bytes(b"x")
    file = replace(row("", "777@lid", OutKind.FILE), file=OutFile("a", "image", "image/png", 1, "r-1", "a"))
    whatsapp.person("777", "15552223333", "Ann")
    rig = Rig(memory / "whatsapp")
    try:
        async with rig.living():
            await rig.link(whatsapp)
            for n in (1, 2, 3):
                with pytest.raises(SendRefused, match="took too long"):
                    await rig.channel.send(file)
                assert len(begun) == n
                await rig.state("connected")
            assert len(rig.ears.accounts) == 2
            await rig.channel.send(row("hi", "777@lid"))
            monkeypatch.setattr(client, "_CARRIED", 3 * client._LEAST)
            with pytest.raises(Busy, match="memory"):
                await rig.channel.send(file)
            hold.set()
            room = rig.channel._session.uploads
            assert room is not None
            await eventually(lambda: not room._carried)
    finally:
        hold.set()


# --- the whole host, as a process of its own: there the library's uploads can be led here ---------


@dataclass
class Living:
    """A host with the real library and scripted agents, linked to the owner's own number."""

    home: groups.Home
    store: Store

    def put(self, name: str, data: bytes) -> None:
        """A file in main's workspace."""
        (self.home.group_dir("main") / name).write_bytes(data)

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        return await self.store.read(lambda tx: [dict(r) for r in tx.execute(sql)])


@pytest.fixture
async def whatsapp_alone() -> AsyncIterator[FakeWhatsApp]:
    """A server that this process's library knows nothing of."""
    async with FakeWhatsApp() as server:
        yield server


@pytest.fixture
async def host(memory: Path, whatsapp_alone: FakeWhatsApp) -> AsyncIterator[Living]:
    home, sandbox = groups.open_home(memory / "home"), ProcessSandbox(memory / "registry")
    groups.make_group(home, "main", os.getuid(), os.getgid())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.host", str(home.root), str(sandbox.registry), "shared"),
        env=whatsapp_alone.env({**os.environ, "PYTHONPATH": str(ROOT)}),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: qr_of(home) or process.returncode is not None, PATIENCE)
        assert process.returncode is None, "the host did not start"
        whatsapp_alone.scan(qr_of(home))
        async with asyncio.timeout(PATIENCE):
            await whatsapp_alone.login()
        async with app.opened(Store(home.db)) as store:
            yield Living(home, store)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        sandbox.kill_all()


def qr_of(home: groups.Home) -> str:
    """What another front end would show."""
    with contextlib.suppress(FileNotFoundError):
        return str(json.loads((home.root / "whatsapp/pairing.json").read_text())["qr"])
    return ""


async def test_a_picture_of_an_agents_gets_to_the_phone(host: Living, whatsapp_alone: FakeWhatsApp) -> None:
    """Asked for in "message yourself", made in the workspace, opened on the phone: the same bytes. While it is on its
    way, commands are answered."""
    data = b"\x89PNG\r\n\x1a\n" + os.urandom(50_000)
    host.put("chart.png", data)
    whatsapp_alone.host.open_for_uploads.clear()
    whatsapp_alone.type('!call send_file {"path": "chart.png", "caption": "the chart"}\n!report')
    await eventually(lambda: any(line.startswith("POST") for line in whatsapp_alone.host.asked), PATIENCE)
    whatsapp_alone.type("/help")
    assert "/stop" in (await whatsapp_alone.next_sent(PATIENCE)).text
    whatsapp_alone.host.open_for_uploads.set()
    picture = await whatsapp_alone.next_sent(PATIENCE)
    assert picture.chat == str(whatsapp_alone.owner.jid)
    assert picture.message.imageMessage.caption == "the chart"
    assert whatsapp_alone.host.open(picture.message.imageMessage, "Image") == data
    assert (await whatsapp_alone.next_sent(PATIENCE)).text == "tools: ok Sent."


async def test_a_question_is_answered_by_its_number(host: Living, whatsapp_alone: FakeWhatsApp) -> None:
    """On the phone it is a message like any other; "2" goes back to the agent that waits, and is no prompt."""
    whatsapp_alone.type('!call ask_user {"question": "Which?", "options": ["Tea", "Milk"]}\n!report')
    question = await whatsapp_alone.next_sent(PATIENCE)
    assert question.text == "Which?\n\n1. Tea\n2. Milk\n\nPlease answer with a number."
    whatsapp_alone.type("2")
    assert (await whatsapp_alone.next_sent(PATIENCE)).text.endswith("chose 2: Milk")
    assert len(await host.rows("SELECT 1 FROM turns")) == 1


async def test_a_sign_and_an_edit_get_to_the_phone(host: Living, whatsapp_alone: FakeWhatsApp) -> None:
    """On what was asked, and on what was said before."""
    id = whatsapp_alone.type(
        '!tool one moment\n!call react {"emoji": "👍"}\n!call edit_message {"text": "done"}\n!report'
    )
    first = await whatsapp_alone.next_sent(PATIENCE)
    edit = await whatsapp_alone.next_sent(PATIENCE)
    change = edit.message.editedMessage.message.protocolMessage
    assert (edit.node.attrs["edit"], change.key.ID) == ("1", first.id)
    assert change.editedMessage.extendedTextMessage.text == "done"
    signs = [(await whatsapp_alone.next_reaction(PATIENCE)).message.reactionMessage for _ in range(2)]
    assert {(sign.text, sign.key.ID) for sign in signs} == {("👀", id), ("👍", id)}
    assert (await whatsapp_alone.next_sent(PATIENCE)).text == "tools: ok Sent. | ok Sent. | ok Sent."


async def test_all_kinds_of_files_arrive(host: Living, whatsapp_alone: FakeWhatsApp) -> None:
    """Encrypted on their way as their kind is, equal byte for byte behind it."""
    made = [(name, head + os.urandom(30_000), field, keys) for name, head, field, keys in SIX]
    for name, data, _, _ in made:
        host.put(name, data)
    whatsapp_alone.type("\n".join(f'!call send_file {{"path": "{name}"}}' for name, *_ in made))
    for _, data, field, keys in made:
        message = (await whatsapp_alone.next_sent(PATIENCE)).message
        assert message.HasField(field)
        assert whatsapp_alone.host.open(getattr(message, field), keys) == data
