"""What was said, as the files of a group's conversations show it, and which of those files are behind the rows."""

from dataclasses import dataclass, replace
from sqlite3 import Row

from nanoclaw.models import Media, MessageState, OutKind, OutState
from nanoclaw.store import Tx, media
from nanoclaw.store.outgoing import SHOWN

HOUR_MS = 3_600_000
_MARKS = 200  # of one group that are looked at together


@dataclass(frozen=True)
class Mark:
    """An hour of a chat that is to be written anew; `group` is 0 for a chat that nobody serves."""

    chat_id: int
    hour: int
    n: int
    erased: bool
    group: int


def marks(tx: Tx) -> list[Mark]:
    """The oldest of each group, group by group."""
    rows = tx.execute(
        "SELECT * FROM (SELECT u.*, coalesce(c.group_id, 0) AS group_id,"
        " row_number() OVER (PARTITION BY c.group_id ORDER BY u.hour) AS place"
        " FROM unkept u LEFT JOIN chats c ON c.id = u.chat_id) WHERE place <= ? ORDER BY group_id, hour",
        (_MARKS,),
    )
    return [Mark(r["chat_id"], r["hour"], r["n"], bool(r["erased"]), r["group_id"]) for r in rows]


def done(tx: Tx, written: list[Mark]) -> None:
    """These are in the files; what changed since then is not."""
    tx.executemany(
        "DELETE FROM unkept WHERE chat_id = ? AND hour = ? AND n = ?", [(m.chat_id, m.hour, m.n) for m in written]
    )


@dataclass(frozen=True)
class Line:
    """One text of a conversation. `role` is the sender's, "assistant" or "host"."""

    at: int  # as the sender says
    saved: int  # as we know
    role: str
    name: str
    text: str
    chat: str  # its name
    id: int = 0  # of a message
    media: tuple[Media, ...] = ()


_SAID = f"""
SELECT 0 AS ours, m.saved_at AS saved, m.id, m.at, p.role AS who, p.name AS name, m.text, m.media, c.name AS chat
  FROM chats c CROSS JOIN messages m ON m.chat_id = c.id CROSS JOIN people p ON p.id = m.person_id
  WHERE c.group_id = ?1 AND m.saved_at >= ?2 AND m.saved_at < ?3 AND m.state <> '{MessageState.WITHDRAWN}'
    AND (m.text <> '' OR m.media <> '')
UNION ALL
SELECT 1, o.created_at, o.id, o.sent_at, o.kind, '', {SHOWN}, '', c.name
  FROM chats c CROSS JOIN outgoing o ON o.chat_id = c.id
  WHERE c.group_id = ?1 AND o.created_at >= ?2 AND o.created_at < ?3 AND o.state = '{OutState.SENT}'
    AND o.kind <> '{OutKind.REACTION}' AND (o.payload <> '' OR o.file <> '')
ORDER BY 2, 1, 3
"""  # noqa: S608 - words of our own


def said(tx: Tx, group_id: int, since: int, until: int) -> list[Line]:
    """What was said in the group's chats in that time, in the order in which we heard and said it."""
    return [_line(row) for row in tx.execute(_SAID, (group_id, since, until))]


def _line(row: Row) -> Line:
    if row["ours"]:
        role = "host" if row["who"] in (OutKind.COMMAND, OutKind.NOTICE) else "assistant"
        return Line(row["at"], row["saved"], role, "", row["text"], row["chat"])
    files = media.load(row["media"])
    return Line(row["at"], row["saved"], row["who"], row["name"], row["text"], row["chat"], row["id"], files)


def chats_of(tx: Tx, group_id: int) -> int:
    """How many chats the group serves."""
    return int(tx.execute("SELECT count(*) FROM chats WHERE group_id = ?", (group_id,)).fetchone()[0])


def media_kept(tx: Tx, ids: list[int]) -> dict[int, tuple[Media, ...]]:
    """The files of these messages, as far as the messages are there."""
    found = {}
    for message_id in ids:
        row = tx.execute("SELECT media FROM messages WHERE id = ?", (message_id,)).fetchone()
        if row is not None and row["media"]:
            found[message_id] = media.load(row["media"])
    return found


def expired(tx: Tx, message_id: int, name: str, why: str) -> None:
    """A file of this message is kept no longer."""
    row = tx.execute("SELECT media FROM messages WHERE id = ?", (message_id,)).fetchone()
    if row is not None and row["media"]:
        files = tuple(replace(f, path="", fault=why) if f.path == name else f for f in media.load(row["media"]))
        tx.execute("UPDATE messages SET media = ? WHERE id = ?", (media.dump(files), message_id))
