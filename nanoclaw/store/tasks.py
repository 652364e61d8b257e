"""Tasks and their firings: what is to be done when, and what became of each time."""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from nanoclaw import schedule
from nanoclaw.models import Authority, GroupState
from nanoclaw.schedule import Damaged, Schedule
from nanoclaw.store import Tx, new_id, storable


class TaskState(StrEnum):
    """Where a task is."""

    ACTIVE = "active"
    PAUSED = "paused"
    DONE = "done"  # it has fired for the last time
    CANCELLED = "cancelled"


class FiringState(StrEnum):
    """What became of one due time."""

    OPEN = "open"  # its turn has not ended
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # by a person
    OVERLAP = "skipped: overlap"  # the one before had not ended
    EMPTY = "skipped: nothing to do"  # a heartbeat without a word in its file
    QUIET = "skipped: quiet hours"
    FULL = "skipped: too many"  # the group's tasks have had all turns that they may have in so short a time
    MISSED = "skipped: missed"  # the host was not there, and the task wants no late ones


@dataclass(frozen=True)
class Options:
    """How a task is done."""

    isolated: bool = True  # in a lane, a session and a container of its own; else in the group's conversation
    silent: bool = False  # its final text goes to nobody
    missed: str = "latest"  # of what was missed one, late; or "skip"
    script: str = ""  # run in its sandbox first: the model is asked only if it says so
    heartbeat: bool = False  # over the group's HEARTBEAT.md
    quiet: str = ""  # hours in which it is not done, as in "22:00-07:00"


@dataclass(frozen=True)
class Task:
    """A scheduled prompt."""

    id: int
    group_id: int
    chat_id: int
    prompt: str
    schedule: Schedule
    zone: str
    options: Options = Options()
    state: TaskState = TaskState.ACTIVE
    next_due: int | None = None
    failures: int = 0  # in a row
    person_id: int | None = None  # whose wish it was
    made_by: Authority = Authority.OWNER
    asked: int = 0
    created_at: int = 0


@dataclass(frozen=True)
class Firing:
    """One due time of a task."""

    id: int
    due: int
    state: FiringState
    turn_id: str
    at: int
    ended_at: int
    cost: float
    error: str


def insert(tx: Tx, task: Task) -> int:
    """A new task; its id."""
    cursor = tx.execute(
        "INSERT INTO tasks(group_id, chat_id, prompt, schedule, zone, options, state, next_due, person_id, made_by,"
        " created_at) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(task.group_id, task.chat_id, storable(task.prompt), schedule.dump(task.schedule), task.zone),
            *(json.dumps(asdict(task.options)), task.state, task.next_due, task.person_id, task.made_by),
            task.created_at,
        ),
    )
    return new_id(cursor)


def get(tx: Tx, task_id: int) -> Task | None:
    """One task, in whatever state."""
    row = tx.execute("SELECT * FROM tasks WHERE id = ?", (task_id,)).fetchone()
    return None if row is None else _task(row)


def alive(tx: Tx, group_id: int | None = None) -> list[Task]:
    """The active and the paused ones, of one group or of all."""
    rows = tx.execute(
        "SELECT * FROM tasks WHERE state IN (?, ?) AND coalesce(?, group_id) = group_id ORDER BY id",
        (TaskState.ACTIVE, TaskState.PAUSED, group_id),
    )
    return [_task(row) for row in rows]


def of_person(tx: Tx, person_id: int) -> list[Task]:
    """The active and the paused ones that this person wanted and no owner has said yes to."""
    rows = tx.execute(
        "SELECT * FROM tasks WHERE state IN (?, ?) AND person_id = ? AND made_by <> ? ORDER BY id",
        (TaskState.ACTIVE, TaskState.PAUSED, person_id, Authority.OWNER),
    )
    return [_task(row) for row in rows]


def ahead(tx: Tx, now: int, after: int, limit: int) -> list[int]:
    """The next ids behind `after` of active tasks that are not due."""
    rows = tx.execute(
        "SELECT id FROM tasks WHERE state = ? AND (next_due IS NULL OR next_due > ?) AND id > ? ORDER BY id LIMIT ?",
        (TaskState.ACTIVE, now, after, limit),
    )
    return [int(row["id"]) for row in rows]


def person_of(tx: Tx, turn_id: str) -> int | None:
    """Whose wish a turn is: who wrote last in it, or had it scheduled."""
    row = tx.execute(
        "SELECT coalesce((SELECT person_id FROM messages m WHERE m.turn_id = t.id ORDER BY m.id DESC LIMIT 1),"
        " (SELECT a.person_id FROM firings f JOIN tasks a ON a.id = f.task_id WHERE f.id = t.firing_id)) AS person"
        " FROM turns t WHERE t.id = ?",
        (turn_id,),
    ).fetchone()
    return None if row is None or row["person"] is None else int(row["person"])


def chat_of(tx: Tx, group_id: int) -> int | None:
    """The group's chat that was used last."""
    row = tx.execute("SELECT id FROM chats WHERE group_id = ? ORDER BY seen DESC LIMIT 1", (group_id,)).fetchone()
    return None if row is None else int(row["id"])


def of_turn(tx: Tx, turn_id: str) -> int | None:
    """The id of the task that a turn is a firing of."""
    row = tx.execute(
        "SELECT f.task_id FROM turns t JOIN firings f ON f.id = t.firing_id WHERE t.id = ?", (turn_id,)
    ).fetchone()
    return None if row is None else int(row["task_id"])


def reword(tx: Tx, task: Task) -> None:
    """What it is to do, when and how is now this."""
    tx.execute(
        "UPDATE tasks SET prompt = ?, schedule = ?, zone = ?, options = ?, next_due = ? WHERE id = ?",
        (
            *(storable(task.prompt), schedule.dump(task.schedule), task.zone, json.dumps(asdict(task.options))),
            *(task.next_due, task.id),
        ),
    )


def put(tx: Tx, task_id: int, state: TaskState, next_due: int | None, now: int) -> None:
    """The task's state, and when it is due next; a new beginning forgets old failures."""
    over = now if state in (TaskState.DONE, TaskState.CANCELLED) else 0
    tx.execute(
        "UPDATE tasks SET state = ?, next_due = ?, failures = 0, ended_at = ?,"
        " asked = CASE WHEN ? THEN 0 ELSE asked END WHERE id = ?",
        (state, next_due, over, state is TaskState.CANCELLED, task_id),
    )


def move(tx: Tx, task_id: int, next_due: int | None) -> None:
    """It is due next then."""
    tx.execute("UPDATE tasks SET next_due = ? WHERE id = ?", (next_due, task_id))


def ask(tx: Tx, task_id: int, at: int) -> None:
    """Somebody wants it at once; 0: that was done."""
    tx.execute("UPDATE tasks SET asked = ? WHERE id = ?", (at, task_id))


def due(tx: Tx, now: int, limit: int) -> list[int]:
    """The ids of what is to be fired, the earliest first. A group that is paused has nothing due."""
    rows = tx.execute(
        "SELECT t.id FROM tasks t JOIN groups g ON g.id = t.group_id WHERE g.state = ?"
        " AND ((t.state = ? AND t.next_due <= ?) OR t.asked > 0) ORDER BY t.next_due LIMIT ?",
        (GroupState.ACTIVE, TaskState.ACTIVE, now, limit),
    )
    return [int(row["id"]) for row in rows]


def folder(tx: Tx, task_id: int) -> str:
    """Of the task's group."""
    sql = "SELECT g.folder FROM tasks t JOIN groups g ON g.id = t.group_id WHERE t.id = ?"
    return str(tx.execute(sql, (task_id,)).fetchone()["folder"])


def wanted_by(tx: Tx, task_id: int) -> str:
    """The display name of whose wish it was."""
    sql = "SELECT p.name FROM tasks t JOIN people p ON p.id = t.person_id WHERE t.id = ?"
    row = tx.execute(sql, (task_id,)).fetchone()
    return "" if row is None else str(row["name"])


def soonest(tx: Tx) -> int | None:
    """When the next task is due; 0 when somebody waits for one."""
    row = tx.execute(
        "SELECT min(CASE WHEN t.asked > 0 THEN 0 ELSE t.next_due END) AS due FROM tasks t JOIN groups g"
        " ON g.id = t.group_id WHERE g.state = ? AND (t.state = ? OR t.asked > 0)",
        (GroupState.ACTIVE, TaskState.ACTIVE),
    ).fetchone()
    return None if row["due"] is None else int(row["due"])


def failing(tx: Tx, times: int) -> list[int]:
    """The ids of active tasks that failed so many times in a row."""
    rows = tx.execute("SELECT id FROM tasks WHERE state = ? AND failures >= ?", (TaskState.ACTIVE, times))
    return [int(row["id"]) for row in rows]


def fired_since(tx: Tx, group_id: int, since: int) -> int:
    """How many turns the group's tasks have had since then that were not made for the owner."""
    sql = (
        "SELECT count(*) AS n FROM firings f CROSS JOIN tasks t ON t.id = f.task_id"  # in this order: few are so new
        " WHERE t.group_id = ? AND t.made_by <> ? AND f.turn_id <> '' AND f.at > ?"
    )
    return int(tx.execute(sql, (group_id, Authority.OWNER, since)).fetchone()["n"])


def busy(tx: Tx, task_id: int) -> bool:
    """Whether one of its firings has not ended."""
    row = tx.execute("SELECT 1 FROM firings WHERE task_id = ? AND state = ?", (task_id, FiringState.OPEN)).fetchone()
    return row is not None


def add_firing(tx: Tx, task_id: int, due: int, state: FiringState, now: int, turn_id: str = "") -> int | None:
    """A due time has come; None when it had come before: a clock may be set back."""
    over = 0 if state is FiringState.OPEN else now
    if state is FiringState.OVERLAP and _moved(tx, task_id, due, now):
        return None
    row = tx.execute(
        "INSERT INTO firings(task_id, due, turn_id, state, at, ended_at) VALUES(?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING RETURNING id",
        (task_id, due, turn_id, state, now, over),
    ).fetchone()
    return None if row is None else int(row["id"])


def _moved(tx: Tx, task_id: int, due: int, now: int) -> bool:
    """One row stands for all times that come behind the same turn: it may wait for days."""
    sql = (
        "UPDATE OR IGNORE firings SET due = ?, at = ?, ended_at = ?"
        " WHERE id = (SELECT max(id) FROM firings WHERE task_id = ?) AND state = ?"
    )
    return tx.execute(sql, (due, now, now, task_id, FiringState.OVERLAP)).rowcount > 0


def open_turn(tx: Tx, task_id: int) -> str:
    """The id of the turn that the task has now, or ""."""
    row = tx.execute(
        "SELECT turn_id FROM firings WHERE task_id = ? AND state = ?", (task_id, FiringState.OPEN)
    ).fetchone()
    return "" if row is None else str(row["turn_id"])


def log(tx: Tx, task_id: int, limit: int) -> list[Firing]:
    """The newest firings, newest first."""
    rows = tx.execute("SELECT * FROM firings WHERE task_id = ? ORDER BY id DESC LIMIT ?", (task_id, limit))
    names = [f.name for f in fields(Firing)]
    found = [{name: row[name] for name in names} for row in rows]
    return [Firing(**{**row, "state": FiringState(row["state"])}) for row in found]


def _task(row: dict[str, Any]) -> Task:
    """One that is damaged is still in the list, to be cancelled; who made it counts as who may do most."""
    try:
        when, made_by, options = schedule.load(row["schedule"]), Authority(row["made_by"]), json.loads(row["options"])
        known = {f.name: options[f.name] for f in fields(Options) if f.name in options}
    except (ValueError, TypeError, LookupError):
        when, made_by, known = Damaged(), Authority.OWNER, {}
    return Task(
        id=row["id"],
        group_id=row["group_id"],
        chat_id=row["chat_id"],
        prompt=row["prompt"],
        schedule=when,
        zone=row["zone"],
        options=Options(**known),
        state=TaskState(row["state"]),
        next_due=row["next_due"],
        failures=row["failures"],
        person_id=row["person_id"],
        made_by=made_by,
        asked=row["asked"],
        created_at=row["created_at"],
    )
