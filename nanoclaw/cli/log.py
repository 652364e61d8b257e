"""nanoclaw log: who did what."""

import json
import os
from dataclasses import asdict
from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from nanoclaw.cli.house import look
from nanoclaw.config import load
from nanoclaw.prompts import plain
from nanoclaw.store import audit


def log(
    count: Annotated[int, typer.Option("-n", "--lines", min=1, max=100_000, help="How many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object a line.")] = False,
) -> None:
    """Who did what: the owner's commands, the command line's changes, and what agents asked for; oldest first.

    What people wrote is never in it. It is kept for `keep_audit` days.

    \b
    Examples:
      nanoclaw log               the newest 50
      nanoclaw log -n 1000 --json | grep '"verb": "yes"'
    """
    zone = ZoneInfo(load(os.environ).zone)
    for entry in look(audit.newest, count):
        if as_json:
            typer.echo(json.dumps(asdict(entry), ensure_ascii=False))
        else:
            at = datetime.fromtimestamp(entry.at / 1000, zone)
            typer.echo(plain(f"{at:%Y-%m-%d %H:%M:%S}  {entry.who}: {entry.verb} {entry.detail}").rstrip())
