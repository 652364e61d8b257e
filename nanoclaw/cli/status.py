"""nanoclaw status: how the assistant is doing, whether it lives or not; and whether a new start would help."""

import asyncio
import json
import os
import time
from typing import Annotated, Any, NamedTuple

import typer

from nanoclaw import __version__
from nanoclaw.channels.control_sock import connect
from nanoclaw.cli import status_text
from nanoclaw.config import Config, home_of, load
from nanoclaw.errors import ConfigError, NanoClawError, NotRunning
from nanoclaw.groups import Home
from nanoclaw.ops import status as looks

FORMAT = 1  # of --json: another one where a field goes or means something else
EXIT_NOT_RUNNING = 3  # as systemd's tools
EXIT_NO_ANSWER = 4  # there is a host, and it says nothing
_PATIENCE = 5.0  # seconds for its answer


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: docs/status.md.")] = False,
    names: Annotated[bool, typer.Option("--names", help="With --json: the groups' folders beside numbers.")] = False,
    health: Annotated[bool, typer.Option("--health", help="Nothing but whether a new start would help.")] = False,
) -> None:
    """Say how the assistant is doing, whether it runs or not.

    Exit codes: 3 it does not run, 4 it runs and does not answer. With --health: 0 all is well, 1 a new start may
    mend it (a number that is not linked, or a missing key, is nothing that it would mend).
    """
    if health:
        asyncio.run(_health(home_of(os.environ)))
        return
    config, fault = _config()
    home = Home(config.home, config.sockets)
    now = time.time_ns() // 1_000_000
    told = asyncio.run(_told(home, config, now))
    if fault:
        told["settings"] = fault
    if as_json:
        typer.echo(json.dumps(told if names else looks.without_names(told), ensure_ascii=False))
    else:
        status_text.show(told, now, config.zone)
    raise typer.Exit({"running": 0, "not running": EXIT_NOT_RUNNING}.get(told["state"], EXIT_NO_ANSWER))


def _config() -> tuple[Config, str]:
    """The settings; where they are broken the defaults, and why."""
    try:
        return load(os.environ), ""
    except ConfigError as e:
        return Config.model_validate({"home": home_of(os.environ)}), e.public


async def _told(home: Home, config: Config, now: int) -> dict[str, Any]:
    found = await _ask(home, "status")
    told = {"format": FORMAT, "version": __version__, **found.answer}
    if not found.answer:
        told |= {"state": found.state, "pid": found.pid, "why": found.why}
        sign = looks.sign_of_life(home)
        told |= {"seen": sign.seen, "crashed": sign.crashed, **looks.peek(home, now, config)}
    return told | {"disk": looks.of_disk(home)}


class _Found(NamedTuple):
    """What became of a question to the host."""

    answer: dict[str, Any]  # empty when none came
    state: str = "running"
    pid: int = 0
    why: str = ""


async def _ask(home: Home, verb: str) -> _Found:
    pid = 0
    try:
        async with asyncio.timeout(_PATIENCE), await connect(home.control_sock) as client:
            pid = client.host
            return _Found(await client.call(verb))
    except NotRunning as e:
        if pid := looks.sign_of_life(home).pid:  # it holds the lock and does not listen
            return _Found({}, "starting", pid, "it is starting or stopping")
        return _Found({}, "not running", 0, str(e))
    except (NanoClawError, TimeoutError) as e:
        why = str(e) or f"it does not answer within {_PATIENCE:.0f} s"
        return _Found({}, "silent", pid or looks.sign_of_life(home).pid, why)


async def _health(root: Any) -> None:
    found = await _ask(Home(root, root / "run"), "health")
    if wrong := found.why or found.answer.get("fatal"):
        raise NanoClawError(f"unhealthy: {wrong}")
    typer.echo("ok")
