"""The heartbeat: whether the agent looks by itself after what stands in its HEARTBEAT.md."""

from nanoclaw.commands.base import Answered, Asked
from nanoclaw.commands.groups import named
from nanoclaw.control import heartbeat
from nanoclaw.store import Tx


def show(tx: Tx, asked: Asked) -> Answered:
    """How it stands."""
    group = named(tx, asked, asked.args)
    return Answered(heartbeat.line(heartbeat.find(tx, group), group, asked.now))


def on(tx: Tx, asked: Asked) -> Answered:
    """Switch it on, or change it: a length and quiet hours may stand behind the group."""
    words, every = list(asked.args), ""
    quiet: str | None = None
    if words and heartbeat.is_hours(words[-1]):
        quiet = words.pop()
    if words and words[-1][:1].isdecimal():
        every = words.pop()
    group = named(tx, asked, tuple(words))
    task = heartbeat.turn_on(tx, group, every, quiet, asked.house.zone, asked.by, asked.now)
    empty = "" if heartbeat.has_words(asked.house.home, group.folder) else f"\n{_EMPTY}"
    return Answered(heartbeat.line(task, group, asked.now) + empty, changed=True)


def off(tx: Tx, asked: Asked) -> Answered:
    """Switch it off, also in the middle of it."""
    group = named(tx, asked, asked.args)
    heartbeat.turn_off(tx, group, asked.by, asked.now)
    return Answered(heartbeat.line(None, group, asked.now), changed=True)


_EMPTY = f"Nothing stands in {heartbeat.FILE} yet, so I ask no model: tell me what I shall look after."
