"""nanoclaw status: what the living host says of itself."""

import asyncio
import json
import os
from typing import Annotated, Any

import typer

from nanoclaw.channels.control_sock import connect
from nanoclaw.cli.pair import WAITING
from nanoclaw.errors import Cause, NotRunning
from nanoclaw.notices import detail
from nanoclaw.prompts import plain

EXIT_NOT_RUNNING = 3  # as systemd's tools


def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say how the assistant is doing. Exit code 3: it is not running."""
    try:
        told = asyncio.run(_ask())
    except NotRunning as e:
        typer.echo(json.dumps({"state": "not running"}) if as_json else f"nanoclaw: {e}", err=not as_json)
        raise typer.Exit(EXIT_NOT_RUNNING) from None
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(_lines(told)))


async def _ask() -> dict[str, Any]:
    from nanoclaw.config import home_of

    async with await connect(home_of(os.environ) / "control.sock") as client:
        return await client.call("status")


def _lines(told: dict[str, Any]) -> list[str]:
    """One line per fact; a list gets one indented line per entry. Names in it may be strangers'."""
    lines = []
    for key, value in told.items():
        entries = value if isinstance(value, list) else []
        if key == "channels":
            entries = [_channel(entry) for entry in entries]
        if key == "parked":
            entries = [detail(Cause(entry["cause"]), entry["lane"], "") for entry in entries]
        lines.append(f"{key}: {len(entries) if isinstance(value, list) else _cell(value)}")
        lines += [f"  {_cell(entry)}" for entry in entries]
        if key == "outgoing" and (dead := value.get("dead")):
            lines.append(f"  {dead} text(s) could not be delivered and are given up: main was told of each")
    return lines


def _channel(told: dict[str, Any]) -> str:
    """Its name, its state, and what to do about it."""
    line = f"{told.get('name')}: {str(told.get('state')).replace('_', ' ')}"
    more = told.get("detail") or ("not linked: nanoclaw pair" if told.get("state") in WAITING else "")
    return f"{line} ({more})" if more else line


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={_cell(inner)}" for key, inner in value.items())
    return " ".join(plain(str(value)).split())
