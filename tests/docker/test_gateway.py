"""The contract with the pinned CLI: the real one, in its image and without a network, gets through the gateway."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nanoclaw.gateway import Ask, Credential, CredentialKind
from nanoclaw.gateway.model import ModelGateway
from nanoclaw.models import Usage
from tests.model_server import ModelServer, Raw, Seen, Status, Step, Text, Thinking, ToolUse

pytestmark = pytest.mark.docker

# The agent's own forwarder stands before the socket, so that the CLI is told documented variables only.
INSIDE = """
import asyncio, subprocess, sys
from pathlib import Path
from agent.forward import forward, listen

async def main():
    carry = asyncio.create_task(forward(listen(8080), Path("/run/nanoclaw/sockets/model.sock")))
    cli = await asyncio.create_subprocess_exec("claude", *sys.argv[1:], stdin=subprocess.DEVNULL)
    code = await cli.wait()
    carry.cancel()
    sys.exit(code)

asyncio.run(main())
"""
ENV = {
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_MAX_RETRIES": "1",
}


class Count:
    """A Meter that the test reads."""

    def __init__(self) -> None:
        self.uses: list[Usage] = []
        self.no = ""

    def refusal(self, run_id: str) -> str:
        return self.no

    def affords(self, run_id: str, ask: Ask) -> int:
        return ask.output

    def reserve(self, run_id: str, ask: Ask) -> int:
        return 0

    def settle(self, held: int, usage: Usage | None, *, overloaded: bool = False) -> None:
        if usage is not None:
            self.uses.append(usage)


class Wall:
    """The gateway's socket in a folder that the container sees, and the stand-in behind it."""

    def __init__(self, model: ModelServer, meter: Count, folder: Path, image: str) -> None:
        self.model, self.meter, self.folder, self.image = model, meter, folder, image

    async def claude(self, prompt: str, variable: str = "ANTHROPIC_API_KEY") -> tuple[dict[str, object], int]:
        """Run the CLI once; its result and the container's exit code."""
        flags = [
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--tmpfs=/tmp:exec",
            "--tmpfs=/home/agent:mode=1777",
        ]
        env = [f"--env={k}={v}" for k, v in (ENV | {variable: "placeholder"}).items()]
        volume = f"--volume={self.folder}:/run/nanoclaw/sockets:ro"
        ask = ["-p", prompt, "--output-format=json", "--model=claude-sonnet-5-5", "--setting-sources="]
        command = ["docker", "run", "--rm", *flags, *env, volume, "--workdir=/tmp", "--entrypoint=python3", self.image]
        process = await asyncio.create_subprocess_exec(
            *command, "-c", INSIDE, *ask, "--permission-mode=bypassPermissions", stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        try:
            return json.loads(out), process.returncode or 0
        except ValueError:
            pytest.fail(f"the CLI said nothing: {out[-500:]!r} {err[-500:]!r}")


async def open_wall(kind: CredentialKind, image: str) -> AsyncIterator[Wall]:
    meter = Count()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: a socket's path ends at 107 bytes
        Path(folder).chmod(0o755)
        async with ModelServer(keys={"real"}) as model:
            gateway = ModelGateway(lambda: model.url, lambda: Credential(kind, "real"), meter)
            await gateway.open("r", Path(folder), search=True)
            yield Wall(model, meter, Path(folder), image)
            await gateway.aclose()


@pytest.fixture
async def wall(agent_image: str) -> AsyncIterator[Wall]:
    async for wall in open_wall(CredentialKind.API_KEY, agent_image):
        yield wall


@pytest.fixture
async def token_wall(agent_image: str) -> AsyncIterator[Wall]:
    async for wall in open_wall(CredentialKind.OAUTH, agent_image):
        yield wall


def tour(seen: Seen) -> Step:
    """Thinking, a search and a subagent, then the end."""
    if any(t.get("type", "").startswith("web_search") for t in seen.body.get("tools", [])):
        hit = {
            "type": "web_search_result",
            "url": "https://e.org",
            "title": "E",
            "encrypted_content": "x",
            "page_age": None,
        }
        return (
            Raw({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}),
            Raw({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [hit]}),
            Text("found"),
        )
    if seen.said == "look deeper":
        return Text("deep") if seen.tool_results else ToolUse("Bash", {"command": "id -u"})
    steps: list[Step] = [
        (Thinking("hm"), ToolUse("Bash", {"command": "echo from the shell"})),
        ToolUse("WebSearch", {"query": "some news"}),
        ToolUse("Task", {"description": "d", "prompt": "look deeper", "subagent_type": "general-purpose"}),
    ]
    rounds = sum(m["role"] == "assistant" for m in seen.body["messages"])
    return steps[rounds] if rounds < len(steps) else Text("all done")


async def test_tour_of_the_cli_passes(wall: Wall) -> None:
    """Text, thinking, Bash, web search and a subagent: the gateway refuses nothing that the CLI needs."""
    wall.model.answer(tour)
    result, code = await wall.claude("begin")
    assert (code, result["result"], result["is_error"]) == (0, "all done", False)
    assert {r.status for r in wall.model.requests} == {200}
    assert {r.headers["x-api-key"] for r in wall.model.requests} == {"real"}
    assert any("from the shell" in "".join(r.tool_results) for r in wall.model.requests)
    assert any(r.said == "look deeper" for r in wall.model.requests)
    assert len(wall.meter.uses) == sum(r.path == "/v1/messages" for r in wall.model.requests)


async def test_cli_with_a_token_passes(token_wall: Wall) -> None:
    """A placeholder token makes the CLI speak as with a subscription; the real one goes out."""
    result, code = await token_wall.claude("hello", "CLAUDE_CODE_OAUTH_TOKEN")
    assert (code, result["result"]) == (0, "You said: hello")
    assert token_wall.model.requests[0].headers["authorization"] == "Bearer real"


async def test_used_up_budget_stops_the_cli(wall: Wall) -> None:
    """403 is the status at which the CLI gives up at once, and its result holds our sentence."""
    wall.meter.no = "The daily limit is used up."
    result, _ = await wall.claude("hello")
    assert result["is_error"]
    assert "daily limit is used up" in str(result["result"])
    assert not wall.model.requests


async def test_cli_tries_again_after_a_limit(wall: Wall) -> None:
    """429 with retry-after reaches the CLI, which waits and asks again."""
    wall.model.script(Status(429, retry_after=0.1), Text("second try"))
    result, code = await wall.claude("hello")
    assert (code, result["result"]) == (0, "second try")
