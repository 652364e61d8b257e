"""The same with everything real but WhatsApp's server and the model: the engine, the containers, Claude Code."""

import asyncio
import contextlib
import functools
import itertools
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from docker import DockerClient
from docker.errors import APIError

from nanoclaw.sandbox.spec import LABEL_INSTALL
from tests.chaos.house import House, built
from tests.chaos.judge import numbers
from tests.chaos.phones import Phones
from tests.chaos.storm import Storm
from tests.fakes import KEY
from tests.model_server import ModelServer, Seen, Status, Step, Text, ToolUse

_KINDS = ("plain", "tool", "aside", "command", "edit", "delete")
# The engine itself is not stopped: other containers may live in it.
_TROUBLES = ("drop", "deaf", "agent dies", "agents die", "clock", "no commit")
_SLOWER = 3.0  # a container takes a second to start
_OVERLOADED = 10  # each request of that number is refused, and the CLI tries again
_TOOL = re.compile(r"^!tool (acted m\d+)$", re.MULTILINE)


@asynccontextmanager
async def built_with(engine: DockerClient) -> AsyncIterator[House]:
    """A house, and the model that its agents ask."""
    async with ModelServer(keys=set(KEY.values())) as server:
        server.answer(model())
        kind = functools.partial(EngineHouse, engine=engine)
        async with built(kind, {"NANOCLAW_BASE_URL": server.url}, small=False) as house:
            yield house


def storm(house: House, seed: int, kills: int) -> Storm:
    """What can go wrong here."""
    return Storm(house, seed, kills, slower=_SLOWER, kinds=_KINDS, troubles=_TROUBLES)


def model() -> Callable[[Seen], Step]:
    """The model's part: it uses the tools that it is told to, once, and says what it has read."""
    requests = itertools.count(1)

    def answer(seen: Seen) -> Step:
        if next(requests) % _OVERLOADED == 0:
            return Status(529, retry_after=0.1)
        wanted = [text for text in _TOOL.findall(seen.said) if text not in json.dumps(_calls(seen))]
        if wanted:
            return tuple(ToolUse("mcp__nanoclaw__send_message", {"text": text}) for text in wanted)
        return Text("answered " + " ".join(f"m{n}" for n in sorted(numbers(seen.said))))

    return answer


def _calls(seen: Seen) -> list[object]:
    """The tools that were used in this conversation, and what with."""
    said = [m.get("content") for m in seen.body.get("messages", []) if m.get("role") == "assistant"]
    blocks = [block for content in said if isinstance(content, list) for block in content]
    return [block.get("input") for block in blocks if block.get("type") == "tool_use"]


class EngineHouse(House):
    """A house whose agents live in containers."""

    scripted = False

    def __init__(self, folder: Path, phones: Phones, env: dict[str, str], engine: DockerClient) -> None:
        super().__init__(folder, phones, env | {"CHAOS_SANDBOX": "engine"})
        self._engine = engine

    async def kill_agents(self, which: slice) -> None:
        """Containers die, as of the kernel's hand."""
        for name in (await self.containers())[which]:
            with contextlib.suppress(APIError):  # it was quicker
                await asyncio.to_thread(self._engine.containers.get(name).kill)

    async def containers(self) -> list[str]:
        """Those of this home that the engine has."""
        return [c.name for c in await asyncio.to_thread(self._mine)]

    def _mine(self):  # type: ignore[no-untyped-def]
        with contextlib.closing(sqlite3.connect(self.database)) as tx:
            (install,) = tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()
        return self._engine.containers.list(all=True, filters={"label": f"{LABEL_INSTALL}={install}"})

    async def close(self) -> None:
        """Nothing of it is left, whatever happened."""
        await super().close()
        if self.database.exists():
            for container in await asyncio.to_thread(self._mine):
                with contextlib.suppress(APIError):
                    await asyncio.to_thread(container.remove, force=True, v=True)
