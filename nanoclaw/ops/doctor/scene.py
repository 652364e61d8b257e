"""What every check of the doctor is given, and how it is kept from holding up the others."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nanoclaw.config import Config
from nanoclaw.config.reading import Source
from nanoclaw.errors import NanoClawError
from nanoclaw.groups import Home
from nanoclaw.mounts.patience import ask
from nanoclaw.ops.findings import Finding, Grade

LIMIT = 10.0  # seconds that one check may take
FIX = "nanoclaw doctor --fix"
_PIECES = 4
_CANCEL = 1.0  # seconds
_LONGEST = 300  # characters of what somebody else said
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """What the process that may live in this home says of itself."""

    pid: int = 0  # 0: none is known
    status: Mapping[str, Any] = field(default_factory=dict)  # as `nanoclaw status --json`; {} where nobody answers
    fault: str = ""  # somebody is there and does not answer
    shut: bool = False  # because its door is not open: not yet, or it stands still

    @property
    def lives(self) -> bool:
        """Whether one does, be it well or not."""
        return bool(self.status or self.fault or self.pid)


@dataclass(frozen=True)
class Scene:
    """What is looked at. Nothing of it was made or changed for that."""

    home: Home  # it may not be there
    config: Config  # the defaults where the settings cannot be read
    sources: Mapping[str, Source]  # of the settings; {} where they cannot be read
    environ: Mapping[str, str]
    now: int  # ms
    host: Host = Host()

    @property
    def settled(self) -> bool:
        """Whether the settings are those that the owner wrote."""
        return bool(self.sources)


def ok(check: str, said: str) -> Finding:
    """As it should be."""
    return Finding(check, Grade.OK, said)


def warn(check: str, said: str, mend: str = "") -> Finding:
    """It works, and is worth knowing."""
    return Finding(check, Grade.WARN, said, mend)


def fail(check: str, said: str, mend: str = "") -> Finding:
    """It does not work, or is not safe."""
    return Finding(check, Grade.FAIL, said, mend)


def q(path: Path | str) -> str:
    """A path as a shell takes it, for a command that somebody copies."""
    return shlex.quote(str(path))


async def soon(about: str, job: Callable[[], T], limit: float = LIMIT) -> T:
    """A job that blocks, in a thread that holds up neither others nor our end. Raises TimeoutError."""
    return await in_time(asyncio.wrap_future(ask(f"doctor {about}", job, limit)), limit)


async def in_time(work: Awaitable[T], limit: float) -> T:
    """What comes of it. Raises TimeoutError when that takes `limit` seconds of a machine that does not stand still: it
    is waited for in pieces, so that one long pause of the machine uses up one of them, and not all of the time."""
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_PIECES):
            done, _ = await asyncio.wait({task}, timeout=limit / _PIECES)
            if done:
                return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL)
    raise TimeoutError


async def bounded(check: str, looking: Awaitable[list[Finding]], limit: float = LIMIT) -> list[Finding]:
    """What it finds; that it could not look is a finding too. The boundary of one check."""
    try:
        return await in_time(looking, limit)
    except TimeoutError:
        return [fail(check, f"could not look: no answer within {limit:.0f} s")]
    except Exception as e:
        return [fail(check, f"could not look: {words(e)}")]


def words(e: Exception) -> str:
    """An exception in one line. Of those that are not ours only the kind: who knows what their text holds."""
    if isinstance(e, NanoClawError):
        return " ".join(str(e).split())[:_LONGEST]
    if isinstance(e, OSError) and e.strerror:
        return f"{e.filename}: {e.strerror}" if isinstance(e.filename, str) else e.strerror
    return type(e).__name__
