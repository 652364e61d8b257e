"""The owner's verbs for tasks, which are the agent's too where its turn may: add, change, pause, run, cancel, list."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw import notices, schedule
from nanoclaw.errors import Refused
from nanoclaw.mailbox import Stop
from nanoclaw.models import Authority, By, Group, GroupState, Role, TurnState, is_of_task
from nanoclaw.prompts import excerpt, unframed
from nanoclaw.store import Tx, audit, chats, people, runs, tasks, turns
from nanoclaw.store.tasks import Options, Task, TaskState

MAX_TASKS = 200  # of one group, whoever made them
MAX_OTHERS = 20  # of one group that were not made for the owner
CLOSEST = 900  # seconds between two firings of such a task
MAX_GUESTS = 2  # of one guest
GUESTS_CLOSEST = 3600  # seconds
MAX_PROMPT = 8000  # characters
MAX_SCRIPT = 8000  # characters
MAX_JUDGED = 280  # characters of a prompt that the owner is asked about: all of it is shown
MAX_LISTED = 40  # of them on a phone
_SHOWN = 60  # characters of a prompt in a list
_MODES = {"isolated": True, "group": False}
_BAD = (ValueError, TypeError, LookupError, OSError)  # what one damaged row can raise
_MISSED = ("latest", "skip")


@dataclass(frozen=True)
class Maker:
    """For whom a task is made: it never may more than its maker could have asked for."""

    authority: Authority = Authority.OWNER
    person_id: int | None = None


# --- add and change -------------------------------------------------------------------------------


def planned(group: Group, chat_id: int, args: Mapping[str, Any], zone: str, maker: Maker, now: int) -> Task:
    """What `args` ask for (prompt, one of schedule.parse, zone, mode, silent, missed), not stored. Raises Refused."""
    zone = _text(args, "zone") or group.zone or zone
    return Task(
        id=0,
        group_id=group.id,
        chat_id=chat_id,
        prompt=_prompt(args),
        schedule=schedule.parse(args, schedule.zone_of(zone), now),
        zone=zone,
        options=_options(args, Options()),
        person_id=maker.person_id,
        made_by=maker.authority,
        created_at=now,
    )


def excess(tx: Tx, task: Task, now: int, asker: Authority = Authority.OWNER) -> str:
    """Why only the owner may have this task; "" for one that anybody in its chat may have.

    `asker`: the authority of the turn that wants it now. A task's turn that could have the next one at once would
    never end.
    """
    if task.made_by is Authority.OWNER:
        return ""
    due = schedule.next_fire(task.schedule, now, ZoneInfo(task.zone))
    if asker is Authority.TASK and due is not None and due - now < CLOSEST * 1000:
        return f"what a task itself schedules comes {CLOSEST // 60} minutes later at the earliest"
    others = [t for t in tasks.alive(tx, task.group_id) if t.made_by is not Authority.OWNER]
    if not task.id and len(others) >= MAX_OTHERS:
        return f"a group has at most {MAX_OTHERS} tasks that were not made for the owner"
    person = None if task.person_id is None else people.get(tx, task.person_id)  # also of what a guest's task plans
    guest = task.made_by is Authority.GUEST or (person is not None and person.role is Role.GUEST)
    if guest and not task.id and sum(t.person_id == task.person_id for t in others) >= MAX_GUESTS:
        return f"a guest has at most {MAX_GUESTS} tasks"
    gap, closest = schedule.closest(task.schedule, now, ZoneInfo(task.zone)), GUESTS_CLOSEST if guest else CLOSEST
    return f"such a task comes at most every {closest // 60} minutes" if gap is not None and gap < closest else ""


def barred(tx: Tx, task: Task) -> str:
    """Who may not ask there any more has nothing done there either: why that is so, "" while they may. What the owner
    said yes to is the owner's."""
    person = None if task.person_id is None else people.get(tx, task.person_id)
    if task.made_by is Authority.OWNER or person is None:
        return ""
    if person.denied:
        return "who wanted it was denied"
    may = people.may_call(tx, chats.group(tx, task.group_id), task.chat_id, person.number, person.role)
    return "" if may else "who wanted it may not call me there any more"


def full(tx: Tx, task: Task, now: int) -> bool:
    """Whether the group's tasks that were not made for the owner have had as many turns as they may for now."""
    return task.made_by is not Authority.OWNER and (
        tasks.fired_since(tx, task.group_id, now - CLOSEST * 1000) >= MAX_OTHERS
    )


def add(tx: Tx, task: Task, by: By, now: int) -> Task:
    """Store a planned task; it is due from now on. Raises Refused."""
    if chats.group(tx, task.group_id).state is GroupState.REMOVED:
        raise Refused("this group is not served any more")
    if len(tasks.alive(tx, task.group_id)) >= MAX_TASKS:
        raise Refused(f"a group has at most {MAX_TASKS} tasks: cancel some first")
    due = schedule.next_fire(task.schedule, now, ZoneInfo(task.zone))
    if due is None:
        raise Refused("that time is over: give one that is to come")
    task = replace(task, next_due=due)
    task = replace(task, id=tasks.insert(tx, task))
    audit.note(tx, by, "task add", _about(tx, task), now)
    return task


def update(tx: Tx, task: Task, args: Mapping[str, Any], by: By, now: int, asker: Authority = Authority.OWNER) -> Task:
    """Change what is named in `args`, leave the rest. Raises Refused. `asker` as in `excess`."""
    new = replace(task, options=_options(args, task.options))
    if "prompt" in args:
        new = replace(new, prompt=_prompt(args))
    zone = _text(args, "zone") or task.zone
    asked = {key: args[key] for key in schedule.KEYS if args.get(key) not in (None, "")}
    if asked:
        new = replace(new, schedule=schedule.parse(asked, schedule.zone_of(zone), now))
    new = replace(new, zone=schedule.zone_of(zone).key)
    if new == task:
        raise Refused("nothing would change: name what is to be another")
    if (new.schedule, new.zone) != (task.schedule, task.zone):
        new = replace(new, next_due=_next(new, now) if task.state is TaskState.ACTIVE else None)
        if why := excess(tx, new, now, asker):
            raise Refused(f"{why}: have it scheduled anew, and the owner is asked")
    tasks.reword(tx, new)
    audit.note(tx, by, "task update", _about(tx, new), now)
    return new


def _next(task: Task, now: int) -> int:
    try:
        due = schedule.next_fire(task.schedule, now, ZoneInfo(task.zone))
    except _BAD:
        raise Refused(f"task {task.id} is damaged: cancel it, or give it a new time and zone") from None
    if due is None:
        raise Refused(f"task {task.id} has no time that is to come: give it a new one")
    return due


def _prompt(args: Mapping[str, Any]) -> str:
    prompt = _text(args, "prompt").strip()
    if not prompt:
        raise Refused("prompt must say what is to be done")
    if len(prompt) > MAX_PROMPT:
        raise Refused(f"prompt is longer than {MAX_PROMPT} characters: put what is long into a file and name it")
    return prompt


def _text(args: Mapping[str, Any], key: str) -> str:
    value = args.get(key) or ""
    if not isinstance(value, str):
        raise Refused(f"{key} must be a text")
    return value


def _options(args: Mapping[str, Any], before: Options) -> Options:
    mode, missed = _text(args, "mode"), _text(args, "missed") or before.missed
    if mode and mode not in _MODES:
        raise Refused(f"mode is one of {', '.join(_MODES)}")
    if missed not in _MISSED:
        raise Refused(f"missed is one of {', '.join(_MISSED)}")
    silent = args.get("silent")
    if silent is not None and not isinstance(silent, bool):
        raise Refused("silent is true or false")
    script = _text(args, "script") if "script" in args else before.script
    if len(script) > MAX_SCRIPT:
        raise Refused(f"script is longer than {MAX_SCRIPT} characters: put what is long into a file and run that")
    isolated = _MODES[mode] if mode else before.isolated
    if script.strip() and not isolated:
        raise Refused("a task with a script has a sandbox of its own: leave mode out")
    silent = before.silent if silent is None else silent
    return replace(before, isolated=isolated, silent=silent, missed=missed, script=script.strip())


# --- pause, resume, run, cancel -------------------------------------------------------------------


def find(tx: Tx, task_id: object, group: Group | None = None) -> Task:
    """An active or paused task by its number, of this group if one is given. Raises Refused."""
    text = str(task_id).strip().removeprefix("#")
    task = tasks.get(tx, int(text)) if text.isascii() and text.isdigit() and len(text) < 16 else None
    if task is None or (group is not None and task.group_id != group.id):
        raise Refused(f"there is no task {text[:20]!r} here")
    if task.state not in (TaskState.ACTIVE, TaskState.PAUSED):
        raise Refused(f"task {task.id} is {task.state}: schedule a new one")
    return task


def pause(tx: Tx, task: Task, by: By, now: int) -> None:
    """It is not due until resumed; a turn that runs goes on. Raises Refused."""
    if task.state is TaskState.PAUSED:
        raise Refused(f"task {task.id} is paused already")
    if task.next_due is None and isinstance(task.schedule, schedule.Once):
        raise Refused(f"task {task.id} is being done, for the only time: cancel it to stop that")
    tasks.put(tx, task.id, TaskState.PAUSED, None, now)
    audit.note(tx, by, "task pause", _about(tx, task), now)


def resume(tx: Tx, task: Task, by: By, now: int) -> Task:
    """It is due again from now on; what was paused is not made up for. Raises Refused."""
    if task.state is TaskState.ACTIVE:
        raise Refused(f"task {task.id} is not paused")
    if why := barred(tx, task):  # else it would be paused again as soon as it is due
        raise Refused(f"task {task.id} cannot be resumed: {why}. Let them again first, or schedule it yourself")
    due = _next(task, now)
    tasks.put(tx, task.id, TaskState.ACTIVE, due, now)
    audit.note(tx, by, "task resume", _about(tx, task), now)
    return replace(task, state=TaskState.ACTIVE, next_due=due)


def run_now(tx: Tx, task: Task, by: By, now: int, asker: Authority = Authority.OWNER) -> None:
    """Once, at once, beside its schedule. Raises Refused. `asker` as in `excess`: two could start each other."""
    if asker is Authority.TASK and task.made_by is not Authority.OWNER:
        raise Refused(f"a task starts no other at once: schedule one for in {CLOSEST} seconds, or later")
    if full(tx, task, now):
        raise Refused(
            f"tasks that were not made for the owner have at most {MAX_OTHERS} turns in {CLOSEST // 60} minutes"
        )
    if task.asked or tasks.busy(tx, task.id):
        raise Refused(f"task {task.id} is being done already")
    tasks.ask(tx, task.id, now)
    audit.note(tx, by, "task run", _about(tx, task), now)


def pause_all_of(tx: Tx, person_id: int, by: By, now: int) -> None:
    """Whatever this person wanted rests, and what of it no run has begun is not done; what runs goes on."""
    for task in tasks.of_person(tx, person_id):
        turn = turns.get(tx, tasks.open_turn(tx, task.id))
        if turn is not None and turn.state in (TurnState.OPEN, TurnState.PARKED):
            turns.end(tx, turn.id, TurnState.STOPPED, now)
            if is_of_task(turn.lane):
                turns.release(tx, turn.lane)
        tasks.ask(tx, task.id, 0)
        if task.state is TaskState.ACTIVE and task.next_due is not None:  # else it is over with its only turn
            pause(tx, task, by, now)


def cancel(tx: Tx, task: Task, by: By, now: int, *, sparing: str = "") -> None:
    """It is never due again, and its turn is stopped, unless that is the one `sparing` names: a task may end itself."""
    tasks.put(tx, task.id, TaskState.CANCELLED, None, now)
    turn = turns.get(tx, tasks.open_turn(tx, task.id))
    if turn is not None and turn.id != sparing:
        turns.end(tx, turn.id, TurnState.STOPPED, now)
        if turn.state is TurnState.GIVEN:
            runs.add_letter(tx, turn.run_id, Stop.kind, turn.id)
        if is_of_task(turn.lane):  # nobody waits there any more
            turns.release(tx, turn.lane)
    audit.note(tx, by, "task cancel", _about(tx, task), now)


def _about(tx: Tx, task: Task) -> str:
    return f"{task.id} of {chats.group(tx, task.group_id).folder}"


# --- show -----------------------------------------------------------------------------------------


def times(task: Task, now: int, count: int = 3) -> list[str]:
    """When it is due next, in its own zone."""
    if task.next_due is None:
        return []
    try:
        zone = ZoneInfo(task.zone)
        # What is overdue comes at once, so it is named too.
        later = schedule.next_times(task.schedule, max(task.next_due, now), zone, count - 1)
        return [schedule.local(due, zone) for due in (task.next_due, *later)]
    except _BAD:
        return []


def when(task: Task) -> str:
    """Its schedule in words; of one bad row that it is one, so that no list of many is lost."""
    try:
        return schedule.describe(task.schedule, ZoneInfo(task.zone))
    except _BAD:
        return "damaged, cancel it"


def told(task: Task, now: int) -> str:
    """To whoever had it scheduled: its number and when it is due."""
    due = times(task, now)
    next_ = f" Next: {', '.join(due)} ({task.zone})." if due else ""
    return f"Task {task.id}: {when(task)}.{next_}"


def listed(tx: Tx, group: Group) -> list[Task]:
    """The group's tasks; in main those of all groups."""
    return tasks.alive(tx, None if group.is_main else group.id)


def line(tx: Tx, task: Task, now: int, *, folder: bool, length: int = _SHOWN) -> str:
    """One task in a list."""
    due = times(task, now, 1)
    state = f"next {due[0]}" if due else str(task.state)
    where = f" [{chats.group(tx, task.group_id).folder}]" if folder else ""
    last = next((f for f in tasks.log(tx, task.id, 1) if f.state is not tasks.FiringState.DONE), None)
    trouble = f", last {'running' if last.state is tasks.FiringState.OPEN else last.state}" if last else ""
    return f'{task.id}{where}: {when(task)}, {state}{trouble}: "{unframed(excerpt(task.prompt, length))}"'


def listed_text(tx: Tx, group: Group, zone: str, now: int) -> str:
    """For the chat."""
    all_ = listed(tx, group)
    found = [line(tx, task, now, folder=group.is_main) for task in all_[:MAX_LISTED]]
    found += [f"… and {len(all_) - MAX_LISTED} more: nanoclaw tasks list"] * (len(all_) > MAX_LISTED)
    here, other = schedule.zone_or_utc(group.zone or zone)
    told = " ".join(filter(None, (f"It is {schedule.local(now, here)}", other and f"({other})")))
    return "\n".join(found) + f"\n({told}.)" if found else "Nothing is scheduled here."


def stay(tx: Tx, group: Group, chat_id: int, *, owner: bool) -> str:
    """What to say of a chat's tasks when all else of it is forgotten; "" where there is none."""
    number = sum(task.chat_id == chat_id for task in tasks.alive(tx, group.id))
    how = "/tasks cancel NUMBER ends one" if owner else "ask me to cancel one"
    return f" {number} task(s) of this chat stay, with their words: /tasks lists them, {how}." if number else ""


def facts(tx: Tx, task: Task, now: int) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "id": task.id,
        "group": chats.group(tx, task.group_id).folder,
        "state": task.state,
        "schedule": when(task),
        "zone": task.zone,
        "next_due": task.next_due,
        "next": times(task, now),
        **asdict(task.options),
        "failures": task.failures,
        "made_by": task.made_by,
        "created_at": task.created_at,
        "prompt": task.prompt,
    }


# --- what an agent may only propose ---------------------------------------------------------------


def proposal(tx: Tx, task: Task) -> dict[str, Any]:
    """A planned task as the arguments of a change that waits: instants are fixed here. Raises Refused."""
    if len(task.prompt) + len(task.options.script) > MAX_JUDGED:
        raise Refused(f"the owner is asked about this one: say it in at most {MAX_JUDGED} characters")
    return {
        "folder": chats.group(tx, task.group_id).folder,
        "chat": task.chat_id,
        "prompt": task.prompt,
        "schedule": schedule.dump(task.schedule),
        "zone": task.zone,
        "options": asdict(task.options),
        "person": task.person_id,
    }


def sentence(tx: Tx, args: dict[str, Any]) -> str:
    """What the owner is asked."""
    task = _proposed(tx, args, 0)
    how = "on its own" if task.options.isolated else "in the group's conversation"
    silent = ", its result being sent to nobody" if task.options.silent else ""
    what = notices.unquoted(task.prompt)
    script = notices.unquoted(task.options.script.replace("\n", " \\n "))  # no line hides behind another's comment
    script = f", if this script asks for it: «{script}»" if script else ""
    return f"I would do in {args['folder']} (chat {task.chat_id}), {how}{silent}, {when(task)}: «{what}»{script}"


def apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """The owner has said yes, so the task is the owner's."""
    return told(add(tx, _proposed(tx, args, now), by, now), now)


def _proposed(tx: Tx, args: dict[str, Any], now: int) -> Task:
    group = chats.group_by_folder(tx, args["folder"])
    if group is None or chats.chat(tx, args["chat"]).group_id != group.id:
        raise Refused("that chat is not served any more")
    return Task(
        id=0, group_id=group.id, chat_id=args["chat"], prompt=args["prompt"], schedule=schedule.load(args["schedule"]),
        zone=args["zone"], options=Options(**args["options"]), person_id=args["person"], created_at=now,
    )  # fmt: skip
