"""The command itself, unmodified, against the stand-in for WhatsApp: linked, claimed, talked to, unlinked."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.commands import Terminal, nanoclaw, start
from tests.systemctl import kill_all_of
from tests.whatsapp.server import FakeWhatsApp

pytestmark = pytest.mark.timeout(180)
NO_ENGINE = "unix:///nonexistent.sock"


@pytest.fixture
async def phone() -> AsyncIterator[FakeWhatsApp]:
    async with FakeWhatsApp() as server:
        yield server


def settings(home: Path, phone: FakeWhatsApp, number: str) -> dict[str, str]:
    (home / "nanoclaw.toml").write_text(f'whatsapp = "{number}"\n')
    return phone.env({}) | {"NANOCLAW_ENGINE": NO_ENGINE}


async def qr_in(home: Path) -> str:
    """What another front end would show."""
    file = home / "whatsapp" / "pairing.json"
    while not (file.exists() and (qr := json.loads(file.read_text())["qr"])):
        await asyncio.sleep(0.05)
    return str(qr)


async def test_pair_and_logout(phone: FakeWhatsApp, memory: Path) -> None:
    """Linked by a QR, linked already at the second time, unlinked; standard output holds our words alone."""
    env = settings(memory, phone, "shared")
    process = await start(memory, "pair", **env)
    phone.scan(await qr_in(memory))
    out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"linked\n"), err
    assert await nanoclaw(memory, "pair", **env) == (0, "already linked\n", "")
    code, out_text, err_text = await nanoclaw(memory, "logout", "--yes", **env)
    assert (code, out_text) == (0, "logged out; link again with: nanoclaw pair\n"), err_text
    assert not (memory / "whatsapp" / "session.db").exists()


async def test_the_owner_of_an_own_number(phone: FakeWhatsApp, memory: Path) -> None:
    """Linked by a QR, then claimed from the owner's own WhatsApp."""
    ann = phone.person("777", "15552223333", "Ann")
    process = await start(memory, "pair", **settings(memory, phone, "own"))
    phone.scan(await qr_in(memory))
    assert process.stdout
    told = b""
    while not (code := re.search(rb"^ +([\d -]{8,})$", told, re.MULTILINE)):
        told += await process.stdout.readline()
    phone.say(ann, code[1].decode())
    out, err = await process.communicate()
    assert (process.returncode, b"You are the owner now" in out) == (0, True), err


async def test_chat_shows_the_code_and_then_talks(phone: FakeWhatsApp, memory: Path) -> None:
    """On a fresh home the QR comes first; once linked, "message yourself" is answered while the chat is open."""
    env = settings(memory, phone, "shared")
    terminal = await Terminal.open(memory, "chat", lines=50, **env)
    await terminal.shows("█")
    phone.scan(await qr_in(memory))
    await terminal.shows("linked")
    await terminal.shows("> ")
    phone.type("/help")
    assert "/stop" in (await phone.next_sent()).text
    terminal.type("/help\n")
    await terminal.shows("/stop")
    await terminal.shows("> ")
    terminal.type("\x04")
    assert await terminal.ends() == 0


async def test_ctrl_c_at_the_code_goes_on_to_the_chat(phone: FakeWhatsApp, memory: Path) -> None:
    """Whoever does not link now talks here all the same; what is typed is edited as ever."""
    terminal = await Terminal.open(memory, "chat", lines=50, **settings(memory, phone, "shared"))
    await terminal.shows("█")
    terminal.press_ctrl_c()
    await terminal.shows("\x1b[?1049l")
    await terminal.shows("> ")
    terminal.type("/hep\x1b[Dl\n")
    await terminal.shows("/stop")
    await terminal.shows("> ")
    terminal.type("\x04")
    assert await terminal.ends() == 0


async def test_run_shows_the_code(phone: FakeWhatsApp, memory: Path) -> None:
    """In a terminal; into a log goes one line of advice, and never the code."""
    env = settings(memory, phone, "shared")
    process = await start(memory, "run", **env)
    qr = await qr_in(memory)
    assert process.stderr
    told = b""
    while b"nanoclaw pair" not in told:
        told += await process.stderr.readline()
    assert (await nanoclaw(memory, "stop"))[0] == 0
    out, rest = await process.communicate()
    assert (process.returncode, out, qr.encode() in told + rest) == (0, b"", False)
    terminal = await Terminal.open(memory, "run", lines=50, **env)
    await terminal.shows("With your phone")
    await terminal.shows("█")
    terminal.press_ctrl_c()
    assert await terminal.ends() == 0


async def test_uninstall(phone: FakeWhatsApp, memory: Path) -> None:
    """While it serves in the background: unlinked and stopped; the home goes only when it is said so."""
    (memory := memory / "home").mkdir()
    env = settings(memory, phone, "shared") | {"PATH": "/nonexistent"}  # no test touches the machine's systemd
    try:
        await _uninstalled(phone, memory, env)
    finally:
        kill_all_of(memory)


async def _uninstalled(phone: FakeWhatsApp, memory: Path, env: dict[str, str]) -> None:
    assert (await nanoclaw(memory, "up", **env))[0] == 0
    phone.scan(await qr_in(memory))
    while json.loads((memory / "whatsapp/pairing.json").read_text())["state"] != "connected":
        await asyncio.sleep(0.05)
    code, out, err = await nanoclaw(memory, "uninstall", **env)
    assert (code, err) == (0, "")
    assert "WhatsApp is unlinked." in out
    assert "The assistant is stopped." in out
    assert "stay where the engine is" in out
    assert f"{memory} stays." in out
    assert not (memory / "whatsapp/session.db").exists()
    assert (memory / "nanoclaw.db").exists()
    assert (await nanoclaw(memory, "uninstall", "--purge", **env))[0] == 0
    assert not memory.exists()
    code, out, _ = await nanoclaw(memory, "uninstall", "--purge", **env)
    assert (code, "There is no home" in out) == (0, True)
