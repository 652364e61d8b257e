"""Messages: what came in, its verdict, and what became of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from nanoclaw.models import Incoming, Key, Message, MessageState, Quoted, Role, Turn, TurnState, Verdict
from nanoclaw.prompts import BUDGET
from nanoclaw.store import Tx, containing, media, new_id, outgoing, storable

_QUOTED = 1000  # characters of a quote by the sender's own words
_FRAME = 100  # characters that a message takes in a prompt besides its text, at least
_SELECT = "SELECT m.*, p.name AS person, p.role AS role FROM messages m JOIN people p ON p.id = m.person_id "
_CONTEXT = "m.chat_id = ? AND m.state = ? AND m.verdict = ? AND m.id < ?"


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
        "(chat_id, wa_id, from_me, person_id, lane, sender, kind, text, quoted, quoted_text, forwarded, media, at,"
        " saved_at, verdict, state) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(chat_id, msg.wa_id, msg.from_me, person_id, lane, next(iter(msg.sender.jids), ""), msg.kind),
            *(storable(msg.text), msg.quoted, storable(msg.quoted_text[:_QUOTED]), msg.forwarded),
            *(media.dump(msg.media), msg.at, now, verdict, state),
        ),
    )
    return new_id(cursor)


@dataclass(frozen=True)
class Row:
    """What an edit, a delete or a reaction needs to know of the message that it is about."""

    id: int
    person_id: int
    verdict: Verdict
    state: MessageState
    text: str
    quoted: str
    forwarded: bool


def find(tx: Tx, chat_id: int, wa_id: str, person_id: int) -> Row | None:
    """The message with the channel's id: this person's rather than another's, who may have copied the id."""
    row = tx.execute(
        "SELECT * FROM messages WHERE chat_id = ? AND wa_id = ? ORDER BY person_id = ? DESC, id LIMIT 1",
        (chat_id, wa_id, person_id),
    ).fetchone()
    if row is None:
        return None
    state, verdict = MessageState(row["state"]), Verdict(row["verdict"])
    return Row(row["id"], row["person_id"], verdict, state, row["text"], row["quoted"], bool(row["forwarded"]))


def reword(tx: Tx, message_id: int, text: str, verdict: Verdict) -> None:
    """Its sender edited it before a turn took it."""
    tx.execute("UPDATE messages SET text = ?, verdict = ? WHERE id = ?", (storable(text), verdict, message_id))


def withdraw(tx: Tx, message_id: int) -> None:
    """Its sender deleted it before a turn took it: nothing of it is kept."""
    tx.execute(
        "UPDATE messages SET state = ?, text = '', quoted_text = '', media = '' WHERE id = ?",
        (MessageState.WITHDRAWN, message_id),
    )


def withdraw_reaction(tx: Tx, chat_id: int, person_id: int, target: str) -> None:
    """A person has one reaction to a message: what no turn has shown is replaced, or taken back."""
    tx.execute(
        "UPDATE messages SET state = ? WHERE chat_id = ? AND person_id = ? AND kind = 'reaction' AND quoted = ?"
        " AND state = ?",
        (MessageState.WITHDRAWN, chat_id, person_id, target, MessageState.OPEN),
    )


def guests_in_a_row(tx: Tx, chat_id: int, since: int, limit: int) -> int:
    """How much work guests gave since then, or since a person of authority spoke; counted up to `limit`."""
    count = 0
    for row in tx.execute(
        "SELECT m.verdict, m.saved_at, p.role FROM messages m JOIN people p ON p.id = m.person_id"
        " WHERE m.chat_id = ? ORDER BY m.id DESC",
        (chat_id,),
    ):
        if row["role"] != Role.GUEST or row["saved_at"] < since or count >= limit:
            break
        count += row["verdict"] == Verdict.WORK
    return count


def open_work(tx: Tx, lane: str) -> list[Message]:
    """The oldest of the lane's messages that no turn has claimed, as much as a prompt may hold, oldest first."""
    rows = tx.execute(
        _SELECT + "WHERE m.lane = ? AND m.state = ? AND m.verdict = ? ORDER BY m.id",
        (lane, MessageState.OPEN, Verdict.WORK),
    )
    return _as_fits(tx, rows)


def count_work(tx: Tx, lane: str) -> int:
    """How many of the lane's messages no turn has claimed."""
    waiting = "SELECT count(*) FROM messages WHERE lane = ? AND state = ? AND verdict = ?"
    return int(tx.execute(waiting, (lane, MessageState.OPEN, Verdict.WORK)).fetchone()[0])


def work_since(tx: Tx, lane: str, since: int) -> bool:
    """Whether work came in after that moment and waits."""
    return bool(
        tx.execute(
            "SELECT 1 FROM messages WHERE lane = ? AND state = ? AND verdict = ? AND saved_at > ?",
            (lane, MessageState.OPEN, Verdict.WORK, since),
        ).fetchone()
    )


def open_context(tx: Tx, chat_id: int, before: int) -> list[Message]:
    """The newest of what was said in the chat before message `before` and not yet shown, as much as a prompt
    may hold, oldest first."""
    sql = f"{_SELECT} WHERE {_CONTEXT} ORDER BY m.id DESC"
    return _as_fits(tx, tx.execute(sql, (chat_id, MessageState.OPEN, Verdict.CONTEXT, before)))[::-1]


def count_context(tx: Tx, chat_id: int, before: int) -> int:
    """How much was said there before message `before` and not yet shown."""
    waiting = f"SELECT count(*) FROM messages m WHERE {_CONTEXT}"  # noqa: S608
    return int(tx.execute(waiting, (chat_id, MessageState.OPEN, Verdict.CONTEXT, before)).fetchone()[0])


def page(tx: Tx, chat_id: int, before: int, text: str, limit: int) -> list[Message]:
    """The newest messages of the chat before this id, oldest first, with this text in them; not what still waits."""
    rows = tx.execute(
        _SELECT + "WHERE m.chat_id = ? AND m.id < ? AND m.state <> ? AND NOT (m.state = ? AND m.verdict = ?)"
        " AND (m.text <> '' OR m.media <> '') AND m.text LIKE ? ESCAPE '!' ORDER BY m.id DESC LIMIT ?",
        (
            *(chat_id, before, MessageState.WITHDRAWN, MessageState.OPEN, Verdict.WORK),
            *(containing(text), limit),
        ),
    )
    return [_message(tx, r) for r in reversed(rows.fetchall())]


def take(tx: Tx, ids: list[int], turn_id: str) -> None:
    """This work belongs to this turn now."""
    tx.executemany(
        "UPDATE messages SET state = ?, turn_id = ? WHERE id = ?", [(MessageState.TAKEN, turn_id, i) for i in ids]
    )


def take_context(tx: Tx, chat_id: int, before: int, turn_id: str) -> None:
    """What was said there before message `before` is shown with this turn, or too much to be shown at all."""
    tx.execute(
        f"UPDATE messages AS m SET state = ?, turn_id = ? WHERE {_CONTEXT}",  # noqa: S608
        (MessageState.TAKEN, turn_id, chat_id, MessageState.OPEN, Verdict.CONTEXT, before),
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


def quiet(tx: Tx, person_id: int) -> None:
    """What waits of this person is only context."""
    tx.execute(
        "UPDATE messages SET verdict = ? WHERE person_id = ? AND state = ? AND verdict = ?",
        (Verdict.CONTEXT, person_id, MessageState.OPEN, Verdict.WORK),
    )


def all_of(tx: Tx, person_id: int, lane: str, turn: Turn | None) -> bool:
    """Whether everything that this turn (with those that one run answers together; none: the lane's unclaimed work)
    was asked for came from this person; of a turn that nobody's message made (a task's) it did not."""
    if turn is None:
        waiting = "SELECT person_id FROM messages WHERE lane = ? AND verdict = ? AND state = ?"
        rows = tx.execute(waiting, (lane, Verdict.WORK, MessageState.OPEN)).fetchall()
    else:
        run = turn.run_id if turn.state is TurnState.GIVEN else ""
        rows = tx.execute(
            "SELECT m.person_id FROM turns t LEFT JOIN messages m ON m.turn_id = t.id AND m.verdict = ?"
            " WHERE t.id = ? OR (t.run_id = ? AND t.run_id <> '' AND t.state = ?)",
            (Verdict.WORK, turn.id, run, TurnState.GIVEN),
        ).fetchall()
    return bool(rows) and all(row["person_id"] == person_id for row in rows)


def guests_commands_since(tx: Tx, chat_id: int, since: int) -> int:
    """How many commands guests have sent there since then."""
    row = tx.execute(
        "SELECT count(*) FROM messages m JOIN people p ON p.id = m.person_id"
        " WHERE m.chat_id = ? AND m.saved_at >= ? AND m.verdict = ? AND p.role = ?",
        (chat_id, since, Verdict.COMMAND, Role.GUEST),
    ).fetchone()
    return int(row[0])


def drop_open(tx: Tx, chat_id: int) -> None:
    """What was said there is neither answered nor shown any more."""
    tx.execute(
        "UPDATE messages SET state = ? WHERE chat_id = ? AND state IN (?, ?)",
        (MessageState.HANDLED, chat_id, MessageState.OPEN, MessageState.TAKEN),
    )


def newest_of_turn(tx: Tx, turn_id: str) -> str:
    """The channel's id of the turn's newest work: the one that a reply quotes; "" if there is none."""
    row = tx.execute(
        "SELECT wa_id FROM messages WHERE turn_id = ? AND verdict = ? ORDER BY id DESC LIMIT 1", (turn_id, Verdict.WORK)
    ).fetchone()
    return "" if row is None else str(row["wa_id"])


def asker(tx: Tx, turn_id: str) -> int | None:
    """Who said what the turn answers; of several people the last."""
    row = tx.execute(
        "SELECT person_id FROM messages WHERE turn_id = ? AND verdict = ? ORDER BY id DESC LIMIT 1",
        (turn_id, Verdict.WORK),
    ).fetchone()
    return None if row is None else int(row["person_id"])


def wa_id(tx: Tx, chat_id: int, message_id: int) -> str:
    """The channel's id of a message of the chat that was not deleted; "" for none."""
    row = tx.execute(
        "SELECT wa_id FROM messages WHERE id = ? AND chat_id = ? AND state <> ?",
        (message_id, chat_id, MessageState.WITHDRAWN),
    ).fetchone()
    return "" if row is None else str(row["wa_id"])


def keys_of_turn(tx: Tx, turn_id: str) -> tuple[Key, ...]:
    """The turn's work as its channel knows it, oldest first."""
    rows = tx.execute(
        "SELECT wa_id, sender, from_me FROM messages WHERE turn_id = ? AND verdict = ? ORDER BY id",
        (turn_id, Verdict.WORK),
    )
    return tuple(Key(r["wa_id"], r["sender"], bool(r["from_me"])) for r in rows)


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


def _quote(tx: Tx, row: dict[str, str]) -> Quoted | None:
    if not row["quoted"]:
        return None
    ours = outgoing.by_wa_id(tx, int(row["chat_id"]), row["quoted"])
    if ours is not None:  # first: somebody may have sent a message with the id of one of ours
        return Quoted(ours, known=True, ours=True)
    sql = _SELECT + "WHERE m.chat_id = ? AND m.wa_id = ? ORDER BY m.id LIMIT 1"
    theirs = tx.execute(sql, (row["chat_id"], row["quoted"])).fetchone()
    if theirs is None:
        return Quoted(row["quoted_text"])
    role, forwarded = Role(theirs["role"]), bool(theirs["forwarded"])
    return Quoted(theirs["text"], True, False, theirs["id"], theirs["person"], role, forwarded)


def _as_fits(tx: Tx, rows: Iterable[dict[str, str]]) -> list[Message]:
    """The first of these rows, until no prompt could hold more; the others are not even read."""
    found: list[Message] = []
    room = BUDGET
    for row in rows:
        found.append(_message(tx, row))
        # A long text is shortened, so that there is room for another one.
        if (room := room - min(len(row["text"]), BUDGET // 2) - _FRAME) < 0:
            break
    return found


def _message(tx: Tx, row: dict[str, str]) -> Message:
    return Message(
        id=int(row["id"]),
        chat_id=int(row["chat_id"]),
        wa_id=row["wa_id"],
        text=row["text"],
        sender=row["person"],
        role=Role(row["role"]),
        at=int(row["at"]),
        kind=row["kind"],
        quoted=row["quoted"],
        quote=_quote(tx, row),
        media=media.load(row["media"]),
        forwarded=bool(row["forwarded"]),
    )
