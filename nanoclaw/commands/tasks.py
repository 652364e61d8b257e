"""What is scheduled: seen, and changed by its number."""

from collections.abc import Callable

from nanoclaw.commands.base import Answered, Asked, Misused
from nanoclaw.commands.groups import named
from nanoclaw.control import tasks
from nanoclaw.models import By
from nanoclaw.store import Tx
from nanoclaw.store.tasks import Task


def scheduled(tx: Tx, asked: Asked) -> Answered:
    """The group's tasks, with their next times."""
    group = named(tx, asked, asked.args)
    return Answered(tasks.listed_text(tx, group, asked.house.zone, asked.now))


def pause(tx: Tx, asked: Asked) -> Answered:
    """It is not due until it is resumed."""
    return _done(tx, asked, tasks.pause, "is paused")


def resume(tx: Tx, asked: Asked) -> Answered:
    """It is due again."""
    task = tasks.resume(tx, _meant(tx, asked), asked.by, asked.now)
    return Answered(tasks.told(task, asked.now), changed=True)


def run(tx: Tx, asked: Asked) -> Answered:
    """Once, now."""
    return _done(tx, asked, tasks.run_now, "is being done; its result comes by itself")


def cancel(tx: Tx, asked: Asked) -> Answered:
    """Never again."""
    return _done(tx, asked, tasks.cancel, "is cancelled")


def _done(tx: Tx, asked: Asked, verb: Callable[[Tx, Task, By, int], None], what: str) -> Answered:
    task = _meant(tx, asked)
    verb(tx, task, asked.by, asked.now)
    return Answered(f"Task {task.id} {what}.", changed=True)


def _meant(tx: Tx, asked: Asked) -> Task:
    """By its number: in main of any group, elsewhere of the chat's own."""
    if len(asked.args) != 1:
        raise Misused
    return tasks.find(tx, asked.args[0], None if asked.group.is_main else asked.group)
