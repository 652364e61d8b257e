"""The product against the stand-in: linked, restarted, stopped at bad moments, thrown out."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.whatsapp.product import PATIENCE, Product
from tests.whatsapp.server import FakeWhatsApp

NOBODY = "unix:///nonexistent/engine.sock"  # commands need no container


@pytest.fixture
async def product(memory: Path, whatsapp: FakeWhatsApp) -> AsyncIterator[Product]:
    """A home of which nothing is left."""
    made = Product(memory, whatsapp, engine=NOBODY)
    yield made
    await made.kill()


async def test_from_the_first_start_to_a_restart(product: Product, whatsapp: FakeWhatsApp) -> None:
    """It shows a QR; once linked it answers the owner's /help; stopped and started again it needs no QR."""
    await product.link(whatsapp)
    assert product.process
    # The library saw it from its first moment on: else it marks texts as those of a business's bot.
    assert b"NEONIZE_BOT_TAG=off" in Path(f"/proc/{product.process.pid}/environ").read_bytes()
    whatsapp.type("/help")
    answer = await whatsapp.next_sent(PATIENCE)
    assert (answer.chat, "/status" in answer.text) == (str(whatsapp.owner.jid), True)
    assert await product.end() == 0
    id = whatsapp.type("/help")  # while it is away
    await product.start()
    await whatsapp.acknowledged(id, PATIENCE)
    assert "/status" in (await whatsapp.next_sent(PATIENCE)).text
    assert await product.end() == 0
    assert whatsapp.logins == 2


async def test_stopped_while_a_qr_is_shown(product: Product) -> None:
    """The library cannot be stopped there; the process ends all the same."""
    await product.start()
    await product.qr()
    assert await product.end() == 0


async def test_stopped_in_mid_send(product: Product, whatsapp: FakeWhatsApp) -> None:
    """An answer that was never acknowledged is sent again by the next life."""
    await product.link(whatsapp)
    whatsapp.acks = False
    whatsapp.type("/help")
    first = await whatsapp.next_sent(PATIENCE)
    assert await product.end() == 0  # without the 75 s that the library waits
    whatsapp.acks = True
    await product.start()
    assert (await whatsapp.next_sent(PATIENCE)).text == first.text


@pytest.mark.parametrize(("trouble", "state"), [("log_out", "logged_out"), ("replace", "replaced")])
async def test_thrown_out(product: Product, whatsapp: FakeWhatsApp, trouble: str, state: str) -> None:
    """A session that is over is a state with an advice; the process lives on, quietly."""
    await product.link(whatsapp)
    logins = whatsapp.logins
    getattr(whatsapp, trouble)()
    assert (await product.state(state))["detail"]
    process = product.process
    assert process
    for quiet in range(10):  # it may still be closing
        used = _cpu_seconds(process.pid)
        await asyncio.sleep(1.0)
        if _cpu_seconds(process.pid) - used < 0.5:
            break
        assert quiet < 9, "it is busy with nothing"
    assert process.returncode is None
    assert whatsapp.logins == logins
    assert await product.end() == 0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_the_session_is_nobody_elses(product: Product, whatsapp: FakeWhatsApp) -> None:
    """Keys and codes are readable by the owner of the home alone, and no log line tells a QR or a number."""
    await product.start()
    qr = await product.qr()
    whatsapp.scan(qr)
    await product.state("connected")
    whatsapp.say(whatsapp.person("777", "15552223333", "Zebulon"), "a secret of Zebulon's")
    whatsapp.type("/help")
    await whatsapp.next_sent(PATIENCE)
    folder = product.home / "whatsapp"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o077 for p in folder.iterdir() if p.stat().st_mode & 0o077} == {}
    await product.end()
    logs = "".join(p.read_text() for p in (product.home / "logs").iterdir())
    assert logs
    for secret in (qr.rpartition(",")[0][-40:], whatsapp.owner.number, "15552223333", "Zebulon", "secret"):
        assert secret not in logs
