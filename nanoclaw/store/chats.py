"""Chats, people and groups: who is where, and whom we serve."""

import json
from dataclasses import asdict, replace
from typing import Any

from nanoclaw.models import Chat, Group, GroupState, Limits, Mount, Role, SeenChat, TriggerMode, Who
from nanoclaw.store import Tx, identity, new_id, storable

_TEXTS = ("name", "word", "model", "fallback_model", "network", "zone", "prefix", "reaction")
_PLAIN = (*_TEXTS, "mode", "who", "state")  # columns that are fields as they are
_NAME = 200  # characters of a name that are kept
_LONGEST = 10 * 366 * 86_400  # seconds until messages vanish


def know_chat(tx: Tx, channel: str, jids: tuple[str, ...], name: str, is_group: bool, now: int) -> int:
    """The id of the chat with these jids, made if it is new; nothing was said in it."""

    def new() -> int:
        row = (channel, is_group, now)
        return new_id(tx.execute("INSERT INTO chats(channel, is_group, seen) VALUES(?, ?, ?)", row))

    chat_id = identity.settle(tx, identity.CHAT, channel, jids, new)
    if name:
        tx.execute("UPDATE chats SET name = ? WHERE id = ?", (storable(name[:_NAME]), chat_id))
    return chat_id


def learn_chat(tx: Tx, channel: str, jids: tuple[str, ...], name: str, is_group: bool, now: int) -> Chat:
    """The chat with these jids, in which something was said just now."""
    chat_id = know_chat(tx, channel, jids, name, is_group, now)
    tx.execute("UPDATE chats SET seen = ?, count = count + 1 WHERE id = ?", (now, chat_id))
    return chat(tx, chat_id)


def name_chat(tx: Tx, channel: str, jids: tuple[str, ...], name: str, expires: int | None) -> None:
    """A group's name, or a chat's timer, learned without a message."""
    found = identity.known(tx, identity.CHAT, channel, jids)
    if not found and not name:
        return
    chat_id = found[0] if found else know_chat(tx, channel, jids, name, True, 0)
    if name:
        tx.execute("UPDATE chats SET name = ? WHERE id = ?", (storable(name[:_NAME]), chat_id))
    if expires is not None:
        set_expires(tx, chat_id, expires)


def set_expires(tx: Tx, chat_id: int, expires: int) -> None:
    """Messages vanish there after so many seconds."""
    tx.execute("UPDATE chats SET expires = ? WHERE id = ?", (min(max(expires, 0), _LONGEST), chat_id))


def learn_person(tx: Tx, channel: str, jids: tuple[str, ...], name: str, role: Role | None = None) -> tuple[int, Role]:
    """The person with these jids, a guest if new; their id and role. `role` sets it.

    Without a jid it is nobody: one row for all whose identity was not resolved, for ever a guest.
    """
    if not jids:
        return _nobody(tx), Role.GUEST
    person_id = identity.settle(
        tx, identity.PERSON, channel, jids, lambda: new_id(tx.execute("INSERT INTO people DEFAULT VALUES"))
    )
    if name:
        tx.execute("UPDATE people SET name = ? WHERE id = ?", (storable(name[:_NAME]), person_id))
    if role is not None:
        tx.execute("UPDATE people SET role = ?, denied = 0 WHERE id = ?", (role, person_id))
    return person_id, _role(tx, person_id)


def person(tx: Tx, channel: str, jids: tuple[str, ...]) -> tuple[int, Role] | None:
    """The person with these jids and their role; of a stranger nothing is kept."""
    found = identity.known(tx, identity.PERSON, channel, jids)
    roles = [_role(tx, x) for x in found]
    return (found[0], max(roles, key=identity.ROLES.index)) if found else None


def owners(tx: Tx) -> dict[str, int]:
    """How many owners each channel knows."""
    rows = tx.execute(
        "SELECT j.channel, count(DISTINCT p.id) AS n FROM people p JOIN person_jids j ON j.person_id = p.id"
        " WHERE p.role = ? GROUP BY j.channel",
        (Role.OWNER,),
    )
    return {row["channel"]: row["n"] for row in rows}


def _role(tx: Tx, person_id: int) -> Role:
    return Role(tx.execute("SELECT role FROM people WHERE id = ?", (person_id,)).fetchone()["role"])


def _nobody(tx: Tx) -> int:
    row = tx.execute("SELECT value FROM meta WHERE key = 'nobody'").fetchone()
    if row is not None:
        return int(row["value"])
    person_id = new_id(tx.execute("INSERT INTO people DEFAULT VALUES"))
    tx.execute("INSERT INTO meta(key, value) VALUES('nobody', ?)", (str(person_id),))
    return person_id


def chat(tx: Tx, chat_id: int) -> Chat:
    """One chat by its id."""
    row = tx.execute(
        "SELECT c.*, (SELECT jid FROM chat_jids j WHERE j.chat_id = c.id ORDER BY rank, j.rowid LIMIT 1) AS jid,"
        " coalesce(g.prefix, '') AS prefix, coalesce(g.reaction, '') AS reaction"
        " FROM chats c LEFT JOIN groups g ON g.id = c.group_id WHERE c.id = ?",
        (chat_id,),
    ).fetchone()
    return Chat(
        *(row["id"], row["channel"], row["jid"], row["name"], bool(row["is_group"]), row["group_id"]),
        *(row["expires"], row["prefix"], row["reaction"]),
    )


def jids(tx: Tx, chat_id: int) -> tuple[str, ...]:
    """Every jid of a chat, the one to send to first."""
    rows = tx.execute("SELECT jid FROM chat_jids WHERE chat_id = ? ORDER BY rank, rowid", (chat_id,))
    return tuple(r["jid"] for r in rows)


def seen(tx: Tx) -> list[SeenChat]:
    """Every chat but the terminal, newest first."""
    rows = tx.execute(
        "SELECT c.*, coalesce(g.folder, '') AS folder FROM chats c LEFT JOIN groups g ON g.id = c.group_id"
        " WHERE c.channel <> 'terminal' ORDER BY c.seen DESC, c.id DESC"
    )
    by_chat: dict[int, list[str]] = {}
    for row in tx.execute("SELECT chat_id, jid FROM chat_jids ORDER BY rank, rowid"):
        by_chat.setdefault(row["chat_id"], []).append(row["jid"])
    return [
        SeenChat(
            *(r["id"], r["channel"], tuple(by_chat.get(r["id"], ())), r["name"], bool(r["is_group"])),
            *(r["seen"], r["members"], r["count"], r["folder"]),
        )
        for r in rows.fetchall()
    ]


def main_chat(tx: Tx) -> Chat | None:
    """The owner's chat that was used last: where the host speaks of its own troubles."""
    row = tx.execute(
        "SELECT c.id FROM chats c JOIN groups g ON g.id = c.group_id WHERE g.is_main ORDER BY c.seen DESC LIMIT 1"
    ).fetchone()
    return None if row is None else chat(tx, row["id"])


def main_group(tx: Tx) -> Group:
    """The owner's; a host begins with it."""
    return _group(tx.execute("SELECT * FROM groups WHERE is_main").fetchone())


def group(tx: Tx, group_id: int) -> Group:
    """One group by its id."""
    return _group(tx.execute("SELECT * FROM groups WHERE id = ?", (group_id,)).fetchone())


def group_of_lane(tx: Tx, lane: str) -> Group | None:
    """The group that a lane serves, or None for a lane that nobody made."""
    row = tx.execute("SELECT g.* FROM groups g JOIN lanes l ON l.group_id = g.id WHERE l.lane = ?", (lane,)).fetchone()
    return None if row is None else _group(row)


def group_by_folder(tx: Tx, folder: str) -> Group | None:
    """The group of a folder (case does not count), or None."""
    row = tx.execute("SELECT * FROM groups WHERE folder = ?", (storable(folder),)).fetchone()
    return None if row is None else _group(row)


def groups(tx: Tx) -> list[Group]:
    """Every group, main first."""
    return [_group(r) for r in tx.execute("SELECT * FROM groups ORDER BY is_main DESC, name")]


def assistant(tx: Tx) -> str:
    """What the assistant is called: main is named so."""
    return main_group(tx).name


def add_group(tx: Tx, new: Group, now: int) -> Group:
    """Insert a group; its id is chosen here."""
    cursor = tx.execute(
        "INSERT INTO groups(folder, name, is_main, created_at) VALUES(?, ?, ?, ?)",
        (new.folder, new.name, new.is_main, now),
    )
    return save_group(tx, replace(new, id=new_id(cursor)))


def save_group(tx: Tx, group: Group) -> Group:
    """All that can be changed of a group, as it is here."""
    row = {
        **{key: getattr(group, key) for key in _PLAIN},
        "hosts": json.dumps(group.hosts),
        "skills": json.dumps(group.skills),
        "mounts": json.dumps([asdict(m) for m in group.mounts]),
        "limits": json.dumps(asdict(group.limits)),
    }
    columns = ", ".join(f"{key} = :{key}" for key in row)
    tx.execute(f"UPDATE groups SET {columns} WHERE id = :id", {**row, "id": group.id})  # noqa: S608 - our own names
    return group


def join_group(tx: Tx, chat_id: int, group_id: int | None) -> None:
    """From now on this chat is served by this group, or by none."""
    tx.execute("UPDATE chats SET group_id = ? WHERE id = ?", (group_id, chat_id))


def _group(row: dict[str, Any]) -> Group:
    return Group(
        id=int(row["id"]),
        folder=row["folder"],
        is_main=bool(row["is_main"]),
        mode=TriggerMode(row["mode"]),
        who=Who(row["who"]),
        state=GroupState(row["state"]),
        hosts=tuple(json.loads(row["hosts"])),
        skills=tuple(json.loads(row["skills"])),
        mounts=tuple(Mount(**m) for m in json.loads(row["mounts"])),
        limits=Limits(**json.loads(row["limits"])),
        **{key: row[key] for key in _TEXTS},
    )
