"""Which row do these jids name? What turns out to be one is merged, what has changed hands is moved."""

from collections.abc import Callable
from dataclasses import dataclass

from nanoclaw.models import Role
from nanoclaw.store import Tx

ROLES = (Role.GUEST, Role.ALLOWED, Role.OWNER)  # lowest first


@dataclass(frozen=True)
class Noun:
    """Chats or people: what has several jids. The names are our own, never foreign text."""

    table: str  # of the jids
    column: str  # the row that they name
    insert: str
    merge: Callable[[Tx, list[int]], int]


def known(tx: Tx, noun: Noun, channel: str, jids: tuple[str, ...]) -> list[int]:
    """The rows that these jids say are one; the LID's first.

    A number is given to somebody else one day, a LID never: a number whose row has another LID is not among them.
    """
    lid = _lid(jids)
    found: list[int] = []
    for jid in sorted(jids, key=lambda jid: jid != lid):
        row_id = _row(tx, noun, channel, jid)
        if row_id is None or row_id in found:
            continue
        theirs = _lid(_jids(tx, noun, channel, row_id))
        if lid and theirs and lid != theirs:
            continue
        lid = lid or theirs
        found.append(row_id)
    return found


def settle(tx: Tx, noun: Noun, channel: str, jids: tuple[str, ...], new: Callable[[], int]) -> int:
    """The one row of these jids, which are its own from here on; `new` makes it."""
    if (same := _settled(tx, noun, channel, jids)) is not None:
        return same
    found = known(tx, noun, channel, jids)
    row_id = noun.merge(tx, found) if found else new()
    for jid in jids:
        tx.execute(noun.insert, (jid, channel, row_id))
    if _lid(jids) and len(jids) > 1:  # who has a new number has left the old one to others
        marks = ", ".join("?" * len(jids))
        tx.execute(
            f"DELETE FROM {noun.table} WHERE {noun.column} = ? AND channel = ? AND jid NOT IN ({marks})",  # noqa: S608
            (row_id, channel, *jids),
        )
    return row_id


def _settled(tx: Tx, noun: Noun, channel: str, jids: tuple[str, ...]) -> int | None:
    """The row that all of them name already: so it is for nearly every message."""
    rows = {_row(tx, noun, channel, jid) for jid in jids}
    return rows.pop() if len(rows) == 1 else None


def _row(tx: Tx, noun: Noun, channel: str, jid: str) -> int | None:
    sql = f"SELECT {noun.column} FROM {noun.table} WHERE channel = ? AND jid = ?"  # noqa: S608
    row = tx.execute(sql, (channel, jid)).fetchone()
    return None if row is None else int(row[0])


def _jids(tx: Tx, noun: Noun, channel: str, row_id: int) -> tuple[str, ...]:
    sql = f"SELECT jid FROM {noun.table} WHERE {noun.column} = ? AND channel = ?"  # noqa: S608
    return tuple(row[0] for row in tx.execute(sql, (row_id, channel)))


def _lid(jids: tuple[str, ...]) -> str:
    return next((jid for jid in jids if jid.endswith("@lid")), "")


def _merge_people(tx: Tx, ids: list[int]) -> int:
    """One person, with the higher role; who was denied under one jid is denied, unless they are an owner."""
    keep = ids[0]
    for gone in ids[1:]:
        pair = tx.execute("SELECT role, denied FROM people WHERE id IN (?, ?)", (keep, gone)).fetchall()
        role = max((Role(row["role"]) for row in pair), key=ROLES.index)
        denied = role is not Role.OWNER and any(row["denied"] for row in pair)
        tx.execute(
            "UPDATE people SET role = ?, denied = ?, name = coalesce(nullif(people.name, ''), g.name),"
            " listed = coalesce(nullif(people.listed, ''), g.listed)"
            " FROM (SELECT name, listed FROM people WHERE id = ?) AS g WHERE people.id = ?",
            (Role.GUEST if denied else role, denied, gone, keep),
        )
        for table in ("messages", "tasks", "questions", "person_jids"):
            tx.execute(f"UPDATE {table} SET person_id = ? WHERE person_id = ?", (keep, gone))  # noqa: S608
        tx.execute("UPDATE OR REPLACE early SET person_id = ? WHERE person_id = ?", (keep, gone))
        tx.execute("DELETE FROM people WHERE id = ?", (gone,))
    return keep


def _merge_chats(tx: Tx, ids: list[int]) -> int:
    """One chat, main's if one of them is, else the one that is served: a turn that runs knows its chat by that id."""
    marks = ", ".join("?" * len(ids))
    keep, *others = (
        int(row["id"])
        for row in tx.execute(
            f"SELECT c.id FROM chats c LEFT JOIN groups g ON g.id = c.group_id WHERE c.id IN ({marks})"  # noqa: S608
            " ORDER BY coalesce(g.is_main, 0) DESC, g.id IS NULL, c.id",
            ids,
        ).fetchall()
    )
    for gone in others:
        tx.execute(
            "UPDATE chats SET name = coalesce(nullif(chats.name, ''), g.name), seen = max(chats.seen, g.seen),"
            " count = chats.count + g.count, expires = coalesce(nullif(chats.expires, 0), g.expires)"
            " FROM (SELECT * FROM chats WHERE id = ?) AS g WHERE chats.id = ?",
            (gone, keep),
        )
        for table in ("turns", "outgoing", "tasks", "questions", "chat_jids"):
            tx.execute(f"UPDATE {table} SET chat_id = ? WHERE chat_id = ?", (keep, gone))  # noqa: S608
        for table in ("messages", "notices", "early"):  # what both had is one
            tx.execute(f"UPDATE OR IGNORE {table} SET chat_id = ? WHERE chat_id = ?", (keep, gone))  # noqa: S608
            tx.execute(f"DELETE FROM {table} WHERE chat_id = ?", (gone,))  # noqa: S608
        tx.execute("DELETE FROM chats WHERE id = ?", (gone,))
    tx.execute(  # what waits is answered by whoever serves the chat now
        "UPDATE messages SET lane = g.folder FROM chats c JOIN groups g ON g.id = c.group_id"
        " WHERE c.id = ? AND messages.chat_id = c.id AND messages.state = 'open'",
        (keep,),
    )
    return keep


PERSON = Noun(
    "person_jids",
    "person_id",
    "INSERT INTO person_jids(jid, channel, person_id) VALUES(?1, ?2, ?3)"
    " ON CONFLICT(channel, jid) DO UPDATE SET person_id = excluded.person_id",
    _merge_people,
)
CHAT = Noun(
    "chat_jids",
    "chat_id",
    "INSERT INTO chat_jids(jid, channel, chat_id, rank) VALUES(?1, ?2, ?3, CASE WHEN ?1 LIKE '%@lid' THEN 0 ELSE 1 END)"
    " ON CONFLICT(channel, jid) DO UPDATE SET chat_id = excluded.chat_id",
    _merge_chats,
)
