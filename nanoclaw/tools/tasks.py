"""The tools for tasks: of the turn's own chat at once, of another one only with the owner's word."""

from typing import Any

from nanoclaw.control import groups, pending
from nanoclaw.control import tasks as verbs
from nanoclaw.control.tasks import Maker
from nanoclaw.errors import Refused
from nanoclaw.models import Group
from nanoclaw.store import Tx, tasks
from nanoclaw.store.tasks import Task
from nanoclaw.tools.desk import Asked

_SHOWN = 300  # characters of a prompt in the list
_MOST = 100  # tasks in one answer


def schedule_task(tx: Tx, asked: Asked) -> str:
    """Its number and when it is due; what would be too much, or elsewhere, the owner is asked."""
    group, chat_id = _place(tx, asked)
    maker = Maker(asked.turn.authority, tasks.person_of(tx, asked.turn.id))
    task = verbs.planned(group, chat_id, asked.call.args, asked.zone, maker, asked.now)
    why = (
        f"it is for {group.folder}"
        if group.id != asked.group.id
        else verbs.excess(tx, task, asked.now, asked.turn.authority)
    )
    if not why:
        return verbs.told(verbs.add(tx, task, asked.by, asked.now), asked.now)
    code = pending.code_of(asked.nonce)
    told = pending.propose(tx, "schedule_task", verbs.proposal(tx, task), asked.by, code, asked.now)
    return f"{told} (Why the owner is asked: {why}.)"


def _place(tx: Tx, asked: Asked) -> tuple[Group, int]:
    folder = asked.call.args.get("group") or asked.group.folder
    if not isinstance(folder, str):
        raise Refused("group must be the folder of a group")
    if folder == asked.group.folder:
        return asked.group, asked.turn.chat_id
    if not asked.commands_all:
        raise Refused("only the owner in the main chat can have something scheduled for another one")
    group = groups.find(tx, folder)
    chat_id = tasks.chat_of(tx, group.id)
    if chat_id is None:
        raise Refused(f"{group.folder} has no chat")
    return group, chat_id


def update_task(tx: Tx, asked: Asked) -> str:
    """What it is and when it is due now."""
    task = _own(tx, asked)
    return verbs.told(verbs.update(tx, task, asked.call.args, asked.by, asked.now, asked.turn.authority), asked.now)


def list_tasks(tx: Tx, asked: Asked) -> str:
    """The tasks of this chat; in the owner's turns in main those of all."""
    found = tasks.alive(tx, None if asked.commands_all else asked.group.id)
    lines = [_line(tx, task, asked) for task in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"[{len(found) - _MOST} newer ones are left out: `nanoclaw tasks list` shows them]")
    return "\n".join(lines) or "Nothing is scheduled."


def _line(tx: Tx, task: Task, asked: Asked) -> str:
    told = verbs.line(tx, task, asked.now, folder=task.group_id != asked.group.id, length=_SHOWN)
    return f"{told} ({'in the conversation' if not task.options.isolated else 'isolated'}, zone {task.zone})"


def pause_task(tx: Tx, asked: Asked) -> str:
    """It is not due until it is resumed."""
    task = _any(tx, asked)
    verbs.pause(tx, task, asked.by, asked.now)
    return f"Task {task.id} is paused."


def resume_task(tx: Tx, asked: Asked) -> str:
    """It is due again."""
    return verbs.told(verbs.resume(tx, _own(tx, asked), asked.by, asked.now), asked.now)


def cancel_task(tx: Tx, asked: Asked) -> str:
    """It is never due again."""
    task = _any(tx, asked)
    verbs.cancel(tx, task, asked.by, asked.now, sparing=asked.turn.id)
    return f"Task {task.id} is cancelled."


def run_task_now(tx: Tx, asked: Asked) -> str:
    """It is done once, beside its schedule."""
    task = _own(tx, asked)
    verbs.run_now(tx, task, asked.by, asked.now, asked.turn.authority)
    return f"Task {task.id} is being done; its result comes by itself."


def _own(tx: Tx, asked: Asked) -> Task:
    """A task of this group that this turn may change: one of nobody who may do more."""
    task = _any(tx, asked)
    _may(asked, task)
    if task.group_id != asked.group.id:
        raise Refused(f"task {task.id} belongs to another chat: there, or with `nanoclaw tasks`, that can be done")
    return task


def _any(tx: Tx, asked: Asked) -> Task:
    """As `_own`; what narrows, the owner's turns in main may do to all, and a task's to itself."""
    task = verbs.find(tx, _number(asked.call.args), None if asked.commands_all else asked.group)
    if tasks.of_turn(tx, asked.turn.id) != task.id:
        _may(asked, task)
    return task


def _may(asked: Asked, task: Task) -> None:
    if asked.turn.authority.rank < task.made_by.rank:
        raise Refused(f"task {task.id} was made by somebody who may do more than who asks now")


def _number(args: dict[str, Any]) -> int | str:
    number = args.get("id")
    if not isinstance(number, int | str) or isinstance(number, bool):
        raise Refused("id must be the number of a task, as list_tasks shows it")
    return number


LOOKS = {"list_tasks": list_tasks}
ACTS = {
    "schedule_task": schedule_task,
    "update_task": update_task,
    "pause_task": pause_task,
    "resume_task": resume_task,
    "cancel_task": cancel_task,
    "run_task_now": run_task_now,
}
