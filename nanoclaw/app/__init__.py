"""The composition root: builds everything, owns every coroutine, starts and stops it in stages."""

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from loguru import logger

from nanoclaw import __version__
from nanoclaw.app.host import Host
from nanoclaw.channels import Channel
from nanoclaw.config import Config
from nanoclaw.errors import HomeError
from nanoclaw.groups import open_home
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
) -> None:
    """The host's life, until cancelled. Raises NanoClawError when it cannot start, Restart when it is to begin anew.

    `patient`: after repeated crashes the channels wait before they connect. `lives_on`: the caller begins it anew when
    it is asked to. `sandbox` makes another one than Docker's for an install id; `channels` come beside the terminal;
    `log` sets how much is logged.
    """
    again = False
    home = open_home(config.home, config.run_dir)
    with one_host(home.lock), Life(home.root, clock, sleep, patient=patient) as life:
        async with opened(Store(home.db, Ballast(home.root).drop)) as store:
            install = await store.write(ledger.install_id, uuid.uuid4().hex)
            engine = _docker(config, environ, install, progress) if sandbox is None else None
            box = sandbox(install) if sandbox else engine
            assert box is not None  # noqa: S101 - one of the two lines above made it
            try:
                async with asyncio.TaskGroup() as tg:
                    host = Host(config, environ, home, store, box, engine, channels, clock, tg, life, log, lives_on)
                    await host.start(progress)
                    if ready is not None:
                        ready.set()
                    logger.info("Ready: NanoClaw {} with home {}", __version__, home.root)
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
