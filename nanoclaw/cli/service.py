"""nanoclaw service: begin with the machine; nanoclaw up: serve in the background."""

import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanoclaw.config import home_of
from nanoclaw.errors import NanoClawError, NotRunning

if TYPE_CHECKING:
    from nanoclaw.ops.service import Unit

READY = 90.0  # seconds: adopting what a killed host left may take a while
EXIT_ABSENT = 3  # as `status`

app = typer.Typer(help="Let it begin with the machine (systemd).", no_args_is_help=True)


@app.command("install")
def install(
    show: Annotated[bool, typer.Option("--print", help="Only show the unit's file.")] = False,
) -> None:
    """Write a systemd unit for this home, let it begin with the machine, and start it.

    Yours (systemctl --user); root's is the system's.
    """
    from nanoclaw.ops import service

    home = home_of(os.environ)
    environ = service.environment(home, os.environ)
    if show:
        typer.echo(service.text_of(home, service.program(), environ, system=os.geteuid() == 0), nl=False)
        return
    unit = _unit(home)
    _install(unit, home)
    if not _start(unit, home):
        typer.echo("The assistant runs by hand now; from the next start on the service runs it.")
    _tell_of_linger(unit)


@app.command("uninstall")
def uninstall() -> None:
    """Stop it and remove the unit; nothing else changes."""
    typer.echo(remove(home_of(os.environ)) or "No service is installed.")


@app.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say whether it begins with the machine. Exit code 3: it does not."""
    from nanoclaw.ops import service

    unit = service.unit_of(home_of(os.environ), os.environ, os.geteuid())
    state = service.state(unit) if unit else service.State.ABSENT
    told = {"state": str(state), "unit": unit.name if unit else None, "file": str(unit.path) if unit else None}
    if as_json:
        typer.echo(json.dumps(told))
    elif unit is None:
        typer.echo("No systemd answers here: nanoclaw up serves in the background.")
    else:
        typer.echo(f"{unit.name}: {state}" + (f" ({unit.path})" if state is not service.State.ABSENT else ""))
    if state is service.State.ABSENT:
        raise typer.Exit(EXIT_ABSENT)


def up(yes: Annotated[bool, typer.Option("--yes", "-y", help="Without a question.")] = False) -> None:
    """Serve in the background until `nanoclaw stop`, and wait until that works; it may begin with the machine too."""
    from nanoclaw.ops import service

    home = home_of(os.environ)
    if (pid := living(home)) is not None:
        typer.echo(f"It runs already (process {pid}): nanoclaw status")
        return
    unit = service.unit_of(home, os.environ, os.geteuid())
    if unit is not None and (service.state(unit) is not service.State.ABSENT or _wanted(yes)):
        _install(unit, home)
        _start(unit, home)
        _tell_of_linger(unit)
    else:
        begin(home)
    typer.echo("It runs: nanoclaw status, nanoclaw chat, nanoclaw logs -f; nanoclaw stop ends it.")


def begin(home: Path) -> None:
    """Start a host as this home's is started, and wait until it is ready. Raises NanoClawError."""
    from nanoclaw.ops import service

    unit = service.unit_of(home, os.environ, os.geteuid())
    if unit is not None and service.state(unit) is not service.State.ABSENT:
        _start(unit, home)
        return
    # Its log files have it all: what nobody bounds must not grow.
    command = [*service.program(), "--quiet"]
    service.start_background(home, command, {**os.environ, **service.FIXED}, lambda: living(home) is not None, READY)


def remove(home: Path) -> str:
    """Stop the unit of this home, and remove it; what was done, "" where there is none. Raises NanoClawError."""
    from nanoclaw.ops import service

    unit = service.unit_of(home, os.environ, os.geteuid())
    if unit is not None:
        return "The service is removed." if service.uninstall(unit) else ""
    unit = service.unit_at(home, os.environ, os.geteuid())
    return f"The service is removed: {unit.path} is deleted; no systemd answers here." if service.delete(unit) else ""


def living(home: Path) -> int | None:
    """The process of the host that answers there; None where none does."""
    from nanoclaw.channels.control_sock import connect

    async def ask() -> int:
        async with asyncio.timeout(5), await connect(home / "control.sock") as client:
            await client.call("status")
            return client.host

    try:
        return asyncio.run(ask())
    except (NotRunning, TimeoutError, NanoClawError):
        return None


def _unit(home: Path) -> "Unit":
    from nanoclaw.ops import service

    if (unit := service.unit_of(home, os.environ, os.geteuid())) is not None:
        return unit
    line = shlex.join(["env", f"NANOCLAW_HOME={home}", *service.program()[:-1], "up", "--yes"])
    raise NanoClawError(
        "no systemd answers here, so there is no service to install. nanoclaw up serves in the background; to begin"
        f" with the machine, let what starts it run this (as in a crontab): @reboot {line}"
    )


def _install(unit: "Unit", home: Path) -> None:
    from nanoclaw.ops import service

    if home.exists() and home.stat().st_uid != os.geteuid():
        raise NanoClawError(f"{home} is another user's: install the service as that user, without sudo")
    environ = service.environment(home, os.environ)
    new = service.install(unit, service.text_of(home, service.program(), environ, system=unit.system))
    typer.echo(f"{'Installed' if new else 'Installed already:'} {unit.path}; it begins with the machine.")
    if names := service.left_behind(os.environ):
        typer.echo(
            f"Only this shell has {', '.join(names)}; for the service put settings into nanoclaw.toml"
            " (nanoclaw config set) and the key into .env (nanoclaw setup)."
        )


def _start(unit: "Unit", home: Path) -> bool:
    """Whether the unit runs it now; False where a host lives that it has not started."""
    from nanoclaw.ops import service

    if living(home) is not None:
        return service.state(unit) is service.State.RUNNING
    service.start_unit(unit, lambda: living(home) is not None, READY)
    return True


def _tell_of_linger(unit: "Unit") -> None:
    from nanoclaw.ops import service

    if not unit.system and not service.lingers():
        typer.echo("It ends when you log out. To let it live on, and begin with the machine: loginctl enable-linger")


def _wanted(yes: bool) -> bool:
    if yes or not sys.stdin.isatty():
        return yes
    return typer.confirm("Let it begin with the machine, too?", default=True)
