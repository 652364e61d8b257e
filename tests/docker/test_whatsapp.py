"""Once through everything: WhatsApp's library, host, container, Claude Code; only server and model are stand-ins."""

import asyncio
import re
from pathlib import Path

import pytest
from docker import DockerClient

from nanoclaw import app
from nanoclaw.sandbox.spec import LABEL_INSTALL
from nanoclaw.store import Store
from tests.model_server import ModelServer, Seen, Step, Text, ToolUse
from tests.whatsapp.product import KEY, Product
from tests.whatsapp.server import FakeWhatsApp

PATIENCE = 90.0  # seconds: a container starts, and the library writes its first keys to a disk


async def test_a_message_goes_through_everything_and_back(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """The owner writes to "message yourself"; the phone sees 👀, then decrypts what Claude Code answered."""
    async with ModelServer(keys={KEY}) as model, FakeWhatsApp() as whatsapp:
        product = Product(folder / "home", whatsapp, base_url=model.url)
        try:
            await product.link(whatsapp)
            id = whatsapp.type("what is the answer?")
            seen = (await whatsapp.next_reaction(PATIENCE)).message.reactionMessage
            assert (seen.text, seen.key.ID) == ("👀", id)
            answer = await whatsapp.next_sent(PATIENCE)
            assert (answer.chat, "what is the answer?" in answer.text) == (str(whatsapp.owner.jid), True)
            assert model.requests[0].headers["x-api-key"] == KEY
            assert await product.end() == 0
        finally:
            await product.kill()
            await nothing_left(product.home, engine)


@pytest.mark.timeout(300)
async def test_remind_me(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """What is asked for in a chat comes there at its time, once: also when the host was not there in time."""
    async with ModelServer(keys={KEY}) as model, FakeWhatsApp() as whatsapp:
        model.answer(remind)
        product = Product(folder / "home", whatsapp, base_url=model.url)
        try:
            await product.link(whatsapp)
            whatsapp.type("remind me of the bins in 1 s")
            said = {(await whatsapp.next_sent(PATIENCE)).text for _ in range(2)}
            assert {next(iter(text.split(":"))) for text in said} == {"I will", "Remember the bins"}
            whatsapp.type("remind me of the milk in 9 s")
            assert "I will: Task 2: once" in (await whatsapp.next_sent(PATIENCE)).text
            assert await product.end() == 0
            await asyncio.sleep(9)
            for life in range(2):
                await product.start()
                await product.state("connected")
                if not life:
                    again = await whatsapp.next_sent(PATIENCE)
                    assert (again.chat, again.text) == (str(whatsapp.owner.jid), "Remember the milk: now")
                await asyncio.sleep(2)
                assert await product.end() == 0
            assert whatsapp.sent.empty()
        finally:
            await product.kill()
            await nothing_left(product.home, engine)


def remind(seen: Seen) -> Step | None:
    """A model that has what it is asked for scheduled, tells the answer, and does it when it is due."""
    if seen.tool_results:
        return Text(f"I will: {seen.tool_results[0]}")
    if found := re.search(r"<task-.*>\n(.+)\n</task-", seen.said):
        return Text(f"Remember the {found[1]}: now")
    if found := re.search(r"remind me of the (\w+) in (\d+) s", seen.said):
        wish = {"prompt": found[1], "in_seconds": int(found[2])}
        return ToolUse("mcp__nanoclaw__schedule_task", wish)
    return None


async def nothing_left(home: Path, engine: DockerClient) -> None:
    """No container of this home stays, whatever happened."""
    async with app.opened(Store(home / "nanoclaw.db")) as store:
        (install,) = await store.read(lambda tx: tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone())
    find = {"label": f"{LABEL_INSTALL}={install}"}
    for container in await asyncio.to_thread(engine.containers.list, all=True, filters=find):
        await asyncio.to_thread(container.remove, force=True)


PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.mark.timeout(300)
async def test_a_picture_and_a_question(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """What Claude Code made in its container opens on the phone, byte for byte; its question is answered there by "2",
    which is no prompt."""
    async with ModelServer(keys={KEY}) as model, FakeWhatsApp() as whatsapp:
        model.answer(draw)
        product = Product(folder / "home", whatsapp, base_url=model.url)
        try:
            await product.link(whatsapp)
            whatsapp.type("draw me a chart")
            picture = (await whatsapp.next_sent(PATIENCE)).message.imageMessage
            assert (picture.caption, whatsapp.host.open(picture, "Image")) == ("the chart", PICTURE)
            assert (await whatsapp.next_sent(PATIENCE)).text.startswith("Shall I keep it?\n\n1. Yes\n2. No")
            whatsapp.type("2")
            assert (await whatsapp.next_sent(PATIENCE)).text == "Then I will not: No"
            assert not any(seen.said.endswith("\n2\n") or ">\n2\n<" in seen.said for seen in model.requests)
            assert await product.end() == 0
            assert whatsapp.sent.empty()
        finally:
            await product.kill()
            await nothing_left(product.home, engine)


def draw(seen: Seen) -> Step | None:
    """A model that makes a picture, sends it, asks, and tells what it was answered."""
    last = seen.tool_results[0] if seen.tool_results else ""
    if "chose 2: " in last:
        return Text(f"Then I will not: {last.partition('2: ')[2]}")
    if last == "Sent.":
        return ToolUse("mcp__nanoclaw__ask_user", {"question": "Shall I keep it?", "options": ["Yes", "No"]})
    if last:
        return ToolUse("mcp__nanoclaw__send_file", {"path": "/workspace/group/chart.png", "caption": "the chart"})
    if "draw me a chart" in seen.said:
        make = "open('chart.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(range(256)) * 40)"
        return ToolUse("Bash", {"command": f'cd /workspace/group && python3 -c "{make}" && echo made'})
    return None
