"""The verdict: was every message answered or told, in order, and nothing said twice without a reason?"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from nanoclaw.run.letters import ASLEEP
from tests.chaos import plan
from tests.chaos.evidence import Evidence, Fired, Heard, Spoken, Turned

FEW = 8  # lives below which nothing is said of growth
MORE_DESCRIPTORS = 8
MORE_MEMORY = 1.25  # times
_DEEDS = ("acted", "filed", "fired")  # how the texts begin that are no answer: of a tool, of a task
_SAID = ("reply", "file")  # kinds of rows that an agent has made
_NUMBER = re.compile(r"\bm(\d+)\b")
_QUOTED = re.compile(r"<quoted-(\w+) .*?</quoted-\1>", re.DOTALL)  # what an echo repeats of earlier messages
_FINAL = {"sent", "dead", "duplicate"}
# The verdict that each kind is due. (Of an edit it depends on what its target has become.)
_WORK = ("plain", "slow", "retry", "tool", "file", "task", "gate")
_DUE = dict.fromkeys(_WORK, "work") | {"command": "command", "aside": "context"}


@dataclass(frozen=True)
class Fault:
    """A promise that was broken: which, by what, and its story."""

    promise: str
    story: str


@dataclass(frozen=True)
class Verdict:
    """The three numbers, and what is wrong."""

    messages: int
    lost: int
    window: int  # acknowledged by the library, and the host died before the row
    doubled: int  # after an unknown outcome
    faults: tuple[Fault, ...]
    failed: int = 0  # of the messages: their turn failed, and that was told

    def line(self, kills: int) -> str:
        """The last line."""
        return (
            f"{self.messages} messages, {kills} kills: {self.lost} lost, "
            f"{self.window} unacknowledged window, {self.doubled} doubled after unknown outcome"
        )


def judge(found: Evidence) -> Verdict:
    """Look at everything."""
    lost = [*_not_stored(found), *_not_answered(found), *_not_fired(found)]
    doubled, wrong = _counted(found)
    faults = [*lost, *wrong, *_misjudged(found), *_given_up_in_silence(found)]
    faults += [*_order_in(found), *_order_out(found), *_said_twice(found), *_fired_twice(found)]
    faults += [*_left_behind(found), *_grown(found.sizes)]
    failed = {t.id for t in found.turns if t.state == "failed"}
    told = sum(m.turn_id in failed for m in found.messages)
    return Verdict(len(found.said), len(lost), len(window(found)), doubled, tuple(faults), told)


def window(found: Evidence) -> list[str]:
    """Ids of messages that the library acknowledged, and no row knows, because the host died right then."""
    stored = {m.wa_id for m in found.messages}
    return [s.id for s in found.said if s.acknowledged and s.died and s.id not in stored]


# --- each message --------------------------------------------------------------------------------


def _not_stored(found: Evidence) -> Iterator[Fault]:
    stored = {m.wa_id for m in found.messages}
    for said in found.said:
        if said.id in stored:
            continue
        if not said.acknowledged:
            yield Fault("lost", f"neither acknowledged nor stored: {said}")
        elif not said.died:
            yield Fault("lost", f"acknowledged and never stored, by a host that lived on: {said}")


def _not_answered(found: Evidence) -> Iterator[Fault]:
    turns = {t.id: t for t in found.turns}
    for message in found.messages:
        if message.state != "withdrawn" and (why := _unanswered(found, message, turns)):
            yield Fault("lost", f"{why}\n{story(found, message)}")


def _unanswered(found: Evidence, message: Heard, turns: dict[str, Turned]) -> str:
    """Why the message has not what it is due; "" when it has."""
    if message.verdict == "command":
        return "" if _told(found, f"message:{message.id}") else "the command has no answer"
    if message.verdict != "work":
        return ""
    if message.turn_id is None:
        given_up = message.state == "handled" and _stopped_after(found, message)
        return "" if given_up else "no turn took it"
    turn = turns[message.turn_id]
    if turn.state == "stopped":
        return "" if _stopped_after(found, message) else "its turn was stopped, and nobody had asked for that"
    if turn.state not in ("done", "failed"):
        return f"its turn is {turn.state}"
    texts = _told(found, turn.id) + _told(found, turn.answered_by or turn.id)
    if not texts:
        return f"its turn is {turn.state}, and nobody was told"
    if turn.state == "done" and found.echoes:
        missing = numbers(message.text) - numbers(" ".join(texts))
        return f"its answer does not speak of it: m{missing}" if missing else ""
    return ""


def _told(found: Evidence, turn_id: str) -> list[str]:
    """What was said for it, and is sent or given up (of which main must hear: see below)."""
    return [o.payload for o in found.outgoing if o.turn_id == turn_id and o.state in _FINAL]


def _stopped_after(found: Evidence, message: Heard) -> bool:
    later = (m for m in found.messages if m.lane == message.lane and m.id > message.id)
    return any(m.verdict == "command" and m.text.strip() in ("/stop", "/new") for m in later)


def _misjudged(found: Evidence) -> Iterator[Fault]:
    """What is meant for the agent is work, and what nobody took back was not withdrawn."""
    rows = {m.wa_id: m for m in found.messages}
    deleted = {s.target for s in found.said if s.kind == "delete"}
    for said in found.said:
        if (row := rows.get(said.id)) is None:
            continue
        if row.state == "withdrawn":
            if said.id not in deleted:
                yield Fault("misjudged", f"withdrawn, and nobody deleted it\n{_lines([said, row])}")
        elif row.verdict != _DUE.get(said.kind, row.verdict):
            yield Fault("misjudged", _lines([said, row]))


def _given_up_in_silence(found: Evidence) -> Iterator[Fault]:
    """A text that is given up is told in main; of a notice that is, main has the detail. (Main's own: to nobody.)"""
    notices = [o.payload for o in found.outgoing if o.chat_id in found.main and o.kind == "notice"]
    dead: dict[int, list[Spoken]] = defaultdict(list)
    turns = {t.id: t for t in found.turns if t.state == "failed"}
    for row in found.outgoing:
        if row.state != "dead" or row.chat_id in found.main:
            continue
        if row.kind in (*_SAID, "command"):
            dead[row.chat_id].append(row)
        elif (turn := turns.get(row.turn_id)) and not any(text.startswith(f"[{turn.lane}:") for text in notices):
            yield Fault("given up in silence", _lines([turn, row]))
    for chat, rows in dead.items():
        name = f"«{found.names[chat]}»"
        if len(rows) > sum(name in text and "could not be delivered" in text for text in notices):
            yield Fault("given up in silence", _lines(rows))


# --- tasks ---------------------------------------------------------------------------------------


def _not_fired(found: Evidence) -> Iterator[Fault]:
    """Each task was done at its time, and each firing that was not skipped has a result that somebody was told."""
    fired = {f.task_id for f in found.firings if not f.state.startswith("skipped")}
    for task_id in found.tasks - fired:
        yield Fault("lost", f"task {task_id} was never done")
    turns = {t.id: t for t in found.turns}
    for firing in found.firings:
        if firing.state.startswith("skipped"):
            continue
        turn = turns.get(firing.turn_id or "")
        if turn is None or turn.state not in ("done", "failed", "stopped"):
            yield Fault("lost", f"a firing has no result: {firing} {turn}")
        elif firing.prompt.startswith(plan.ASLEEP):
            yield from _not_asleep(found, firing, turn)
        elif turn.state != "stopped" and not _told(found, turn.id) and not _failure_told(found, firing, turn):
            yield Fault("lost", f"nobody was told the result of a firing: {firing} {turn}")


def _failure_told(found: Evidence, firing: Fired, turn: Turned) -> bool:
    """What a task fails of is told once, whichever of its firings that was first."""
    text = f"the scheduled task {firing.task_id} this time"
    return turn.state == "failed" and any(o.kind == "notice" and text in o.payload for o in found.outgoing)


def _not_asleep(found: Evidence, firing: Fired, turn: Turned) -> Iterator[Fault]:
    """Its script asked for nobody: that is on record, and no agent says anything."""
    if turn.state == "done" and firing.error != ASLEEP:
        yield Fault("woken in vain", f"{firing} {turn}")
    if any(o.turn_id == turn.id and o.kind == "reply" for o in found.outgoing):
        yield Fault("woken in vain", _lines([firing, turn, *(o for o in found.outgoing if o.turn_id == turn.id)]))


def _fired_twice(found: Evidence) -> Iterator[Fault]:
    """A task fires once per due time, and each firing has one result."""
    for key, times in Counter((f.task_id, f.due) for f in found.firings).items():
        if times > 1:
            yield Fault("fired twice", f"{times} firings of {key}")
    for firing in found.firings:
        rows = [o for o in found.outgoing if o.turn_id == firing.turn_id and o.kind == "reply"]
        if firing.turn_id and len(rows) > 1:
            yield Fault("fired twice", _lines([firing, *rows]))


def numbers(text: str) -> set[int]:
    """The numbers of the messages that a text speaks of."""
    return {int(n) for n in _NUMBER.findall(_QUOTED.sub("", text))}


# --- doubles and order ---------------------------------------------------------------------------


def _counted(found: Evidence) -> tuple[int, list[Fault]]:
    """Texts that were read more often than there are rows; allowed as often as an outcome was unknown."""
    read = Counter((found.chats.get(d.chat, 0), d.text) for d in found.delivered)
    rows: dict[tuple[int, str], list[Spoken]] = defaultdict(list)
    for row in found.outgoing:
        rows[row.chat_id, row.payload].append(row)
    doubled, faults = 0, []
    for key in read.keys() | rows.keys():
        mine = rows[key]
        least = sum(r.state == "sent" and r.wa_id not in found.unreadable for r in mine)
        most = len(mine) + sum(r.unknowns for r in mine)
        if not least <= read[key] <= most:
            faults.append(
                Fault("doubled", f"read {read[key]} times instead of {least} to {most}: {key}\n{_lines(mine)}")
            )
        doubled += max(0, read[key] - len(mine))
    return doubled, faults


def _order_in(found: Evidence) -> Iterator[Fault]:
    """What one chat said is stored in the order in which it was said."""
    rows = {m.wa_id: m for m in found.messages}
    by_chat: dict[str, list[Heard]] = defaultdict(list)
    for said in found.said:
        if said.id in rows and not said.retried:
            by_chat[said.chat].append(rows[said.id])
    for stored in by_chat.values():
        for first, second in pairwise(stored):
            if first.id > second.id:
                yield Fault("order in", _lines([first, second]))


def _order_out(found: Evidence) -> Iterator[Fault]:
    """What one chat is told comes in the order of the rows; commands' answers may overtake."""
    places: dict[tuple[int, str], int] = {}
    for place, d in enumerate(found.delivered):
        places.setdefault((found.chats.get(d.chat, 0), d.text), place)
    often = Counter((o.chat_id, o.payload) for o in found.outgoing)
    by_chat: dict[int, list[tuple[int, Spoken]]] = defaultdict(list)
    for row in found.outgoing:
        key = row.chat_id, row.payload
        if row.kind in (*_SAID, "notice") and often[key] == 1 and key in places:
            by_chat[row.chat_id].append((places[key], row))
    for rows in by_chat.values():
        for (first, one), (second, two) in pairwise(rows):
            if first > second:
                yield Fault("order out", _lines([one, two]))


def _said_twice(found: Evidence) -> Iterator[Fault]:
    """No tool acts twice, and no message is answered twice: each number stands in one row of its kind."""
    seen: dict[tuple[str, int], list[Spoken]] = defaultdict(list)
    for row in found.outgoing:
        if row.kind in _SAID:
            for number in numbers(row.payload):
                deed = next((word for word in _DEEDS if row.payload.startswith(word)), "answered")
                seen[deed, number].append(row)
    for (deed, number), rows in seen.items():
        if len(rows) > 1 and (deed in _DEEDS or found.echoes):
            yield Fault(f"{deed} twice", f"m{number}\n{_lines(rows)}")


# --- the house -----------------------------------------------------------------------------------


def _left_behind(found: Evidence) -> Iterator[Fault]:
    if found.integrity != "ok":
        yield Fault("integrity", found.integrity)
    for name in found.orphans:
        yield Fault("orphan", name)
    for name in found.leftovers:
        yield Fault("leftover", name)
    if found.living_runs:
        yield Fault("orphan", f"{found.living_runs} rows of runs have not ended")
    for row in found.outgoing:
        if row.state not in _FINAL:
            yield Fault("unsent", str(row))


def _grown(sizes: tuple[tuple[int, int], ...]) -> Iterator[Fault]:
    """A later host is not larger than an earlier one: the home does not weigh on it."""
    if len(sizes) < FEW:
        return
    part = len(sizes) // 4
    (fds, memory), (more_fds, more_memory) = (_medians(s) for s in (sizes[:part], sizes[-part:]))
    if more_fds > fds + MORE_DESCRIPTORS:
        yield Fault("descriptors", f"{fds} in the first lives, {more_fds} in the last")
    if more_memory > memory * MORE_MEMORY:
        yield Fault("memory", f"{memory} KiB in the first lives, {more_memory} KiB in the last")


def _medians(sizes: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    return median(fds for fds, _ in sizes), median(memory for _, memory in sizes)


# --- stories -------------------------------------------------------------------------------------


def story(found: Evidence, message: Heard) -> str:
    """Everything that is known of one message."""
    turn = [t for t in found.turns if t.id == message.turn_id]
    refs = {f"message:{message.id}", *(t.id for t in turn), *(t.answered_by for t in turn if t.answered_by)}
    said = [s for s in found.said if s.id == message.wa_id]
    outgoing = [o for o in found.outgoing if o.turn_id in refs]
    return _lines([*said, message, *turn, *outgoing])


def _lines(rows: list[Heard] | list[Spoken] | list[object]) -> str:
    return "\n".join(f"    {row}" for row in rows)
