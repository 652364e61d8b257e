"""The composition root: builds everything, owns every coroutine, starts and stops it in stages."""

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from nanoclaw.app.host import Host
from nanoclaw.channels import Channel
from nanoclaw.config import Config, known_secrets
from nanoclaw.config.leak import Leaks
from nanoclaw.errors import HomeError
from nanoclaw.groups import open_home
from nanoclaw.ops import migrating
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.crashes import Life
from nanoclaw.sandbox import Sandbox
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.store import Store, ledger


class Restart(Exception):
    """The host has ended in order, to begin anew: the owner asked for it."""


def now_ms() -> int:
    """Wall clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def serve(
    config: Config,
    environ: Mapping[str, str],
    *,
    ready: asyncio.Event | None = None,
    progress: Callable[[str], None] = lambda line: None,
    sandbox: Callable[[str], Sandbox] | None = None,
    channels: tuple[Channel, ...] = (),
    clock: Callable[[], int] = now_ms,
    patient: bool = False,
    lives_on: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    log: Callable[[str], None] = lambda level: None,
    backup: bool = True,
) -> None:
    """The host's life, until cancelled. Raises NanoClawError when it cannot start, Restart when it is to begin anew.

    `patient`: after repeated crashes the channels wait before they connect. `lives_on`: the caller begins it anew when
    it is asked to. `sandbox` makes another one than Docker's for an install id; `channels` come beside the terminal;
    `log` sets how much is logged. `backup`: the database of an older program is copied before it is migrated.
    """
    again = False
    home = open_home(config.home, config.run_dir)
    with one_host(home.lock), Life(home.root, clock, sleep, patient=patient) as life:
        guard = migrating.guard(home.root, clock, progress, backup=backup)
        leaks = Leaks(partial(known_secrets, config.home, environ))
        async with opened(Store(home.db, Ballast(home.root).drop, guard, leaks.removed)) as store:
            install = await store.write(ledger.install_id, uuid.uuid4().hex)
            box = sandbox(install) if sandbox else _docker(config, environ, install, progress)
            engine = box if isinstance(box, DockerSandbox) else None
            try:
                async with asyncio.TaskGroup() as tg:
                    host = Host(
                        config, environ, home, store, box, engine, channels, clock, tg, life, log, lives_on, leaks
                    )
                    await host.start(progress)
                    if ready is not None:
                        ready.set()
                    try:
                        await host.restarting.wait()
                        raise Restart
                    finally:
                        await host.stop()
            except* Restart:
                again = True
            finally:
                if engine is not None:
                    await engine.stop()
    if again:
        raise Restart


def _docker(config: Config, environ: Mapping[str, str], install: str, progress: Callable[[str], None]) -> DockerSandbox:
    return DockerSandbox(
        install_id=install,
        environ=environ,
        address=config.engine,
        image=config.image,
        base_image=config.base_image,
        progress=progress,
    )


@contextmanager
def one_host(lock: Path) -> Iterator[None]:
    """Hold the home's lock. Raises HomeError when another host lives there."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise HomeError(f"another NanoClaw runs with {lock.parent}: stop it first (nanoclaw stop)") from None
    try:
        yield
    finally:
        os.utime(fd)  # the last sign of life
        os.close(fd)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    """The store, open for the block."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


__all__ = ["Host", "Restart", "now_ms", "one_host", "opened", "serve"]
