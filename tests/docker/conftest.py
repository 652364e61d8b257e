"""The real engine, the real image, and a container whose agent is a script of the test's own."""

import asyncio
import fcntl
import json
import os
import shutil
import tempfile
import textwrap
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from nanoclaw.errors import SandboxError
from nanoclaw.groups import Home, binds, make_group, make_run, open_home
from nanoclaw.models import Group
from nanoclaw.sandbox import Bind, Exit, Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.engine import address_of, connect
from nanoclaw.sandbox.image import ensure_image, resources
from nanoclaw.sandbox.spec import LABEL_INSTALL, engine_of, identity

IMAGE = "nanoclaw-agent"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies in this folder needs the engine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine; none is a failure, never a skip."""
    try:
        client = connect(address_of(os.environ))
    except SandboxError as e:
        pytest.fail(f"these tests need a container engine: {e}", pytrace=False)
    yield client
    client.close()


@pytest.fixture(scope="session")
def agent_image(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the agent image, built at most once however many workers there are."""
    with (tmp_path_factory.getbasetemp().parent / "agent-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return ensure_image(engine, IMAGE, root=resources(), environ=os.environ)


@pytest.fixture
def install_id(engine: DockerClient) -> Iterator[str]:
    """A label of this test's own; its containers are gone afterwards."""
    label = f"test-{uuid.uuid4().hex}"
    yield label
    for container in engine.containers.list(all=True, filters={"label": f"{LABEL_INSTALL}={label}"}):
        container.remove(force=True, v=True)


@pytest.fixture
async def sandbox(install_id: str) -> AsyncIterator[DockerSandbox]:
    """The adapter under test."""
    made = DockerSandbox(install_id=install_id, environ=os.environ)
    yield made
    await made.stop()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home; its sockets lie elsewhere, because the paths of tests are long."""
    run_dir = Path(tempfile.mkdtemp(prefix="nc-"))
    yield open_home(tmp_path / "home", run_dir)
    shutil.rmtree(run_dir)


@pytest.fixture
def make_spec(engine: DockerClient, agent_image: str, home: Home) -> Callable[..., Spec]:
    """Make a group, a run and its spec: `make_spec("kitchen")`, or with any field of Spec changed."""
    rootless = engine_of(engine.info()).rootless
    uid, gid, env = identity(os.getuid(), os.getgid(), 10001, rootless=rootless)

    def make(folder: str = "kitchen", **changed: Any) -> Spec:
        run, sockets = uuid.uuid4().hex, uuid.uuid4().hex[:8]
        make_group(home, folder, uid, gid)
        make_run(home, run, folder, sockets, uid, gid)
        group = Group(id=1, folder=folder, name=folder)
        own = binds(home, group, folder, run, sockets, resources() / "skills")
        return replace(Spec(run, folder, agent_image, uid, gid, own, env), **changed)

    return make


Inside = Callable[..., Awaitable[tuple[Exit, dict[str, Any]]]]


@pytest.fixture
def with_script(tmp_path: Path) -> Callable[[Spec, str], Spec]:
    """The same spec, but a script stands where the agent is: it runs as the agent would, no step beside it."""

    def change(spec: Spec, script: str) -> Spec:
        folder = tmp_path / f"script-{spec.run_id}"
        folder.mkdir(mode=0o755)
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(_HEAD + textwrap.dedent(script))
        return replace(spec, binds=(*spec.binds, Bind(folder, "/opt/agent/app/agent")))

    return change


_HEAD = """
import json, os, socket, stat, subprocess, sys, time
from pathlib import Path
def attempt(act, *args):
    try: act(*args)
    except OSError as e: return e.strerror
    return "done"
def report(**facts):
    with open("/run/nanoclaw/out.ndjson", "a") as f: f.write(json.dumps(facts) + "\\n")
"""


@pytest.fixture
def inside(sandbox: DockerSandbox, make_spec: Callable[..., Spec], with_script: Callable[[Spec, str], Spec]) -> Inside:
    """Run a script where the agent would run; its end, and what it said with `report(...)`."""

    async def run(script: str, **changed: Any) -> tuple[Exit, dict[str, Any]]:
        spec = with_script(make_spec(**changed), script)
        container = await sandbox.open(spec)
        async with asyncio.timeout(60):
            end = await sandbox.wait(container)
        outbox = next(b.source for b in spec.binds if b.target == "/run/nanoclaw/out.ndjson")
        said: dict[str, Any] = {}
        for line in outbox.read_text().splitlines():
            said |= json.loads(line)
        assert said or end.code, end.log
        return end, said

    return run
