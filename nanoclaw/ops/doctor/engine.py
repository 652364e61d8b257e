"""The container engine: does it answer, what can it enforce, is the image there, does the wall stand?"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from nanoclaw.errors import SandboxError
from nanoclaw.models import Group, RunRow
from nanoclaw.mounts import EXTRA
from nanoclaw.ops.doctor.scene import LIMIT, Scene, bounded, fail, ok, q, soon, warn
from nanoclaw.ops.findings import Finding
from nanoclaw.run import outfit
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox import look as engine
from nanoclaw.sandbox.engine import address_of, shown
from nanoclaw.sandbox.look import Met, State
from nanoclaw.sandbox.spec import identity, shortfalls
from nanoclaw.store import Tx, chats, condition, copy, health, runs

BUILD = "nanoclaw image build"
_ROOM = 2 << 30  # bytes: with less, the image cannot be made anew
_SKILLS = "/opt/agent/plugins"
_DELEGATE = "let the engine use control groups (rootless: version 2 and `loginctl enable-linger`; see its manual)"

Part = Callable[[Scene, Met], list[Finding]]


async def look(scene: Scene) -> list[Finding]:
    """The engine first; without one there is nothing more to see."""
    address = address_of(scene.environ, scene.config.engine)
    if await soon("absent", partial(engine.is_absent, address)):
        return [fail("engine", "no container engine is installed", "sudo apt-get install docker.io")]
    try:
        met = await soon("engine", partial(engine.meet, address))
    except SandboxError as e:
        return [fail("engine", str(e), mend_of(str(e)))]
    except TimeoutError:
        return [
            fail("engine", f"{shown(address)} does not answer within {LIMIT:.0f} s", "sudo systemctl restart docker")
        ]
    parts = [bounded(name, soon(name, partial(part, scene, met))) for name, part in PARTS.items()]
    try:
        return [found for part in await asyncio.gather(*parts) for found in part]
    finally:
        with suppress(Exception):  # what was seen is what counts
            met.client.close()


def mend_of(said: str) -> str:
    """The command that stands in the engine's own advice."""
    return said.split("`")[1] if said.count("`") >= 2 else "nanoclaw config get engine"


def _engine(scene: Scene, met: Met) -> list[Finding]:
    kind = "Podman" if met.engine.podman else "Docker"
    said = f"{kind} {met.engine.version} at {shown(met.address)}{', rootless' if met.engine.rootless else ''}"
    found = [ok("engine", said)]
    if met.engine.remapped:
        found.append(fail("engine", "it maps user ids (userns-remap), which is not supported",
                          "remove userns-remap from /etc/docker/daemon.json and restart the engine"))  # fmt: skip
    if engine.is_open_to_all(met.address):
        path = met.address.removeprefix("unix://")
        said = "every user of this machine may use it, which is as good as being root"
        found.append(warn("engine", said, f"sudo chmod o-rwx {q(path)}"))
    runtime = scene.config.runtime
    if runtime and met.runtimes and runtime not in met.runtimes:
        said = f"it has no runtime {runtime!r}, only {', '.join(met.runtimes)}"
        found.append(fail("engine", said, "nanoclaw config unset runtime"))
    if not met.engine.seccomp:
        found.append(fail("seccomp", "the engine filters no system calls, so no container starts",
                          "use an engine (and a kernel) with seccomp"))  # fmt: skip
    return found


def _limits(scene: Scene, met: Met) -> list[Finding]:
    """What control groups enforce."""
    can = {"memory": met.engine.memory, "pids": met.engine.pids, "swap": met.engine.swap, "cpu": met.engine.cpu}
    names = [name for name, it_can in can.items() if it_can]
    found = [
        fail("limits", f"the engine cannot limit {name}, so no container starts", _DELEGATE)
        for name in ("memory", "pids")
        if not can[name]
    ]
    found += [warn("limits", said, _DELEGATE) for said in shortfalls(met.engine)]
    return found or [ok("limits", f"control groups (version {met.engine.cgroup}) limit {', '.join(names)}")]


def _image(scene: Scene, met: Met) -> list[Finding]:
    name = scene.config.image
    match engine.image_state(met, name, scene.config.base_image):
        case State.CURRENT:
            return [ok("image", f"{name} is there and current")]
        case State.STALE:
            return [warn("image", f"{name} is stale: the next start builds it anew", BUILD)]
        case State.MISSING:
            return [fail("image", f"{name} is not there", BUILD)]


def _paths(scene: Scene, met: Met) -> list[Finding]:
    """Where we run in a container ourselves: the engine must find our folders on its machine."""
    found = []
    for path in (scene.home.root, scene.home.run_dir):
        try:
            met.paths.translate(path)
        except SandboxError as e:
            found.append(fail("paths", str(e), "put a volume there in docker-compose.yml"))
    where = f"seen from the container {met.paths.container[:12]}" if met.paths.container else "as they are here"
    return found or [ok("paths", f"the engine finds home and sockets, {where}")]


def _room(scene: Scene, met: Met) -> list[Finding]:
    """The engine's own disk."""
    if not met.local or not Path(met.data).is_dir():
        return []
    disk = os.statvfs(met.data)
    free = disk.f_bavail * disk.f_frsize
    if free >= _ROOM:
        return [ok("engine disk", f"{free >> 30} GiB are free for images")]
    return [warn("engine disk", f"only {free >> 20} MiB are free for images", "docker system df")]


def _containers(scene: Scene, met: Met) -> list[Finding]:
    """What the living runs really got, against what they would be given now."""
    if not health.fits(scene.home.db):
        return []
    install, rows = condition.peek(scene.home.db, _known)
    if not install:
        return []
    there = engine.running(met, install)
    found = []
    for container in there:
        if (known := rows.get(container.run_id)) is None:
            continue  # being removed, or of a home that was put back: the host's to remove
        asked, tops = _expected(scene, met, *known, container.image)
        wrong = engine.broken(met, container.container, asked, tops, (scene.home.empty_dir, scene.home.empty_file))
        found += [
            fail("containers", f"that of {container.lane} is not as it must be: {said}",
                 f"docker rm -f {container.container[:12]}")
            for said in wrong
        ]  # fmt: skip
    strays = sum(c.run_id not in rows for c in there)
    if strays and not scene.host.lives:  # a living host removes them, and begins others while we look
        found.append(warn("containers", f"{strays} of no living run still run: the host removes them", "nanoclaw run"))
    return found or [ok("containers", f"{len(there)} run, and the wall around each is whole" if there else "none runs")]


def _known(tx: Tx) -> tuple[str, dict[str, tuple[RunRow, Group]]]:
    return copy.install(tx), {row.id: (row, chats.group(tx, row.group_id)) for row in runs.living(tx)}


def _expected(scene: Scene, met: Met, row: RunRow, group: Group, image: str) -> tuple[Spec, tuple[Bind, ...]]:
    """As the runner would ask for it now; and the folders in which what may have changed since then lies."""
    home, owner = scene.home, scene.home.root.stat()
    uid, gid, _ = identity(owner.st_uid, owner.st_gid, scene.config.agent_uid, rootless=met.engine.rootless)
    asked = outfit.spec(home, group, row, image=image, runtime=scene.config.runtime, user=(uid, gid), env={})
    own = tuple(bind for bind in asked.binds if not bind.target.startswith(_SKILLS))
    extra = [Bind(Path(m.source), f"{EXTRA}/{m.target}", m.read_write) for m in group.mounts]
    skills = (Bind(home.shipped, f"{_SKILLS}/nanoclaw/skills"), Bind(home.skills, f"{_SKILLS}/home/skills"))
    return replace(asked, binds=own), (*skills, *extra)


PARTS: dict[str, Part] = {
    "engine": _engine,
    "limits": _limits,
    "image": _image,
    "paths": _paths,
    "engine disk": _room,
    "containers": _containers,
}
