"""The heartbeat: a group's agent looks now and then by itself whether something in HEARTBEAT.md wants to be done."""

import re
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from nanoclaw import safefs, schedule
from nanoclaw.control import tasks as verbs
from nanoclaw.control.tasks import Maker
from nanoclaw.errors import Refused, UnsafePath
from nanoclaw.groups import Home
from nanoclaw.models import By, Group
from nanoclaw.schedule import Every
from nanoclaw.store import Tx, audit, tasks
from nanoclaw.store.tasks import Task

FILE = "HEARTBEAT.md"
EVERY = "30m"  # where nothing else is said
MAX_FILE = 256 << 10  # bytes of it that are looked at
HEARTBEAT_OK = "HEARTBEAT_OK"
MAX_HEARTBEAT_OK = 64  # characters of an answer that begins so and is for nobody
_PROMPT = (
    f"Read {FILE} in your folder and see whether something in it wants to be done or said now; do nothing else. "
    f"Where nothing does, answer with {HEARTBEAT_OK} alone: nobody is disturbed then."
)
_QUIET = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_BARE = re.compile(r"#{1,6}(?:\s.*)?|[-*_=`\s]*|[-*+]\s+\[[ x]?\]")  # headings, rules, and items without a word


def find(tx: Tx, group: Group) -> Task | None:
    """The group's heartbeat, if it has one."""
    return next((task for task in tasks.alive(tx, group.id) if task.options.heartbeat), None)


def turn_on(tx: Tx, group: Group, every: str, quiet: str | None, zone: str, by: By, now: int) -> Task:
    """From now on; one that is on already becomes this one, and keeps what is not said: `every` "", `quiet` None.
    Raises Refused."""
    before = find(tx, group)
    if before is not None:
        every = every or (schedule.length(before.schedule.every) if isinstance(before.schedule, Every) else "")
        quiet = before.options.quiet if quiet is None else quiet
    quiet = quiet or ""
    _minutes(quiet)
    chat_id = tasks.chat_of(tx, group.id)
    if chat_id is None:
        raise Refused(f"{group.folder} has no chat to which it could speak")
    given = {"prompt": _PROMPT, "every": every or EVERY, "missed": "skip"}
    new = verbs.planned(group, chat_id, given, zone, Maker(), now)
    if before is not None:
        verbs.cancel(tx, before, by, now)
    new = replace(new, options=replace(new.options, heartbeat=True, quiet=quiet))
    audit.note(tx, by, "heartbeat on", group.folder, now)
    return verbs.add(tx, new, by, now)


def turn_off(tx: Tx, group: Group, by: By, now: int) -> Task:
    """It is over, also in the middle of it. Raises Refused."""
    if (task := find(tx, group)) is None:
        raise Refused(f"{group.folder} has no heartbeat")
    verbs.cancel(tx, task, by, now)
    audit.note(tx, by, "heartbeat off", group.folder, now)
    return task


def line(task: Task | None, group: Group, now: int) -> str:
    """How it stands."""
    if task is None:
        return f"{group.folder}: off"
    quiet = f", quiet {task.options.quiet}" if task.options.quiet else ""
    due = ", ".join(verbs.times(task, now, 1)) or str(task.state)
    return f"{group.folder}: {verbs.when(task)}{quiet}, next {due} (task {task.id})"


def is_hours(text: str) -> bool:
    """Whether it looks like quiet hours, right or wrong: "22:00-07:00"."""
    return ":" in text and "-" in text


def in_quiet(quiet: str, now: int, zone: ZoneInfo) -> bool:
    """Whether the local time lies in these hours, which may go over midnight."""
    if (hours := _minutes(quiet)) is None:
        return False
    begin, end = hours
    wall = datetime.fromtimestamp(now / 1000, zone)
    minute = wall.hour * 60 + wall.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _minutes(quiet: str) -> tuple[int, int] | None:
    if not quiet:
        return None
    if (found := _QUIET.fullmatch(quiet)) is None:
        raise Refused(f'quiet hours cannot be {quiet[:20]!r}: write them as in "22:00-07:00"')
    h1, m1, h2, m2 = map(int, found.groups())
    if (h1, m1) == (h2, m2):
        raise Refused("quiet hours from a time to itself would be all of the day: /heartbeat off is that")
    return h1 * 60 + m1, h2 * 60 + m2


def has_words(home: Home, folder: str) -> bool:
    """Whether there is more in the group's file than headings. One that cannot be read has none."""
    try:
        text = safefs.read_file(home.group_dir(folder), FILE, MAX_FILE).decode("utf-8", "replace")
    except (FileNotFoundError, UnsafePath):
        return False
    return any(not _BARE.fullmatch(line.strip()) for line in _COMMENT.sub("", text).splitlines())
