"""Limits in dollars with the real Claude Code: what it asks for is held back, and people are told in words."""

from pathlib import Path

from docker import DockerClient

from nanoclaw import app
from nanoclaw.models import Usage
from nanoclaw.store import ledger
from tests.docker.test_host import KEY, hosting
from tests.model_server import ModelServer, Text, ToolUse


async def test_a_turn_that_becomes_too_expensive_is_stopped_and_told(
    folder: Path, engine: DockerClient, agent_image: str
) -> None:
    """In the middle, once its money is used up; every request is a row with its turn and its cost."""
    async with ModelServer(keys={KEY}) as model, hosting(folder, engine, model, budget_turn=0.2) as living:
        for n in range(30):
            model.script((Text("word " * 4000), ToolUse("Bash", {"command": f"echo {n}"})), when='"tools":')
        assert "too expensive" in await living.turn("work hard")
        rows = await living.rows("SELECT turn_id, cost FROM usage WHERE cost > 0")
        turns = await living.rows("SELECT id, state, error FROM turns")
        assert [(t["state"], t["error"].partition(":")[0]) for t in turns] == [("failed", "cost")]
        assert {r["turn_id"] for r in rows} == {turns[0]["id"]}
        assert 0.05 < sum(r["cost"] for r in rows) / 1e9 <= 0.2


async def test_a_used_up_day_parks_the_lane(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """Before a byte goes to the model; the message is kept."""
    async with ModelServer(keys={KEY}) as model, hosting(folder, engine, model, budget_group_day=1) as living:
        (group,) = await living.rows("SELECT id FROM groups WHERE folder = 'family'")
        used = (group["id"], "r", Usage("claude-sonnet-5-5"), app.now_ms(), "", 990_000_000)
        await living.store.write(ledger.add_usage, *used)
        assert "My limit for now is used up" in await living.turn("hello")
        assert model.requests == []
        assert await living.rows("SELECT 1 FROM lanes WHERE parked = 'budget'")
