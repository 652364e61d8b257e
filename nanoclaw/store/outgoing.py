"""Rows to be sent, and what the chats were told once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from nanoclaw.models import Key, OutFile, Outgoing, OutKind, OutState, Said
from nanoclaw.prompts import split
from nanoclaw.store import Tx, chats, containing, new_id, pending

# The order within a chat: the host's short answers do not wait behind long replies.
_RANK = f"CASE kind WHEN '{OutKind.COMMAND}' THEN 0 ELSE 1 END"
_KINDS = list(OutKind)  # the order over all chats
MAX_WAIT_MS = 60_000  # no row is ever put off for longer
_LONGEST = 3900  # characters of the host's own texts
_DAY_MS = 86_400_000
# What a row says, for those who read it later: a file by its name.
SHOWN = (
    "CASE WHEN o.file = '' THEN o.payload ELSE trim('[' || json_extract(o.file, '$.kind') || ' sent: '"
    " || json_extract(o.file, '$.name') || '] ' || o.payload) END"
)


def queue(
    tx: Tx, chat_id: int, text: str, kind: OutKind, now: int, *, turn_id: str = "", part: int = 0, quote: str = ""
) -> int:
    """A row to be sent; its id."""
    if kind in (OutKind.COMMAND, OutKind.NOTICE) and len(text) > _LONGEST:
        return queue_parts(tx, chat_id, split(text, _LONGEST), kind, now, turn_id=turn_id, part=part, quote=quote)
    cursor = tx.execute(
        "INSERT INTO outgoing(chat_id, turn_id, part, kind, payload, quote, state, created_at)"
        " VALUES(?, ?, ?, ?, clean(?), ?, ?, ?)",  # the one way to people: no credential of the host's goes it
        (chat_id, turn_id, part, kind, text, quote, OutState.QUEUED, now),
    )
    return new_id(cursor)


def queue_parts(
    tx: Tx, chat_id: int, texts: Sequence[str], kind: OutKind, now: int,
    *, turn_id: str = "", part: int = 0, quote: str = "",
) -> int:  # fmt: skip
    """One text (of at least one part) as so many rows, of which the first quotes; the last one's id."""
    first, *others = texts
    last = queue(tx, chat_id, first, kind, now, turn_id=turn_id, part=part, quote=quote)
    for n, text in enumerate(others, part + 1):
        last = queue(tx, chat_id, text, kind, now, turn_id=turn_id, part=n)
    return last


def queue_file(tx: Tx, chat_id: int, file: OutFile, caption: str, now: int, *, turn_id: str, part: int) -> int:
    """A file to be sent; the row's id."""
    out_id = queue(tx, chat_id, caption, OutKind.FILE, now, turn_id=turn_id, part=part)
    tx.execute("UPDATE outgoing SET file = ? WHERE id = ?", (json.dumps(asdict(file)), out_id))
    return out_id


def next_due(tx: Tx, channel: str, now: int, served: Mapping[int, int], *, files: bool = False) -> Outgoing | None:
    """The next row of the channel, a file or anything else: the first of its chat, and due; a chat whose first is not
    due waits, and so does one of which a row is being sent (but for answers to commands).

    Among chats with rows of one kind, the one that was `served` (by chat: a growing number) least recently.
    """
    rows = tx.execute(
        "SELECT o.*, sum(o.state = 'sending') AS busy,"  # noqa: S608
        f" min(iif(o.state = 'sending', 9e15, {_RANK} * 1e12 + o.id)) FROM outgoing o JOIN chats c ON c.id = o.chat_id"
        " WHERE c.channel = ? AND o.state IN ('queued', 'sending', 'unknown') GROUP BY o.chat_id ORDER BY o.id",
        (channel,),
    ).fetchall()
    for row in sorted(rows, key=lambda row: (_KINDS.index(OutKind(row["kind"])), served.get(row["chat_id"], 0))):
        kind, busy = OutKind(row["kind"]), row["busy"] and row["kind"] != OutKind.COMMAND
        if busy or row["state"] == OutState.SENDING or (kind is OutKind.FILE) is not files:
            continue
        if row["next_try"] <= now or row["next_try"] > now + MAX_WAIT_MS:  # the clock was set back
            return _outgoing(tx, row)
    return None


def next_try(tx: Tx, channel: str, *, files: bool = False) -> int | None:
    """When a refused row of the channel, a file or anything else, is due again, in milliseconds; None if none waits."""
    row = tx.execute(
        "SELECT min(o.next_try) FROM outgoing o JOIN chats c ON c.id = o.chat_id"
        " WHERE c.channel = ? AND o.state IN ('queued', 'sending', 'unknown') AND o.state <> 'sending'"
        " AND o.next_try > 0 AND (o.kind = ?) = ?",
        (channel, OutKind.FILE, files),
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


def refusals(tx: Tx, out_id: int) -> int:
    """How often the other side said no, with the time that is just over."""
    row = tx.execute("SELECT attempts - unknowns AS n FROM outgoing WHERE id = ?", (out_id,)).fetchone()
    return int(row["n"])


def unknowns(tx: Tx, out_id: int) -> int:
    """How often nobody learned the outcome."""
    return int(tx.execute("SELECT unknowns FROM outgoing WHERE id = ?", (out_id,)).fetchone()["unknowns"])


def unknown(tx: Tx, out_id: int, next_try: int) -> None:
    """Nobody learned the outcome: it is sent again, and counted."""
    tx.execute(
        "UPDATE outgoing SET state = ?, unknowns = unknowns + 1, next_try = ? WHERE id = ?",
        (OutState.UNKNOWN, next_try, out_id),
    )


def dead(tx: Tx, out_id: int, error: str) -> None:
    """Refused for good; the later parts of the same reply go with it."""
    row = tx.execute("SELECT turn_id, part, created_at FROM outgoing WHERE id = ?", (out_id,)).fetchone()
    tx.execute("UPDATE outgoing SET state = ?, error = ? WHERE id = ?", (OutState.DEAD, error, out_id))
    if row["turn_id"]:
        tx.execute(
            # Rows of one text were queued together; another text of the turn (its answer, say) still goes.
            "UPDATE outgoing SET state = ?, error = ? WHERE turn_id = ? AND part > ? AND created_at = ? AND state = ?",
            (OutState.DEAD, error, row["turn_id"], row["part"], row["created_at"], OutState.QUEUED),
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


def said_in_turn(tx: Tx, turn_id: str, texts: Sequence[str]) -> bool:
    """Whether the agent has already sent exactly this, part by part, in this turn."""
    rows = tx.execute("SELECT payload FROM outgoing WHERE turn_id = ? AND kind = ?", (turn_id, OutKind.REPLY))
    return {row["payload"] for row in rows}.issuperset(texts)


def ours(tx: Tx, chat_id: int, wa_id: str) -> bool:
    """Whether the channel's id is that of a text that we sent there."""
    return by_wa_id(tx, chat_id, wa_id) is not None


def by_wa_id(tx: Tx, chat_id: int, wa_id: str) -> str | None:
    """The text that we sent there under the channel's id; None if it is not ours."""
    row = tx.execute(
        "SELECT payload FROM outgoing WHERE chat_id = ? AND wa_id = ? AND wa_id <> '' AND state = ?"
        " AND kind NOT IN (?, ?)",
        (chat_id, wa_id, OutState.SENT, OutKind.REACTION, OutKind.EDIT),
    ).fetchone()
    return None if row is None else str(row["payload"])


def spoken(tx: Tx, turn_id: str) -> int:
    """How many texts of this turn were queued for people."""
    return int(tx.execute("SELECT count(*) FROM outgoing WHERE turn_id = ?", (turn_id,)).fetchone()[0])


def recent(tx: Tx, chat_id: int, since: int) -> list[tuple[str, str]]:
    """The agents' texts that were sent there since then, newest first: the channel's id, and the text."""
    rows = tx.execute(
        "SELECT wa_id, payload FROM outgoing WHERE chat_id = ? AND kind = ? AND state = ? AND sent_at > ?"
        " AND created_at > ? AND wa_id <> '' ORDER BY id DESC",
        (chat_id, OutKind.REPLY, OutState.SENT, since, since - 2 * _DAY_MS),  # the index is that of created_at
    )
    return [(row["wa_id"], row["payload"]) for row in rows]


def unsent_bytes(tx: Tx, group_id: int) -> int:
    """How much of a group's files waits to be sent."""
    row = tx.execute(
        "SELECT coalesce(sum(json_extract(o.file, '$.size')), 0) FROM outgoing o JOIN chats c ON c.id = o.chat_id"
        " WHERE o.file <> '' AND o.state IN (?, ?, ?) AND c.group_id = ?",
        (OutState.QUEUED, OutState.SENDING, OutState.UNKNOWN, group_id),
    ).fetchone()
    return int(row[0])


def copies(tx: Tx) -> dict[str, bool]:
    """The copies of files that rows name: whether each is still to be sent."""
    rows = tx.execute("SELECT json_extract(file, '$.copy') AS copy, state FROM outgoing WHERE file <> ''")
    return {row["copy"]: row["state"] in (OutState.QUEUED, OutState.SENDING, OutState.UNKNOWN) for row in rows}


def replies_since(tx: Tx, chat_id: int, since: int) -> list[str]:
    """What agents wrote there since then, sent or not."""
    rows = tx.execute(
        "SELECT payload FROM outgoing WHERE chat_id = ? AND created_at >= ? AND kind = ?",
        (chat_id, since, OutKind.REPLY),
    )
    return [row["payload"] for row in rows]


def said_before(tx: Tx, chat_id: int, before: int, text: str, limit: int) -> list[Said]:
    """Our newest texts in the chat that follow a message before this id, with this text in them, oldest first; none
    with a code in it that the owner has not answered: that is for their eyes."""
    rows = tx.execute(
        f"SELECT * FROM (SELECT o.id, {SHOWN} AS payload, o.created_at, coalesce(("  # noqa: S608
        "SELECT m.id FROM messages m"
        " WHERE m.chat_id = o.chat_id AND m.saved_at <= o.created_at ORDER BY m.saved_at DESC, m.id DESC LIMIT 1), 0)"
        " AS after FROM outgoing o"
        " WHERE o.chat_id = ? AND o.state = ? AND o.kind <> ? AND (o.payload <> '' OR o.file <> '')"
        " AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.state = ? AND o.payload LIKE '%' || p.code || '%')"
        f" AND {SHOWN} LIKE ? ESCAPE '!') WHERE after < ? ORDER BY id DESC LIMIT ?",
        (chat_id, OutState.SENT, OutKind.REACTION, pending.State.WAITING, containing(text), before, limit),
    )
    return [Said(row["payload"], row["created_at"], row["after"]) for row in reversed(rows.fetchall())]


def counts(tx: Tx, group_id: int | None = None) -> dict[str, int]:
    """Rows per state that is not `sent`, of one group's chats or of all."""
    rows = tx.execute(
        "SELECT o.state, count(*) AS n FROM outgoing o JOIN chats c ON c.id = o.chat_id WHERE o.state <> ?"
        " AND coalesce(?, c.group_id, 0) = coalesce(c.group_id, 0) GROUP BY o.state",
        (OutState.SENT, group_id),
    )
    return {r["state"]: r["n"] for r in rows}


def tell_once(tx: Tx, cause: str, chat_id: int, text: str, now: int) -> None:
    """Queue a notice unless this chat was told of this cause already."""
    if tx.execute(
        "INSERT INTO notices(cause, chat_id, at) VALUES(?, ?, ?) ON CONFLICT DO NOTHING", (cause, chat_id, now)
    ).rowcount:
        queue(tx, chat_id, text, OutKind.NOTICE, now)


def may_tell(tx: Tx, cause: str, chat_id: int, now: int, every: int) -> bool:
    """Whether this was not told in the last `every` milliseconds; then it is now."""
    row = tx.execute("SELECT at FROM notices WHERE cause = ? AND chat_id = ?", (cause, chat_id)).fetchone()
    if row is not None and now - every < row["at"] <= now:
        return False
    tx.execute("INSERT OR REPLACE INTO notices(cause, chat_id, at) VALUES(?, ?, ?)", (cause, chat_id, now))
    return True


def told_since(tx: Tx, cause: str, since: int) -> int:
    """In how many chats this was the case since then."""
    return int(tx.execute("SELECT count(*) FROM notices WHERE cause = ? AND at > ?", (cause, since)).fetchone()[0])


def forget_notices(tx: Tx, cause: str) -> None:
    """The cause is over: the next time is told again."""
    tx.execute("DELETE FROM notices WHERE cause = ?", (cause,))


def _key(tx: Tx, chat_id: int, wa_id: str) -> Key:
    """The message with the channel's id, as far as we know it. Ours first: a stranger may have copied the id."""
    if (text := by_wa_id(tx, chat_id, wa_id)) is not None:
        return Key(wa_id, from_me=True, text=text)
    row = tx.execute(
        "SELECT sender, from_me, text FROM messages WHERE chat_id = ? AND wa_id = ? ORDER BY id LIMIT 1",
        (chat_id, wa_id),
    ).fetchone()
    return Key(wa_id) if row is None else Key(wa_id, row["sender"], bool(row["from_me"]), row["text"])


def _outgoing(tx: Tx, row: dict[str, str]) -> Outgoing:
    return Outgoing(
        id=int(row["id"]),
        chat=chats.chat(tx, int(row["chat_id"])),
        turn_id=row["turn_id"],
        kind=OutKind(row["kind"]),
        text=row["payload"],
        quote=_key(tx, int(row["chat_id"]), row["quote"]) if row["quote"] else None,
        attempts=int(row["attempts"]),
        file=OutFile(**json.loads(row["file"])) if row["file"] else None,
    )
