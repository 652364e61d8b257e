"""python -m nanoclaw.guard: serves until it is stopped. Its settings are the environment of the compose file."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from loguru import logger

from nanoclaw.errors import ConfigError, Refused, SandboxError
from nanoclaw.guard import policy
from nanoclaw.guard.policy import Names
from nanoclaw.guard.proxy import Guard, Settings
from nanoclaw.sandbox.base import own_base
from nanoclaw.sandbox.image import DEFAULT_BASE

SOCKET = "/guard/engine.sock"
ENGINE = "/var/run/docker.sock"
AGENT = 10001  # the agents' user id where the host itself would be root, as everywhere


def read_settings(environ: Mapping[str, str]) -> Settings:
    """What the environment says. Raises ConfigError."""
    project = environ.get("GUARD_PROJECT", "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", project):
        raise ConfigError("GUARD_PROJECT has to name the compose project")
    ids = [environ.get(name) or str(AGENT) for name in ("PUID", "PGID")]
    if not all(re.fullmatch(r"(0|[1-9][0-9]{0,9})", word) for word in ids):
        raise ConfigError("PUID and PGID have to be numbers")
    base = environ.get("NANOCLAW_BASE_IMAGE", "")
    if base and not re.fullmatch(r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[\w.-]{1,128})?", base):
        raise ConfigError("NANOCLAW_BASE_IMAGE has to be a name with a tag, as in python:3.12-slim; no digest")
    bases = {base} if base else {DEFAULT_BASE, own_base()} - {""}
    names = Names(project, environ.get("GUARD_SERVICE") or "nanoclaw",
                  environ.get("NANOCLAW_IMAGE") or "nanoclaw-agent", frozenset(bases))  # fmt: skip
    try:
        allowed = policy.listed(environ.get("GUARD_ALLOW", ""))
    except Refused as e:
        raise ConfigError(str(e)) from None
    return Settings(
        names=names,
        folders=tuple(filter(None, environ.get("GUARD_FOLDERS", "/data,/run/nanoclaw").split(","))),
        allowed=allowed,
        user=f"{AGENT}:{AGENT}" if ids[0] == "0" else ":".join(ids),
        environ=environ,
        base=base,
        runtime=environ.get("NANOCLAW_RUNTIME", ""),
    )


async def serve(guard: Guard, path: Path, *, ready: asyncio.Event | None = None, watch: float = 30.0) -> None:
    """Listen at `path`, for its owner and its group, until cancelled, or until the engine is gone for good.

    It is looked for every `watch` seconds. Raises SandboxError then: whoever started this process does so again.
    """
    runner = web.AppRunner(guard.app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        path.unlink(missing_ok=True)
        if path.parent.stat().st_gid != os.getegid():
            os.chown(path.parent, -1, os.getegid())  # the asker's group, which has to get through
        umask = os.umask(0o117)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(umask)
        if ready is not None:
            ready.set()
        logger.info("Ready: {}", path)
        await guard.watch(watch)
        raise SandboxError("no engine answers; beginning anew, in case that its socket is another one now")
    finally:
        await runner.cleanup()
        path.unlink(missing_ok=True)


async def _main() -> None:
    settings = read_settings(os.environ)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    guard = Guard(os.environ.get("GUARD_ENGINE") or ENGINE, settings)
    try:
        await serve(guard, Path(os.environ.get("GUARD_SOCKET") or SOCKET))
    except asyncio.CancelledError:
        logger.info("Stopped")


def _one_line(record: logging.LogRecord) -> bool:
    """What is no call at all (half a line, another protocol) is worth a line, not a traceback of aiohttp's."""
    wrong = record.exc_info[0] if record.exc_info else None
    if wrong is None or not wrong.__module__.startswith("aiohttp"):
        return True
    logger.warning("What came was no call: {}", wrong.__name__)
    return False


def main() -> None:
    """The command."""
    logger.remove()
    logger.add(sys.stderr, format="{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}", backtrace=False, diagnose=False)
    logging.getLogger("aiohttp.server").addFilter(_one_line)
    try:
        asyncio.run(_main())
    except (ConfigError, SandboxError, OSError) as e:
        sys.exit(f"engine-guard: {e}")


if __name__ == "__main__":
    main()
