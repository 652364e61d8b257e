"""A message of an agent's in another chat than its own: the owner reads it first."""

from collections.abc import Callable
from typing import Any

from nanoclaw.control import groups
from nanoclaw.errors import Refused
from nanoclaw.models import By, OutKind, SeenChat
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, audit, outgoing

MAX_POST = 2000  # characters: the owner reads all of it before


def proposal(tx: Tx, chat: object, on: Callable[[str], list[str]]) -> dict[str, Any]:
    """The change to be asked for; `on` gives the texts as a channel sends them. Raises Refused."""
    found = _served(groups.chat_of(tx, _place(tx, chat)))
    texts = [plain(text) for text in on(found.channel)]  # what the owner reads is what is sent
    if not texts or not all(text.strip() for text in texts) or sum(map(len, texts)) > MAX_POST:
        raise Refused(f"text must have 1 to {MAX_POST} characters, so that the owner can judge it")
    return {"chat": found.number, "texts": texts}


def sentence(tx: Tx, args: dict[str, Any]) -> str:
    """`args`: chat (its number), texts (as the channel sends them)."""
    chat, texts = _meant(tx, args)
    said = " ".join(plain("\n".join(texts)).split()).replace("«", "'").replace("»", "'")
    return f"send to the chat {groups.called(chat)} of {chat.folder}: «{said}»"


def apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Queue it."""
    chat, texts = _meant(tx, args)
    outgoing.queue_parts(tx, chat.number, texts, OutKind.REPLY, now)
    audit.note(tx, by, "send message", f"chat {chat.number}", now)
    return f"Done: it goes to {groups.called(chat)}."


def _place(tx: Tx, chat: object) -> str:
    """A folder means its group's chat."""
    text = str(chat).strip() if isinstance(chat, str | int) else ""
    return next((str(c.number) for c in groups.seen(tx) if c.folder and c.folder == text), text)


def _meant(tx: Tx, args: dict[str, Any]) -> tuple[SeenChat, list[str]]:
    texts = args.get("texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused("text is missing")
    return _served(groups.chat_of(tx, str(args.get("chat")))), texts


def _served(chat: SeenChat) -> SeenChat:
    """Nobody who does not know the assistant gets a message from it."""
    if not chat.folder:
        raise Refused("nobody serves that chat: it needs a group first, see add_group")
    return chat
