"""Edits, deletes and reactions: what a message does to another one, also when it comes before it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nanoclaw.models import Incoming, MessageState, Verdict
from nanoclaw.prompts import excerpt
from nanoclaw.store import Tx, forget, messages, outgoing, storable

_EARLY_MS = 86_400_000  # that a change waits for its message
_EARLY = 100  # changes of one chat that may wait
_EXCERPT = 80  # characters
_SIGN = 16  # characters of a reaction


@dataclass(frozen=True)
class Entry:
    """What is stored: the message, or what a change has to say."""

    msg: Incoming
    verdict: Verdict
    state: MessageState = MessageState.OPEN
    reworded: Verdict | None = None  # what became of the message that was edited


def of_earlier(
    tx: Tx, msg: Incoming, chat_id: int, person_id: int, anew: Callable[[Incoming], Verdict], now: int
) -> Entry:
    """Apply an edit, a delete or a reaction; `anew` is the router's verdict on a text. Only the original's
    sender changes it, or, for a delete, an admin of the group: of others it is only noted that it came."""
    noted = Entry(replace(msg, text="", quoted_text="", media=()), Verdict.CONTEXT, MessageState.HANDLED)
    if not msg.sender.jids:
        return noted
    target = messages.find(tx, chat_id, msg.target, person_id)
    if msg.kind == "reaction":
        return _reacted(tx, msg, chat_id, person_id, target) or noted
    if target is None:
        if not outgoing.ours(tx, chat_id, msg.target):
            _keep(tx, msg, chat_id, person_id, now)
        return noted
    may = target.person_id == person_id or (msg.kind == "delete" and msg.by_admin)
    if not may or target.state is MessageState.WITHDRAWN or target.verdict is Verdict.COMMAND:
        return noted
    if msg.kind == "delete":
        return _deleted(tx, msg, chat_id, target) or noted
    return _edited(tx, msg, target, anew, noted)


def _deleted(tx: Tx, msg: Incoming, chat_id: int, target: messages.Row) -> Entry | None:
    forget.message(tx, chat_id, target.id, msg.target, target.person_id)
    if target.state is MessageState.OPEN:
        messages.withdraw(tx, target.id)
        return None
    return Entry(replace(msg, text="[deleted]", quoted=msg.target), Verdict.CONTEXT)


def _edited(tx: Tx, msg: Incoming, target: messages.Row, anew: Callable[[Incoming], Verdict], noted: Entry) -> Entry:
    verdict = anew(replace(msg, quoted=target.quoted))
    if target.state is MessageState.OPEN:
        messages.reword(tx, target.id, msg.text, verdict)
        return replace(noted, reworded=verdict)
    if target.verdict is Verdict.WORK and target.state is MessageState.HANDLED:
        verdict = Verdict.CONTEXT  # it is answered: a mended slip is no new question
    said = replace(msg, text=f"[edited: {msg.text}]", quoted=msg.target, forwarded=target.forwarded)
    return Entry(said, verdict)


def _reacted(tx: Tx, msg: Incoming, chat_id: int, person_id: int, target: messages.Row | None) -> Entry | None:
    messages.withdraw_reaction(tx, chat_id, person_id, msg.target)
    text = outgoing.by_wa_id(tx, chat_id, msg.target) or (target.text if target is not None else "")
    sign = excerpt(msg.text, _SIGN)
    if not sign or not text:
        return None
    return Entry(
        replace(msg, text=f'[reacted {sign} to: "{excerpt(text, _EXCERPT)}"]', quoted=msg.target), Verdict.CONTEXT
    )


def _keep(tx: Tx, msg: Incoming, chat_id: int, person_id: int, now: int) -> None:
    tx.execute("DELETE FROM early WHERE at < ?", (now - _EARLY_MS,))
    if tx.execute("SELECT count(*) FROM early WHERE chat_id = ?", (chat_id,)).fetchone()[0] >= _EARLY:
        return
    tx.execute(
        "INSERT INTO early(channel, chat_id, target, person_id, by_admin, kind, text, mentions_us, at)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET text = excluded.text, mentions_us = excluded.mentions_us",
        (msg.channel, chat_id, msg.target, person_id, msg.by_admin, msg.kind, storable(msg.text), msg.mentions_us, now),
    )


def of_itself(tx: Tx, msg: Incoming, chat_id: int, person_id: int) -> Incoming | None:
    """The message as changes that came before it left it; None when it was deleted."""
    rows = tx.execute("SELECT * FROM early WHERE chat_id = ? AND target = ?", (chat_id, msg.wa_id)).fetchall()
    if not rows:
        return msg
    tx.execute("DELETE FROM early WHERE chat_id = ? AND target = ?", (chat_id, msg.wa_id))
    own = [row for row in rows if row["person_id"] == person_id]
    if any(row["kind"] == "delete" for row in own) or any(row["by_admin"] for row in rows if row["kind"] == "delete"):
        return None
    return next((replace(msg, text=row["text"], mentions_us=bool(row["mentions_us"])) for row in own), msg)
