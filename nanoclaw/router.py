"""Hears a message: keep it? for us? which group? command or work. The row and the verdict are one transaction."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from loguru import logger

from nanoclaw import failpoints, notices
from nanoclaw.commands import Answered, Asked, Found, House, find, is_owners, run
from nanoclaw.control import people as rights
from nanoclaw.control import questions
from nanoclaw.errors import Cause
from nanoclaw.models import (
    UNREADABLE,
    Account,
    Chat,
    Group,
    GroupState,
    Incoming,
    MessageState,
    OutKind,
    Role,
    Sender,
    TriggerMode,
    Verdict,
    Who,
)
from nanoclaw.prompts import plain
from nanoclaw.run import letters
from nanoclaw.store import Fault, Tx, attempt, changes, chats, ledger, messages, outgoing, owners, people, turns
from nanoclaw.store.changes import Entry

LATE_MS = 86_400_000  # after which what comes late is only context
HOUSE = House()  # where nothing more is known of it
MAX_GUESTS = 20  # messages for the agent in a row and an hour, without a person of authority
_HOUR_MS = 3_600_000
_CODE = re.compile(r"\s*[0-9](?:[ \-]?[0-9]){7}\s*")
# Scripts that are written without spaces: the word ends where it ends.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_UNSURE = (
    "I have written exactly that here myself in the last hour, so I cannot know that it is your word: give it at the"
    " terminal (`nanoclaw --help`; for a code `nanoclaw pending yes CODE`)."
)
_INVISIBLE = 40  # characters that may stand before the trigger word


@dataclass(frozen=True)
class Heard:
    """The verdict, the lane that it concerns, and what a command left to do."""

    verdict: Verdict
    lane: str = ""
    answered: Answered | None = None
    told: bool = False  # rows wait for the outbox


def hear_all(
    tx: Tx,
    said: Iterable[Incoming],
    now: int,
    late_ms: int = LATE_MS,
    house: House = HOUSE,
    clean: Callable[[str], str] = str,
) -> list[Heard]:
    """In order, and each apart: one that breaks the hearing is kept as one that could not be read.

    `clean` takes from a text what nobody may say, so that it is not even stored; a stranger's is not looked at.
    """
    found = [_hear_apart(tx, msg, now, late_ms, house, clean) for msg in said]
    return [heard for heard in found if heard is not None]


def _hear_apart(
    tx: Tx, msg: Incoming, now: int, late_ms: int, house: House, clean: Callable[[str], str]
) -> Heard | None:
    nobody, what = Sender(msg.sender.jids, ""), UNREADABLE
    head = Incoming(msg.channel, msg.chat, msg.wa_id, what, nobody, now, "", msg.is_group, msg.from_me, "unsupported")
    for version in (msg, head):
        try:
            with attempt(tx):
                return hear(tx, version, now, late_ms, house, clean)
        except Fault:
            raise
        except Exception as e:
            logger.error("A message on {} could not be heard: {}", msg.channel, type(e).__name__)
    return None


def hear(
    tx: Tx,
    msg: Incoming,
    now: int,
    late_ms: int = LATE_MS,
    house: House = HOUSE,
    clean: Callable[[str], str] = str,
) -> Heard | None:
    """Store the message with its verdict; None when it was stored before. Of strangers only the chat is kept."""
    chat = chats.learn_chat(tx, msg.channel, msg.chat, msg.chat_name, msg.is_group, now)
    account = ledger.account(tx, msg.channel)
    group = _group(tx, msg, chat, account)
    if group is not None and not group.is_main and _CODE.fullmatch(msg.text) and ledger.claim(tx) is not None:
        claimed = _claimed(tx, msg, chat, account, now)
        if claimed is None or claimed.verdict is Verdict.COMMAND:
            return claimed
    opened = _opened(tx, msg, chat, account, now) if group is None else None
    if (group := group or opened) is None:
        return _claimed(tx, msg, chat, account, now)
    if not _is_let_in(tx, msg, chat, group, account):
        return Heard(Verdict.DROPPED)
    if group.state is GroupState.REMOVED or not (msg.text.strip() or msg.media or msg.target):
        return Heard(Verdict.DROPPED)
    if messages.known(tx, chat.id, msg.wa_id, msg.from_me):
        return None
    if msg.from_me and outgoing.ours(tx, chat.id, msg.wa_id):
        return Heard(Verdict.DROPPED)
    if msg.expires is not None and msg.expires != chat.expires:
        chats.set_expires(tx, chat.id, msg.expires)
    heard = _stored(tx, _cleaned(msg, clean), chat, group, account, now, house, late=now - msg.at > late_ms)
    return heard if opened is None else replace(heard, told=True)


def _cleaned(m: Incoming, clean: Callable[[str], str]) -> Incoming:
    media = tuple(replace(file, name=clean(file.name)) for file in m.media)
    return replace(m, text=clean(m.text), quoted_text=clean(m.quoted_text), media=media)


def _group(tx: Tx, msg: Incoming, chat: Chat, account: Account | None) -> Group | None:
    """Who serves the chat. With a number of its own, main's direct chats are the owners', as soon as they are heard,
    and nobody else's: a phone number is given to somebody new one day."""
    group = None if chat.group_id is None else chats.group(tx, chat.group_id)
    if account is None or account.shared or msg.is_group or (group is None and msg.from_me):
        return group
    known = chats.person(tx, msg.channel, msg.chat if msg.from_me else msg.sender.jids)
    if known is not None and known[1] is Role.OWNER:
        return group if group is not None and group.is_main else owners.join_main(tx, chat.id)
    if group is not None and not group.is_main:
        return group
    if group is not None and (msg.from_me or not set(msg.sender.jids).isdisjoint(msg.chat)):
        owners.leave_main(tx, chat.id)
    return None


def _opened(tx: Tx, msg: Incoming, chat: Chat, account: Account | None, now: int) -> Group | None:
    """With a number of our own, whoever is allowed gets a group for their direct chat when they write there first."""
    if account is None or account.shared or msg.is_group or msg.from_me or chat.group_id is not None:
        return None
    if set(msg.sender.jids).isdisjoint(msg.chat) or chats.person(tx, msg.channel, msg.sender.jids) is None:
        return None
    _, role = chats.learn_person(tx, msg.channel, msg.sender.jids, msg.sender.name)
    return rights.opens(tx, chat, role, now)


def _is_let_in(tx: Tx, msg: Incoming, chat: Chat, group: Group, account: Account | None) -> bool:
    """With a number of our own, of a direct chat nothing is kept while its person may not call."""
    if chat.is_group or msg.from_me or group.is_main or (account is not None and account.shared):
        return True
    known = chats.person(tx, msg.channel, msg.sender.jids)
    return group.who is Who.EVERYONE if known is None else people.may_call(tx, group, chat.id, *known)


def _claimed(tx: Tx, msg: Incoming, chat: Chat, account: Account | None, now: int) -> Heard | None:
    """A stranger's message: nothing of it is kept, unless it is the code that makes them the owner."""
    direct = not (msg.is_group or msg.from_me or account is None or account.shared)
    if not (direct and msg.sender.jids and _CODE.fullmatch(msg.text)):
        told = direct and bool(msg.sender.jids) and not msg.target and rights.stranger(tx, chat, now)
        return Heard(Verdict.DROPPED, told=told)
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


def _stored(
    tx: Tx, msg: Incoming, chat: Chat, group: Group, account: Account | None, now: int, house: House, *, late: bool
) -> Heard:
    person_id, role = chats.learn_person(tx, msg.channel, msg.sender.jids, msg.sender.name)
    shared = account is not None and account.shared
    # What the assistant's own phone, nobody in particular, or a day long gone says is no more than context.
    counts = bool(msg.sender.jids) and not late and (shared or not msg.from_me)

    words: list[str] = []

    def judge(said: Incoming) -> Verdict:
        if not counts or group.state is GroupState.PAUSED or not _addressed(tx, said, chat, group, shared=shared):
            return Verdict.CONTEXT
        if not people.may_call(tx, group, chat.id, person_id, role):
            return Verdict.CONTEXT
        words.append(rights.over_limit(tx, group, person_id, role, now, said.target))
        return Verdict.CONTEXT if words[-1] else Verdict.WORK

    if msg.target:
        entry, found = changes.of_earlier(tx, msg, chat.id, person_id, judge, now), None
    else:
        entry, found = _said(tx, msg, chat, person_id, judge, now, commands=counts)
    row = messages.insert(
        tx, entry.msg, chat_id=chat.id, person_id=person_id, lane=group.lane,
        verdict=entry.verdict, state=entry.state, now=now,
    )  # fmt: skip
    told = _watch_for_loops(tx, chat, group, role, entry.reworded or entry.verdict, now)
    for word in filter(None, words):
        told = _hint(tx, chat, word, now) or told
    asked = Asked(group, role, now, chat, now - msg.at, person_id, house=house)
    answered = _command(tx, found, msg, chat, row, asked) if found else None
    if entry.verdict is Verdict.ANSWER:
        answered = Answered("", answer=True)
    failpoints.hit("hearing")
    return Heard(entry.verdict, group.lane, answered, told or answered is not None)


def _said(
    tx: Tx, msg: Incoming, chat: Chat, person_id: int, judge: Callable[[Incoming], Verdict], now: int, *, commands: bool
) -> tuple[Entry, Found | None]:
    """What to store of a message that is about no other one, and the command that it is: typed as it stands, by
    its sender, so that neither a forwarded text, an edit, a poll nor a caption is one."""
    said = changes.of_itself(tx, msg, chat.id, person_id)
    if said is None:
        return Entry(replace(msg, text="", quoted_text="", media=()), Verdict.CONTEXT, MessageState.WITHDRAWN), None
    typed = commands and not msg.forwarded and msg.kind == "text" and said.text == msg.text
    if typed and (found := find(said.text)):
        return Entry(said, Verdict.COMMAND, MessageState.HANDLED), found
    if typed and _answers(tx, said, chat, person_id, now):
        return Entry(said, Verdict.ANSWER, MessageState.HANDLED), None
    return Entry(said, judge(said)), None


def _answers(tx: Tx, msg: Incoming, chat: Chat, person_id: int, now: int) -> bool:
    """Whether it is what an agent waits for: no trigger is needed, and no turn is made of it."""
    group = None if chat.group_id is None else chats.group(tx, chat.group_id)
    if group is None or group.state is not GroupState.ACTIVE or not questions.asked(tx, chat, person_id, msg.at, now):
        return False
    person = people.get(tx, person_id)
    if person is None or not people.may_call(tx, group, chat.id, person_id, person.role):
        return False
    word = group.word or f"@{chats.assistant(tx)}"
    text = msg.text[len(word) :] if begins_with(msg.text, word) else msg.text
    return questions.answered(tx, chat, person_id, replace(msg, text=text.strip(" \t\n,:")), now)


def _said_it(tx: Tx, found: Found, chat: Chat, now: int) -> bool:
    """Whether it may be an agent's text that came back to us from the number that we share with the owner."""
    return any(find(text) == found for text in outgoing.replies_since(tx, chat.id, now - _HOUR_MS))


def _command(tx: Tx, found: Found, msg: Incoming, chat: Chat, row: int, asked: Asked) -> Answered | None:
    if msg.from_me and is_owners(found) and _said_it(tx, found, chat, asked.now):
        answered: Answered | None = Answered(_UNSURE)
    else:
        answered = run(tx, found, asked)
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


def _hint(tx: Tx, chat: Chat, word: str, now: int) -> bool:
    """A word on why nothing comes of a message, once in an hour and chat."""
    if not outgoing.may_tell(tx, "too much", chat.id, now, _HOUR_MS):
        return False
    outgoing.queue(tx, chat.id, word, OutKind.NOTICE, now)
    return True


def _addressed(tx: Tx, msg: Incoming, chat: Chat, group: Group, *, shared: bool) -> bool:
    """On a shared number a mention, or a quote of what its human wrote, is not meant for us."""
    if group.mode is TriggerMode.ALWAYS or (msg.mentions_us and not shared):
        return True
    if group.mode is TriggerMode.WORD and begins_with(msg.text, group.word or f"@{chats.assistant(tx)}"):
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
