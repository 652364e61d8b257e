"""The shipped probe: it finds nothing in the container that a group really gets, and each hole in a weakened one."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from nanoclaw.config import Config
from nanoclaw.gateway import Level
from nanoclaw.groups import OF_HOME, Home
from nanoclaw.models import Group, Limits, Mount
from nanoclaw.ops.findings import Finding, Grade
from nanoclaw.ops.probe import CHECKS, Subject, prove_sandbox
from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.spec import create_body

KEY = f"NOT-A-KEY-{secrets.token_hex(24)}"
ENVIRON = {**os.environ, "ANTHROPIC_API_KEY": KEY}
KEYLESS = {key: value for key, value in ENVIRON.items() if not key.startswith(("ANTHROPIC_", "CLAUDE_"))}
ALL = {*CHECKS, "container", "description", "behind the gateway", "quota"}

Change = Callable[[dict[str, Any]], Any]


class Weakened(DockerSandbox):
    """The same engine, but what is asked of it is changed, and nobody compares what was made."""

    def __init__(self, client: DockerClient, install_id: str, change: Change) -> None:
        super().__init__(install_id=install_id, environ=os.environ)
        self._own, self._label, self._change = client, install_id, change

    async def open(self, spec: Spec) -> str:
        """Made and started as a weaker one."""
        body = create_body(spec, install_id=self._label)
        self._change(body)
        made = await asyncio.to_thread(self._own.api.create_container_from_config, body, None)
        await asyncio.to_thread(self._own.api.start, made["Id"])
        return str(made["Id"])


def config(home: Home) -> Config:
    """The settings of this home."""
    return Config(home=home.root, run_dir=home.run_dir)


SMALL = Limits(memory_mb=256)  # the limit of memory is tried by filling it


def about(install_id: str, **changed: Any) -> Subject:
    """A group whose container it is to be."""
    return Subject(replace(Group(1, "kitchen", "Kitchen", limits=SMALL), **changed), Level.NONE, install_id)


def graded(found: list[Finding]) -> dict[str, Grade]:
    """By check, those that are not as they should be; what was said of them is shown when a test fails."""
    print(*(f"{f.grade} {f.check}: {f.said}" for f in found), sep="\n")
    return {f.check: f.grade for f in found if f.grade is not Grade.OK}


@pytest.fixture
def granted(home: Home, tmp_path: Path) -> tuple[Mount, ...]:
    """Two folders of the owner's, one of them to be written; in each is a file that no agent shall see."""
    (home.root / "mounts.toml").write_text(
        f'[[allowed_roots]]\npath = "{tmp_path}/notes"\nread_write = true\n'
        f'[[allowed_roots]]\npath = "{tmp_path}/books"\n'
    )
    for name in ("notes", "books"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / ".env").write_text(f"TOKEN={KEY}\n")
        folder.chmod(0o777)
    tmp_path.chmod(0o755)
    return (Mount(str(tmp_path / "notes"), "notes", read_write=True), Mount(str(tmp_path / "books"), "books"))


@pytest.mark.timeout(90)
async def test_nothing_is_found_in_the_container_that_a_group_gets(
    home: Home, agent_image: str, install_id: str, engine: DockerClient, granted: tuple[Mount, ...]
) -> None:
    """With all that it may see: every check is made and is well, and nothing stays behind, of the engine's or ours.

    The host's key is in files that are hidden from the group, so that it is not there for the probe either.
    """
    kitchen = home.group_dir("kitchen")
    kitchen.mkdir()
    handle = os.open(kitchen, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as left:  # of a server that the agent had; by a short name for its long path
        left.bind(f"/proc/self/fd/{handle}/old.sock")
    os.close(handle)
    before = {p.name for p in kitchen.iterdir()}
    found = await prove_sandbox(config(home), ENVIRON, about(install_id, mounts=granted, is_main=True))
    # A busy machine may not get through all files in time, which the next test does not need.
    assert set(graded(found).items()) <= {("secrets", Grade.WARN)}
    assert {f.check for f in found} == ALL
    (mounts,) = [f.said for f in found if f.check == "mounts"]
    assert mounts == "the 14 of its spec, 4 of them writable"
    assert not any(KEY[10:18] in f.said for f in found)
    assert engine.containers.list(all=True, filters={"label": f"nanoclaw.install={install_id}"}) == []
    left_behind = [p.name for folder in ("runs", "run", "state") for p in (home.root / folder).glob("*")]
    assert [*left_behind, *(p.name for p in home.run_dir.iterdir())] == [OF_HOME]
    assert {p.name for p in kitchen.iterdir()} - before == {"CLAUDE.md"}


def put(key: str, value: Any) -> Change:
    """One key of the engine's HostConfig is otherwise."""
    return lambda body: body["HostConfig"].__setitem__(key, value)


def options(*kept: int, more: tuple[str, ...] = ()) -> Change:
    """Of the security options only these."""

    def change(body: dict[str, Any]) -> None:
        asked = body["HostConfig"]["SecurityOpt"]
        body["HostConfig"]["SecurityOpt"] = [*(asked[n] for n in kept), *more]

    return change


def with_network(body: dict[str, Any]) -> None:
    """A network of the engine's, though without an address outside."""
    body["HostConfig"]["NetworkMode"] = "bridge"


def with_file(body: dict[str, Any]) -> None:
    """A key of the host's, pasted into a chat and kept by its agent."""
    mount = next(m for m in body["HostConfig"]["Mounts"] if m["Target"] == "/workspace/group")
    (Path(mount["Source"]) / "note").write_text(f"key: {KEY}\n")
    (Path(mount["Source"]) / "note").chmod(0o644)


def with_secret(body: dict[str, Any]) -> None:
    """A key of the host's, as somebody may hand it on by a slip."""
    body["Env"].append(f"SOME_TOKEN={KEY}")


def writable(body: dict[str, Any]) -> None:
    """What is to be read only can be written."""
    mount = next(m for m in body["HostConfig"]["Mounts"] if m["Target"] == "/workspace/media")
    mount["ReadOnly"] = False
    Path(mount["Source"]).chmod(0o777)


def with_socket(body: dict[str, Any]) -> None:
    """The engine's own socket, which is root on the machine."""
    path = "/var/run/docker.sock"
    body["HostConfig"]["Mounts"].append({"Type": "bind", "Source": path, "Target": path, "ReadOnly": True})


WEAKER: list[tuple[str, Change, set[str]]] = [
    ("a capability", put("CapDrop", []), {"capabilities"}),
    ("privileges to be gained", options(1), {"no new privileges", "setuid programs"}),
    (
        "no filter",
        options(0, more=("seccomp=unconfined",)),
        {"seccomp", "system calls", "namespaces", "socket families"},
    ),
    ("the engine's own filter", options(0), {"system calls", "socket families"}),
    ("a network", with_network, {"network"}),
    ("a writable root", put("ReadonlyRootfs", False), {"root"}),
    ("a key in a file", with_file, {"secrets"}),
    ("a key in the environment", with_secret, {"secrets", "description"}),
    ("a writable mount", writable, {"mounts"}),
    ("an engine's socket", with_socket, {"mounts", "sockets"}),
    ("no limits", lambda b: b["HostConfig"].update(PidsLimit=-1, Memory=0, MemorySwap=0), {"processes", "memory"}),
]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("change", "expected"), [w[1:] for w in WEAKER], ids=[w[0] for w in WEAKER])
async def test_each_hole_is_found(
    home: Home, agent_image: str, install_id: str, engine: DockerClient, change: Change, expected: set[str]
) -> None:
    """One thing is weaker than it should be: the check that is about it fails, and no other."""
    box = Weakened(engine, install_id, change)
    try:
        environ = ENVIRON if "secrets" in expected else KEYLESS  # to look for a key takes the longest
        found = await prove_sandbox(config(home), environ, about(install_id), sandbox=box)
    finally:
        await box.stop()
    assert {check for check, grade in graded(found).items() if grade is Grade.FAIL} == expected
