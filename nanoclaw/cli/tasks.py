"""nanoclaw tasks: what is done at its time, without anybody asking."""

import json
import os
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from nanoclaw.cli.house import TERMINAL, do, look
from nanoclaw.config import load
from nanoclaw.control import groups, tasks
from nanoclaw.control.tasks import Maker
from nanoclaw.errors import Refused
from nanoclaw.schedule import local, zone_or_utc
from nanoclaw.store import Tx
from nanoclaw.store import tasks as rows
from nanoclaw.store.tasks import Firing, Task

_HELP = """What is done at its time: reminders, reports, watches. Agents schedule them, too.

\b
Examples:
  nanoclaw tasks list
  nanoclaw tasks add family "Remind Ann of the bins" --cron "0 19 * * sun"
  nanoclaw tasks add main "What is on today?" --cron "30 7 * * mon-fri" --mode group
  nanoclaw tasks add family "Say hello" --once "2030-12-31 18:30"
  nanoclaw tasks add main "Look whether the site is up; send_message if not" --every 30m --silent
  nanoclaw tasks add main "Say what is new" --every 10m --script "bash watch.sh"
  nanoclaw tasks show 3
  nanoclaw tasks log 3                what became of each time
  nanoclaw tasks run 3                once, now, beside its schedule
  nanoclaw tasks pause 3              until `resume`
  nanoclaw tasks cancel 3

Times are those of the group's zone, if no other is given, also when the clocks change.
"""
_LONGEST_MS = 86_400_000  # that a turn may have lasted: more is a clock that was set meanwhile
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
TaskArg = Annotated[str, typer.Argument(metavar="TASK", help="Its number in `list`.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_(
    group: Annotated[str, typer.Argument(metavar="[GROUP]", help="Folder, name or chat's number; else all.")] = "",
    as_json: Json = False,
) -> None:
    """List what is scheduled."""
    if as_json:
        typer.echo(json.dumps(look(_all_facts, group, _now())))
    else:
        typer.echo("\n".join(look(_lines, group, _now())) or "Nothing is scheduled.")


@app.command()
def show(task: TaskArg, as_json: Json = False) -> None:
    """Say all about a task."""
    facts = look(_facts, task, _now())
    if as_json:
        typer.echo(json.dumps(facts))
        return
    told = facts | {"next": ", ".join(facts["next"]) or "never"}
    typer.echo("\n".join(f"{key}: {value}" for key, value in told.items() if key not in ("next_due", "created_at")))


@app.command()
def add(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Folder, name or chat's number.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the agent is to do then.")],
    cron: Annotated[str, typer.Option(help="Five fields, or @daily and the like.")] = "",
    every: Annotated[str, typer.Option(help='A length, as in "30m".')] = "",
    once: Annotated[str, typer.Option(help='A local date and time, as in "2030-12-31 18:30".')] = "",
    in_: Annotated[int, typer.Option("--in", min=0, metavar="SECONDS", help="Once, so long from now.")] = 0,
    zone: Annotated[str, typer.Option(help="Another time zone than the group's.")] = "",
    mode: Annotated[str, typer.Option(help="isolated: on its own; group: in the conversation.")] = "isolated",
    silent: Annotated[bool, typer.Option("--silent", help="Send its final text to nobody.")] = False,
    missed: Annotated[str, typer.Option(help="latest: once, late; skip: not at all.")] = "latest",
    script: Annotated[
        str, typer.Option(help='Bash, run first; its last line {"wake": true, "data": …} asks for the agent.')
    ] = "",
    as_json: Json = False,
) -> None:
    """Schedule something for a group: one of --cron, --every, --once and --in says when."""
    given = {"prompt": prompt, "cron": cron, "every": every, "once": once, "in_seconds": in_ or None, "zone": zone}
    given |= {"mode": mode, "silent": silent, "missed": missed, "script": script}
    now = _now()
    task = do(_add, group, given, load(os.environ).zone, now)
    typer.echo(json.dumps({"id": task.id, "next": tasks.times(task, now)}) if as_json else tasks.told(task, now))


@app.command()
def pause(task: TaskArg) -> None:
    """Let a task rest."""
    typer.echo(f"Task {do(_pause, task, _now()).id} is paused; `nanoclaw tasks resume` ends it.")


@app.command()
def resume(task: TaskArg) -> None:
    """Let a task that rests be due again."""
    now = _now()
    typer.echo(tasks.told(do(_resume, task, now), now))


@app.command()
def run(task: TaskArg) -> None:
    """Do a task once, now."""
    typer.echo(f"Task {do(_run, task, _now()).id} is done as soon as the host lives and has room.")


@app.command()
def cancel(task: TaskArg) -> None:
    """End a task for good; what it does at this moment is stopped."""
    typer.echo(f"Task {do(_cancel, task, _now()).id} is cancelled.")


@app.command()
def log(
    task: TaskArg,
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """List what became of each time, newest first; kept for 30 days."""
    known, found = look(_log, task, number)
    if as_json:
        typer.echo(json.dumps([asdict(firing) for firing in found]))
    else:
        _, other = zone_or_utc(known.zone)
        lines = [f"(All times are {other}.)"] * bool(other and found)
        lines += [_line(known, firing) for firing in found]
        typer.echo("\n".join(lines) or "It was not due yet.")


def _line(task: Task, firing: Firing) -> str:
    lasted = firing.ended_at - firing.at
    took = f"{lasted / 1000:.0f} s" if firing.turn_id and firing.ended_at and 0 <= lasted < _LONGEST_MS else ""
    cost = f"{firing.cost:.4f} USD" if firing.cost else ""
    told = (local(firing.due, zone_or_utc(task.zone)[0]), str(firing.state), took, cost, firing.error)
    return ", ".join(filter(None, told))


def _lines(tx: Tx, group: str, now: int) -> list[str]:
    found = rows.alive(tx, groups.find(tx, group).id if group else None)
    return [tasks.line(tx, task, now, folder=not group) for task in found]


def _all_facts(tx: Tx, group: str, now: int) -> list[dict[str, Any]]:
    found = rows.alive(tx, groups.find(tx, group).id if group else None)
    return [tasks.facts(tx, task, now) for task in found]


def _known(tx: Tx, task_id: str) -> Task:
    """A task in whatever state: its record is worth a look also when it is over."""
    task = rows.get(tx, int(task_id)) if task_id.isascii() and task_id.isdigit() and len(task_id) < 16 else None
    if task is None:
        raise Refused(f"there is no task {task_id[:20]!r}: see `nanoclaw tasks list`")
    return task


def _facts(tx: Tx, task_id: str, now: int) -> dict[str, Any]:
    return tasks.facts(tx, _known(tx, task_id), now)


def _log(tx: Tx, task_id: str, number: int) -> tuple[Task, list[Firing]]:
    task = _known(tx, task_id)
    return task, rows.log(tx, task.id, number)


def _add(tx: Tx, group: str, given: dict[str, Any], zone: str, now: int) -> Task:
    found = groups.find(tx, group)
    chat_id = rows.chat_of(tx, found.id)
    if chat_id is None:
        raise Refused(f"{found.folder} has no chat to which the result could go")
    return tasks.add(tx, tasks.planned(found, chat_id, given, zone, Maker(), now), TERMINAL, now)


def _pause(tx: Tx, task_id: str, now: int) -> Task:
    task = tasks.find(tx, task_id)
    tasks.pause(tx, task, TERMINAL, now)
    return task


def _resume(tx: Tx, task_id: str, now: int) -> Task:
    return tasks.resume(tx, tasks.find(tx, task_id), TERMINAL, now)


def _run(tx: Tx, task_id: str, now: int) -> Task:
    task = tasks.find(tx, task_id)
    tasks.run_now(tx, task, TERMINAL, now)
    return task


def _cancel(tx: Tx, task_id: str, now: int) -> Task:
    task = tasks.find(tx, task_id)
    tasks.cancel(tx, task, TERMINAL, now)
    return task


def _now() -> int:
    return time.time_ns() // 1_000_000
