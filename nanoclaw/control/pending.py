"""Widenings wait for the owner: a row with a code, the host's own sentence in main, and `/yes CODE`."""

import hashlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanoclaw.control import groups, memory, mounts, network, people, posts, tasks
from nanoclaw.errors import Refused
from nanoclaw.models import By, OutKind
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, attempt, audit, chats, outgoing
from nanoclaw.store import pending as rows
from nanoclaw.store.pending import Change, State

CONFIRM_MS = 600_000  # ten minutes
MAX_WAITING = 5  # changes that one asker may have waiting: a hostile agent must not flood main
MAX_ASKED = 30  # changes that one asker may ask for in a day
MAX_TRIES = 5  # wrong codes in a row
MAX_SENTENCE = 3000  # characters: the owner sees a change whole, in one message
_DAY_MS = 86_400_000
_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # none that looks like another
_LENGTH = 5


@dataclass(frozen=True)
class Widening:
    """One verb that never acts when an agent asks. Both raise Refused when the change makes no sense (any more).

    The sentence says the whole change and names what it is about by ids, folders, jids, hosts; a word of the agent's
    stands in it only by `notices.unquoted`, between « and ».
    """

    sentence: Callable[[Tx, dict[str, Any]], str]  # what exactly would change, in our own words
    apply: Callable[[Tx, dict[str, Any], By, int], str]  # do it; what to tell the owner


# One line for each; the functions are those of the module that owns the rule.
WIDENINGS: dict[str, Widening] = {
    "add_group": Widening(groups.add_sentence, groups.add_apply),
    "update_group": Widening(groups.update_sentence, groups.update_apply),
    "remove_group": Widening(groups.remove_sentence, groups.remove_apply),
    "allow_person": Widening(people.allow_sentence, people.allow_apply),
    "allow_host": Widening(network.allow_sentence, network.allow_apply),
    "network": Widening(network.level_sentence, network.level_apply),
    "mount": Widening(mounts.sentence, mounts.apply),
    "remember_for_all": Widening(memory.sentence, memory.apply),
    "schedule_task": Widening(tasks.sentence, tasks.apply),
    "send_message": Widening(posts.sentence, posts.apply),
}


@dataclass(frozen=True)
class Answered:
    """What became of a code, for the owner."""

    done: bool
    text: str


def code_of(nonce: str) -> str:
    """A short code that nobody misreads, from something random that nobody has seen."""
    digest = hashlib.sha256(nonce.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:_LENGTH])


def propose(tx: Tx, verb: str, args: dict[str, Any], by: By, code: str, now: int) -> str:
    """Ask the owner in main for a change that an agent wants; what to tell the agent. Raises Refused.

    `args` are plain JSON; `code` comes from `code_of`. The same change is asked once, however often it is wanted.
    """
    rows.forget(tx, now - _DAY_MS)
    said = _sentence(tx, verb, args)
    digest = _digest(verb, said)  # however it is spelt
    known = rows.same(tx, digest, now)
    if known is not None and known.state is State.REFUSED:
        raise Refused("The owner has said no to exactly this: do not ask for it again today")
    if known is None:
        _check_room(tx, by, code, now)
        rows.insert(tx, Change(code, verb, args, digest, by.who, now + CONFIRM_MS), now)
        _show(
            tx,
            f"The {by.who} asks: {said}\n\n/yes {code} does it, /no {code} refuses it; after 10 minutes it is void.",
            now,
        )
        audit.note(tx, by, "ask", verb, now)
    return "Asked: the owner has 10 minutes to allow it in the main chat. Nothing is changed yet; go on without it."


def confirm(tx: Tx, code: str, by: By, now: int) -> Answered:
    """The owner's own yes: do the change if it is still exactly what was shown. Wrong codes are counted."""
    change = _meant(tx, code, by, now)
    if isinstance(change, Answered):
        return change
    rows.answer(tx, change.code, State.DONE)  # whatever comes of it: a code counts once
    try:
        if _digest(change.verb, _sentence(tx, change.verb, change.args)) != change.digest:
            return Answered(False, "Things have changed since that was asked, so I did nothing: have it asked again.")
        with attempt(tx):
            text = WIDENINGS[change.verb].apply(tx, change.args, by, now)
    except Refused as e:
        return Answered(False, f"Not done: {e}")
    audit.note(tx, by, "yes", f"{change.verb} for the {change.asker}", now)
    return Answered(True, text)


def refuse(tx: Tx, code: str, by: By, now: int) -> Answered:
    """The owner's own no: the same change is not asked again for a day."""
    change = _meant(tx, code, by, now)
    if isinstance(change, Answered):
        return change
    rows.answer(tx, change.code, State.REFUSED)
    audit.note(tx, by, "no", f"{change.verb} for the {change.asker}", now)
    return Answered(True, "Refused; nothing was changed, and I will not ask that again today.")


@dataclass(frozen=True)
class Waiting:
    """A change that waits, as its owner sees it."""

    code: str
    asker: str
    sentence: str
    until: int


def listed(tx: Tx, now: int) -> list[Waiting]:
    """What waits for the owner, oldest first."""
    return [Waiting(c.code, c.asker, _told(tx, c), c.until) for c in rows.waiting(tx, now)]


def listed_text(tx: Tx, now: int) -> str:
    """For the chat."""
    found = [
        f"{w.code}: the {w.asker} asks: {w.sentence} (for {(w.until - now) // 60_000 + 1} min)" for w in listed(tx, now)
    ]
    return "\n".join(found) or "Nothing waits for you."


def _meant(tx: Tx, code: str, by: By, now: int) -> Change | Answered:
    if not by.typed:
        raise Refused("only the owner's own word does that")
    change = rows.get(tx, "".join(filter(str.isalnum, unicodedata.normalize("NFKC", code))).upper())
    if change is not None and change.state is not State.WAITING:
        return Answered(False, "That code was used already.")
    if change is not None and change.until > now:
        rows.right(tx)
        return change
    if not rows.waiting(tx, now):
        return Answered(False, "Nothing waits for you (any more): a code counts for 10 minutes.")
    if rows.wrong(tx) < MAX_TRIES:
        return Answered(False, "No change that waits has this code: look at the message with it again.")
    rows.right(tx)
    rows.expire(tx, now)
    return Answered(False, f"That was wrong {MAX_TRIES} times, so nothing waits any more: have it asked again.")


def _check_room(tx: Tx, by: By, code: str, now: int) -> None:
    waiting = rows.waiting(tx, now)
    if sum(c.asker == by.who for c in waiting) >= MAX_WAITING:
        raise Refused(f"{MAX_WAITING} changes wait for the owner already: wait until they are answered")
    if rows.asked(tx, by.who) >= MAX_ASKED:
        raise Refused(f"the owner was asked {MAX_ASKED} times in a day: that is enough, go on without it")
    if code in {c.code for c in waiting}:
        raise Refused("ask once more")


def _sentence(tx: Tx, verb: str, args: dict[str, Any]) -> str:
    if verb not in WIDENINGS:
        raise Refused(f"there is no change named {verb[:40]!r}")
    said = plain(WIDENINGS[verb].sentence(tx, args)).strip()
    if len(said) > MAX_SENTENCE:
        raise Refused("that is too much for the owner to judge at once: ask for less")
    return said


def _told(tx: Tx, change: Change) -> str:
    try:
        return _sentence(tx, change.verb, change.args)
    except Refused as e:
        return f"cannot be done any more: {e}"


def _digest(verb: str, said: str) -> str:
    return hashlib.sha256(json.dumps([verb, said]).encode()).hexdigest()


def _show(tx: Tx, text: str, now: int) -> None:
    main = chats.main_chat(tx)
    if main is None:
        raise Refused("the owner has no chat in which to be asked")
    outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
