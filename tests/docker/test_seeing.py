"""Pictures through the real container and the real CLI: what the model's API is asked with."""

import asyncio
import io
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from PIL import Image

from nanoclaw.gateway.request import rebuild
from nanoclaw.mailbox import Prompt, TurnDone
from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.spec import LABEL_INSTALL
from tests.agent_harness import Agent, agent_of, source
from tests.model_server import Seen, Text, ToolUse

Start = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
def start(sandbox: DockerSandbox, make_spec: Callable[..., Spec]) -> Start:
    """Start an agent for the kitchen group: `async with start() as agent`."""
    return lambda session="": agent_of(sandbox, make_spec(), session=session)


def picture(width: int = 300, colour: str = "red", form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 200), colour).save(out, form)
    return out.getvalue()


def keep(agent: Agent, name: str, data: bytes) -> str:
    """A file as the host keeps it."""
    path = Path(source(agent.spec, "/workspace/media")) / name
    path.write_bytes(data)
    path.chmod(0o644)
    return name


async def ask(agent: Agent, turn: str, text: str, *images: str) -> TurnDone:
    agent.put(Prompt(turn, text, images))
    return await agent.done(turn)


def content(seen: Seen) -> list[dict[str, Any]]:
    """The blocks that people's messages had, all of them."""
    blocks = [m["content"] for m in seen.body["messages"] if m["role"] == "user"]
    return [b for blocks_of in blocks if isinstance(blocks_of, list) for b in blocks_of]


def images(seen: Seen) -> list[dict[str, Any]]:
    return [b for b in content(seen) if b["type"] == "image"]


async def test_pictures_are_shown_and_bad_ones_are_named(start: Start) -> None:
    """Beside the text, as the gateway lets them pass; a bad one stops neither its turn nor the session."""
    async with start() as agent:
        names = [
            keep(agent, "1-wide.png", picture(9000)),
            keep(agent, "2-cut.jpg", os.urandom(3000)),
            keep(agent, "3-sticker.webp", picture(form="WEBP")),
        ]
        assert (await ask(agent, "t1", "what is this?", *names)).outcome == "ok"
        assert agent.reply("t1") == "You said: what is this?"
        seen = agent.model.requests[-1]
        assert len(images(seen)) == 2
        assert b"2-cut.jpg is unusable: it cannot be decoded" in seen.raw
        assert b"[/workspace/media/3-sticker.webp]" in seen.raw
        rebuild(seen.raw, search=False)
        done = await ask(agent, "t2", "and now?")
        assert done.outcome == "ok"
        assert len(images(agent.model.requests[-1])) == 2
    async with start(session=done.session) as agent:
        assert (await ask(agent, "t3", "do you remember?")).outcome == "ok"
        assert len(images(agent.model.requests[-1])) == 2


async def test_a_session_bears_more_pictures_than_twenty(start: Start) -> None:
    """From the 21st on the API takes none over 2,000 pixels."""
    async with start() as agent:
        names = [keep(agent, f"{n}.jpg", picture(3000 + n, form="JPEG")) for n in range(10)]
        for turn in ("t1", "t2", "t3"):
            assert (await ask(agent, turn, "look", *names)).outcome == "ok"
        assert len(images(agent.model.requests[-1])) == 30


async def test_a_picture_comes_with_a_follow_up(start: Start) -> None:
    """It joins the turn that runs."""
    async with start() as agent:
        group = source(agent.spec, "/workspace/group")
        agent.model.script(ToolUse("Bash", {"command": "until [ -e go ]; do sleep 0.05; done"}), Text("both"))
        agent.put(Prompt("t1", "one"))
        await agent.event("t1", "tool")
        agent.put(Prompt("t2", "two", (keep(agent, "1.png", picture()),)))
        (group / "go").touch()
        assert (await agent.done("t2")).outcome == "ok"
        await agent.done("t1")
        assert any(images(seen) for seen in agent.model.requests)


async def test_without_pictures_nothing_is_imported(
    start: Start, engine: DockerClient, agent_image: str, install_id: str
) -> None:
    """A text's turn pays nothing for pictures: its message is plain text, and the agent's modules load no Pillow."""
    async with start() as agent:
        agent.model.script(Text("done"))
        assert (await ask(agent, "t1", "hello")).outcome == "ok"
        assert content(agent.model.requests[-1]) == []  # no blocks: plain text
    # Nobody may look into the process that speaks to the host, so its modules are loaded in one of the test's own.
    script = "import sys, agent.__main__, agent.turns; print('PIL' in sys.modules, 'agent.pictures' in sys.modules)"
    printed = await asyncio.to_thread(
        engine.containers.run, agent_image, entrypoint=["python3", "-s", "-P", "-c", script],
        network_mode="none", remove=True, labels={LABEL_INSTALL: install_id},
    )  # fmt: skip
    assert printed.split() == [b"False", b"False"]


async def test_read_shows_a_picture_too(start: Start) -> None:
    """The agent's own look at a file passes the gateway, and one at a broken file leaves the session whole."""
    async with start() as agent:
        keep(agent, "1.png", picture(9000))
        keep(agent, "2.png", picture()[:60])
        agent.model.script(
            ToolUse("Read", {"file_path": "/workspace/media/1.png"}),
            ToolUse("Read", {"file_path": "/workspace/media/2.png"}),
            Text("seen"),
        )
        first = await ask(agent, "t1", "look yourself")
        assert (await ask(agent, "t2", "go on")).outcome == "ok", first
        for seen in agent.model.requests:
            rebuild(seen.raw, search=False)
