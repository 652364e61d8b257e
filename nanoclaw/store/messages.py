"""Messages: what came in, its verdict, and what became of it."""

from dataclasses import dataclass

from nanoclaw.models import Incoming, Message, MessageState, Role, TurnState, Verdict
from nanoclaw.store import Tx, new_id

_SELECT = "SELECT m.*, p.name AS sender, p.role AS role FROM messages m JOIN people p ON p.id = m.person_id "


def known(tx: Tx, chat_id: int, wa_id: str, from_me: bool) -> bool:
    """Whether this message was stored before (it came again after a reconnect)."""
    return bool(
        tx.execute(
            "SELECT 1 FROM messages WHERE chat_id = ? AND wa_id = ? AND from_me = ?", (chat_id, wa_id, from_me)
        ).fetchone()
    )


def insert(
    tx: Tx, msg: Incoming, *, chat_id: int, person_id: int, lane: str, verdict: Verdict, state: MessageState, now: int
) -> int:
    """Store a message with the router's verdict; its id orders the chat."""
    cursor = tx.execute(
        "INSERT INTO messages"
        "(chat_id, wa_id, from_me, person_id, lane, kind, text, quoted, at, saved_at, verdict, state)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(chat_id, msg.wa_id, msg.from_me, person_id, lane, msg.kind, _storable(msg.text), msg.quoted),
            *(msg.at, now, verdict, state),
        ),
    )
    return new_id(cursor)


def _storable(text: str) -> str:
    """A lone surrogate cannot be written as UTF-8: it becomes "?", the message stays."""
    return text.encode("utf-8", "replace").decode("utf-8")


def open_work(tx: Tx, lane: str) -> list[Message]:
    """The lane's messages that no turn has claimed, oldest first."""
    rows = tx.execute(
        _SELECT + "WHERE m.lane = ? AND m.state = ? AND m.verdict = ? ORDER BY m.id",
        (lane, MessageState.OPEN, Verdict.WORK),
    )
    return [_message(r) for r in rows]


def work_since(tx: Tx, lane: str, since: int) -> bool:
    """Whether work came in after that moment and waits."""
    return bool(
        tx.execute(
            "SELECT 1 FROM messages WHERE lane = ? AND state = ? AND verdict = ? AND saved_at > ?",
            (lane, MessageState.OPEN, Verdict.WORK, since),
        ).fetchone()
    )


def open_context(tx: Tx, chat_id: int, before: int) -> list[Message]:
    """What was said in the chat before message `before` and not yet shown, oldest first."""
    rows = tx.execute(
        _SELECT + "WHERE m.chat_id = ? AND m.state = ? AND m.verdict = ? AND m.id < ? ORDER BY m.id",
        (chat_id, MessageState.OPEN, Verdict.CONTEXT, before),
    )
    return [_message(r) for r in rows]


def take(tx: Tx, ids: list[int], turn_id: str) -> None:
    """These messages belong to this turn now."""
    tx.executemany(
        "UPDATE messages SET state = ?, turn_id = ? WHERE id = ?", [(MessageState.TAKEN, turn_id, i) for i in ids]
    )


def handle(tx: Tx, turn_id: str) -> None:
    """The turn has ended: its messages are answered, or their failure is told."""
    tx.execute("UPDATE messages SET state = ? WHERE turn_id = ?", (MessageState.HANDLED, turn_id))


def handle_open(tx: Tx, lane: str) -> int:
    """Give up the lane's unclaimed work (a /stop before anything ran); how many."""
    return tx.execute(
        "UPDATE messages SET state = ? WHERE lane = ? AND state = ? AND verdict = ?",
        (MessageState.HANDLED, lane, MessageState.OPEN, Verdict.WORK),
    ).rowcount


def newest_of_turn(tx: Tx, turn_id: str) -> str:
    """The channel's id of the turn's newest work: the one that a reply quotes; "" if there is none."""
    row = tx.execute(
        "SELECT wa_id FROM messages WHERE turn_id = ? AND verdict = ? ORDER BY id DESC LIMIT 1", (turn_id, Verdict.WORK)
    ).fetchone()
    return "" if row is None else str(row["wa_id"])


def lanes_with_work(tx: Tx) -> list[str]:
    """Lanes with unclaimed messages or waiting turns: what to wake at a start."""
    rows = tx.execute(
        "SELECT lane FROM messages WHERE state = ? AND verdict = ? UNION SELECT lane FROM turns WHERE state IN (?, ?)",
        (MessageState.OPEN, Verdict.WORK, TurnState.OPEN, TurnState.GIVEN),
    )
    return [r["lane"] for r in rows]


@dataclass(frozen=True)
class Outcome:
    """What became of one message. `state` is "" while it is open, "handled" for a command, else the turn's."""

    state: str
    turn: str
    error: str
    outgoing: tuple[int, ...]


def outcome(tx: Tx, channel: str, wa_id: str) -> Outcome | None:
    """The end of the message with the channel's id, or None when it was never stored."""
    row = tx.execute(
        "SELECT m.id, m.state, m.turn_id, t.state AS turn_state, t.error, t.answered_by, l.parked, l.detail"
        " FROM messages m"
        " JOIN chats c ON c.id = m.chat_id JOIN lanes l ON l.lane = m.lane LEFT JOIN turns t ON t.id = m.turn_id"
        " WHERE c.channel = ? AND m.wa_id = ? ORDER BY m.id DESC LIMIT 1",
        (channel, wa_id),
    ).fetchone()
    if row is None:
        return None
    if row["parked"] and row["turn_state"] in (None, TurnState.PARKED) and row["state"] != MessageState.HANDLED:
        return Outcome(TurnState.PARKED, row["turn_id"] or "", f"{row['parked']}: {row['detail']}", ())
    if row["turn_id"] is None:
        ended = row["state"] == MessageState.HANDLED
        sent = _sent_for(tx, f"message:{row['id']}") if ended else ()
        return Outcome("handled" if ended else "", "", "", sent)
    state = row["turn_state"]
    if state in (TurnState.OPEN, TurnState.GIVEN):
        return Outcome("", row["turn_id"], "", ())
    sent = _sent_for(tx, row["turn_id"], row["answered_by"] or row["turn_id"])
    return Outcome(state, row["turn_id"], row["error"], sent)


def _sent_for(tx: Tx, *refs: str) -> tuple[int, ...]:
    marks = ", ".join("?" * len(refs))
    rows = tx.execute(f"SELECT id FROM outgoing WHERE turn_id IN ({marks}) ORDER BY id", refs)  # noqa: S608
    return tuple(r["id"] for r in rows)


def _message(row: dict[str, str]) -> Message:
    return Message(
        id=int(row["id"]),
        chat_id=int(row["chat_id"]),
        wa_id=row["wa_id"],
        text=row["text"],
        sender=row["sender"],
        role=Role(row["role"]),
        at=int(row["at"]),
        kind=row["kind"],
        quoted=row["quoted"],
    )
