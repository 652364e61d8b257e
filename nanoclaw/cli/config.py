"""nanoclaw config: the settings shown, changed and checked; a living host takes a change over at once."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nanoclaw.cli.house import TERMINAL, do, hint
from nanoclaw.config import SETTINGS_FILE, Config, home_of, read_credential
from nanoclaw.config.reading import (
    Fault,
    Source,
    faults,
    known,
    load_home,
    misspelt,
    read_bytes,
    read_text,
    value_of,
)
from nanoclaw.config.reference import reference, shown
from nanoclaw.config.schema import KEYS, needs_restart
from nanoclaw.config.writing import replace_settings, set_settings, write_whole
from nanoclaw.errors import ConfigError, NanoClawError
from nanoclaw.hints import typed
from nanoclaw.store import audit

_HELP = """The settings of the whole house: nanoclaw.toml and the environment.

\b
Examples:
  nanoclaw config show                      all of them, and where each value comes from
  nanoclaw config set zone Europe/Berlin    checked, written, and in force at once
  nanoclaw config set owners +4915112345678,+12025550123
  nanoclaw config unset zone                the default again
  nanoclaw config edit                      the file in $EDITOR; it counts only if it is right
  nanoclaw config check                     everything that is wrong with it
"""
_FRESH = b"# nanoclaw config reference says what may stand here\n"

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
Key = Annotated[str, typer.Argument(help="The setting's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("show")
def show(as_json: Json = False) -> None:
    """Show every setting: its value, where it comes from, what it means; never the key or token."""
    home = home_of(os.environ)
    loaded = load_home(home, os.environ)
    answer = asyncio.run(hint("settings"))
    waiting = (answer or {}).get("restart", [])
    credential = "given" if read_credential(home, os.environ) else "missing: nanoclaw setup"
    if as_json:
        settings = {key: _facts(loaded.config, loaded.sources[key], key) for key in KEYS}
        told = {"home": str(home), "settings": settings, "credential": credential, "restart_pending": waiting}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    typer.echo(f"home = {home}\ncredential: {credential}")
    for key in KEYS:
        facts = _facts(loaded.config, loaded.sources[key], key)
        restart = " (counts after a restart)" if facts["restart"] else ""
        value = shown(getattr(loaded.config, key)) or "(none)"
        typer.echo(f"{f'{key} = {value}':45} {facts['source']:12} {facts['meaning']}{restart}")
    if waiting:
        typer.echo(f"restart pending: {', '.join(waiting)}")
    if fault := (answer or {}).get("fault"):
        typer.echo(f"the assistant's own settings are from before: {fault}")


def _facts(config: Config, source: Source, key: str) -> dict[str, Any]:
    meaning = Config.model_fields[key].description
    return {"value": _json(config, key), "source": source, "restart": needs_restart(key), "meaning": meaning}


def _json(config: Config, key: str) -> Any:
    value = getattr(config, key)
    return str(value) if isinstance(value, Path) else value


@app.command("get")
def get(key: Key, as_json: Json = False) -> None:
    """Print one setting's value; a list with commas."""
    value = _json(load_home(home_of(os.environ), os.environ).config, known(key))
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, tuple):
        typer.echo(",".join(value))
    else:
        typer.echo(value if isinstance(value, str) else shown(value))


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(key: Key, value: Annotated[str, typer.Argument(help="A list with commas; empty: the default.")]) -> None:
    """Change one setting, if the whole file is right with it; it is in force at once."""
    _change(key, value if value or _is_a_choice(known(key)) else None)


@app.command("unset")
def unset(key: Key) -> None:
    """Take one setting out of the file, so that its default holds."""
    _change(key, None)


def _is_a_choice(key: str) -> bool:
    """Whether "" says something else than the default, as for `reaction`."""
    try:
        return bool(value_of(key, "") != Config.model_fields[key].default)
    except ConfigError:
        return False


def _change(key: str, value: str | None) -> None:
    home = home_of(os.environ)
    if not set_settings(home, {key: value}):
        typer.echo(f"{key} was so already")
        return
    _note(home, key)
    if key not in KEYS:
        typer.echo(f"{key} is gone")
        return
    loaded = load_home(home, {})
    typer.echo(f"{key} = {shown(getattr(loaded.config, key)) or '(none)'}: {_when(key)}")


def _note(home: Path, key: str) -> None:
    if (home / "nanoclaw.db").exists():  # before the first start there is no record, and nothing to be told
        do(audit.note, TERMINAL, "config", key[:80], time.time_ns() // 1_000_000)


def _when(key: str) -> str:
    """When a change counts, in words."""
    answer = asyncio.run(hint("settings"))
    variable = f"NANOCLAW_{key.upper()}"
    if key in (answer or {}).get("environment", []) or os.environ.get(variable):  # an empty one is left open
        return f"written, but {variable} in the environment goes before it"
    if answer is None:
        return "counts from the next start on"
    if key in answer["restart"]:
        return typed("counts after a restart (nanoclaw stop, then nanoclaw run)")
    return f"written, but not in force: {answer['fault']}" if answer["fault"] else "in force now"


# --- the whole file ----------------------------------------------------------------------------


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(help="Another file than nanoclaw.toml.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with the settings. Exit code 1: something is."""
    home = home_of(os.environ)
    path = file or home / SETTINGS_FILE
    if file is not None and read_bytes(file) is None:
        raise ConfigError(f"{file} does not exist")
    found = _faults(path, home, {} if file else dict(os.environ)) + ([] if file else misspelt(os.environ))
    if as_json:
        typer.echo(json.dumps([{"where": f.where, "key": f.key, "told": f.told} for f in found], ensure_ascii=False))
    else:
        typer.echo("\n".join(map(str, found)) or f"{path}: nothing is wrong")
    if found:
        raise typer.Exit(1)


def _faults(path: Path, home: Path, environ: dict[str, str]) -> list[Fault]:
    try:
        return faults(path, read_text(path), home, environ)
    except ConfigError as e:
        return [Fault(str(path), str(e).removeprefix(str(path)).lstrip(",: "))]


@app.command("edit")
def edit() -> None:
    """Open the file in $EDITOR; what was written takes its place only if it is right."""
    home = home_of(os.environ)
    before = read_bytes(home / SETTINGS_FILE)
    draft = home / f"nanoclaw.edit-{os.getpid()}.toml"
    write_whole(draft, _FRESH if before is None else before)
    try:
        _edit(draft, home)
        new = read_bytes(draft)
        if new is None or new == (_FRESH if before is None else before):
            typer.echo("nothing was changed")
        else:
            replace_settings(home, before, new)
            _note(home, "edit")
            typer.echo(_told_of_all())
    except NanoClawError as e:
        raise NanoClawError(f"{e}; nothing was changed, and what you wrote is in {draft}") from None
    draft.unlink(missing_ok=True)


def _edit(draft: Path, home: Path) -> None:
    """Until it is right. Raises NanoClawError when its writer gives up."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    while True:
        try:
            ended = subprocess.run([*command, str(draft)], check=False)
        except OSError as e:
            raise NanoClawError(f"{command[0]}: {e.strerror}; name your editor in EDITOR") from None
        if ended.returncode:
            raise NanoClawError(f"{command[0]} ended with code {ended.returncode}")
        if not (found := _faults(draft, home, {})):
            return
        typer.echo("\n".join(map(str, found)), err=True)
        if not (sys.stdin.isatty() and typer.confirm("Edit it again?", default=True)):
            raise NanoClawError("that is not right")


def _told_of_all() -> str:
    answer = asyncio.run(hint("settings"))
    if answer is None:
        return "written: it counts from the next start on"
    waiting = answer["restart"]
    return f"in force now, after a restart also: {', '.join(waiting)}" if waiting else "in force now"


@app.command("reference")
def print_reference() -> None:
    """Print every setting with its default and meaning, as Markdown."""
    typer.echo(reference(), nl=False)
