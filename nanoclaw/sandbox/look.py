"""Looks at the engine, the image and what runs there, and changes nothing. All of it blocks."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoclaw.sandbox import Bind, Found, Spec
from nanoclaw.sandbox.docker_sandbox import found
from nanoclaw.sandbox.engine import connect, explained
from nanoclaw.sandbox.hostpaths import HostPaths, discover
from nanoclaw.sandbox.spec import Engine, engine_of, violations

if TYPE_CHECKING:
    from docker import DockerClient

_ENGINES = ("dockerd", "podman", "docker")  # programs by which one is known to be installed
_MIB = 1 << 20


class State(StrEnum):
    """How the agent image stands to this program."""

    CURRENT = "current"
    STALE = "stale"  # made from other files
    MISSING = "missing"


@dataclass(frozen=True)
class Met:
    """An engine that answers."""

    address: str
    client: "DockerClient"
    engine: Engine
    data: str  # the folder of its images and containers, as it calls it
    paths: HostPaths  # what it calls our paths
    runtimes: tuple[str, ...] = ()  # that it can run containers with, where it says so

    @property
    def local(self) -> bool:
        """Whether its folders are this machine's."""
        return self.address.startswith("unix://") and not self.paths.container


def is_absent(address: str) -> bool:
    """Whether there seems to be no engine at all: no socket, and no program that would make one."""
    there = not address.startswith("unix://") or Path(address.removeprefix("unix://")).exists()
    return not there and not any(map(shutil.which, _ENGINES))


def is_open_to_all(address: str) -> bool:
    """Whether every user of this machine may ask it for anything."""
    path = Path(address.removeprefix("unix://"))
    return address.startswith("unix://") and path.exists() and bool(path.stat().st_mode & 0o002)


def meet(address: str) -> Met:
    """Ask it what it is. Raises SandboxError(ENGINE) that says why it does not answer."""
    client = connect(address)
    with explained(address):
        info: Mapping[str, Any] = client.api.info()
        runtimes = tuple(sorted(info.get("Runtimes") or ()))
        return Met(address, client, engine_of(info), str(info.get("DockerRootDir", "")), discover(client), runtimes)


def image_state(met: Met, name: str, base: str) -> State:
    """Is the image there, and made from these very files? Raises SandboxError."""
    from docker.errors import ImageNotFound

    from nanoclaw.sandbox.image import build_hash, find_image, resources

    with explained(met.address):
        if find_image(met.client, name, build_hash(resources(), base)):
            return State.CURRENT
        try:
            met.client.images.get(name)
        except ImageNotFound:
            return State.MISSING
        return State.STALE


def running(met: Met, install: str) -> list[Found]:
    """This home's containers that run. Raises SandboxError."""
    with explained(met.address):
        return [c for c in found(met.client, install) if c.running]


def broken(met: Met, container: str, asked: Spec, tops: tuple[Bind, ...], fillers: tuple[Path, ...]) -> list[str]:
    """What must hold of a running container and does not, in words.

    `asked`: what it would be given now, without what may have been set anew since it began: its skills and the folders
    of the machine. These lie in `tops`; `fillers` stand in the place of what is hidden in them. Raises SandboxError.
    """
    from docker.errors import NotFound

    with explained(met.address):
        try:
            inspect = met.client.api.inspect_container(container)
        except NotFound:  # it has ended meanwhile
            return []
    own, allowed = met.paths.spec(asked), met.paths.spec(replace(asked, binds=tops)).binds
    filled = [met.paths.translate(path) for path in fillers]
    targets = {bind.target for bind in own.binds}
    more = tuple(
        Bind(Path(m.get("Source", "")), m["Destination"], bool(m["RW"]))
        for m in inspect["Mounts"]
        if m["Type"] == "bind" and m["Destination"] not in targets
    )
    strange = [f"it sees {b.target}, which it should not" for b in more if not _may(b, allowed, filled)]
    host = inspect["HostConfig"]
    # Other limits may be set by now; that it has some is what counts.
    memory, pids = (host.get("Memory") or 0) // _MIB, host.get("PidsLimit") or 0
    got = replace(
        own,
        image=inspect["Image"],
        binds=(*own.binds, *more),
        memory_mb=memory if memory > 0 else own.memory_mb,
        pids=pids if pids > 0 else own.pids,
    )
    return strange + violations(inspect, got, met.engine)


def _may(bind: Bind, tops: tuple[Bind, ...], fillers: list[Path]) -> bool:
    tops = tuple(top for top in tops if _below(bind.target, top.target))
    if not bind.read_write and tops and bind.source in fillers:
        return True
    return any(bind.source.is_relative_to(top.source) and (top.read_write or not bind.read_write) for top in tops)


def _below(target: str, top: str) -> bool:
    return target == top or target.startswith(f"{top}/")
