"""Starts the CLI by hand: it boots while Python still imports the SDK, which builds the same command."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.places import Places

if TYPE_CHECKING:
    from mailbox import Open

MAX_COMMAND = 7_200_000  # ms; the host ends a turn after 2 h anyway. One that asks for more than 2 min announces it
MAX_LINE = 64 << 20  # one message of the CLI: a picture in a tool result is the largest

# No scheduler, workflow or worktree of the CLI's own: what runs later is the host's business.
TOOLS = (
    "Bash",
    "Read",
    "Write",
    "Edit",
    "Glob",
    "Grep",
    "WebFetch",
    "WebSearch",
    "Skill",
    "TodoWrite",
    "Agent",
)
SERVER = {"type": "sdk", "name": "nanoclaw"}  # our tools, answered by this process

# Whatever the image or the agent's files say, these hold for the CLI and all that it starts.
_FIXED = {
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # their results would start turns that nobody asked for
    "CLAUDE_CODE_DISABLE_BUNDLED_SKILLS": "1",
    "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",  # git status runs what a planted .git/config names
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_DISABLE_WORKFLOWS": "1",
    "CLAUDE_CODE_ENABLE_TASKS": "0",  # TodoWrite instead: one tool, the whole list at once
    "CLAUDE_CODE_MAX_RETRIES": "4",
    "ENABLE_TOOL_SEARCH": "false",  # our few tools are shown at once
    "MCP_TOOL_TIMEOUT": "2400000",  # ms; above the 30 min that a tool waits for a restarting host
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-5-5",  # WebFetch summarises with it
    "BASH_DEFAULT_TIMEOUT_MS": "120000",
    "BASH_MAX_TIMEOUT_MS": str(MAX_COMMAND),
    "BASH_ENV": "",
    "ENV": "",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "SHELL": "/bin/bash",
    "TMPDIR": "/tmp",  # noqa: S108  # a tmpfs of this container alone
}
_OURS = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "CLAUDECODE")


def command(places: Places, opened: "Open", prompt: str) -> list[str]:
    """The argument list, in the SDK's order (a test compares)."""
    argv = [str(places.cli), "--output-format", "stream-json", "--verbose", "--append-system-prompt", prompt]
    argv += ["--tools", ",".join(TOOLS)]
    argv += ["--max-turns", str(opened.max_turns)] if opened.max_turns else []
    argv += ["--model", opened.model]
    argv += ["--fallback-model", opened.fallback_model] if opened.fallback_model else []
    argv += ["--permission-mode", "bypassPermissions"]
    argv += [f"--resume={opened.session}"] if opened.session else []
    argv += ["--settings", str(places.settings), "--mcp-config", json.dumps({"mcpServers": {"nanoclaw": SERVER}})]
    argv += ["--include-partial-messages", "--strict-mcp-config", "--setting-sources="]
    for plugin in places.plugins:
        argv += ["--plugin-dir", str(plugin)]
    return [*argv, "--input-format", "stream-json"]


def environment(environ: Mapping[str, str], places: Places, model_port: int, egress_port: int) -> dict[str, str]:
    """The CLI's environment: what the host gave, without what is Python's, and with what is fixed."""
    kept = {k: v for k, v in environ.items() if k not in _OURS}
    ours = {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model_port}", "PWD": str(places.group)}
    return kept | _FIXED | _proxied(egress_port) | ours


def without_model(env: Mapping[str, str]) -> dict[str, str]:
    """As a script gets it: it has no business with the model, nor with the CLI's settings."""
    return {k: v for k, v in env.items() if not k.startswith(("ANTHROPIC_", "CLAUDE_"))}


def models(model: str, fallback: str = "") -> dict[str, str]:
    """What the families' names mean to agents beside the main one: the gateway lets through this chat's models and the
    small one alone. A family's name as one of the chat's own models stays what the CLI takes it for."""
    if _family(model):
        return {}
    return {f"ANTHROPIC_DEFAULT_{f.upper()}_MODEL": model for f in ("opus", "sonnet") if f != _family(fallback)}


def _family(model: str) -> str:
    """The family that a model is named by; "" for a model's own name."""
    name = model.partition("[")[0].lower()
    return name if name.isalpha() else ""


def _proxied(port: int) -> dict[str, str]:
    """The variables that programs know for a proxy. Plain http is told of it too, so that it is refused in words."""
    proxy, direct = f"http://127.0.0.1:{port}", "localhost,127.0.0.1,::1"
    names = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": direct}
    return names | {name.lower(): value for name, value in names.items()}


async def start(argv: list[str], env: dict[str, str], places: Places) -> Process:
    """The running CLI. Its stderr is ours."""
    return await asyncio.create_subprocess_exec(
        *argv, stdin=PIPE, stdout=PIPE, env=env, cwd=places.group, limit=MAX_LINE
    )
