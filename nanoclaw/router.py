"""Hears a message: keep it? for us? which group? command or work. The row and the verdict are one transaction."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

from nanoclaw import failpoints, notices
from nanoclaw.commands import Answered, Asked, find, run
from nanoclaw.errors import Cause
from nanoclaw.models import (
    Account,
    Chat,
    Group,
    GroupState,
    Incoming,
    MessageState,
    OutKind,
    Role,
    TriggerMode,
    Verdict,
)
from nanoclaw.prompts import plain
from nanoclaw.run import letters
from nanoclaw.store import Tx, changes, chats, ledger, messages, outgoing, owners, turns
from nanoclaw.store.changes import Entry

LATE_MS = 86_400_000  # after which what comes late is only context
MAX_GUESTS = 20  # messages for the agent in a row and an hour, without a person of authority
_HOUR_MS = 3_600_000
_CODE = re.compile(r"\s*[0-9](?:[ \-]?[0-9]){7}\s*")
# Scripts that are written without spaces: the word ends where it ends.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_INVISIBLE = 40  # characters that may stand before the trigger word


@dataclass(frozen=True)
class Heard:
    """The verdict, the lane that it concerns, and what a command left to do."""

    verdict: Verdict
    lane: str = ""
    answered: Answered | None = None
    told: bool = False  # rows wait for the outbox


def hear(tx: Tx, msg: Incoming, now: int, late_ms: int = LATE_MS) -> Heard | None:
    """Store the message with its verdict; None when it was stored before. Of strangers only the chat is kept."""
    chat = chats.learn_chat(tx, msg.channel, msg.chat, msg.chat_name, msg.is_group, now)
    account = ledger.account(tx, msg.channel)
    group = _group(tx, msg, chat, account)
    if group is None:
        return _claimed(tx, msg, chat, account, now)
    if group.state is GroupState.REMOVED or not (msg.text.strip() or msg.media or msg.target):
        return Heard(Verdict.DROPPED)
    if messages.known(tx, chat.id, msg.wa_id, msg.from_me):
        return None
    if msg.from_me and outgoing.ours(tx, chat.id, msg.wa_id):
        return Heard(Verdict.DROPPED)
    if msg.expires is not None and msg.expires != chat.expires:
        chats.set_expires(tx, chat.id, msg.expires)
    return _stored(tx, msg, chat, group, account, now, late=now - msg.at > late_ms)


def _group(tx: Tx, msg: Incoming, chat: Chat, account: Account | None) -> Group | None:
    """Who serves the chat. With a number of its own, main's direct chats are the owners', as soon as they are heard,
    and nobody else's: a phone number is given to somebody new one day."""
    group = None if chat.group_id is None else chats.group(tx, chat.group_id)
    if account is None or account.shared or msg.is_group or (group is not None and not group.is_main):
        return group
    if group is None and msg.from_me:
        return None
    known = chats.person(tx, msg.channel, msg.chat if msg.from_me else msg.sender.jids)
    if known is not None and known[1] is Role.OWNER:
        return group or owners.join_main(tx, chat.id)
    if group is not None and (msg.from_me or not set(msg.sender.jids).isdisjoint(msg.chat)):
        owners.leave_main(tx, chat.id)
    return None


def _claimed(tx: Tx, msg: Incoming, chat: Chat, account: Account | None, now: int) -> Heard | None:
    """A stranger's message: nothing of it is kept, unless it is the code that makes them the owner."""
    direct = not (msg.is_group or msg.from_me or account is None or account.shared)
    if not (direct and msg.sender.jids and _CODE.fullmatch(msg.text)):
        return Heard(Verdict.DROPPED)
    if messages.known(tx, chat.id, msg.wa_id, msg.from_me):
        return None
    if not owners.claims(tx, re.sub(r"\D", "", msg.text), msg.sender.jids[0], msg.wa_id, now):
        return Heard(Verdict.DROPPED)
    group = owners.join_main(tx, chat.id)
    person_id, _ = chats.learn_person(tx, msg.channel, msg.sender.jids, msg.sender.name, Role.OWNER)
    messages.insert(
        tx, replace(msg, text="[code]"), chat_id=chat.id, person_id=person_id, lane=group.lane,
        verdict=Verdict.COMMAND, state=MessageState.HANDLED, now=now,
    )  # fmt: skip
    outgoing.queue(tx, chat.id, notices.welcome(group.name), OutKind.NOTICE, now)
    return Heard(Verdict.COMMAND, group.lane, told=True)


def _stored(tx: Tx, msg: Incoming, chat: Chat, group: Group, account: Account | None, now: int, *, late: bool) -> Heard:
    person_id, role = chats.learn_person(tx, msg.channel, msg.sender.jids, msg.sender.name)
    shared = account is not None and account.shared
    # What the assistant's own phone, nobody in particular, or a day long gone says is no more than context.
    counts = bool(msg.sender.jids) and not late and (shared or not msg.from_me)

    def judge(said: Incoming) -> Verdict:
        return _verdict(tx, said, chat, group, shared=shared) if counts else Verdict.CONTEXT

    if msg.target:
        entry, word = changes.of_earlier(tx, msg, chat.id, person_id, judge, now), ""
    else:
        entry, word = _said(tx, msg, chat, person_id, judge, commands=counts)
    row = messages.insert(
        tx, entry.msg, chat_id=chat.id, person_id=person_id, lane=group.lane,
        verdict=entry.verdict, state=entry.state, now=now,
    )  # fmt: skip
    told = _watch_for_loops(tx, chat, group, role, entry.reworded or entry.verdict, now)
    answered = _command(tx, word, chat, row, Asked(group, role, now, chat, now - msg.at)) if word else None
    failpoints.hit("hearing")
    return Heard(entry.verdict, group.lane, answered, told or answered is not None)


def _said(
    tx: Tx, msg: Incoming, chat: Chat, person_id: int, judge: Callable[[Incoming], Verdict], *, commands: bool
) -> tuple[Entry, str]:
    """What to store of a message that is about no other one, and the command that it is."""
    said = changes.of_itself(tx, msg, chat.id, person_id)
    if said is None:
        return Entry(replace(msg, text="", quoted_text="", media=()), Verdict.CONTEXT, MessageState.WITHDRAWN), ""
    if commands and not msg.forwarded and (word := find(said.text)):
        return Entry(said, Verdict.COMMAND, MessageState.HANDLED), word
    return Entry(said, judge(said)), ""


def _command(tx: Tx, word: str, chat: Chat, row: int, asked: Asked) -> Answered | None:
    answered = run(tx, word, asked)
    if answered is not None and answered.text:
        outgoing.queue(tx, chat.id, answered.text, OutKind.COMMAND, asked.now, turn_id=f"message:{row}")
    return answered


def _watch_for_loops(tx: Tx, chat: Chat, group: Group, role: Role, verdict: Verdict, now: int) -> bool:
    """Park the lane when nobody but guests (another bot, say) keeps it going; a person of authority ends that."""
    parked = turns.parked(tx, group.lane)[0]
    if role is not Role.GUEST:
        if parked == Cause.LOOP and verdict in (Verdict.WORK, Verdict.COMMAND):
            turns.release(tx, group.lane, by_person=True)
            letters.forget(tx, group.lane)
        return False
    if parked or verdict is not Verdict.WORK:
        return False
    if messages.guests_in_a_row(tx, chat.id, now - _HOUR_MS, MAX_GUESTS + 1) <= MAX_GUESTS:
        return False
    detail = f"{MAX_GUESTS + 1} messages in a row came from guests"
    letters.park(tx, group.lane, chat.id, Cause.LOOP, detail, now, quoted=False)
    return True


def _verdict(tx: Tx, msg: Incoming, chat: Chat, group: Group, *, shared: bool) -> Verdict:
    if group.state is GroupState.PAUSED or not _addressed(tx, msg, chat, group, shared=shared):
        return Verdict.CONTEXT
    return Verdict.WORK


def _addressed(tx: Tx, msg: Incoming, chat: Chat, group: Group, *, shared: bool) -> bool:
    """On a shared number a mention, or a quote of what its human wrote, is not meant for us."""
    if group.mode is TriggerMode.ALWAYS or (msg.mentions_us and not shared):
        return True
    if group.mode is TriggerMode.WORD and begins_with(msg.text, group.word):
        return True
    return bool(msg.quoted) and outgoing.ours(tx, chat.id, msg.quoted)


def begins_with(text: str, word: str) -> bool:
    """Whether the text begins with the trigger word, and not inside a longer one; case does not count."""
    word = _folded(word)
    text = _folded(plain(text[: 4 * len(word) + _INVISIBLE]).lstrip())
    if not word or not text.startswith(word):
        return False
    rest = text[len(word) : len(word) + 1]
    if not rest or _UNSPACED.match(rest) or _UNSPACED.match(word[-1]):
        return True
    return not (rest.isalnum() or rest == "_" or (unicodedata.combining(rest) and word[-1].isalnum()))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
