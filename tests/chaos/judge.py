"""The verdict: was every message answered or told, in order, and nothing said twice without a reason?"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tests.chaos.evidence import Evidence, Heard, Spoken, Turned

FEW = 8  # lives below which nothing is said of growth
MORE_DESCRIPTORS = 8
MORE_MEMORY = 1.25  # times
_NUMBER = re.compile(r"\bm(\d+)\b")
_QUOTED = re.compile(r"<quoted-(\w+) .*?</quoted-\1>", re.DOTALL)  # what an echo repeats of earlier messages
_FINAL = {"sent", "dead", "duplicate"}


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

    def line(self, kills: int) -> str:
        """The last line."""
        return (
            f"{self.messages} messages, {kills} kills: {self.lost} lost, "
            f"{self.window} unacknowledged window, {self.doubled} doubled after unknown outcome"
        )


def judge(found: Evidence) -> Verdict:
    """Look at everything."""
    lost = [*_not_stored(found), *_not_answered(found)]
    doubled, wrong = _counted(found)
    faults = [*lost, *wrong, *_order_in(found), *_order_out(found), *_said_twice(found), *_left_behind(found)]
    faults += _grown(found.sizes)
    return Verdict(len(found.said), len(lost), len(window(found)), doubled, tuple(faults))


def window(found: Evidence) -> list[str]:
    """Ids of messages that the library acknowledged and no row knows."""
    stored = {m.wa_id for m in found.messages}
    return [s.id for s in found.said if s.acknowledged and s.id not in stored]


# --- each message --------------------------------------------------------------------------------


def _not_stored(found: Evidence) -> Iterator[Fault]:
    stored = {m.wa_id for m in found.messages}
    for said in found.said:
        if not said.acknowledged and said.id not in stored:
            yield Fault("lost", f"neither acknowledged nor stored: {said}")


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
        return ""
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
    """What was said for it, and is sent or given up (which main is told)."""
    return [o.payload for o in found.outgoing if o.turn_id == turn_id and o.state in _FINAL]


def _stopped_after(found: Evidence, message: Heard) -> bool:
    later = (m for m in found.messages if m.lane == message.lane and m.id > message.id)
    return any(m.verdict == "command" and m.text.strip() == "/stop" for m in later)


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
        if row.kind in ("reply", "notice") and often[key] == 1 and key in places:
            by_chat[row.chat_id].append((places[key], row))
    for rows in by_chat.values():
        for (first, one), (second, two) in pairwise(rows):
            if first > second:
                yield Fault("order out", _lines([one, two]))


def _said_twice(found: Evidence) -> Iterator[Fault]:
    """No tool acts twice, and no message is answered twice: each number stands in one row of its kind.

    (Scheduled tasks, once there are any: one result per firing belongs here.)
    """
    if not found.echoes:
        return
    seen: dict[tuple[bool, int], list[Spoken]] = defaultdict(list)
    for row in found.outgoing:
        if row.kind == "reply":
            for number in numbers(row.payload):
                seen[row.payload.startswith("acted"), number].append(row)
    for (acted, number), rows in seen.items():
        if len(rows) > 1:
            yield Fault("acted twice" if acted else "answered twice", f"m{number}\n{_lines(rows)}")


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
