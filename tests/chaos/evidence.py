"""What a storm leaves: what people said, what their phones read, and the rows."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """One message to the program."""

    number: int  # in the order of saying
    id: str  # WhatsApp's
    chat: str  # jid
    text: str
    acknowledged: bool = True
    retried: bool = False  # it could not be decrypted and was sent again, so it may have been overtaken
    kind: str = "plain"  # as in the plan
    target: str = ""  # WhatsApp's id of the message that is edited or deleted
    died: bool = True  # a host had got it and died before, or soon after, it was acknowledged


@dataclass(frozen=True)
class Delivered:
    """One text that phones have read."""

    chat: str  # jid
    id: str
    text: str


@dataclass(frozen=True)
class Heard:
    """A row of `messages`."""

    id: int
    chat_id: int
    wa_id: str
    lane: str
    kind: str
    text: str
    verdict: str
    state: str
    turn_id: str | None


@dataclass(frozen=True)
class Turned:
    """A row of `turns`."""

    id: str
    lane: str
    state: str
    attempts: int
    kills: int
    spoke: int
    answered_by: str
    error: str


@dataclass(frozen=True)
class Spoken:
    """A row of `outgoing`, of WhatsApp's chats."""

    id: int
    chat_id: int
    turn_id: str
    kind: str
    payload: str
    state: str
    attempts: int
    unknowns: int
    wa_id: str
    error: str


@dataclass(frozen=True)
class Fired:
    """A row of `firings`, with its task's prompt."""

    task_id: int
    due: int
    state: str
    turn_id: str | None
    error: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Evidence:
    """All of it."""

    said: tuple[Said, ...]
    delivered: tuple[Delivered, ...]
    messages: tuple[Heard, ...]
    turns: tuple[Turned, ...]
    outgoing: tuple[Spoken, ...]
    chats: dict[str, int]  # jid -> id
    names: Mapping[int, str] = field(default_factory=dict)  # of chats, by id
    main: frozenset[int] = frozenset()  # the owner's chats
    tasks: frozenset[int] = frozenset()  # those that were to be done once
    firings: tuple[Fired, ...] = ()
    unreadable: frozenset[str] = frozenset()  # ids of texts that a phone could not decrypt
    living_runs: int = 0  # rows of runs that have not ended
    integrity: str = "ok"
    orphans: tuple[str, ...] = ()  # containers that outlived an orderly stop
    leftovers: tuple[str, ...] = ()  # folders of runs that have ended
    sizes: tuple[tuple[int, int], ...] = ()  # descriptors and resident KiB, life by life
    echoes: bool = True  # the agents repeat what they were told


def rows(database: Path, said: tuple[Said, ...], delivered: tuple[Delivered, ...], **more: Any) -> Evidence:
    """With what the database of a host says that has ended."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as tx:
        tx.row_factory = sqlite3.Row
        chats = {r["jid"]: r["chat_id"] for r in tx.execute("SELECT * FROM chat_jids WHERE channel = 'whatsapp'")}
        ours = "chat_id IN (SELECT id FROM chats WHERE channel = 'whatsapp')"
        names = {r["id"]: r["name"] for r in tx.execute("SELECT id, name FROM chats")}
        in_main = "SELECT c.id FROM chats c JOIN groups g ON g.id = c.group_id WHERE g.is_main"
        (living,) = tx.execute("SELECT count(*) FROM runs WHERE state <> 'ended'").fetchone()
        integrity = "; ".join(r[0] for r in tx.execute("PRAGMA integrity_check"))
        found = Evidence(
            said, delivered,
            _table(tx, Heard, f"SELECT * FROM messages WHERE {ours} ORDER BY id"),
            _table(tx, Turned, "SELECT * FROM turns ORDER BY rowid"),
            _table(tx, Spoken, f"SELECT * FROM outgoing WHERE {ours} ORDER BY id"),
            chats, names, frozenset(r["id"] for r in tx.execute(in_main)),
            frozenset(r["id"] for r in tx.execute("SELECT id FROM tasks WHERE schedule LIKE '{\"once\"%'")),
            _table(tx, Fired, "SELECT f.*, t.prompt FROM firings f JOIN tasks t ON t.id = f.task_id ORDER BY f.id"),
            living_runs=living, integrity=integrity, **more,
        )  # fmt: skip
    tx.close()
    return found


def _table(tx: sqlite3.Connection, kind: type[T], sql: str) -> tuple[T, ...]:
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return tuple(kind(**{name: row[name] for name in names}) for row in tx.execute(sql))
