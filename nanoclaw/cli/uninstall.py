"""nanoclaw uninstall: unlinks, stops and removes what NanoClaw made; the home goes only by its owner's own word."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from nanoclaw.cli.service import living, remove
from nanoclaw.config import Config, home_of, load
from nanoclaw.errors import ConfigError, HomeError, NanoClawError
from nanoclaw.hints import UNDER_COMPOSE
from nanoclaw.prompts import plain

_UNLINK = 90.0  # seconds: where no host lives, one begins for it
_STOP = 90.0  # seconds
_BY_HAND = "remove it on the phone: WhatsApp > Settings > Linked devices"


def uninstall(
    purge: Annotated[bool, typer.Option("--purge", help="Delete the home too, without a question.")] = False,
) -> None:
    """Unlink WhatsApp, stop, remove the service, the containers and the agent image; then ask about the home.

    Without a terminal the home stays, unless --purge is given. What is gone already is no fault.
    """
    if os.environ.get(UNDER_COMPOSE):
        raise NanoClawError(
            "this runs under docker compose: nanoclaw logout unlinks WhatsApp; after that, on the machine itself and in"
            " the clone, docker compose down --volumes --rmi all"
        )
    home = home_of(os.environ)
    _refuse(home, purge)
    config = _config(home)
    if (home / "whatsapp" / "session.db").is_file() and config.whatsapp != "off":
        typer.echo(_unlinked())
    if told := remove(home):
        typer.echo(told)
    if living(home) is not None:
        code, said = _nanoclaw("stop", limit=_STOP)
        if code:
            raise NanoClawError(f"it could not be stopped, so nothing is removed: {said}")
        typer.echo("The assistant is stopped.")
    typer.echo(_engine_cleared(home, config))
    _home_removed(home, purge)


def _refuse(home: Path, purge: bool) -> None:
    """Before anything is removed. Raises NanoClawError."""
    from nanoclaw.app import one_host
    from nanoclaw.groups import Home
    from nanoclaw.ops import leaving, status

    if purge and home.exists() and (why := leaving.kept(home, _program())):
        raise NanoClawError(f"{home} {why}, so it is not deleted. Nothing was done; without --purge all else goes")
    if not (home / "nanoclaw.lock").exists() or living(home) is not None:
        return
    try:
        with one_host(home / "nanoclaw.lock"):
            return
    except HomeError:
        pid = status.sign_of_life(Home(home, home / "run")).pid
    who = f"process {pid}" if pid else "another process"
    raise NanoClawError(
        f"{who} holds {home} and does not answer, so nothing is removed. If it does not in a minute either: kill -9"
        f" {pid or 'it'}, then this again"
    )


def _program() -> list[Path]:
    """Where this program lies."""
    from nanoclaw.sandbox.image import resources

    return [Path(sys.prefix), resources()]


def _config(home: Path) -> Config:
    try:
        return load(os.environ)
    except ConfigError:  # broken settings must not keep anybody from leaving
        return Config.model_validate({"home": home, "whatsapp": "own"})


def _nanoclaw(*words: str, limit: float) -> tuple[int, str]:
    """Another command of ours; its exit code and last line."""
    environ = {**os.environ, "NEONIZE_BOT_TAG": "off"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nanoclaw", *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"no answer in {limit:.0f} s"
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return done.returncode, lines[-1].removeprefix("nanoclaw: ") if lines else ""


def _unlinked() -> str:
    code, said = _nanoclaw("logout", "--yes", limit=_UNLINK)
    return f"WhatsApp could not be unlinked ({said}); {_BY_HAND}" if code else "WhatsApp is unlinked."


def _engine_cleared(home: Path, config: Config) -> str:
    from nanoclaw.sandbox import engine, removal

    address = engine.address_of(os.environ, config.engine)
    try:
        client = engine.connect(address)
        count = removal.remove_containers(client, address, install) if (install := _install(home)) else 0
        images = removal.remove_images(client, address, config.image, leftovers=True)
        client.close()
    except NanoClawError as e:
        return f"Containers and the agent image stay where the engine is: {e}"
    return f"Removed {count} container(s) and {len(images)} image(s)."


def _install(home: Path) -> str:
    """The id that our containers carry; "" where no database says it."""
    from nanoclaw.store.copy import install_of

    return install_of(home / "nanoclaw.db")


def _home_removed(home: Path, purge: bool) -> None:
    from nanoclaw.app import one_host
    from nanoclaw.ops import leaving

    if not home.exists():
        typer.echo(f"There is no home in {home}.")
        return
    if not any((home / name).exists() for name in ("nanoclaw.db", "nanoclaw.toml")):
        typer.echo(f"{home} does not look like a home, so it stays.")
        return
    if why := leaving.kept(home, _program()):
        typer.echo(f"{home} {why}, so it stays: delete by hand what is ours in it.")
        return
    if not purge:
        typer.echo(f"{home} holds all chats, memory, settings and the key. nanoclaw backup FILE saves it.")
        # A --yes for other questions is no word on this one.
        if not (sys.stdin.isatty() and typer.confirm("Delete it for good?", default=False)):
            typer.echo(f"{home} stays.")
            return
    with one_host(home / "nanoclaw.lock"):
        left = leaving.delete(home)
    if left:
        typer.echo(f"What is ours in {home} is deleted; what is not stays: {plain(', '.join(left))}")
    else:
        typer.echo(f"{home} is deleted.")
