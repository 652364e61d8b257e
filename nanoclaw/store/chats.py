"""Chats, people and groups: who is where, and whom we serve."""

import json
from dataclasses import asdict

from nanoclaw.models import Chat, Group, GroupState, Limits, Mount, Role, TriggerMode
from nanoclaw.store import Tx, new_id


def learn_chat(tx: Tx, channel: str, jids: tuple[str, ...], name: str, is_group: bool, now: int) -> Chat:
    """The chat with any of these jids, made if it is new; the first jid is the one to send to."""
    chat_id = _known(tx, "chat_jids", "chat_id", channel, jids)
    if chat_id is None:
        row = (channel, name, is_group, now)
        chat_id = new_id(tx.execute("INSERT INTO chats(channel, name, is_group, seen) VALUES(?, ?, ?, ?)", row))
    for rank, jid in enumerate(jids):
        tx.execute(
            "INSERT INTO chat_jids(jid, channel, chat_id, rank) VALUES(?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (jid, channel, chat_id, rank),
        )
    tx.execute(
        "UPDATE chats SET seen = ?, count = count + 1, name = CASE WHEN ? = '' THEN name ELSE ? END WHERE id = ?",
        (now, name, name, chat_id),
    )
    return chat(tx, chat_id)


def name_chat(tx: Tx, channel: str, jids: tuple[str, ...], name: str, expires: int | None) -> None:
    """A chat's name or timer, learned without a message."""
    raise NotImplementedError  # LEAD-STUB


def learn_person(tx: Tx, channel: str, jids: tuple[str, ...], name: str, role: Role | None = None) -> tuple[int, Role]:
    """The person with any of these jids, a guest if new; their id and role. `role` sets it."""
    person_id = _known(tx, "person_jids", "person_id", channel, jids)
    if person_id is None:
        person_id = new_id(tx.execute("INSERT INTO people(name) VALUES(?)", (name,)))
    for jid in jids:
        tx.execute(
            "INSERT INTO person_jids(jid, channel, person_id) VALUES(?, ?, ?) ON CONFLICT DO NOTHING",
            (jid, channel, person_id),
        )
    if name:
        tx.execute("UPDATE people SET name = ? WHERE id = ?", (name, person_id))
    if role is not None:
        tx.execute("UPDATE people SET role = ? WHERE id = ?", (role, person_id))
    row = tx.execute("SELECT id, role FROM people WHERE id = ?", (person_id,)).fetchone()
    return row["id"], Role(row["role"])


def _known(tx: Tx, table: str, column: str, channel: str, jids: tuple[str, ...]) -> int | None:
    marks = ", ".join("?" * len(jids))
    row = tx.execute(
        f"SELECT {column} FROM {table} WHERE channel = ? AND jid IN ({marks}) LIMIT 1",  # noqa: S608 - our own names
        (channel, *jids),
    ).fetchone()
    return None if row is None else int(row[0])


def chat(tx: Tx, chat_id: int) -> Chat:
    """One chat by its id."""
    row = tx.execute(
        "SELECT c.*, (SELECT jid FROM chat_jids j WHERE j.chat_id = c.id ORDER BY rank LIMIT 1) AS jid"
        " FROM chats c WHERE c.id = ?",
        (chat_id,),
    ).fetchone()
    return Chat(
        row["id"], row["channel"], row["jid"], row["name"], bool(row["is_group"]), row["group_id"], row["expires"]
    )


def main_chat(tx: Tx) -> Chat | None:
    """The owner's chat that was used last: where the host speaks of its own troubles."""
    row = tx.execute(
        "SELECT c.id FROM chats c JOIN groups g ON g.id = c.group_id WHERE g.is_main ORDER BY c.seen DESC LIMIT 1"
    ).fetchone()
    return None if row is None else chat(tx, row["id"])


def group(tx: Tx, group_id: int) -> Group:
    """One group by its id."""
    return _group(tx.execute("SELECT * FROM groups WHERE id = ?", (group_id,)).fetchone())


def group_of_lane(tx: Tx, lane: str) -> Group | None:
    """The group that a lane serves, or None for a lane that nobody made."""
    row = tx.execute("SELECT g.* FROM groups g JOIN lanes l ON l.group_id = g.id WHERE l.lane = ?", (lane,)).fetchone()
    return None if row is None else _group(row)


def group_by_folder(tx: Tx, folder: str) -> Group | None:
    """The group of a folder (case does not count), or None."""
    row = tx.execute("SELECT * FROM groups WHERE folder = ?", (folder,)).fetchone()
    return None if row is None else _group(row)


def groups(tx: Tx) -> list[Group]:
    """Every group, main first."""
    return [_group(r) for r in tx.execute("SELECT * FROM groups ORDER BY is_main DESC, name")]


def add_group(tx: Tx, new: Group, now: int) -> Group:
    """Insert a group; its id is chosen here."""
    cursor = tx.execute(
        "INSERT INTO groups(folder, name, is_main, mode, word, model, network, mounts, limits, zone, state, created_at)"
        " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(new.folder, new.name, new.is_main, new.mode, new.word, new.model, new.network),
            json.dumps([asdict(m) for m in new.mounts]),
            *(json.dumps(asdict(new.limits)), new.zone, new.state, now),
        ),
    )
    return group(tx, new_id(cursor))


def join_group(tx: Tx, chat_id: int, group_id: int) -> None:
    """From now on this chat is served by this group."""
    tx.execute("UPDATE chats SET group_id = ? WHERE id = ?", (group_id, chat_id))


def _group(row: dict[str, str]) -> Group:
    return Group(
        id=int(row["id"]),
        folder=row["folder"],
        name=row["name"],
        is_main=bool(row["is_main"]),
        mode=TriggerMode(row["mode"]),
        word=row["word"],
        model=row["model"],
        network=row["network"],
        limits=Limits(**json.loads(row["limits"])),
        mounts=tuple(Mount(**m) for m in json.loads(row["mounts"])),
        zone=row["zone"],
        state=GroupState(row["state"]),
    )
