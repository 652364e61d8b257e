"""The group's second model with the real Claude Code: it answers while the first one is overloaded."""

from dataclasses import replace
from pathlib import Path

from docker import DockerClient

from nanoclaw.channels.control_sock import connect
from nanoclaw.config import DEFAULT_MODEL
from nanoclaw.store import Tx, chats
from tests.docker.test_host import KEY, Living, hosting
from tests.model_server import ModelServer, Seen, Status, Step

SECOND = "claude-opus-5-5"


def give_second(tx: Tx) -> None:
    group = chats.group_by_folder(tx, "family")
    assert group is not None
    chats.save_group(tx, replace(group, fallback_model=SECOND))


async def told(living: Living) -> list[dict[str, object]]:
    """What `nanoclaw status` says of it."""
    async with await connect(living.config.home / "control.sock") as client:
        return list((await client.call("status"))["fallback"])


async def status(living: Living) -> str:
    """What the owner is told in the chat."""
    before = len(living.channel.sent)
    await living.channel.say("family", "/status", "Ben")
    await living.channel.until(before + 1, 25.0)
    return living.channel.texts[-1]


async def test_the_second_model_answers_while_the_first_is_overloaded(
    folder: Path, engine: DockerClient, agent_image: str
) -> None:
    """Told in /status and in `nanoclaw status` until the first one answers again, each at its own price."""
    overloaded = True

    def choose(seen: Seen) -> Step | None:
        return Status(529) if overloaded and seen.body.get("model") == DEFAULT_MODEL else None

    async with ModelServer(keys={KEY}) as model, hosting(folder, engine, model) as living:
        model.answer(choose)
        await living.store.write(give_second)
        assert "hello" in await living.turn("hello")
        assert await living.rows("SELECT DISTINCT model FROM usage WHERE cost > 0") == [{"model": SECOND}]
        assert "because claude-sonnet-5-5 is overloaded" in await status(living)
        assert [(f["model"], f["instead_of"]) for f in await told(living)] == [(SECOND, DEFAULT_MODEL)]
        overloaded = False
        assert "again" in await living.turn("again")
        assert await told(living) == []
        assert "overloaded" not in await status(living)
