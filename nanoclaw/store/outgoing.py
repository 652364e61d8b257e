"""Rows to be sent, and what the chats were told once."""

from nanoclaw.models import Key, Outgoing, OutKind, OutState
from nanoclaw.store import Tx, chats, new_id

# The order within a chat: the host's short answers do not wait behind long replies.
_RANK = f"CASE kind WHEN '{OutKind.COMMAND}' THEN 0 ELSE 1 END"
MAX_WAIT_MS = 60_000  # no row is ever put off for longer


def queue(
    tx: Tx, chat_id: int, text: str, kind: OutKind, now: int, *, turn_id: str = "", part: int = 0, quote: str = ""
) -> int:
    """A row to be sent; its id."""
    cursor = tx.execute(
        "INSERT INTO outgoing(chat_id, turn_id, part, kind, payload, quote, state, created_at)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
        (chat_id, turn_id, part, kind, text, quote, OutState.QUEUED, now),
    )
    return new_id(cursor)


def next_due(tx: Tx, channel: str, now: int) -> Outgoing | None:
    """The next row of the channel: the first of its chat, and due; a chat whose first is not due waits."""
    rows = tx.execute(
        f"SELECT o.*, min({_RANK} * 1e12 + o.id) FROM outgoing o JOIN chats c ON c.id = o.chat_id"  # noqa: S608
        " WHERE c.channel = ? AND o.state IN ('queued', 'unknown') GROUP BY o.chat_id ORDER BY o.id",
        (channel,),
    ).fetchall()
    for row in rows:
        if row["next_try"] <= now or row["next_try"] > now + MAX_WAIT_MS:  # the clock was set back
            return _outgoing(tx, row)
    return None


def next_try(tx: Tx, channel: str) -> int | None:
    """When a refused row of the channel is due again, in milliseconds; None if none waits."""
    row = tx.execute(
        "SELECT min(o.next_try) FROM outgoing o JOIN chats c ON c.id = o.chat_id"
        " WHERE c.channel = ? AND o.state IN (?, ?) AND o.next_try > 0",
        (channel, OutState.QUEUED, OutState.UNKNOWN),
    ).fetchone()
    return None if row[0] is None else int(row[0])


def sending(tx: Tx, out_id: int) -> None:
    """From here on nobody knows whether it was sent, until `sent`, `back` or `dead`."""
    tx.execute("UPDATE outgoing SET state = ?, attempts = attempts + 1 WHERE id = ?", (OutState.SENDING, out_id))


def sent(tx: Tx, out_id: int, wa_id: str, now: int) -> None:
    """The other side acknowledged it."""
    tx.execute(
        "UPDATE outgoing SET state = ?, wa_id = ?, sent_at = ? WHERE id = ?", (OutState.SENT, wa_id, now, out_id)
    )


def back(tx: Tx, out_id: int, *, error: str = "", next_try: int = 0, free: bool = False) -> None:
    """Not sent, to be tried again; `free` costs no attempt (the channel was not connected)."""
    tx.execute(
        "UPDATE outgoing SET state = ?, error = ?, next_try = ?, attempts = attempts - ? WHERE id = ?",
        (OutState.QUEUED, error, next_try, free, out_id),
    )


def unknown(tx: Tx, out_id: int, next_try: int) -> None:
    """Nobody learned the outcome: it is sent again, and counted."""
    tx.execute(
        "UPDATE outgoing SET state = ?, unknowns = unknowns + 1, next_try = ? WHERE id = ?",
        (OutState.UNKNOWN, next_try, out_id),
    )


def dead(tx: Tx, out_id: int, error: str) -> None:
    """Refused for good; the later parts of the same reply go with it."""
    row = tx.execute("SELECT turn_id, part FROM outgoing WHERE id = ?", (out_id,)).fetchone()
    tx.execute("UPDATE outgoing SET state = ?, error = ? WHERE id = ?", (OutState.DEAD, error, out_id))
    if row["turn_id"]:
        tx.execute(
            "UPDATE outgoing SET state = ?, error = ? WHERE turn_id = ? AND part > ? AND state = ?",
            (OutState.DEAD, error, row["turn_id"], row["part"], OutState.QUEUED),
        )


def recover(tx: Tx) -> int:
    """At a start: what was being sent has an unknown outcome; how many."""
    return tx.execute(
        "UPDATE outgoing SET state = ?, unknowns = unknowns + 1 WHERE state = ?", (OutState.UNKNOWN, OutState.SENDING)
    ).rowcount


def state(tx: Tx, out_id: int) -> tuple[OutState, str]:
    """Where a row is, and its error."""
    row = tx.execute("SELECT state, error FROM outgoing WHERE id = ?", (out_id,)).fetchone()
    return OutState(row["state"]), row["error"]


def said_in_turn(tx: Tx, turn_id: str, text: str) -> bool:
    """Whether the agent has already sent exactly this text in this turn."""
    return bool(tx.execute("SELECT 1 FROM outgoing WHERE turn_id = ? AND payload = ?", (turn_id, text)).fetchone())


def spoken(tx: Tx, turn_id: str) -> int:
    """How many texts of this turn were queued for people."""
    return int(tx.execute("SELECT count(*) FROM outgoing WHERE turn_id = ?", (turn_id,)).fetchone()[0])


def counts(tx: Tx) -> dict[str, int]:
    """Rows per state that is not `sent`."""
    rows = tx.execute("SELECT state, count(*) AS n FROM outgoing WHERE state <> ? GROUP BY state", (OutState.SENT,))
    return {r["state"]: r["n"] for r in rows}


def tell_once(tx: Tx, cause: str, chat_id: int, text: str, now: int) -> None:
    """Queue a notice unless this chat was told of this cause already."""
    if tx.execute(
        "INSERT INTO notices(cause, chat_id, at) VALUES(?, ?, ?) ON CONFLICT DO NOTHING", (cause, chat_id, now)
    ).rowcount:
        queue(tx, chat_id, text, OutKind.NOTICE, now)


def forget_notices(tx: Tx, cause: str) -> None:
    """The cause is over: the next time is told again."""
    tx.execute("DELETE FROM notices WHERE cause = ?", (cause,))


def _outgoing(tx: Tx, row: dict[str, str]) -> Outgoing:
    return Outgoing(
        id=int(row["id"]),
        chat=chats.chat(tx, int(row["chat_id"])),
        turn_id=row["turn_id"],
        kind=OutKind(row["kind"]),
        text=row["payload"],
        quote=Key(row["quote"]) if row["quote"] else None,
        attempts=int(row["attempts"]),
    )
