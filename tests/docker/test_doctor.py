"""nanoclaw doctor on the real engine: what runs is held against what it must be."""

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from docker import DockerClient

from nanoclaw import app, control
from nanoclaw.groups import OF_HOME, Home, binds
from nanoclaw.models import Group, Mount, RunRow, RunState
from nanoclaw.ops import doctor
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.doctor import engine as looks
from nanoclaw.ops.findings import Finding, Grade
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.spec import LABEL_INSTALL, create_body
from nanoclaw.store import Store, Tx, chats, ledger, mounts, runs
from tests.commands import nanoclaw
from tests.model_server import ModelServer

KEY = "fake-key-for-tests"
OWN_MACHINES = {
    "limits",
    "engine disk",
    "disk",
    "filesystem",
    "zone",
    "open files",
    "engine",
}  # as the machine is that tests run on


@pytest.fixture
async def store(home: Home, install_id: str) -> AsyncIterator[Store]:
    """The rows of a home whose containers carry this test's label."""

    def first(tx: Tx) -> None:
        control.ensure_main(tx, "terminal", "terminal", "owner", "Andy", app.now_ms())
        ledger.install_id(tx, install_id)

    async with app.opened(Store(home.db)) as opened:
        await opened.write(first)
        for path in home.root.glob("nanoclaw.db*"):
            path.chmod(0o600)
        assert Ballast(home.root).make()
        yield opened


@pytest.fixture
async def environ(home: Home) -> AsyncIterator[dict[str, str]]:
    """The machine's own engine, and an API that takes the key."""
    async with ModelServer(keys={KEY}) as model:
        own = {"NANOCLAW_BASE_URL": model.url, "NANOCLAW_RUN_DIR": str(home.run_dir), "ANTHROPIC_API_KEY": KEY}
        yield {**os.environ, **own}


async def run_of(store: Store, home: Home, spec: Spec, mount: Mount | None = None) -> Spec:
    """Its row, as if this home's host had begun it; the spec as that host would have made it."""
    run, sockets = spec.run_id, next(b.source.name for b in spec.binds if b.target == "/run/nanoclaw/sockets")

    def begin(tx: Tx) -> Group:
        known = chats.learn_chat(tx, "test", (spec.lane,), spec.lane, True, 1)
        group = control.add_group(tx, known.id, Group(0, spec.lane, "Andy"), 1)
        mounts.put(tx, group.id, [mount] if mount else [])
        runs.insert(tx, RunRow(run, spec.lane, group.id, RunState.ALIVE, "", sockets=sockets, started_at=1), "m")
        return group

    group = await store.write(begin)
    extra = (Bind(home.root.parent / "inside", f"/workspace/extra/{mount.target}"),) if mount else ()
    return replace(spec, binds=(*binds(home, group, spec.lane, run, sockets, home.shipped), *extra))


async def about(check: str, home: Home, environ: dict[str, str]) -> list[Finding]:
    scene = await doctor.arrive(home.root, environ, app.now_ms())
    return [f for f in await looks.look(scene) if f.check == check]


async def test_a_healthy_house_has_nothing(
    store: Store, home: Home, environ: dict[str, str], sandbox: DockerSandbox, make_spec: Callable[..., Spec]
) -> None:
    """The command ends with 0 while a container runs, and says that the wall around it is whole."""
    inside = home.root.parent / "inside"
    inside.mkdir()
    told = f'[[allowed_roots]]\npath = "{inside.parent}"\n'
    (home.root / "mounts.toml").write_text(told)
    (home.root / "mounts.toml").chmod(0o600)
    mount = Mount(str(inside), "inside")
    container = await sandbox.open(await run_of(store, home, make_spec(), mount))
    await store.close()  # else its journal grows while the command looks, and the rows are those of a living host
    code, out, err = await nanoclaw(home.root, "doctor", "--json", **environ)
    await sandbox.close(container)
    told_json = json.loads(out)
    bad = {f["check"]: f["said"] for f in told_json["findings"] if f["grade"] != "ok"}
    assert set(bad) <= OWN_MACHINES, bad
    assert (code, err) == (0, "")
    said = {f["check"]: f["said"] for f in told_json["findings"]}
    assert said["containers"] == "1 run, and the wall around each is whole"
    assert said["model API"].endswith("takes it")


async def test_what_a_container_got_beside_its_spec(
    store: Store,
    home: Home,
    environ: dict[str, str],
    engine: DockerClient,
    make_spec: Callable[..., Spec],
    install_id: str,
) -> None:
    """A network, a capability, no limit of memory, a folder of the machine: each by name, with the command."""
    spec = await run_of(store, home, make_spec())
    body: dict[str, Any] = create_body(spec, install_id=install_id)
    body["HostConfig"] |= {"NetworkMode": "bridge", "CapAdd": ["NET_RAW"], "Memory": 0, "MemorySwap": 0}
    body["HostConfig"]["Mounts"].append({"Type": "bind", "Source": "/etc", "Target": "/workspace/extra/etc",
                                         "ReadOnly": True})  # fmt: skip
    body["Cmd"] = None
    made = engine.api.create_container_from_config(body, f"nanoclaw-{spec.run_id}")  # type: ignore[no-untyped-call]
    engine.api.start(made["Id"])
    found = await about("containers", home, environ)
    assert {f.grade for f in found} == {Grade.FAIL}
    assert {f.mend for f in found} == {f"docker rm -f {made['Id'][:12]}"}
    told = " ".join(f.said for f in found)
    for wrong in ("has a network", "given capabilities", "memory is not limited", "sees /workspace/extra/etc"):
        assert wrong in told
    assert len(found) == 4


async def test_a_container_that_no_run_knows(
    store: Store, home: Home, environ: dict[str, str], sandbox: DockerSandbox, make_spec: Callable[..., Spec]
) -> None:
    """Without a host nobody removes it before the next start."""
    container = await sandbox.open(make_spec())
    found = await about("containers", home, environ)
    assert [(f.grade, f.mend) for f in found] == [(Grade.WARN, "nanoclaw run")]
    await sandbox.close(container)


async def test_an_image_that_is_stale_or_missing(store: Store, home: Home, environ: dict[str, str]) -> None:
    """Made from another base than is set; under another name there is none."""
    (stale,) = await about("image", home, {**environ, "NANOCLAW_BASE_IMAGE": "another:base"})
    (missing,) = await about("image", home, {**environ, "NANOCLAW_IMAGE": "no-image-of-this-test"})
    assert (stale.grade, missing.grade) == (Grade.WARN, Grade.FAIL)
    assert {stale.mend, missing.mend} == {"nanoclaw image build"}


@pytest.mark.timeout(180)
async def test_the_proof_from_inside(
    store: Store, home: Home, environ: dict[str, str], engine: DockerClient, install_id: str
) -> None:
    """Typed as people type it; nothing fails, and neither container nor folder of it stays."""
    await store.close()
    for _ in range(3):  # the container has half a minute: on a busy machine that may be too little
        code, out, err = await nanoclaw(home.root, "doctor", "--sandbox", "--json", **environ)
        told = json.loads(out)
        bad = {f["check"]: f["said"] for f in told["findings"] if f["grade"] == "fail"}
        if "container" not in bad:
            break
    assert (bad, code, err) == ({}, 0, "")
    assert {"capabilities", "network", "secrets", "model gateway"} <= {f["check"] for f in told["findings"]}
    assert engine.containers.list(all=True, filters={"label": f"{LABEL_INSTALL}={install_id}"}) == []
    assert list((home.root / "runs").iterdir()) == []
    assert [p.name for p in home.run_dir.iterdir()] == [OF_HOME]
    code, _, err = await nanoclaw(home.root, "doctor", "--sandbox", "nobody", **environ)
    assert (code, "no group 'nobody'" in err) == (1, True)
