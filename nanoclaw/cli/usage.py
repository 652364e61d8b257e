"""nanoclaw usage: what was used today and this month, and where it went."""

import json
import os
import time
from typing import Annotated

import typer

from nanoclaw.cli.house import look
from nanoclaw.config import load
from nanoclaw.control.usage import Most, usage_facts, usage_text


def usage(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what was used today and this month: by group, by model, and of which limits.

    \b
    Examples:
      nanoclaw usage
      nanoclaw usage --json | jq .month.dollars
    """
    config = load(os.environ)
    most = Most(config.budget_group_day, config.budget_main_day, config.budget_month)
    now = time.time_ns() // 1_000_000
    if as_json:
        typer.echo(json.dumps(look(usage_facts, now, config.zone, most)))
    else:
        typer.echo(look(usage_text, now, config.zone, most))
