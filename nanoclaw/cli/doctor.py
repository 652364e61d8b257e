"""nanoclaw doctor: what is wrong, and the command that mends it."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated

import typer

from nanoclaw.errors import NanoClawError
from nanoclaw.hints import typed
from nanoclaw.ops.findings import Finding, Grade, worst
from nanoclaw.prompts import plain

_MARKS = {Grade.OK: "ok  ", Grade.WARN: "warn", Grade.FAIL: "FAIL"}
_COLOURS = {Grade.OK: typer.colors.GREEN, Grade.WARN: typer.colors.YELLOW, Grade.FAIL: typer.colors.RED}
_AT_ONCE = 2  # looks that the progress line names


def doctor(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="With --sandbox: of this group.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: also build a stale image, without asking.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Prove the wall from inside of a container.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the model's API.")] = False,
) -> None:
    """Look at everything the assistant stands on: one line each, with the command that mends it.

    It changes nothing without --fix, and works whether the assistant runs or not. Exit code 1: something fails.

    \b
    Examples:
      nanoclaw doctor                    engine, disk, database, key, WhatsApp, settings, ...
      nanoclaw doctor --fix              mend modes, folders, leftovers; then look again
      nanoclaw doctor --sandbox family   a container as that group would get it, attacked from inside
    """
    if sandbox and (fix or offline):
        raise NanoClawError("--sandbox goes alone: it mends nothing, and asks no API")
    if group and not sandbox:
        raise NanoClawError(f"{group[:60]!r} is a group: write `nanoclaw doctor --sandbox {group[:60]}`")
    from loguru import logger

    logger.disable("nanoclaw")  # a command says what it found by itself
    mended: list[str] = []
    if sandbox:
        found = asyncio.run(_prove(group))
    else:
        found = asyncio.run(_look(offline=offline))
        if fix:
            mended = [*asyncio.run(_mend()), *_image(found, yes=yes)]
            for line in mended:
                typer.echo(f"fix   {_one(line)}", err=as_json)
            found = asyncio.run(_look(offline=offline))
    found = [replace(f, said=typed(f.said), mend=typed(f.mend)) for f in found]
    _print(found, mended, as_json=as_json)
    if worst(found) is Grade.FAIL:
        raise typer.Exit(1)


async def _look(*, offline: bool) -> list[Finding]:
    from nanoclaw.config import home_of
    from nanoclaw.ops.doctor import arrive, examine

    scene = await arrive(home_of(os.environ), os.environ, _now())
    with _progress() as tell:
        return await examine(scene, offline=offline, tell=tell)


async def _mend() -> list[str]:
    from nanoclaw.app import one_host
    from nanoclaw.config import home_of
    from nanoclaw.ops.doctor import arrive
    from nanoclaw.ops.doctor.mending import mend

    return mend(await arrive(home_of(os.environ), os.environ, _now()), one_host)


def _image(found: list[Finding], *, yes: bool) -> list[str]:
    """Build it where it is stale or missing, if a person wants that."""
    if not any(f.check == "image" and f.grade is not Grade.OK for f in found):
        return []
    if not yes and not (sys.stdin.isatty() and typer.confirm("Build the agent image now (a few minutes)?", err=True)):
        return []
    from nanoclaw.cli.image import make

    try:
        return [f"built {make()}"]
    except NanoClawError as e:
        return [f"not done: {e}"]


async def _prove(group: str) -> list[Finding]:
    from nanoclaw.config import home_of, load
    from nanoclaw.groups import MAIN
    from nanoclaw.ops.doctor import arrive
    from nanoclaw.ops.probe import prove_sandbox, subject
    from nanoclaw.store import condition

    config = load(os.environ)
    scene = await arrive(home_of(os.environ), os.environ, _now())
    if not scene.home.db.exists():
        raise NanoClawError("no assistant has run in this home yet, so there is no group: nanoclaw run")
    about = condition.peek(scene.home.db, subject, group or MAIN, scene.now)
    with _progress() as tell:
        tell("a container from inside (half a minute)", True)
        return await prove_sandbox(config, os.environ, about)


@contextmanager
def _progress() -> Iterator[Callable[[str, bool], None]]:
    """A line on the terminal that names what is being looked at; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda name, begins: None
        return
    from rich.console import Console

    waiting: dict[str, None] = {}
    with Console(stderr=True, highlight=False, markup=False).status("Looking ...") as status:

        def tell(name: str, begins: bool) -> None:
            waiting[name] = None
            if not begins:
                del waiting[name]
            more = f" and {len(waiting) - _AT_ONCE} more" if len(waiting) > _AT_ONCE else ""
            status.update(f"Looking: {', '.join([*waiting][:_AT_ONCE])}{more}")

        yield tell


def _print(found: list[Finding], mended: list[str], *, as_json: bool) -> None:
    if as_json:
        findings = [asdict(finding) for finding in found]
        typer.echo(json.dumps({"state": worst(found), "findings": findings, "mended": mended}, ensure_ascii=False))
        return
    for finding in found:
        typer.echo(_line(finding))
    bad = {grade: sum(f.grade is grade for f in found) for grade in (Grade.FAIL, Grade.WARN)}
    typer.echo(f"{len(found)} findings: {bad[Grade.FAIL]} fail, {bad[Grade.WARN]} warn" if any(bad.values()) else
               f"{len(found)} findings, all well")  # fmt: skip


def _line(finding: Finding) -> str:
    """One line, whatever stands in it."""
    mark = typer.style(_MARKS[finding.grade], fg=_COLOURS[finding.grade])
    mend = f"  ->  {_one(finding.mend)}" if finding.mend else ""
    return f"{mark}  {finding.check}: {_one(finding.said)}{mend}"


def _one(text: str) -> str:
    return " ".join(plain(text).split())


def _now() -> int:
    return time.time_ns() // 1_000_000
