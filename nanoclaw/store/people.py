"""People: who they are, what they may do, and who is in the chats that we serve."""

from collections.abc import Iterable, Sequence

from nanoclaw.models import Authority, Group, Members, MessageState, Person, Role, Verdict, Who
from nanoclaw.store import Tx, containing, identity

_WORK = f"verdict = '{Verdict.WORK}'"  # as the index of them has it
_SELECT = (
    "SELECT p.*, (SELECT group_concat(jid, ' ') FROM (SELECT jid FROM person_jids j WHERE j.person_id = p.id"
    " ORDER BY jid NOT LIKE '%@lid', j.rowid)) AS jids FROM people p"
)


def get(tx: Tx, person_id: int) -> Person | None:
    """One person, or None for a number that nobody has."""
    row = tx.execute(f"{_SELECT} WHERE p.id = ?", (person_id,)).fetchone()
    return None if row is None else _person(row)


def listed(tx: Tx) -> list[Person]:
    """Everybody of whom something is known, owners first."""
    found = [_person(row) for row in tx.execute(f"{_SELECT} ORDER BY p.name, p.id")]
    return sorted((p for p in found if p.jids), key=lambda p: (-identity.ROLES.index(p.role), p.denied))


def of_jid(tx: Tx, jid: str) -> int | None:
    """Who has this jid, on whatever channel."""
    row = tx.execute("SELECT person_id FROM person_jids WHERE jid = ?", (jid,)).fetchone()
    return None if row is None else int(row["person_id"])


def named(tx: Tx, name: str) -> list[Person]:
    """Who goes by this name; case does not count."""
    close = (_person(row) for row in tx.execute(f"{_SELECT} WHERE p.name LIKE ? ESCAPE '!'", (containing(name),)))
    return [p for p in close if p.jids and p.name.casefold() == name.casefold()]


def set_role(tx: Tx, person_id: int, role: Role, *, denied: bool = False) -> None:
    """From now on."""
    tx.execute("UPDATE people SET role = ?, denied = ? WHERE id = ?", (role, denied, person_id))


def denied(tx: Tx, person_id: int) -> bool:
    """Whether this guest was denied."""
    return bool(tx.execute("SELECT denied FROM people WHERE id = ?", (person_id,)).fetchone()["denied"])


def _person(row: dict[str, str]) -> Person:
    jids = tuple((row["jids"] or "").split())
    return Person(int(row["id"]), row["name"], Role(row["role"]), bool(row["denied"]), jids)


# --- who may call ------------------------------------------------------------------------------


def may_call(tx: Tx, group: Group, chat_id: int, person_id: int, role: Role) -> bool:
    """Whether this person's messages are work for the group's agent, if they are meant for it."""
    if role is Role.OWNER or group.is_main:  # into main's chats the router lets its owners alone
        return True
    if role is Role.ALLOWED:
        return group.who is not Who.OWNER
    return group.who is Who.EVERYONE and not denied(tx, person_id) and not came_later(tx, chat_id, person_id)


def came_later(tx: Tx, chat_id: int, person_id: int) -> bool:
    """Whether they joined after the chat was added; who is not among its members, as far as those are known, did."""
    row = tx.execute(
        "SELECT max(m.since) AS since, (SELECT listed_at FROM chats WHERE id = ?1) AS listed_at"
        " FROM person_jids j JOIN members m ON m.jid = j.jid WHERE j.person_id = ?2 AND m.chat_id = ?1",
        (chat_id, person_id),
    ).fetchone()
    return bool(row["listed_at"]) if row["since"] is None else bool(row["since"])


def turns_since(tx: Tx, person_id: int, since: int) -> int:
    """How many turns this person's messages and tasks gave since then; what no turn has claimed is one more."""
    row = tx.execute(
        "SELECT count(DISTINCT turn_id) + coalesce(max(turn_id IS NULL AND state = ?1), 0) + (SELECT count(*)"  # noqa: S608
        " FROM tasks t JOIN firings f ON f.task_id = t.id WHERE t.person_id = ?2 AND t.made_by <> ?4"
        f" AND f.turn_id <> '' AND f.at > ?3) FROM messages WHERE person_id = ?2 AND {_WORK} AND saved_at > ?3",
        (MessageState.OPEN, person_id, since, Authority.OWNER),
    ).fetchone()
    return int(row[0])


def waiting(tx: Tx, person_id: int, but: str) -> int:
    """How many messages of this person wait for their answer, but for the one with this id of the channel's."""
    row = tx.execute(
        f"SELECT count(*) FROM messages WHERE person_id = ? AND {_WORK} AND state IN (?, ?) AND wa_id <> ?",  # noqa: S608
        (person_id, MessageState.OPEN, MessageState.TAKEN, but),
    ).fetchone()
    return int(row[0])


def quiet(tx: Tx, group: Group) -> int:
    """What waits in the group of people who may not call it (any more) is only context; how many."""
    rows = tx.execute(
        "SELECT m.id, m.chat_id, m.person_id, p.role FROM messages m JOIN people p ON p.id = m.person_id"
        " WHERE m.lane = ? AND m.state = ? AND m.verdict = ?",
        (group.lane, MessageState.OPEN, Verdict.WORK),
    ).fetchall()
    ids = [r["id"] for r in rows if not may_call(tx, group, r["chat_id"], r["person_id"], Role(r["role"]))]
    tx.executemany("UPDATE messages SET verdict = ? WHERE id = ?", [(Verdict.CONTEXT, i) for i in ids])
    return len(ids)


# --- who is in a chat --------------------------------------------------------------------------


def meet_members(tx: Tx, channel: str, chat: tuple[str, ...], news: Members, now: int) -> None:
    """What the channel tells of who is in a chat that it named before."""
    found = identity.known(tx, identity.CHAT, channel, chat)
    if not found:
        return
    if news.new:  # first in the list of those that were seen
        tx.execute("UPDATE chats SET seen = max(seen, ?) WHERE id = ?", (now, found[0]))
    left(tx, found[0], news.went)
    joined(tx, found[0], news.came, now)
    if news.everybody is not None:
        learn_members(tx, found[0], news.everybody, now)


def learn_members(tx: Tx, chat_id: int, people: Sequence[tuple[str, ...]], now: int) -> None:
    """Everybody who is in a chat, each with all their jids. Of a chat that nobody serves only the number is kept.

    The first list after it was added are those who are in it from the beginning.
    """
    tx.execute("UPDATE chats SET members = ? WHERE id = ?", (len(people), chat_id))
    row = tx.execute("SELECT group_id, listed_at FROM chats WHERE id = ?", (chat_id,)).fetchone()
    if row["group_id"] is None:
        return
    since = now if row["listed_at"] else 0
    for jids in people:
        known = _since(tx, chat_id, jids)
        for jid in jids:
            tx.execute(
                "INSERT INTO members(chat_id, jid, member, since) VALUES(?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET member = excluded.member, since = excluded.since",
                (chat_id, jid, jids[0], since if known is None else known),
            )
    _keep(tx, chat_id, [jid for jids in people for jid in jids])
    tx.execute("UPDATE chats SET listed_at = ? WHERE id = ? AND listed_at = 0", (now, chat_id))


def joined(tx: Tx, chat_id: int, jids: Iterable[str], now: int) -> None:
    """These are new in a chat."""
    for jid in jids:
        tx.execute(
            "INSERT INTO members(chat_id, jid, member, since) SELECT id, ?2, ?2, ?3 FROM chats"
            " WHERE id = ?1 AND group_id IS NOT NULL ON CONFLICT DO NOTHING",
            (chat_id, jid, now),
        )
        tx.execute("UPDATE chats SET members = members + 1 WHERE id = ? AND members > 0", (chat_id,))


def left(tx: Tx, chat_id: int, jids: Iterable[str]) -> None:
    """These are not in the chat any more, under any of their jids; who comes again comes later.

    Only who was there is counted off, so that a small number is a true one: by it a new group may be everybody's.
    """
    for jid in jids:
        gone = tx.execute(
            "DELETE FROM members WHERE chat_id = ?1 AND member IN (SELECT member FROM members WHERE chat_id = ?1 AND"
            " (jid = ?2 OR jid IN (SELECT jid FROM person_jids WHERE person_id ="
            " (SELECT person_id FROM person_jids WHERE jid = ?2))))",
            (chat_id, jid),
        ).rowcount
        if gone:
            tx.execute("UPDATE chats SET members = members - 1 WHERE id = ? AND members > 1", (chat_id,))


def from_the_beginning(tx: Tx, chat_id: int) -> None:
    """Whoever is in the chat now counts as if they had always been."""
    tx.execute("UPDATE members SET since = 0 WHERE chat_id = ?", (chat_id,))


def forget_members(tx: Tx, chat_id: int) -> None:
    """Nobody serves the chat any more: who is in it is no matter of ours."""
    tx.execute("DELETE FROM members WHERE chat_id = ?", (chat_id,))
    tx.execute("UPDATE chats SET listed_at = 0 WHERE id = ?", (chat_id,))


def unlisted(tx: Tx) -> list[int]:
    """The group chats that we serve and whose members nobody has told us yet."""
    rows = tx.execute(
        "SELECT c.id FROM chats c JOIN groups g ON g.id = c.group_id WHERE c.is_group AND c.listed_at = 0"
        " AND NOT g.is_main"
    )
    return [r["id"] for r in rows]


def _since(tx: Tx, chat_id: int, jids: tuple[str, ...]) -> int | None:
    """Since when somebody is known to be there; the earliest, where they were two."""
    marks = ", ".join("?" * len(jids))
    row = tx.execute(
        f"SELECT min(since) FROM members WHERE chat_id = ? AND jid IN ({marks})",  # noqa: S608
        (chat_id, *jids),
    ).fetchone()
    return None if row[0] is None else int(row[0])


def _keep(tx: Tx, chat_id: int, jids: list[str]) -> None:
    """Who is not among these is gone."""
    known = {r["jid"] for r in tx.execute("SELECT jid FROM members WHERE chat_id = ?", (chat_id,))}
    tx.executemany("DELETE FROM members WHERE chat_id = ? AND jid = ?", [(chat_id, jid) for jid in known - {*jids}])
