"""Where agents are. The core knows the sandbox by these types alone."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

PROBES = 10**12  # no task has this number, or a larger one: they are for the lanes of `doctor --sandbox`
_PROBED_MS = 120_000  # in which it is over


@dataclass(frozen=True)
class Bind:
    """One folder or file of the host inside the container."""

    source: Path
    target: str
    read_write: bool = False
    inode: tuple[int, int] | None = None  # device and inode that it was judged with: another one there is no start


@dataclass(frozen=True)
class Spec:
    """What one container gets: everything else is denied by the adapter, not asked for here."""

    run_id: str
    lane: str
    image: str  # the image's id, never a tag
    uid: int
    gid: int
    binds: tuple[Bind, ...]
    env: dict[str, str] = field(default_factory=dict)
    memory_mb: int = 1536
    cpus: float = 2.0
    pids: int = 256
    runtime: str = ""  # by the engine's name for it; "" = its default


class Death(StrEnum):
    """How a container ended."""

    EXITED = "exited"
    MEMORY = "memory"  # the kernel killed it at its limit
    KILLED = "killed"
    REMOVED = "removed"  # somebody took it away


@dataclass(frozen=True)
class Exit:
    """The end of a container."""

    death: Death
    code: int
    log: str = ""  # the last lines that it printed, at most 4 KiB, control characters removed


@dataclass(frozen=True)
class Found:
    """A container of ours that the engine still has."""

    container: str
    run_id: str
    image: str
    running: bool
    lane: str = ""
    created: int = 0  # seconds since 1970, by the engine's clock

    def is_probed(self, now: int) -> bool:
        """Whether `doctor --sandbox` looks at it at this moment (in ms): it takes it away itself, if it lives."""
        _, mark, number = self.lane.partition("#task-")
        is_probe = bool(mark) and number.isdecimal() and int(number) >= PROBES
        return is_probe and abs(now - self.created * 1000) < _PROBED_MS


class Sandbox(Protocol):
    """Opens and closes containers. Every failure is a SandboxError with its cause."""

    async def image(self) -> str:
        """The id of the current agent image. Raises SandboxError(IMAGE | ENGINE)."""

    async def open(self, spec: Spec) -> str:
        """Create and start; compare what must hold with what runs; return the container's id."""

    async def wait(self, container: str) -> Exit:
        """Return when it has ended. Raises SandboxError(ENGINE) while the engine is gone."""

    async def close(self, container: str) -> None:
        """Kill and remove it, at once; one that is gone already is no error."""

    async def found(self) -> list[Found]:
        """Every container with our install's label."""
