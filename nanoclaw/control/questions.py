"""What agents ask people: the question as they read it, and whether what somebody says is its answer."""

import re

from nanoclaw.models import Chat, Incoming
from nanoclaw.store import Tx, questions
from nanoclaw.store.questions import Question

_NUMBER = re.compile(r"\s*#?([0-9]{1,2})\s*[.):!]?\s*")


def worded(question: str, options: tuple[str, ...], chat: Chat) -> str:
    """The message that asks."""
    if options:
        listed = "\n".join(f"{n}. {option}" for n, option in enumerate(options, 1))
        return f"{question}\n\n{listed}\n\nPlease answer with a number."
    return f"{question}\n\nPlease reply to this message." if chat.is_group else question


def chosen(options: tuple[str, ...], text: str) -> int | None:
    """Which option is meant, by its number or its words; None for none of them."""
    if (found := _NUMBER.fullmatch(text)) and 1 <= int(found[1]) <= len(options):
        return int(found[1]) - 1
    folded = [_folded(option) for option in options]
    return folded.index(_folded(text)) if _folded(text) in folded else None


def asked(tx: Tx, chat: Chat, person_id: int, at: int, now: int) -> bool:
    """Whether an agent waits for this person's answer there, and they could know it `at` that time."""
    return bool(questions.waiting(tx, chat.id, person_id, at, now))


def answered(tx: Tx, chat: Chat, person_id: int, msg: Incoming, now: int) -> bool:
    """Take what this person says as the answer to what they were asked there, if it is one: it quotes the question,
    or names an option; in a direct chat whatever is said. What fits two questions answers neither; in a direct chat
    the newest one, but for one with other options where an older one has that option: people answer what stands last.
    """
    if not msg.text.strip():
        return False
    waiting = questions.waiting(tx, chat.id, person_id, msg.at, now)
    fitting = [question for question in waiting if _fits(tx, question, chat, msg)]
    if not fitting or (len(fitting) > 1 and chat.is_group):
        return False
    newest = fitting[0]
    if newest.options:
        newest = next((q for q in fitting if chosen(q.options, msg.text) is not None), newest)
    questions.answer(tx, newest, msg.text)
    return True


def _fits(tx: Tx, question: Question, chat: Chat, msg: Incoming) -> bool:
    """What quotes a message is about that one, and about no other."""
    if msg.quoted:
        return msg.quoted == questions.asked_as(tx, question)
    return not chat.is_group or chosen(question.options, msg.text) is not None


def _folded(text: str) -> str:
    return " ".join(text.split()).strip(" .!").casefold()
