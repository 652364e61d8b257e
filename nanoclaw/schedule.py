"""When: the only module that knows what a day is, in a time zone. Pure.

What a change of the clocks does to a schedule:

- `cron` whose hours are numbers, ranges or lists names times of day. Those that the change skips fire once, at the
  first instant after the gap, however many they are; one that comes twice fires at its first occurrence.
- `cron` whose hours are `*` or have a step means time that goes by: nothing is added in a gap, and an hour that
  comes twice runs twice.
- `every` is time that goes by, on the grid of its beginning, so that nothing drifts.
- `once` is an instant; a local time is read as a time of day in `cron` is.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nanoclaw.errors import Refused

SHORTEST = 60  # seconds; cron knows nothing shorter
_LONGEST = 366 * 86_400  # seconds between two firings of `every`, and until one that is given as `in_seconds`
_DAY = 86_400
_YEARS = 100  # that `once` may lie ahead
_SAMPLE = 100  # firings that show how close together they come: more than a day has, 15 minutes apart
_SECOND = timedelta(seconds=1)

_ALIASES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_ITEM = re.compile(r"(?:\*|(\d{1,2}|[a-z]{3})(?:-(\d{1,2}|[a-z]{3}))?)(?:/(\d{1,2}))?")
_NTH = re.compile(r"(?:[0-7]|[a-z]{3})#[1-5]|l[0-7]")  # the second Monday, the last Friday
_SIZES = {"minute": 60, "hour": 24, "day of the month": 31, "month": 12, "day of the week": 7}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
KEYS = ("cron", "every", "once", "in_seconds")


@dataclass(frozen=True)
class Cron:
    """Five fields, or @daily and the like."""

    cron: str


@dataclass(frozen=True)
class Every:
    """Every so many seconds since `start` (milliseconds since 1970), which is no firing itself."""

    every: int
    start: int


@dataclass(frozen=True)
class Once:
    """At this instant, in milliseconds since 1970."""

    once: int


@dataclass(frozen=True)
class Damaged:
    """What is stored cannot be read: its task never comes, and can be cancelled or given another time."""


Schedule = Cron | Every | Once | Damaged


# --- in ----------------------------------------------------------------------------------------


def parse(given: Mapping[str, object], zone: ZoneInfo, now: int) -> Schedule:
    """What somebody asks for: one of `cron`, `every`, `once` and `in_seconds`. Raises Refused, saying what to write."""
    named = {key: given[key] for key in KEYS if given.get(key) not in (None, "")}
    if len(named) != 1:
        raise Refused(f"give exactly one of {', '.join(KEYS)}")
    ((key, value),) = named.items()
    match key, value:
        case "cron", str():
            return _cron(value, now, zone)
        case "every", str() | int() if not isinstance(value, bool):
            return Every(_period(value), now)
        case "once", str():
            return _once(value, zone, now)
        case "in_seconds", int() if not isinstance(value, bool) and 0 < value <= _LONGEST:
            return Once(now + value * 1000)
    raise Refused(f"{key} cannot be {str(value)[:60]!r}: {_HELP[key]}")


_HELP = {
    "cron": 'write five fields (minute, hour, day, month, day of the week), as in "30 8 * * mon-fri"',
    "every": 'write a length of at least a minute and at most a year, as in "30m", "2h" or "1d"',
    "once": 'write a date and a time, as in "2030-12-31 18:30"',
    "in_seconds": f"write a whole number of seconds from 1 to {_LONGEST}",
}


def zone_of(name: str) -> ZoneInfo:
    """The time zone with this name. Raises Refused."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(f"{name[:60]!r} is no time zone: write it as in Europe/Berlin") from None


def zone_or_utc(name: str) -> tuple[ZoneInfo, str]:
    """The time zone with this name; of what is none UTC, with a word that says so, for people to read."""
    try:
        return zone_of(name), ""
    except Refused:
        return ZoneInfo("UTC"), f"UTC: there is no time zone {name[:60]!r}"


def _cron(text: str, now: int, zone: ZoneInfo) -> Cron:
    text = " ".join(text.lower().split())
    if text in _ALIASES:
        return Cron(text)
    fields = text.split()
    if len(fields) != len(_SIZES):
        raise Refused(f"cron has five fields, not {len(fields)}: {_HELP['cron']}, or @daily, @weekly, @monthly")
    for value, (name, size) in zip(fields, _SIZES.items(), strict=True):
        for item in value.split(","):
            if not _fits(item, name, size):
                raise Refused(f"cron cannot have {item[:30]!r} as {name}: {_HELP['cron']}")
    found = Cron(text)
    try:
        if next_fire(found, now, zone) is not None:
            return found
    except ValueError as e:  # croniter's own words
        raise Refused(f"cron cannot be {text[:60]!r} ({str(e)[:120]}): {_HELP['cron']}") from None
    raise Refused(f"cron {text!r} never comes: there is no such date")


def _fits(item: str, name: str, size: int) -> bool:
    """Whether it is an item of plain cron; the library knows more, some of which means something surprising."""
    if (name == "day of the month" and item == "l") or (name == "day of the week" and _NTH.fullmatch(item)):
        return True
    if (found := _ITEM.fullmatch(item)) is None:
        return False
    low, high, step = found.groups()
    if step is not None and not 0 < int(step) < size:
        return False
    # A range from a thing to itself would mean all of them; one from a name to a number could be that.
    if name == "day of the week" and (low, high) == ("7", "0"):
        return False
    return high is None or (low.isdigit() == high.isdigit() and low.lstrip("0") != high.lstrip("0"))


def _period(value: str | int) -> int:
    if isinstance(value, int):
        seconds = value
    else:
        text = "".join(value.lower().split())
        parts = re.findall(r"(\d{1,8})([smhdw])", text)
        seconds = sum(int(n) * _UNITS[unit] for n, unit in parts) if "".join(map("".join, parts)) == text else 0
    if not SHORTEST <= seconds <= _LONGEST:
        raise Refused(f"every cannot be {str(value)[:30]!r}: {_HELP['every']}")
    return seconds


def _once(text: str, zone: ZoneInfo, now: int) -> Once:
    try:
        read = datetime.fromisoformat(text.strip() if ":" in text else "")  # a day alone is no time
        year = _wall(now // 1000, zone).year
        if not year - 1 <= read.year <= year + _YEARS:
            why = "is over" if read.year < year else "is too far ahead"
            raise Refused(f"once cannot be {text[:40]!r}: that {why}, give a year from {year} to {year + _YEARS}")
        at = _first(read, zone) if read.tzinfo is None else int(read.timestamp())
    except (ValueError, OverflowError):
        raise Refused(f"once cannot be {text[:40]!r}: {_HELP['once']}") from None
    if at * 1000 <= now:
        raise Refused(f"{local(at * 1000, zone)} is over (it is {local(now, zone)}): give a time that is to come")
    return Once(at * 1000)


def load(text: str) -> Schedule:
    """A stored schedule."""
    match json.loads(text):
        case {"cron": str(cron)}:
            return Cron(cron)
        case {"every": int(every), "start": int(start)}:
            return Every(every, start)
        case {"once": int(once)}:
            return Once(once)
    raise ValueError("no schedule")


def dump(schedule: Schedule) -> str:
    """For the store."""
    return json.dumps(asdict(schedule))


# --- when --------------------------------------------------------------------------------------


def next_fire(schedule: Schedule, after: int, zone: ZoneInfo) -> int | None:
    """The first firing after this instant (both milliseconds since 1970); None when there is none."""
    match schedule:
        case Once(once):
            return once if once > after else None
        case Damaged():
            raise ValueError("no schedule")
        case Every(every, start):
            period = every * 1000
            return start + max((after - start) // period + 1, 1) * period
        case Cron(cron):
            hours = "*" if cron == "@hourly" else cron.split()[1] if " " in cron else "0"
            fires = _going_by if "*" in hours or "/" in hours else _of_day
            try:
                return fires(cron, after // 1000, zone) * 1000
            except (_never(), OverflowError):  # no such date, or no such year
                return None


def last_and_next(schedule: Schedule, since: int, now: int, zone: ZoneInfo) -> tuple[int, int | None]:
    """The last firing up to now, where `since` is one of them, and the first one after now."""
    low, high = since, now
    while (due := next_fire(schedule, low, zone)) is not None and due <= high:
        middle = (low + high) // 2  # a month of minutes is not counted one by one
        later = next_fire(schedule, middle, zone)
        low, high = (later, high) if later is not None and later <= high else (due, middle)
    return low, due


def next_times(schedule: Schedule, after: int, zone: ZoneInfo, count: int) -> list[int]:
    """The next firings, fewer when there are no more."""
    return list(islice(_firings(schedule, after, zone), count))


def closest(schedule: Schedule, after: int, zone: ZoneInfo) -> int | None:
    """Seconds between those of the next firings that are closest together; None for a single one."""
    times = next_times(schedule, after, zone, _SAMPLE)
    return min(((b - a) // 1000 for a, b in pairwise(times)), default=None)


def midnight(now: int, zone: ZoneInfo) -> int:
    """The beginning of the day that `now` lies in (both milliseconds since 1970)."""
    today = datetime.fromtimestamp(now / 1000, zone)
    return int(today.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp() * 1000)


def _firings(schedule: Schedule, after: int, zone: ZoneInfo) -> Iterator[int]:
    while (due := next_fire(schedule, after, zone)) is not None:
        yield due
        after = due


def _never() -> type[Exception]:
    from croniter import CroniterBadDateError  # it takes 80 ms to import: only who has such a task pays for it

    return CroniterBadDateError


def _matching(cron: str, wall: datetime) -> Iterator[datetime]:
    """The local times behind `wall` that the fields name, as if no clock ever changed."""
    from croniter import croniter

    times = croniter(cron, wall)
    while True:
        yield times.get_next(datetime)


def _of_day(cron: str, after: int, zone: ZoneInfo) -> int:
    return next(at for wall in _matching(cron, _wall(after, zone)) if (at := _first(wall, zone)) > after)


def _going_by(cron: str, after: int, zone: ZoneInfo) -> int:
    """From one change of the clocks to the next, local time goes by as any other does."""
    begin, wall = after, _wall(after, zone)
    while True:
        due = after + int((next(_matching(cron, wall)) - wall).total_seconds())
        change = _change(begin, due, zone)
        if change is None:
            return due
        begin, after, wall = change, change - 1, _wall(change, zone) - _SECOND


def _wall(at: int, zone: ZoneInfo) -> datetime:
    """The local time at an instant (seconds since 1970)."""
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)


def _first(wall: datetime, zone: ZoneInfo) -> int:
    """The first instant with this local time; of a time that is skipped, the first one after the gap."""
    before, behind = (int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (1, 0))
    if _wall(behind, zone) == wall.replace(microsecond=0):
        return behind
    change = _change(before, behind, zone)
    return behind if change is None else change


def _change(begin: int, end: int, zone: ZoneInfo) -> int | None:
    """The first instant after `begin`, up to `end`, from which on another offset from UTC counts."""
    for low in range(begin, end, _DAY):
        high = min(low + _DAY, end)
        old = _offset(low, zone)
        if _offset(high, zone) == old:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(middle, zone) == old else (low, middle)
        return high
    return None


def _offset(at: int, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at, zone).utcoffset()


# --- out ---------------------------------------------------------------------------------------


def local(at: int, zone: ZoneInfo) -> str:
    """An instant as people there write it."""
    return datetime.fromtimestamp(at / 1000, zone).strftime("%a %Y-%m-%d %H:%M")


def describe(schedule: Schedule, zone: ZoneInfo) -> str:
    """For a list."""
    match schedule:
        case Cron(cron):
            return f"cron {cron} ({zone.key})"
        case Every(every):
            return f"every {length(every)}"
        case Once(once):
            return f"once, {local(once, zone)} ({zone.key})"
        case Damaged():
            raise ValueError("no schedule")


def length(seconds: int) -> str:
    """As `every` reads it: "1d12h"."""
    parts = []
    for unit, size in reversed(_UNITS.items()):
        if unit != "w" and seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return "".join(parts) or "0s"
