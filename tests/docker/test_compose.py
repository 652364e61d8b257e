"""The product as `docker compose up -d` runs it: image, guard, host and agents, on the real engine and compose."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import DockerException

from nanoclaw.guard.policy import LABEL_GUARD, LABEL_PROJECT
from nanoclaw.sandbox.base import own_base
from nanoclaw.sandbox.image import DEFAULT_BASE, ca_bundle, resources
from tests.model_server import ModelServer
from tests.whatsapp.product import KEY
from tests.whatsapp.server import FakeWhatsApp

PATIENCE = 90.0  # seconds: containers start, and both cores may be busy
PLUGIN = Path(sys.prefix, "docker/cli-plugins/docker-compose")  # where nanoclaw.sh puts one that it had to fetch
FILES = ("Dockerfile", "docker-compose.yml", "compose.raw.yml", "compose.rootless.yml", ".dockerignore")
FOLDERS = ("container", "deploy", "nanoclaw", "skills", "requirements")


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command, version 2; none is a failure, never a skip."""
    commands = [[str(PLUGIN)]] if PLUGIN.exists() else [["docker", "compose"]]
    for command in commands:
        if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.fail(
        "these tests need `docker compose` (version 2.24 or newer): install docker-compose-plugin", pytrace=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What somebody has who cloned the project; with the CA of a network that signs TLS anew."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in FILES:
        shutil.copy(resources() / name, root / name)
    for name in FOLDERS:
        shutil.copytree(resources() / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "ca.crt"))
    (root / "secrets").mkdir()
    if ca := ca_bundle(os.environ):
        (root / "container/ca.crt").write_bytes(ca)
    return root


@dataclass
class Deployed:
    """One compose project."""

    command: list[str]
    clone: Path
    name: str = field(default_factory=lambda: f"nanoclaw-test-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("NANOCLAW_", "GUARD_"))}
        self.env |= {"NANOCLAW_HOST_IMAGE": self.name}

    async def __call__(self, *words: str, stdin: str = "", code: int | None = 0) -> str:
        """Run compose; what it printed. Fails when it ends with another code; None: any."""
        files = [f"--file={name}" for name in ("docker-compose.yml", "compose.test.yml")]
        process = await asyncio.create_subprocess_exec(
            *self.command, "-p", self.name, *files, *words, cwd=self.clone, env=self.env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(600):
                said, _ = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = said.decode("utf-8", "replace")
        assert code is None or process.returncode == code, f"{words}: {process.returncode}\n{text[-3000:]}"
        return text

    async def nanoclaw(self, *words: str, stdin: str = "", code: int | None = 0) -> str:
        """A command, as docs/deployment.md has it."""
        return await self("exec", "-T", "nanoclaw", "nanoclaw", *words, stdin=stdin, code=code)

    async def status(self, *wanted: str) -> str:
        """What status says, once all of this is in it."""
        return await self.until(lambda: self.nanoclaw("status", code=None), *wanted)

    async def until(self, ask: Any, *wanted: str) -> str:
        text, end = "", time.monotonic() + PATIENCE
        while not all(word in text for word in wanted):
            assert time.monotonic() < end, f"{wanted} is not in:\n{text[-3000:]}\n{await self('logs', '--tail=40')}"
            await asyncio.sleep(0.5)
            text = await ask()
        return text


@pytest.fixture
async def deployed(compose: list[str], clone: Path, engine: DockerClient, agent_image: str) -> AsyncIterator[Deployed]:
    """A project that is not up yet; afterwards nothing of it is left."""
    project = Deployed(compose, clone)
    try:
        yield project
    finally:
        (clone / "compose.test.yml").touch()
        try:
            await project("down", "--volumes", "--remove-orphans", "--timeout=10", code=None)
        finally:
            await asyncio.to_thread(remove_project, engine, project.name)


def remove_project(engine: DockerClient, name: str) -> None:
    """Whatever is left of a project; each step is tried, whatever became of the others."""
    found: list[tuple[Any, dict[str, Any]]] = []
    for label in (f"{LABEL_PROJECT}={name}", f"{LABEL_GUARD}={name}"):
        found += [(c.remove, {"force": True, "v": True}) for c in _list(engine.containers, label, all=True)]
    of_project = f"{LABEL_PROJECT}={name}"
    found += [(n.remove, {}) for n in _list(engine.networks, of_project)]
    found += [(v.remove, {"force": True}) for v in _list(engine.volumes, of_project)]
    found += [(partial(engine.images.remove, name), {"force": True})]
    for remove, ways in found:
        with contextlib.suppress(DockerException):  # gone already, most of all
            remove(**ways)


def _list(kind: Any, label: str, **ways: Any) -> list[Any]:
    try:
        return list(kind.list(filters={"label": label}, **ways))
    except DockerException:
        return []


@pytest.fixture(scope="session", autouse=True)
def nothing_from_before(engine: DockerClient) -> None:
    """A run that was killed leaves its project behind; one of an hour ago is nobody's any more."""
    labels = [c["Labels"] | {"at": c["Created"]} for c in engine.api.containers(all=True)]
    old = [found for found in labels if found["at"] < time.time() - 3600]
    for name in {found.get(LABEL_PROJECT) or found.get(LABEL_GUARD) or "" for found in old}:
        if name.startswith("nanoclaw-test-"):
            remove_project(engine, name)


def override(clone: Path, base: str, whatsapp: FakeWhatsApp, model: ModelServer) -> None:
    """Where WhatsApp and the model's API are, for the test: both listen on the machine's loopback."""
    env = whatsapp.env({})
    (library,) = (path for path in Path(env["PYTHONPATH"], "neonize").glob("*.so") if not path.is_symlink())
    nanoclaw = {
        "build": {"args": {"BASE_IMAGE": base}},
        "restart": "no",  # of a run that is killed nothing begins anew by itself
        "network_mode": "host",
        "environment": {
            "SSL_CERT_FILE": "/test/ca.pem",
            "HTTPS_PROXY": env["HTTPS_PROXY"],
            "NANOCLAW_WHATSAPP": "shared",
            "NANOCLAW_BASE_URL": model.url,
        },
        "volumes": [
            f"{env['SSL_CERT_FILE']}:/test/ca.pem:ro",
            f"{library}:/opt/nanoclaw/lib/neonize/{library.name}:ro",
        ],
    }
    guard: dict[str, Any] = {"restart": "no"}
    if ca := ca_bundle(os.environ):
        (clone / "ca.pem").write_bytes(ca)
        guard |= {"environment": {"SSL_CERT_FILE": "/test/ca.pem"}, "volumes": [f"{clone}/ca.pem:/test/ca.pem:ro"]}
    (clone / "compose.test.yml").write_text(json.dumps({"services": {"nanoclaw": nanoclaw, "engine-guard": guard}}))


@pytest.fixture
def base(engine: DockerClient) -> str:
    """What the agent image was built on."""
    names = {name for image in engine.images.list() for name in image.tags}
    return DEFAULT_BASE if DEFAULT_BASE in names else own_base()


TAKE_OVER = """
import functools, os
from pathlib import Path
import docker
from docker.errors import APIError
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.spec import create_body
engine = docker.DockerClient("unix:///guard/engine.sock", version="1.41")
os.symlink("/etc", "/data/link")
image = engine.images.get("nanoclaw-agent").id
mounts = [(Bind(Path("VOLUME", *name), "/workspace/x"),) for name in (["link"], ["link", "ssl"], [], ["nothing"])]
bodies = [create_body(Spec("1" * 8, "main", image, 10001, 10001, m), install_id="x") for m in mounts]
for attempt in (
    *(functools.partial(engine.api.create_container_from_config, body, "nanoclaw-11111111") for body in bodies),
    lambda: engine.containers.run("nanoclaw-agent", "id", privileged=True),
    lambda: engine.containers.run("nanoclaw-agent", "id", volumes=["/:/machine"]),
    lambda: engine.containers.list(),
    lambda: engine.volumes.list(),
    lambda: engine.containers.get("GUARD").exec_run("id"),
):
    try: print("DONE", attempt())
    except APIError as e: print(e.status_code)
"""


@pytest.mark.timeout(900)
async def test_up_and_a_conversation(deployed: Deployed, clone: Path, engine: DockerClient, base: str) -> None:
    """Up without a key and unlinked: it stays up and says what to do. A message is kept while the guard is away, and
    answered by Claude Code in a container that the guard let through; the next one after a restart."""
    async with ModelServer(keys={KEY}) as model, FakeWhatsApp() as whatsapp:
        override(clone, base, whatsapp, model)
        await deployed("up", "--detach", "--build")
        told = await deployed.status("linking", "missing")
        assert "docker compose exec nanoclaw nanoclaw setup" in told
        log = await deployed.until(lambda: deployed("logs", "nanoclaw"), "Linked devices")
        assert log.count("▀") > 50  # the code itself
        await deployed.nanoclaw("setup", "--yes", "--key-stdin", "--kind=api_key", stdin=KEY)

        pairing = await deployed("exec", "-T", "nanoclaw", "cat", "/data/home/whatsapp/pairing.json")
        whatsapp.scan(json.loads(pairing)["qr"])
        await deployed.status("connected")
        await deployed("stop", "engine-guard")
        whatsapp.type("what is the answer?")
        assert "engine-guard" in (await whatsapp.next_sent(PATIENCE)).text
        await deployed.status("engine-guard does not answer")
        assert "ok" in await deployed.nanoclaw("status", "--health")
        await deployed("start", "engine-guard")
        assert "what is the answer?" in (await whatsapp.next_sent(PATIENCE)).text
        assert model.requests[0].headers["x-api-key"] == KEY
        await check_walls(deployed, engine)

        await deployed("restart", "nanoclaw")
        whatsapp.type("and now?")
        assert "and now?" in (await whatsapp.next_sent(PATIENCE)).text
        assert "hello" in await deployed.nanoclaw("chat", "-m", "hello")


async def check_walls(deployed: Deployed, engine: DockerClient) -> None:
    """The host is nobody and holds no engine; the agent is what the guard let through; the host can ask for no more."""
    find = {"label": f"{LABEL_GUARD}={deployed.name}"}
    (agent,) = await asyncio.to_thread(engine.containers.list, filters=find)
    assert agent.attrs["Config"]["User"] == "10001:10001"
    sources = [m["Source"] for m in agent.attrs["Mounts"] if m["Type"] == "bind"]
    assert sources
    assert all(f"/{deployed.name}_data/" in s or f"/{deployed.name}_run/" in s for s in sources)
    (host,) = await asyncio.to_thread(engine.containers.list, filters={"name": f"{deployed.name}-nanoclaw"})
    assert not [m for m in host.attrs["Mounts"] if "docker.sock" in m["Source"]]
    status = await deployed("exec", "-T", "nanoclaw", "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    (guard,) = await asyncio.to_thread(engine.containers.list, filters={"name": f"{deployed.name}-engine-guard"})
    volume = next(m["Source"] for m in host.attrs["Mounts"] if m["Destination"] == "/data")
    attack = TAKE_OVER.replace("GUARD", guard.id).replace("VOLUME", volume)
    said = await deployed("exec", "-T", "--user=10001", "nanoclaw", "python3", "-c", attack)
    assert said.split() == ["403"] * 9


@pytest.mark.parametrize("more", ["", "compose.raw.yml", "compose.rootless.yml"])
def test_the_files_are_right(compose: list[str], more: str) -> None:
    """Compose reads all three; only where it is said the engine's socket is nanoclaw's."""
    files = ["--file=docker-compose.yml", *([f"--file={more}"] if more else [])]
    env = os.environ | {"ENGINE_GID": "998", "XDG_RUNTIME_DIR": "/run/user/1000"}
    command = [*compose, "--project-directory", str(resources()), *files, "config", "--format", "json"]
    made = subprocess.run(command, cwd=resources(), env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    services = json.loads(made.stdout)["services"]
    assert ("engine-guard" in services) == (more != "compose.raw.yml")
    sources = [volume["source"] for volume in services["nanoclaw"]["volumes"]]
    assert any("docker.sock" in source for source in sources) == (more == "compose.raw.yml")
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
    if not more:
        assert services["engine-guard"]["cap_add"] == ["DAC_READ_SEARCH"]
        seen = {
            v["source"]: v["target"]
            for v in services["nanoclaw"]["volumes"]
            if v["target"] in ("/data", "/run/nanoclaw")
        }
        looks = {v["source"]: v["target"] for v in services["engine-guard"]["volumes"] if v["target"] in seen.values()}
        assert looks == seen
        assert all(v["read_only"] for v in services["engine-guard"]["volumes"] if v["target"] in seen.values())
        assert services["engine-guard"]["network_mode"] == "none"
