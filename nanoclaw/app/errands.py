"""The boundaries of coroutines: what fails or hangs in one of them stays there."""

import asyncio
import resource
from collections.abc import Awaitable, Coroutine
from typing import Any

from loguru import logger

from nanoclaw.errors import NanoClawError

STAGE_LIMIT = 10.0  # seconds for each later stage of a stop


def take_more_files() -> None:
    """As many open files as this process may have: each run, chat and connection takes a few, and at the usual 1,024
    a busy host would stand still."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        logger.info("May open {} files", soft)
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        logger.info("May open {} files (it was {})", hard, soft)
    except (ValueError, OSError) as e:
        logger.warning("May open only {} files: {}", soft, e)


class Pulse:
    """Wakes everybody who waits at this moment."""

    def __init__(self) -> None:
        self._beat = asyncio.Event()

    def ring(self) -> None:
        """Wake them."""
        self._beat.set()
        self._beat = asyncio.Event()

    async def wait(self, limit: float) -> None:
        """Return at the next ring, or after `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._beat.wait()
        except TimeoutError:
            return


async def contained(job: Coroutine[Any, Any, None], name: str) -> None:
    """The boundary of one errand: it may fail, the host lives."""
    try:
        await job
    except Exception as e:
        logger.opt(exception=not isinstance(e, NanoClawError)).error("{} failed: {}", name, e)


async def stage(name: str, job: Awaitable[None], limit: float = STAGE_LIMIT) -> None:
    """One stage of a stop: late or broken, the next one follows."""
    try:
        async with asyncio.timeout(limit):
            await job
    except TimeoutError:
        logger.warning("Stopping: {} took longer than {} s", name, limit)
    except Exception as e:
        logger.opt(exception=e).error("Stopping: {} failed", name)
