"""The agent image as the engine has it: made from these very files, for any uid, and nothing more in it."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.mailbox import PROTOCOL
from nanoclaw.sandbox import image
from nanoclaw.sandbox.spec import LABEL_INSTALL

MEGABYTE = 1_000_000
Run = Callable[..., str]


@pytest.fixture
def run(engine: DockerClient, agent_image: str, install_id: str) -> Run:
    """Run a shell command in the image as a user that it has never heard of; what it printed."""

    def in_image(script: str, **changed: object) -> str:
        options: dict[str, object] = {
            "entrypoint": ["bash", "-c", script],
            "user": "54321:54321",
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "tmpfs": {"/tmp": "exec", "/home/agent": "uid=54321,mode=700"},
            "labels": {LABEL_INSTALL: install_id},
            "stderr": True,
        }
        return str(engine.containers.run(agent_image, remove=True, **(options | changed)).decode()).strip()

    return in_image


@pytest.fixture
def name(engine: DockerClient) -> Iterator[str]:
    """An image name of this test's own."""
    made = f"nanoclaw-test-{uuid.uuid4().hex}"
    yield made
    try:
        engine.images.remove(made)
    except ImageNotFound:
        return


def test_labels_name_its_source(engine: DockerClient, agent_image: str) -> None:
    """The image carries the hash of the files of this checkout and the mailbox's protocol."""
    labels = engine.images.get(agent_image).labels
    assert labels[image.BUILD_LABEL] == image.build_hash(image.resources())
    assert labels[image.PROTOCOL_LABEL] == str(PROTOCOL)


def test_current_image_is_taken_as_it_is(engine: DockerClient, agent_image: str) -> None:
    """Nothing is built, and nothing said, when the files have not changed."""
    said: list[str] = []
    same = image.ensure_image(
        engine, "nanoclaw-agent", root=image.resources(), environ=os.environ, progress=said.append
    )
    assert (same, said) == (agent_image, [])


def test_stale_image_is_replaced(engine: DockerClient, agent_image: str, name: str, tmp_path: Path) -> None:
    """An image of that name that is made from other files is never run: a new one is made, and it is said."""
    shutil.copytree(image.resources() / "container", tmp_path / "container")
    (tmp_path / "container/persona.md").write_text(f"persona {name}")
    engine.images.get(agent_image).tag(name)
    said: list[str] = []
    made = image.ensure_image(engine, name, root=tmp_path, environ=os.environ, progress=said.append)
    assert made != agent_image
    assert "stale" in said[0]
    assert image.find_image(engine, name, image.build_hash(tmp_path)) == made
    assert engine.images.get(agent_image).id == agent_image  # the other name still stands


def test_missing_image_is_not_found(engine: DockerClient, name: str) -> None:
    """No image of that name is no image."""
    assert image.find_image(engine, name, image.build_hash(image.resources())) is None


def test_failing_build_is_told(engine: DockerClient, agent_image: str, name: str, tmp_path: Path) -> None:
    """The last lines of the builder are shown, the error is one sentence, and no image takes the name."""
    (tmp_path / "container").mkdir()
    (tmp_path / "container/Dockerfile").write_text(f"FROM {agent_image}\nRUN echo {name} && false\n")
    said: list[str] = []
    with pytest.raises(SandboxError, match="could not be built") as e:
        image.ensure_image(engine, name, root=tmp_path, environ={}, base=agent_image, progress=said.append)
    assert e.value.cause is Cause.IMAGE
    assert name in said
    assert image.find_image(engine, name, image.build_hash(tmp_path, agent_image)) is None


def test_unknown_base_is_told(engine: DockerClient, name: str) -> None:
    """A base that nobody has is named, with the setting that changes it; nothing is built on another one."""
    with pytest.raises(SandboxError, match="base_image") as e:
        image.ensure_image(engine, name, root=image.resources(), environ={}, base="localhost:9/nobody/has:this")
    assert e.value.cause is Cause.IMAGE


def test_size_and_layers(engine: DockerClient, agent_image: str) -> None:
    """At most 760 MB, and the CLI, which is most of it, is a layer of its own."""
    made = engine.images.get(agent_image)
    assert made.attrs["Size"] <= 760 * MEGABYTE
    cli = [layer for layer in made.history() if layer["CreatedBy"].rstrip().endswith("/opt/agent/bin")]
    assert len(cli) == 1
    assert cli[0]["Size"] > made.attrs["Size"] / 2


def test_any_uid_can_use_it(run: Run) -> None:
    """A user without a name, on a read-only root: the CLI starts, Python finds its parts, the tools are there."""
    assert "Claude Code" in run("claude --version")
    assert run("python3 -sP -c 'import mailbox, agent, claude_agent_sdk; print(mailbox.PROTOCOL)'") == str(PROTOCOL)
    assert run("git --version && rg --version && jq --version && curl --version")
    assert run("find /opt/agent /etc/claude-code ! -readable -print") == ""


def test_agents_can_fetch_packages(run: Run) -> None:
    """Into a virtual environment, and what makes one with pip in it is there, on whatever base the image was made."""
    assert "pip" in run("python3 -c 'import ensurepip, venv' && python3 -m pip --version")


def test_nothing_is_writable_but_scratch(run: Run) -> None:
    """Without its read-only root, too, the agent's uid could change no file of the image."""
    script = "find / -xdev -writable ! -type l ! -path '/tmp*' ! -path /var/tmp ! -path /run/lock 2>/dev/null; true"
    assert run(script, read_only=False) in ("", "/home/agent")


def test_bytecode_is_compiled(run: Run) -> None:
    """The root is read-only when it runs, so what is not compiled now is compiled anew at each start."""
    script = """find /opt/agent/app /opt/agent/lib -name '*.py' | while read -r f; do
        compgen -G "$(dirname "$f")/__pycache__/$(basename "$f" .py).*.pyc" >/dev/null || echo "$f"; done"""
    assert run(script) == ""


def test_no_ca_and_no_key_inside(engine: DockerClient, agent_image: str, run: Run) -> None:
    """The CA bundle of the build and every credential stay outside: files, environment, history."""
    assert run("ls /build /opt/agent/ca.crt /container 2>/dev/null; true") == ""
    told = str(engine.images.get(agent_image).attrs) + str(engine.images.get(agent_image).history())
    assert not [word for word in ("ANTHROPIC_API_KEY", "OAUTH_TOKEN", "sk-ant", "ca.crt") if word in told]


def test_working_folder_is_no_source_of_code(run: Run, tmp_path: Path) -> None:
    """Modules that an earlier run left in the working folder are not imported by the agent's start."""
    group = tmp_path / "group"
    (group / "agent").mkdir(parents=True)
    for planted in ("agent/__main__.py", "agent/__init__.py", "mailbox.py", "json.py", "asyncio.py"):
        (group / planted).write_text("raise SystemExit('PLANTED')\n")
    for path in (tmp_path, group, group / "agent"):
        path.chmod(0o755)
    command = (
        "timeout 5 python3 -s -P -m agent 2>&1; timeout 5 python3 -s -P -c 'import json, mailbox, agent' && echo fine"
    )
    said = run(command, volumes=[f"{group}:/workspace/group:ro"], working_dir="/workspace/group")
    assert "PLANTED" not in said
    assert said.endswith("fine")


def test_entrypoint_is_the_tested_command(engine: DockerClient, agent_image: str) -> None:
    """The flags that keep the working folder out stand in the image."""
    config = engine.images.get(agent_image).attrs["Config"]
    assert config["Entrypoint"] == ["python3", "-s", "-P", "-m", "agent"]
    assert config["User"] not in ("", "0", "root")
