"""What is due becomes a turn: the firing, its turn and the task's next due time are one transaction."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import notices, prompts, schedule
from nanoclaw.control.heartbeat import in_quiet
from nanoclaw.control.tasks import barred, full
from nanoclaw.errors import NanoClawError, Refused
from nanoclaw.models import Authority, Group, Origin, OutKind, Turn, TurnState
from nanoclaw.schedule import Damaged, Every, Once
from nanoclaw.store import Tx, attempt, chats, outgoing, tasks, turns
from nanoclaw.store.tasks import FiringState, Task, TaskState

LATE_MS = 60_000  # after which a firing is late: its agent is told, or it is skipped
MAX_FAILURES = 8  # in a row, after which a task is paused
BACK_OFF_MS = 60_000  # doubled with each failure in a row
MAX_BACK_OFF_MS = 7_200_000
AGAIN_MS = 60_000  # after which a single time that was in the way of another turn is tried again
RESETTLED = 100  # tasks whose times are computed in one transaction
_HOUR_MS = 3_600_000
SLICE = 20  # firings of one transaction: others write in between
_BAD = (NanoClawError, ValueError, TypeError, LookupError)  # what one damaged task can raise


@dataclass
class Fired:
    """What the living process has to do once the transaction is on the disk."""

    lanes: list[str] = field(default_factory=list)  # with a new turn
    told: bool = False  # rows wait for the outbox
    more: bool = False  # there is more that is due


@dataclass(frozen=True)
class Ids:
    """Where what is random comes from, and what lies outside the store."""

    new_turn: Callable[[], str]
    new_nonce: Callable[[], str]
    has_heartbeat: Callable[[str], bool]  # whether there is a word in the HEARTBEAT.md of this folder


def leapt(tx: Tx, old: int, new: int) -> None:
    """The clock leapt ahead: main is told, at most once in an hour, while it can still be set right."""
    main = chats.main_chat(tx)
    if main is not None and outgoing.may_tell(tx, "clock", main.id, old, _HOUR_MS):
        text = notices.clock_leapt(schedule.length((new - old) // 3_600_000 * 3600))
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, old)


def resettle(tx: Tx, now: int, after: int = 0) -> int:
    """The clock was set back, perhaps before this life: what is due earlier than was thought is moved there.

    Of the next tasks behind the id `after`; the id to go on behind, 0 when there are no more.
    """
    ids = tasks.ahead(tx, now, after, RESETTLED)
    for task_id in ids:
        with suppress(*_BAD):  # told when it is due
            task = tasks.get(tx, task_id)
            if task is not None and not isinstance(task.schedule, Once):
                _resettle(tx, task, now)
    return ids[-1] if len(ids) == RESETTLED else 0


def _resettle(tx: Tx, task: Task, now: int) -> None:
    when = task.schedule
    if isinstance(when, Every) and when.start > now:  # made while the clock was ahead: on the same grid, from before
        period = when.every * 1000
        when = replace(when, start=when.start + (now - when.start) // period * period)
        tasks.reword(tx, replace(task, schedule=when))
    due = schedule.next_fire(when, now, ZoneInfo(task.zone))
    if due is not None and (task.next_due is None or due < task.next_due):
        tasks.move(tx, task.id, due)


def fire(tx: Tx, now: int, ids: Ids, held: int | None = None) -> Fired:
    """Turns for some of what is due. One task that cannot be fired stops no other.

    `held`: from when on nothing was done though the host was there; what was due since then is late, not missed.
    """
    fired = Fired()
    for task_id in tasks.failing(tx, MAX_FAILURES):
        _give_up(tx, task_id, f"failed {MAX_FAILURES} times in a row", now, fired)
    due = tasks.due(tx, now, SLICE)
    for task_id in due:
        try:
            with attempt(tx):
                lane = _fire(tx, task_id, now, ids, now if held is None else held)
        except _BAD as e:  # the boundary of one task
            logger.error("Task {} cannot be fired and is paused: {}", task_id, e)
            why = str(e) if isinstance(e, Refused) else "its row is damaged"
            _give_up(tx, task_id, f"cannot be done ({why})", now, fired)
        else:
            fired.lanes += [lane] if lane else []
    fired.more = len(due) == SLICE
    return fired


def back_off(tx: Tx, task_id: int, now: int) -> None:
    """Its script failed: it is not due for two minutes, twice as long with each failure in a row, up to two hours."""
    task = tasks.get(tx, task_id)
    if task is None or task.next_due is None or task.state is not TaskState.ACTIVE or isinstance(task.schedule, Once):
        return
    wait = min(BACK_OFF_MS * 2**task.failures, MAX_BACK_OFF_MS)
    later = schedule.next_fire(task.schedule, now + wait - 1, ZoneInfo(task.zone))
    if later is not None and later > task.next_due:
        tasks.move(tx, task.id, later)


def _give_up(tx: Tx, task_id: int, why: str, now: int, fired: Fired) -> None:
    """It is paused, and the owner told once."""
    tasks.put(tx, task_id, TaskState.PAUSED, None, now)
    tasks.ask(tx, task_id, 0)
    if (main := chats.main_chat(tx)) is not None:
        text = notices.task_paused(task_id, tasks.folder(tx, task_id), why)
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
        fired.told = True


def _fire(tx: Tx, task_id: int, now: int, ids: Ids, held: int) -> str:
    """One task; its turn's lane, or "" where there is none."""
    task = tasks.get(tx, task_id)
    if task is None:
        return ""
    if isinstance(task.schedule, Damaged):
        raise ValueError("its row is damaged")
    if chats.chat(tx, task.chat_id).group_id != task.group_id:  # whoever has that number now is nobody to speak to
        raise Refused("its chat is not served any more")
    if why := barred(tx, task):
        raise Refused(why)
    if task.asked:
        tasks.ask(tx, task.id, 0)
        return _begin(tx, task, task.asked, now, ids)
    if isinstance(task.schedule, Once) and (tasks.busy(tx, task.id) or full(tx, task, now)):
        tasks.move(tx, task.id, now + AGAIN_MS)  # it has no other time
        return ""
    assert task.next_due is not None  # noqa: S101 - it was found by that
    zone = ZoneInfo(task.zone)
    due, later = schedule.last_and_next(task.schedule, task.next_due, now, zone)
    tasks.move(tx, task.id, later)  # without a later time (in the year 9999, say) it waits until the clock is right
    if now - due > LATE_MS and due < held and task.options.missed == "skip":
        tasks.add_firing(tx, task.id, due, FiringState.MISSED, now)
        lane = ""
    else:
        lane = _begin(tx, task, due, now, ids)
    if not lane and isinstance(task.schedule, Once):  # else it is over when its turn is
        tasks.put(tx, task.id, TaskState.DONE, None, now)
    return lane


def _begin(tx: Tx, task: Task, due: int, now: int, ids: Ids) -> str:
    if (skipped := _skipped(tx, task, due, now, ids)) is not None:
        tasks.add_firing(tx, task.id, due, skipped, now)
        return ""
    turn_id = ids.new_turn()
    firing = tasks.add_firing(tx, task.id, due, FiringState.OPEN, now, turn_id)
    if firing is None:
        return ""
    turn = _turn(tx, task, firing, turn_id, due, now, ids.new_nonce())
    turns.ensure_lane(tx, turn.lane, task.group_id)
    turns.insert(tx, turn, now)
    logger.info("Task {} of {} is due: turn {}", task.id, turn.lane, turn_id)
    return turn.lane


def _skipped(tx: Tx, task: Task, due: int, now: int, ids: Ids) -> FiringState | None:
    """Why no agent is asked this time; quiet hours are for what comes by itself."""
    if tasks.busy(tx, task.id):
        return FiringState.OVERLAP
    if full(tx, task, now):
        return FiringState.FULL
    if not task.options.heartbeat:
        return None
    group = chats.group(tx, task.group_id)
    if due != task.asked and in_quiet(task.options.quiet, now, ZoneInfo(group.zone or task.zone)):
        return FiringState.QUIET
    return None if ids.has_heartbeat(group.folder) else FiringState.EMPTY


def _turn(tx: Tx, task: Task, firing: int, turn_id: str, due: int, now: int, nonce: str) -> Turn:
    group = chats.group(tx, task.group_id)
    late = schedule.length((now - due) // 60_000 * 60) if now - due > LATE_MS else ""
    scheduled = prompts.Scheduled(
        task.id, task.prompt, tasks.wanted_by(tx, task.id), due, late, task.options.isolated, task.options.silent
    )
    prompt = prompts.scheduled(scheduled, chat=chats.chat(tx, task.chat_id), zone=task.zone, now=now, nonce=nonce)
    return Turn(
        id=turn_id,
        lane=lane_of(group, task),
        group_id=group.id,
        chat_id=task.chat_id,
        authority=Authority.TASK,
        state=TurnState.OPEN,
        prompt=prompt,
        origin=Origin.TASK,
        firing=firing,
        silent=task.options.silent,
        script=task.options.script,
    )


def lane_of(group: Group, task: Task) -> str:
    """Its own, or the conversation's."""
    return f"{group.folder}#task-{task.id}" if task.options.isolated else group.lane
