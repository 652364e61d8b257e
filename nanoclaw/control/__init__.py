"""The owner's verbs, one function each: commands, the command line and tools all call these."""

from dataclasses import dataclass, replace
from typing import Any

from nanoclaw import notices
from nanoclaw.errors import Cause, Refused
from nanoclaw.groups import MAIN, MEMORY_FILE, check_new_folder
from nanoclaw.mailbox import Stop
from nanoclaw.models import Group, OutState, Role, TriggerMode, TurnState
from nanoclaw.store import Tx, chats, ledger, messages, outgoing, runs, turns
from nanoclaw.store import forget as taken_back


def ensure_main(tx: Tx, channel: str, chat: str, owner: str, name: str, now: int) -> Group:
    """The main group with this chat in it, and the owner who sits there. Idempotent."""
    group = chats.group_by_folder(tx, MAIN)
    if group is None:
        group = chats.add_group(tx, Group(0, MAIN, name, is_main=True), now)
    chats.join_group(tx, chats.know_chat(tx, channel, (chat,), "Terminal", False, now), group.id)
    chats.learn_person(tx, channel, (owner,), "Owner", Role.OWNER)
    turns.ensure_lane(tx, group.lane, group.id)
    return group


def add_group(tx: Tx, chat_id: int, new: Group, now: int) -> Group:
    """Serve a chat by a group of its own. Raises Refused: nothing that is there is replaced."""
    check_new_folder(new.folder)
    if chats.group_by_folder(tx, new.folder) is not None:
        raise Refused(f"the folder {new.folder!r} has a group already: choose another name")
    if chats.chat(tx, chat_id).group_id is not None:
        raise Refused("this chat has a group already")
    word = new.word or f"@{new.name}"
    group = chats.add_group(tx, replace(new, word=word if new.mode is TriggerMode.WORD else new.word), now)
    chats.join_group(tx, chat_id, group.id)
    turns.ensure_lane(tx, group.lane, group.id)
    return group


@dataclass(frozen=True)
class Stopped:
    """What a /stop found: a turn in a run, or only waiting work."""

    turn_id: str = ""
    run_id: str = ""
    waiting: int = 0  # messages that no turn had claimed


def stop(tx: Tx, lane: str, now: int) -> Stopped:
    """Stop what the lane works at; what waits behind it goes on. The row is stopped here, the agent after it."""
    turn = turns.current(tx, lane)
    if turn is None:
        return Stopped(waiting=messages.handle_open(tx, lane))
    turns.end(tx, turn.id, TurnState.STOPPED, now)
    run_id = turn.run_id if turn.state is TurnState.GIVEN else ""
    if run_id:
        runs.add_letter(tx, run_id, Stop.kind, turn.id)
    return Stopped(turn.id, run_id)


def fresh_session(tx: Tx, lane: str) -> bool:
    """The next run starts a new conversation; whether a run is alive that has to end first."""
    turns.set_session(tx, lane, "")
    run = runs.of_lane(tx, lane)
    if run is not None:
        runs.closing(tx, run.id)
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


def forget(tx: Tx, chat_id: int, lane: str, since: int, now: int) -> bool:
    """Remove what was said in a chat since then, and the lane's sessions; whether a run is alive that has to end."""
    taken_back.chat(tx, chat_id, since, now)
    taken_back.sessions(tx, lane, now)
    return fresh_session(tx, lane)


def lane_status(tx: Tx, lane: str, *, detailed: bool) -> str:
    """A few lines for the chat: what the lane works at, what waits, what is wrong (in detail for main alone)."""
    turn = turns.current(tx, lane)
    waiting = messages.count_work(tx, lane)
    cause, _, detail = turns.parked(tx, lane)
    state = "idle" if turn is None else {"given": "working", "parked": "waiting for you"}.get(turn.state, "starting")
    lines = [f"I am {state}; {waiting} message(s) wait."]
    if cause:
        lines.append(notices.detail(Cause(cause), lane, detail) if detailed else notices.waits(Cause(cause)))
    counts = outgoing.counts(tx)
    dead = counts.pop(OutState.DEAD, 0)
    counts.pop(OutState.DUPLICATE, 0)
    if unsent := sum(counts.values()):
        lines.append(f"{unsent} text(s) are not sent yet.")
    if detailed:
        lines += [f"{dead} text(s) could not be delivered and are given up."] * bool(dead)
        others = {other: why for other, why in turns.parked_lanes(tx).items() if other != lane}
        lines += [notices.detail(Cause(why), other, "") for other, why in others.items()]
    return "\n".join(lines)


def status(tx: Tx, since: int) -> dict[str, Any]:
    """Facts of the store for `nanoclaw status`; `since` is the start of the day."""
    groups, claim = chats.groups(tx), ledger.claim(tx)
    return {
        "owners": chats.owners(tx),
        "claim": claim.until if claim else 0,
        "groups": [{"folder": g.folder, "state": g.state, "tokens_today": ledger.tokens_since(tx, g.id, since)}
                   for g in groups],
        "runs": [{"run": r.id, "lane": r.lane, "state": r.state} for r in runs.living(tx)],
        "parked": [{"lane": lane, "cause": cause} for lane, cause in turns.parked_lanes(tx).items()],
        "outgoing": outgoing.counts(tx),
    }  # fmt: skip
