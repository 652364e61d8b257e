"""What `nanoclaw status` tells people: a word at the left, what there is to say beside it, at most forty lines."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import typer

from nanoclaw.cli.pair import WAITING
from nanoclaw.errors import Cause
from nanoclaw.hints import typed
from nanoclaw.notices import detail
from nanoclaw.prompts import plain

_WIDE = 12  # columns of the word at the left
_MOST = 6  # entries of one list; the rest is counted
_COLOURS = {"running": "green", "not running": "yellow"}


def show(told: dict[str, Any], now: int, zone: str) -> None:
    """Print it; coloured where it is a terminal. `now` in milliseconds."""
    typer.secho(typed(_head(told, now, zone)), fg=_COLOURS.get(str(told.get("state")), "red"), bold=True)
    for line in lines(told, now, zone):
        word, rest = line[:_WIDE], typed(line[_WIDE:])
        typer.echo(typer.style(word, bold=True) + rest)


def lines(told: dict[str, Any], now: int, zone: str) -> list[str]:
    """All but the first line. Names in it may be strangers'."""
    parts = {
        "connection": [_channel(c) for c in told.get("channels", ())],
        "key": [_cell(told["credential"])] if "credential" in told else [],
        "work": list(_work(told, now)),
        "texts": list(_texts(told, now, zone)),
        "tasks": list(_tasks(told.get("tasks"), now, zone)),
        "cost": list(_cost(told.get("cost"))),
        "disk": list(_disk(told)),
        "engine": [_cell(told["engine"])] if "engine" in told else [],
        "fallback": [_cell(f"{f.get('group')}: {f.get('model')} answers") for f in told.get("fallback", ())],
        "settings": [_cell(told["settings"])] if "settings" in told else [],
        "watch": _watch(told),
    }
    return [
        f"{word if n == 0 else '':<{_WIDE}}{entry}"
        for word, entries in parts.items()
        for n, entry in enumerate(entries)
    ]


def _head(told: dict[str, Any], now: int, zone: str) -> str:
    name, pid = f"NanoClaw {_cell(told.get('version', ''))}", told.get("pid") or "unknown"
    if told.get("state") == "running":
        return f"{name} runs (process {pid}), for {_lasts(int(told.get('up_seconds', 0)))}"
    if told.get("state") == "not running":
        since = f" since {_when(told['seen'], now, zone)}" if told.get("seen") else ""
        crashed = " (it ended in the middle of its work)" if told.get("crashed") else ""
        return f"{name} is not running{since}{crashed}; start it with: nanoclaw run"
    if told.get("state") == "starting":
        return f"{name} runs (process {pid}) and takes no questions: it is starting or stopping"
    if not told.get("pid"):  # as where control.sock is another user's
        return f"{name} cannot be asked: {_cell(told.get('why'))}"
    seen = f"; last sign of life {_when(told['seen'], now, zone)}" if told.get("seen") else ""
    return f"{name} runs (process {pid}) and does not answer{seen}. If that stays so: kill -9 {pid}, then start it"


def _channel(told: dict[str, Any]) -> str:
    """Its name, its state, and what to do about it."""
    line = f"{told.get('name')}: {str(told.get('state')).replace('_', ' ')}"
    more = told.get("detail") or ("not linked: nanoclaw pair" if told.get("state") in WAITING else "")
    return _cell(f"{line} ({more})" if more else line)


def _work(told: dict[str, Any], now: int) -> Iterator[str]:
    if "lanes" not in told:
        return
    lanes, runs = told["lanes"], told.get("runs", [])
    busy = sum(lane.get("state") == "busy" for lane in lanes)
    oldest = f", the oldest for {_lasts(max(run.get('age', 0) for run in runs))}" if runs else ""
    memory = sum(run.get("memory") or 0 for run in runs)
    oldest += f", with {_size(memory)} of memory" if memory else ""
    waits = sum(lane.get("messages", 0) + lane.get("turns", 0) for lane in lanes if lane.get("state") != "busy")
    agents = f"{len(runs)} of {told['slots']}" if "slots" in told else len(runs)
    yield f"{agents} agent(s) run{oldest}; {busy} lane(s) at work, {waits} turn(s) or message(s) wait"
    yield from _some([_lane(lane, now) for lane in lanes])


def _lane(told: dict[str, Any], now: int) -> str:
    if cause := told.get("cause"):
        try:
            return _cell(detail(Cause(cause), str(told.get("lane")), ""))
        except ValueError:  # a word of another version
            return _cell(f"{told.get('lane')}: parked ({cause})")
    since = f" for {_lasts((now - told['since']) // 1000)}" if told.get("since") else ""
    return _cell(f"{told.get('lane')}: {told.get('state')}{since}")


def _texts(told: dict[str, Any], now: int, zone: str) -> Iterator[str]:
    if "outgoing" not in told:
        return
    last, counts = told.get("last", {}), dict(told["outgoing"])
    dead, _ = counts.pop("dead", 0), counts.pop("duplicate", 0)
    heard, said = (_when(last.get(key, 0), now, zone) for key in ("heard", "said"))
    yield f"last one in: {heard}, out: {said}; {sum(counts.values())} wait to be sent"
    if dead:
        yield f"{dead} could not be delivered and are given up: main was told of each"


def _tasks(told: dict[str, Any] | None, now: int, zone: str) -> Iterator[str]:
    if told:
        due = f", {told['due']} due" if told.get("due") else ""
        failing = f", {told['failing']} failed when last done" if told.get("failing") else ""
        after = f"; next {_when(told['next'], now, zone)}" if told.get("next") else ""
        yield f"{told.get('active', 0)} active{due}{failing}{after}"


def _cost(told: dict[str, Any] | None) -> Iterator[str]:
    if told:
        limit = told.get("limits", {}).get("month")
        most = f" of ${limit:,.2f}" if limit else ""
        unknown = (
            f"; {told['tokens_without_price']:,} tokens without a price" if told.get("tokens_without_price") else ""
        )
        yield f"${told.get('today', 0):,.2f} today, ${told.get('month', 0):,.2f}{most} this month{unknown}"


def _disk(told: dict[str, Any]) -> Iterator[str]:
    disk = told.get("disk", {})
    if disk.get("free") is not None:
        home = f"{_size(disk['home'])} in home" if disk.get("home") is not None else "home is too large to count now"
        rows = _size(disk.get("database", 0) + disk.get("wal", 0))
        yield f"{_size(disk['free'])} free; {home}, {rows} of it the database"
    if told.get("ballast", "held") != "held":
        yield f"ballast: {_cell(told['ballast'])}"
    if told.get("store", "answers") != "answers":
        yield f"database: {_cell(told['store'])}"


def _watch(told: dict[str, Any]) -> list[str]:
    if "watch" not in told:
        return []
    found = [_trouble(entry) for entry in told["watch"]]
    return list(_some(found)) or ["nothing is wrong"]


def _trouble(told: dict[str, Any]) -> str:
    of = f" ({', '.join(told['lanes'])})" if told.get("lanes") else ""
    return _cell(f"{told.get('cause')}: {told.get('said')}{of} {told.get('mend')}")


def _some(entries: Sequence[str]) -> Iterator[str]:
    yield from entries[:_MOST]
    if len(entries) > _MOST:
        yield f"and {len(entries) - _MOST} more: nanoclaw status --json"


def _when(at: int, now: int, zone: str) -> str:
    if not at:
        return "never"
    there, here = (datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)) for ms in (at, now))
    return f"{there:%H:%M}" if there.date() == here.date() else f"{there:%Y-%m-%d %H:%M}"


def _lasts(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{max(0, seconds)} s"


def _size(count: int) -> str:
    return f"{count / (1 << 30):,.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.1f} MiB"


def _cell(value: Any) -> str:
    return " ".join(plain(str(value)).split())
