"""Hears a message: keep it? for us? which group? command or work. The row and the verdict are one transaction."""

import re
import unicodedata
from dataclasses import dataclass

from nanoclaw import commands, failpoints
from nanoclaw.commands import Answered, Asked
from nanoclaw.models import Chat, Group, GroupState, Incoming, MessageState, OutKind, TriggerMode, Verdict
from nanoclaw.store import Tx, chats, messages, outgoing


@dataclass(frozen=True)
class Heard:
    """The verdict, the lane that it concerns, and what a command left to do."""

    verdict: Verdict
    lane: str = ""
    answered: Answered | None = None


def hear(tx: Tx, msg: Incoming, now: int) -> Heard | None:
    """Store the message with its verdict; None when it was stored before. Of strangers only the chat is kept."""
    chat = chats.learn_chat(tx, msg.channel, msg.chat, msg.chat_name, msg.is_group, now)
    group = None if chat.group_id is None else chats.group(tx, chat.group_id)
    if group is None or group.state is GroupState.REMOVED or not msg.text.strip():
        return Heard(Verdict.DROPPED)
    if messages.known(tx, chat.id, msg.wa_id, msg.from_me):
        return None
    person_id, role = chats.learn_person(tx, msg.channel, msg.sender.jids, msg.sender.name)
    word = commands.find(msg.text)
    verdict = Verdict.COMMAND if word else _verdict(msg, group)
    state = MessageState.HANDLED if verdict is Verdict.COMMAND else MessageState.OPEN
    row = messages.insert(
        tx, msg, chat_id=chat.id, person_id=person_id, lane=group.lane, verdict=verdict, state=state, now=now
    )
    answered = _command(tx, word, chat, row, Asked(group, role, now)) if word else None
    failpoints.hit("hearing")
    return Heard(verdict, group.lane, answered)


def _command(tx: Tx, word: str, chat: Chat, row: int, asked: Asked) -> Answered | None:
    answered = commands.run(tx, word, asked)
    if answered is not None and answered.text:
        outgoing.queue(tx, chat.id, answered.text, OutKind.COMMAND, asked.now, turn_id=f"message:{row}")
    return answered


def _verdict(msg: Incoming, group: Group) -> Verdict:
    if group.state is GroupState.PAUSED or not _addressed(msg, group):
        return Verdict.CONTEXT
    return Verdict.WORK


def _addressed(msg: Incoming, group: Group) -> bool:
    if group.mode is TriggerMode.ALWAYS or msg.mentions_us:
        return True
    return group.mode is TriggerMode.WORD and begins_with(msg.text, group.word)


def begins_with(text: str, word: str) -> bool:
    """Whether the text begins with the trigger word, and not inside a longer one; case does not count."""
    text, word = (unicodedata.normalize("NFC", x).casefold() for x in (text.lstrip(), word))
    if not word or not text.startswith(word):
        return False
    return not re.match(r"\w", text[len(word) :])
