"""One living host on the real engine, whose one chat's agent attacks while another chat goes on."""

import asyncio
import fcntl
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from docker import DockerClient

from nanoclaw.groups import Home, binds, make_group, make_run
from nanoclaw.models import Group, Role, TriggerMode
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.image import resources
from nanoclaw.sandbox.spec import identity
from tests.docker.test_host import KEY, PATIENCE, Living, hosting
from tests.fakes import add_group, eventually, short_folder
from tests.model_server import ModelServer, Seen, Text, ToolUse

INSIDE = Path(__file__).parent / "inside"
# What is done one after the other, in one turn of the agent's shell.
WEAPONS = {
    "kernel": "kernel.py kernel.json",
    "direct": "ways.py direct.json direct",
    "gateway": "ways.py gateway.json gateway",
    "greed": "greed.py greed.json",
}


@dataclass
class Battle:
    """What came of it, on both sides of the wall."""

    found: dict[str, dict[str, str]]  # by weapon: attempt -> outcome
    answers: list[str]  # to the other chat, one asked during each weapon
    attacker: list[str]  # to the attacker's own
    upstream: list[Seen]  # what reached the model's API
    others: list[tuple[str, str]]  # what else was asked of it
    runs: list[str]  # lanes of all runs that there were
    key: str = KEY


def arm(folder: Path) -> None:
    """Lay the weapons there, for whoever the agent is."""
    for source in INSIDE.glob("*.py"):
        shutil.copy(source, folder / source.name)
        (folder / source.name).chmod(0o644)


def plain_run(home: Home, image: str, folder: str, command: str) -> Spec:
    """The spec of a run of this group, in whose container these weapons stand where the agent would."""
    uid, gid, env = identity(os.getuid(), os.getgid(), 10001, rootless=False)
    run, sockets = uuid.uuid4().hex, uuid.uuid4().hex[:8]
    make_group(home, folder, uid, gid)
    make_run(home, run, folder, sockets, uid, gid)
    own = binds(home, Group(1, folder, folder), folder, run, sockets, resources() / "skills")
    agent = home.root / f"agent-{run}"
    agent.mkdir(mode=0o755)
    (agent / "__init__.py").touch()
    script, *words = command.split()
    words = [f"/workspace/group/{words[0]}", *words[1:]]
    (agent / "__main__.py").write_text(
        "import runpy, sys\nsys.path.insert(0, '/workspace/group')\n"
        f"sys.argv = {[script, *words]!r}\nrunpy.run_path('/workspace/group/{script}', run_name='__main__')\n"
    )
    return Spec(run, folder, image, uid, gid, (*own, Bind(agent, "/opt/agent/app/agent")), env)


async def fight(folder: Path, engine: DockerClient) -> Battle:
    async with ModelServer(keys={KEY}) as model, hosting(folder, engine, model) as host:
        await host.store.write(add_group, "friends", TriggerMode.ALWAYS, {"Ben": Role.OWNER})
        group = host.config.home / "groups/family"
        group.mkdir(parents=True)
        arm(group)
        script = "; ".join(f"python3 {command}" for command in WEAPONS.values())
        model.script(ToolUse("Bash", {"command": script, "timeout": 240_000}), Text("it is over"), when="lay siege")
        await host.channel.say("friends", "are you there")
        await host.channel.until(lambda: host.channel.to("friends"), PATIENCE)
        await host.channel.say("family", "lay siege")
        found: dict[str, dict[str, str]] = {}
        for weapon in WEAPONS:
            await _asked(host, f"and during the {weapon}")
            await eventually((group / f"{weapon}.json").exists, PATIENCE, lambda: host.channel.texts[-3:])
            found[weapon] = json.loads((group / f"{weapon}.json").read_text())
        await host.channel.until(lambda: host.channel.to("family"), PATIENCE)
        await _asked(host, "and afterwards")
        await host.turn("still yourself?")
        runs = [r["lane"] for r in await host.rows("SELECT lane FROM runs")]
        told = host.channel
        return Battle(found, told.to("friends"), told.to("family"), model.requests, model.others, runs)


async def _asked(host: Living, words: str) -> None:
    """The other chat asks, and is answered."""
    before = len(host.channel.to("friends"))
    await host.channel.say("friends", words)
    await host.channel.until(lambda: len(host.channel.to("friends")) > before, PATIENCE)


T = TypeVar("T")
Once = Callable[[str, Callable[[Path], T]], T]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once[Any]:
    """What is made in a folder of its own by the first worker that needs it; the others wait for that."""

    def make(name: str, job: Callable[[Path], T]) -> T:
        base = tmp_path_factory.getbasetemp()
        base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # of all workers of this session
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / name).exists():
                with short_folder() as folder:
                    (base / name).write_bytes(pickle.dumps(job(folder)))
            made: T = pickle.loads((base / name).read_bytes())
            return made

    return make


@pytest.fixture(scope="session")
def battle(engine: DockerClient, agent_image: str, once: Once[Battle]) -> Battle:
    """All of it, once."""
    return once("battle", lambda folder: asyncio.run(fight(folder, engine)))
