"""What a group works at: stop it, begin a new conversation, forget what was said, tell how it stands."""

from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from nanoclaw import notices
from nanoclaw.errors import Cause
from nanoclaw.groups import MEMORY_FILE
from nanoclaw.mailbox import Stop
from nanoclaw.meter import dollars
from nanoclaw.meter.standin import StandIn
from nanoclaw.models import By, Group, GroupState, OutState, Turn, TurnState
from nanoclaw.schedule import midnight
from nanoclaw.store import Tx, audit, messages, outgoing, runs, spending, turns
from nanoclaw.store import forget as taken_back

_STATES = {TurnState.GIVEN: "working", TurnState.PARKED: "waiting for you"}


@dataclass(frozen=True)
class Stopped:
    """What a /stop found: a turn in a run, or only waiting work."""

    turn_id: str = ""
    lane: str = ""
    waiting: int = 0  # messages that no turn had claimed


def stop(tx: Tx, group: Group, by: By, now: int, *, only: int | None = None) -> Stopped:
    """Stop what the group works at, in its own lane first; what waits behind it goes on.

    The row is stopped here, the agent after it. `only`: a person who may stop what is theirs alone.
    """
    turn = turns.current(tx, group.lane) or (turns.working_beside(tx, group.id, group.lane) if only is None else None)
    if only is not None and not messages.all_of(tx, only, group.lane, turn):
        return Stopped()
    if turn is None:
        return Stopped(waiting=messages.handle_open(tx, group.lane))
    turns.end(tx, turn.id, TurnState.STOPPED, now)
    if turn.state is TurnState.GIVEN:
        runs.add_letter(tx, turn.run_id, Stop.kind, turn.id)
    audit.note(tx, by, "stop", turn.lane, now)
    return Stopped(turn.id, turn.lane)


def fresh_session(tx: Tx, lane: str, by: By, now: int) -> bool:
    """The next run starts a new conversation; whether a run is alive that has to end first."""
    turns.set_session(tx, lane, "")
    run = runs.of_lane(tx, lane)
    if run is not None:
        runs.closing(tx, run.id)
    audit.note(tx, by, "new conversation", lane, now)
    return run is not None


def forgettable(tx: Tx, chat_id: int) -> str:
    """What `forget` would remove, and how to ask for it."""
    kept = taken_back.kept(tx, chat_id)
    return (
        f"Of this chat I keep {kept.messages} message(s), {kept.files} of them with files, {kept.texts} text(s) of"
        " mine, and my current conversation.\n/forget today removes what was said in the last 24 hours, /forget all"
        " removes everything; both also close my conversations so far. What I am working at stays until it is answered,"
        f" and what I noted down stays ({MEMORY_FILE} and my own files): ask me to change that."
    )


def forget(tx: Tx, chat_id: int, lane: str, since: int, by: By, now: int) -> bool:
    """Remove what was said in a chat since then, and the lane's sessions; whether a run is alive that has to end."""
    taken_back.chat(tx, chat_id, since, now)
    taken_back.sessions(tx, lane, now)
    audit.note(tx, by, "forget", f"chat {chat_id} since {since}", now)
    return fresh_session(tx, lane, by, now)


def status(tx: Tx, group: Group, connections: str, doing: Callable[[str], str], zone: str, now: int) -> str:
    """A few lines for the chat: what the group works at, what waits, what is wrong (in detail for main alone).

    `doing` tells of a turn which tool it uses now, `connections` how the channels are.
    """
    turn = turns.current(tx, group.lane)
    lines = [connections] * bool(connections)
    lines.append(f"I am {_state(group, turn, doing, now)}; {messages.count_work(tx, group.lane)} message(s) wait.")
    cause, _, detail = turns.parked(tx, group.lane)
    if cause:
        lines.append(notices.detail(Cause(cause), group.lane, detail) if group.is_main else notices.waits(Cause(cause)))
    lines += _unsent(tx, group)
    if group.is_main:
        others = {lane: why for lane, why in turns.parked_lanes(tx).items() if lane != group.lane}
        lines += [notices.detail(Cause(why), lane, "") for lane, why in others.items()]
        lines += [f"Working in {t.lane} as well." for t in turns.working(tx) if t.lane != group.lane]
    return "\n".join([*lines, _today(tx, group, midnight(now, ZoneInfo(zone)))])


def standing_in(now: StandIn) -> str:
    """That another model answers than the group's own, and why."""
    return f"{now.model} answers for now, because {now.instead_of} is overloaded."


def _state(group: Group, turn: Turn | None, doing: Callable[[str], str], now: int) -> str:
    if turn is None:
        return "paused" if group.state is GroupState.PAUSED else "idle"
    if turn.state is not TurnState.GIVEN:
        return _STATES.get(turn.state, "starting")
    tool = doing(turn.id)
    return f"working for {max(0, now - turn.given_at) // 1000} s" + (f" (now: {tool})" if tool else "")


def _today(tx: Tx, group: Group, midnight: int) -> str:
    spent = next(g.day for g in spending.by_group(tx, midnight, midnight) if g.group_id == group.id)
    cost = f"{dollars(spent.cost)}, " if spent.cost else ""  # not where no price is known
    return f"Today: {cost}{spent.tokens:,} tokens."


def _unsent(tx: Tx, group: Group) -> list[str]:
    counts = outgoing.counts(tx, None if group.is_main else group.id)
    dead = counts.pop(OutState.DEAD, 0)
    counts.pop(OutState.DUPLICATE, 0)
    unsent = sum(counts.values())
    lines = [f"{unsent} text(s) are not sent yet."] * bool(unsent)
    return lines + [f"{dead} text(s) could not be delivered and are given up."] * bool(group.is_main and dead)
