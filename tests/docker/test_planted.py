"""What an agent could plant in one run for the next: none of it runs, and none of it speaks to the model."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from tests.agent_harness import Agent, agent_of, source
from tests.model_server import Text, ToolUse

GROUP = "/workspace/group"
HOME = "/home/agent"
PROJECT = "/home/agent/.claude/projects/-workspace-group"  # the transcripts of this working folder


def ran(name: str) -> str:
    """A command that leaves a trace in the group's folder."""
    return f"touch {GROUP}/RAN-{name}"


def hooks(name: str) -> str:
    """A settings file of the CLI with everything in it that runs a command or changes the environment."""
    hook = [{"matcher": "", "hooks": [{"type": "command", "command": ran(f"{name}-hook")}]}]
    events = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop")
    server = {"command": "touch", "args": [f"{GROUP}/RAN-{name}-server"]}
    return json.dumps(
        {
            "hooks": dict.fromkeys(events, hook),
            "apiKeyHelper": f"{ran(f'{name}-helper')}; echo key",
            "statusLine": {"type": "command", "command": ran(f"{name}-status")},
            "env": {"BASH_ENV": f"{GROUP}/bash_env", "PLANTED": name, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
            "mcpServers": {"planted": server},
            "enableAllProjectMcpServers": True,
            "enabledMcpjsonServers": ["planted"],
        }
    )


def python(name: str) -> str:
    """A module that leaves a trace when it is imported."""
    return f"open('{GROUP}/RAN-{name}', 'w')\n"


def skill(name: str) -> str:
    """A skill (or command, or subagent) whose description the model would read."""
    return f"---\nname: planted\ndescription: planted-words of {name}\n---\nplanted-words"


# In the group's folder, which is kept and is the CLI's working folder.
FOLDER = {
    ".claude/settings.json": hooks("project"),
    ".claude/settings.local.json": hooks("local"),
    ".claude/skills/planted/SKILL.md": skill("a project skill"),
    ".claude/commands/planted.md": skill("a project command"),
    ".claude/agents/planted.md": skill("a project subagent"),
    ".claude/rules/planted.md": "planted-words of a rule",
    ".claude/output-styles/planted.md": skill("an output style"),
    ".claude-plugin/plugin.json": '{"name": "planted", "version": "1.0.0"}',
    ".mcp.json": json.dumps({"mcpServers": {"planted": {"command": "touch", "args": [f"{GROUP}/RAN-mcp"]}}}),
    ".env": f"PLANTED=dotenv\nBASH_ENV={GROUP}/bash_env\nANTHROPIC_BASE_URL=http://127.0.0.1:9\n",
    "bunfig.toml": 'preload = ["./preload.js"]\n',
    "preload.js": f'require("fs").writeFileSync("{GROUP}/RAN-preload", "")\n',
    "package.json": '{"name": "planted", "type": "commonjs"}',
    "bash_env": ran("bash_env"),
    "agent/__init__.py": python("agent"),
    "mailbox.py": python("mailbox"),
    "asyncio/__init__.py": python("asyncio"),
    "sitecustomize.py": python("sitecustomize"),
    "CLAUDE.local.md": "planted-words of CLAUDE.local.md",
    "other.md": "planted-words of an import",
    "sub/CLAUDE.md": "planted-words of a nested CLAUDE.md",
    "sub/file": "just a file",
    ".git/HEAD": "ref: refs/heads/main\n",
    ".git/config": f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {ran('fsmonitor')}\n",
    ".git/refs/heads/.keep": "",
    ".git/objects/.keep": "",
}

# In HOME, of which only the transcripts are kept.
HOMES = {
    f"{HOME}/.claude/settings.json": hooks("user"),
    f"{HOME}/.claude/skills/planted/SKILL.md": skill("a user skill"),
    f"{HOME}/.claude/CLAUDE.md": "planted-words of the user's CLAUDE.md",
    f"{HOME}/.claude.json": hooks("claude.json"),
    f"{HOME}/.bashrc": ran("bashrc"),
    f"{HOME}/.bash_profile": ran("bash_profile"),
    f"{HOME}/.profile": ran("profile"),
    f"{HOME}/.gitconfig": f"[core]\n\tfsmonitor = {ran('gitconfig')}\n",
    f"{HOME}/.config/git/config": f"[core]\n\tfsmonitor = {ran('config-git')}\n",
    f"{HOME}/.local/bin/claude": f"#!/bin/sh\n{ran('claude')}\n",
    f"{HOME}/.local/lib/python3.11/site-packages/usercustomize.py": python("usercustomize"),
    f"{PROJECT}/settings.json": hooks("transcripts"),
    f"{PROJECT}/memory/MEMORY.md": "planted-words of auto-memory",
}


@pytest.fixture
def start(sandbox: DockerSandbox, make_spec: Callable[..., Spec]) -> Callable[..., object]:
    """Start an agent of the kitchen group."""
    return lambda session="": agent_of(sandbox, make_spec(), session=session)


async def work(agent: Agent) -> None:
    """A turn with everything that could set off what was planted: a prompt, tools, a file below a folder."""
    (source(agent.spec, GROUP) / "RAN-shell").unlink(missing_ok=True)
    agent.model.script(
        (
            ToolUse("Bash", {"command": f"env; type claude; {ran('shell')}"}),
            ToolUse("Read", {"file_path": f"{GROUP}/sub/file"}),
        ),
        Text("done"),
    )
    assert await agent.ask("work", "go on") == "done"


def plant(folder: Path, *names: str) -> None:
    """Lay all of it there, or these files."""
    for name in names or FOLDER:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FOLDER[name])
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)


def traces(folder: Path) -> list[str]:
    """What ran, beside the shell itself, which shows that a trace would be seen."""
    found = {path.name for path in folder.glob("RAN-*")}
    assert "RAN-shell" in found
    return sorted(found - {"RAN-shell"})


def heard(agent: Agent) -> str:
    """All that the model was told in this run."""
    return b"\n".join(request.raw for request in agent.model.requests).decode()


async def test_nothing_in_the_group_s_folder_runs(start: Callable[..., Agent], make_spec: Callable[..., Spec]) -> None:
    """Settings, hooks, helpers, MCP files, environments, git, Bun's and Python's own: all are just files."""
    folder = source(make_spec(), GROUP)
    plant(folder)
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").write_text(f"The cat is Minka. @other.md @{GROUP}/other.md")
    (folder / "CLAUDE.md").chmod(0o777)
    async with start() as agent:
        await work(agent)
        assert traces(folder) == []
        assert "The cat is Minka." in heard(agent)
        assert "planted-words" not in heard(agent)
        assert "PLANTED" not in heard(agent)
        assert "mcp__planted" not in heard(agent)


async def test_nothing_in_a_granted_folder_runs(
    sandbox: DockerSandbox, make_spec: Callable[..., Spec], tmp_path: Path
) -> None:
    """The same in a folder of the owner's machine: an agent of another group may have written there."""
    docs = tmp_path / "docs"
    plant(docs)
    (docs / "CLAUDE.md").write_text("planted-words of a granted folder")
    spec = make_spec()
    plant(source(spec, GROUP), "sub/file")
    at = "/workspace/extra/docs"
    spec = replace(spec, binds=(*spec.binds, Bind(docs, at, read_write=True)))
    async with agent_of(sandbox, spec) as agent:
        agent.model.script(
            (
                ToolUse("Bash", {"command": f"cd {at}; ls; {ran('shell')}"}),
                ToolUse("Read", {"file_path": f"{at}/sub/file"}),
                ToolUse("Write", {"file_path": f"{at}/new", "content": "x"}),
            ),
            Text("done"),
        )
        assert await agent.ask("one", "look there") == "done"
        assert (docs / "new").read_text() == "x"
        await work(agent)
        assert "planted-words" not in heard(agent)
        assert "PLANTED" not in heard(agent)
        assert "mcp__planted" not in heard(agent)
    assert traces(source(spec, GROUP)) == []


async def test_nothing_in_home_is_there_again(start: Callable[..., Agent], make_spec: Callable[..., Spec]) -> None:
    """The agent itself writes it, as a bad one would; the next run resumes the session and finds none of it."""
    folder = source(make_spec(), GROUP)
    script = "\n".join(
        f"mkdir -p {shlex.quote(str(Path(path).parent))}; printf %s {shlex.quote(text)} > {path}; chmod 755 {path}"
        for path, text in HOMES.items()
    )
    async with start() as agent:
        agent.model.script(
            ToolUse("Bash", {"command": "sh plant.sh; mkdir -p sub; echo x > sub/file; ls -A ~"}), Text("ok")
        )
        (folder / "plant.sh").write_text(script)
        (folder / "plant.sh").chmod(0o644)
        await agent.ask("plant", "begin")
        assert ".bash_profile" in agent.model.requests[-1].tool_results[0]
        session = (await agent.done("plant")).session
    async with start(session=session) as agent:
        await work(agent)
        assert traces(folder) == []
        assert "planted-words" not in heard(agent)
        assert "PLANTED" not in heard(agent)
        assert f"{HOME}/.local" not in heard(agent)


async def test_a_link_is_not_followed_into_the_prompt(
    start: Callable[..., Agent], make_spec: Callable[..., Spec]
) -> None:
    """CLAUDE.md as a link (or a pipe) is left out, and the agent starts all the same."""
    folder = source(make_spec(), GROUP)
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to("/etc/os-release")
    async with start() as agent:
        await agent.ask("t1", "hello")
        assert "PRETTY_NAME" not in heard(agent)
