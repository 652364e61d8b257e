"""A newer program takes over a home of any older one: nothing is lost, and a step that fails changes nothing."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import app, ops
from nanoclaw import store as store_module
from nanoclaw.app import opened
from nanoclaw.errors import BackupError, HomeError, StoreError
from nanoclaw.groups import open_home
from nanoclaw.ops import migrating
from nanoclaw.store import MIGRATIONS, Store, copy, search
from tests.commands import nanoclaw
from tests.fakes import hosting

SCHEMAS = range(1, len(list(MIGRATIONS.glob("*.sql"))) + 1)
DAY = 86_400_000
SHADOWS = ("_data", "_idx", "_docsize", "_config", "_content")


def rows(now: int) -> list[tuple[str, dict[str, Any]]]:
    """What a home holds that was lived in for a day: each column that some schema has."""
    then = now - DAY
    turn = {"lane": "family", "group_id": 2, "chat_id": 2, "origin": "message", "authority": "allowed"}
    turn |= {"prompt": "asked", "created_at": then, "given_at": then, "ended_at": then, "images": "[]"}
    message = {"chat_id": 2, "from_me": 0, "person_id": 2, "lane": "family", "kind": "text", "at": then}
    message |= {"saved_at": then, "verdict": "work", "sender": "jid:Ann"}
    task = {"group_id": 2, "chat_id": 2, "zone": "Europe/Berlin", "person_id": 2, "created_at": then}
    return [
        ("meta", {"key": "install", "value": "0123456789abcdef"}),
        ("groups", {"folder": "main", "name": "Andy", "is_main": 1, "word": "@Andy", "created_at": then}),
        ("groups", {"folder": "family", "name": "Andy", "mode": "always", "word": "@Andy", "created_at": then}),
        ("chats", {"channel": "terminal", "name": "Terminal", "group_id": 1, "seen": then}),
        ("chats", {"channel": "test", "name": "family", "is_group": 1, "group_id": 2, "seen": then, "count": 3}),
        ("chat_jids", {"jid": "terminal", "channel": "terminal", "chat_id": 1, "rank": 0}),
        ("chat_jids", {"jid": "family", "channel": "test", "chat_id": 2, "rank": 0}),
        ("people", {"name": "You", "role": "owner"}),
        ("people", {"name": "Ann", "role": "allowed"}),
        ("person_jids", {"jid": "terminal:owner", "channel": "terminal", "person_id": 1}),
        ("person_jids", {"jid": "jid:Ann", "channel": "test", "person_id": 2}),
        ("lanes", {"lane": "main", "group_id": 1}),
        ("lanes", {"lane": "family", "group_id": 2, "session": "session-of-then"}),
        ("turns", {**turn, "id": "t1", "state": "done", "run_id": "run-1", "cost": 0.01}),
        ("messages", {**message, "wa_id": "a", "text": "a grey heron in the reeds", "state": "handled"}
            | {"turn_id": "t1"}),
        ("messages", {**message, "wa_id": "b", "text": "what waits is answered", "state": "open"}),
        ("runs", {"id": "run-1", "lane": "family", "group_id": 2, "state": "ended", "fingerprint": "f", "sockets": "aa"}
            | {"started_at": then, "ended_at": then, "cause": "idle"}),
        ("letters", {"run_id": "run-1", "n": 1, "kind": "prompt", "ref": "t1"}),
        ("requests", {"run_id": "run-1", "n": 1, "turn_id": "t1", "tool": "send_message", "args": "{}"}
            | {"state": "answered", "ok": 1, "answer": "sent"}),
        ("outgoing", {"chat_id": 2, "turn_id": "t1", "kind": "reply", "payload": "herons eat fish", "state": "sent"}
            | {"wa_id": "w1", "created_at": then, "sent_at": then}),
        ("outgoing", {"chat_id": 2, "kind": "notice", "payload": "still to be sent", "state": "queued"}
            | {"created_at": then}),
        ("tasks", {**task, "prompt": "feed them", "schedule": '{"cron": "0 7 * * *"}', "state": "active"}
            | {"next_due": now + DAY}),
        ("tasks", {**task, "prompt": "once", "schedule": f'{{"once": {then}}}', "state": "done", "ended_at": then}),
        ("firings", {"task_id": 1, "due": then, "turn_id": "t1", "state": "done", "at": then}),
        ("usage", {"at": then, "group_id": 2, "run_id": "run-1", "model": "m", "input": 1, "output": 2, "cache_read": 3}
            | {"cache_write": 4}),
        ("notices", {"cause": "budget", "chat_id": 1, "at": then}),
        ("pending", {"code": "1234", "change": "{}", "hash": "h", "created_at": then, "until": then}),
        ("audit", {"at": then, "who": "terminal", "verb": "groups add", "detail": "family"}),
        ("search", {"text": "a grey heron in the reeds", "group_id": 2, "source": "messages", "ref": "1"}),
        ("early", {"channel": "test", "chat_id": 2, "target": "x", "person_id": 2, "by_admin": 0, "kind": "edit"}
            | {"text": "later", "mentions_us": 0, "at": now}),
        ("downloads", {"group_id": 2, "day": "2026-01-01", "bytes": 10}),
        ("unkept", {"chat_id": 1, "hour": then // 3_600_000}),
        ("members", {"chat_id": 2, "jid": "jid:Ann", "member": "jid:Ann", "since": 0}),
        ("memories", {"folder": "family", "n": 1, "at": then, "text": b"# Memory"}),
        ("unwritten", {"folder": "family", "who": "terminal", "of": 0, "whole": 0, "text": b"They like birds."}),
        ("notes", {"group_id": 2, "path": "memory/birds.md", "stamp": "s"}),
        ("passages", {"group_id": 2, "path": "memory/birds.md", "line": 1, "at": then, "text": "a heron is a bird"}),
        ("traffic", {"group_id": 2, "day": 1, "bytes": 10}),
        ("wanted", {"group_id": 2, "host": "example.org", "port": 443, "at": then}),
        ("questions", {"run_id": "run-1", "n": 1, "chat_id": 2, "person_id": 2, "outgoing_id": 1, "options": "[]"}
            | {"asked_at": then, "patience": 1, "until": then}),
    ]  # fmt: skip


def migrated(tx: sqlite3.Connection, schema: int) -> None:
    """As the program of that schema would have made it."""
    for n, file in enumerate(sorted(MIGRATIONS.glob("*.sql"))[:schema], 1):
        store_module._migrate(tx, n, file.read_text())


def lived_in(db: Path, schema: int) -> dict[str, int]:
    """A database of that schema with something in every table; how many rows each has."""
    with closing(store_module._connect(db)) as tx:
        tx.execute("PRAGMA journal_mode = WAL")
        migrated(tx, schema)
        for table, values in rows(app.now_ms()):
            there = [c["name"] for c in tx.execute(f"PRAGMA table_info({table})")]
            if known := {key: value for key, value in values.items() if key in there}:
                places = ", ".join("?" * len(known))
                # `unkept` is also written by triggers
                tx.execute(f"INSERT OR IGNORE INTO {table}({', '.join(known)}) VALUES({places})", tuple(known.values()))
        return counted(tx)


def counted(tx: sqlite3.Connection) -> dict[str, int]:
    names = [r["name"] for r in tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    plain = [name for name in names if not name.endswith(SHADOWS)]
    return {name: tx.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in plain}


@contextmanager
def until_schema(monkeypatch: pytest.MonkeyPatch, folder: Path, schema: int, **more: str) -> Iterator[None]:
    """A program that knows so many migrations, and more that are made up."""
    folder.mkdir()
    for file in sorted(MIGRATIONS.glob("*.sql"))[:schema]:
        shutil.copy(file, folder)
    for name, sql in more.items():
        (folder / f"{name.removeprefix('_')}.sql").write_text(sql)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", folder)
        yield


def shape(db: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(db)) as tx:
        return sorted(tx.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master"))


# --- from every schema -------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_home_of_any_schema_is_served_on(folder: Path, schema: int) -> None:
    """What waited is answered and sent, the session goes on, old words are found, and the old database is kept."""
    home = open_home(folder / "home")
    before = lived_in(home.db, schema)
    assert min(before.values()) > 0, f"no row for {[name for name, n in before.items() if not n]}"
    async with hosting(folder) as host:
        await host.channel.until(lambda: "still to be sent" in host.channel.texts)
        await host.channel.until(lambda: any("what waits is answered" in t for t in host.channel.texts))
        await host.channel.say("family", "!session")
        await host.channel.until(lambda: any(t.startswith("resumed session-") for t in host.channel.texts))
        await host.settled()
        found = await host.store.read(search.find, 2, ["heron"], app.now_ms(), 9)
        expected = {"a grey heron in the reeds", "herons eat fish"}
        assert {hit.text for hit in found} >= expected
        tasks = await host.rows("SELECT prompt, state FROM tasks ORDER BY id")
        assert [tuple(row.values()) for row in tasks] == [("feed them", "active"), ("once", "done")]
        assert await host.rows("SELECT name, role FROM people WHERE id = 2") == [{"name": "Ann", "role": "allowed"}]
    assert ops.integrity(home.db) == []
    kept = migrating.copies(home.root)
    assert len(kept) == (schema < len(SCHEMAS))
    assert [copy.schema(path) for path in kept] == [schema] * len(kept)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_way_leads_to_the_same_tables(tmp_path: Path, schema: int) -> None:
    """No row is lost on the way, and nobody can tell where it began."""
    before = lived_in(tmp_path / "old.db", schema)
    with closing(store_module._open(tmp_path / "old.db")) as tx:
        after = counted(tx)
    store_module._open(tmp_path / "new.db").close()
    assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")
    assert {name: n for name, n in before.items() if after.get(name, 0) < n and name != "search"} == {}
    assert ops.integrity(tmp_path / "old.db") == []


# --- a step that fails -------------------------------------------------------------------------

BROKEN = {
    "words that are no SQL": ("CREATE TABLE half(x); NONSENSE;", "syntax"),
    "a row that cannot be": ("CREATE TABLE half(x); INSERT INTO meta SELECT key, value FROM meta;", "UNIQUE"),
    "a row that names nothing": (
        "CREATE TABLE half(x); PRAGMA foreign_keys = OFF; DELETE FROM people WHERE id = 2;",
        "names? a row of people|would name a row of people",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The steps before it stay, it itself leaves no trace, and what is tried again is that step."""
    lived_in(tmp_path / "db", 2)
    sql, why = BROKEN[fault]
    good = "CREATE TABLE fine(x); CREATE TRIGGER t AFTER INSERT ON fine BEGIN SELECT 1; SELECT 2; END;"
    with until_schema(monkeypatch, tmp_path / "m", 2, _0003=good, _0004=sql):
        for _ in range(2):
            with pytest.raises(StoreError, match=why):
                await Store(tmp_path / "db").open()
            assert copy.schema(tmp_path / "db") == 3
            assert not [row for row in shape(tmp_path / "db") if row[1] == "half"]
        (tmp_path / "m" / "0004.sql").write_text("CREATE TABLE half(x)")
        async with opened(Store(tmp_path / "db")) as store:
            assert await store.read(lambda tx: tx.execute("PRAGMA foreign_keys").fetchone()[0]) == 1
            assert (await store.read(counted)).items() >= {"half": 0, "people": 2}.items()


async def test_what_was_wrong_before_stops_no_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a step itself would tear apart counts against it; a table made anew takes no row with it."""
    lived_in(tmp_path / "db", 7)
    with closing(sqlite3.connect(tmp_path / "db")) as tx:
        tx.execute("INSERT INTO members(chat_id, jid, member, since) VALUES(99, 'x', 'x', 0)")
        tx.commit()
    anew = (
        "CREATE TABLE new_people AS SELECT * FROM people; DROP TABLE people;"
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, role TEXT, listed TEXT, denied INTEGER);"
        "INSERT INTO people SELECT * FROM new_people; DROP TABLE new_people;"
    )
    with until_schema(monkeypatch, tmp_path / "m", 7, _0008=anew):
        async with opened(Store(tmp_path / "db")) as store:
            assert (await store.read(counted)).items() >= {"people": 2, "person_jids": 2, "members": 2}.items()


async def test_two_programs_at_once(tmp_path: Path) -> None:
    """Each step is done by one of them."""
    lived_in(tmp_path / "db", 1)
    stores = [Store(tmp_path / "db") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.close()
    assert copy.schema(tmp_path / "db") == len(SCHEMAS)


# --- the copy before ---------------------------------------------------------------------------


def guarded(root: Path, now: int = 0, said: list[str] | None = None) -> Store:
    told = [] if said is None else said
    return Store(root / "nanoclaw.db", guard=migrating.guard(root, lambda: now, told.append))


async def test_a_copy_is_made_first_and_three_are_kept(tmp_path: Path) -> None:
    """Only where something changes; it says so, it is private, and it comes back by the usual command."""
    root = open_home(tmp_path / "home").root
    said: list[str] = []
    for n in range(5):
        (root / "nanoclaw.db").unlink(missing_ok=True)
        lived_in(root / "nanoclaw.db", n + 1)
        for _ in range(2):
            async with opened(guarded(root, n * DAY, said)):
                pass
    assert [copy.schema(path) for path in migrating.copies(root)] == [3, 4, 5]
    assert {path.stat().st_mode & 0o777 for path in migrating.copies(root)} == {0o600}
    assert len(said) == 5
    assert str(migrating.copies(root)[-1]) in said[-1]
    (root / "groups/main").mkdir()
    (root / "groups/main/CLAUDE.md").write_text("stays")
    code, out, err = await nanoclaw(root, "restore", "--yes", str(migrating.copies(root)[0]))
    assert (code, err) == (0, "")
    assert "1 text(s) and 1 message(s)" in out
    assert (root / "groups/main/CLAUDE.md").read_text() == "stays"
    assert copy.schema(root / "nanoclaw.db") == len(SCHEMAS)
    assert ops.integrity(root / "nanoclaw.db") == []


@pytest.mark.parametrize("rubbish", [b"", b"SQLite format 3\0" + b"x" * 5000])
def test_a_copy_replaces_what_cannot_be_read(tmp_path: Path, rubbish: bytes) -> None:
    """And one that is damaged itself replaces nothing."""
    root = open_home(tmp_path / "home").root
    lived_in(root / "nanoclaw.db", 2)
    saved = migrating.save(root, "x", 0)
    (root / "nanoclaw.db").write_bytes(rubbish)
    before = migrating.put_back(saved, root)
    assert before is not None
    assert before.stat().st_mode & 0o777 == 0o600
    assert copy.schema(root / "nanoclaw.db") == 2
    assert ops.integrity(root / "nanoclaw.db") == []
    saved.write_bytes(saved.read_bytes()[:4096])
    with pytest.raises(BackupError, match="damaged"):
        migrating.put_back(saved, root)
    assert copy.schema(root / "nanoclaw.db") == 2


async def test_without_room_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to do, leaves no piece of a copy, and the way without one is there."""
    root = open_home(tmp_path / "home").root
    lived_in(root / "nanoclaw.db", 1)
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "_SPARE", 1 << 60)
        with pytest.raises(BackupError, match=r"free some disk space, or start once .*--no-backup"):
            await guarded(root).open()
    assert copy.schema(root / "nanoclaw.db") == 1
    assert list((root / "backups").iterdir()) == []
    assert list((root / "backups").glob("*")) == []
    without = Store(root / "nanoclaw.db", guard=migrating.guard(root, lambda: 0, print, backup=False))
    async with opened(without):
        assert copy.schema(root / "nanoclaw.db") == len(SCHEMAS)


async def test_a_damaged_database_is_not_migrated(tmp_path: Path) -> None:
    """Else the damage would be in all copies some day."""
    root = open_home(tmp_path / "home").root
    lived_in(root / "nanoclaw.db", 1)
    with closing(sqlite3.connect(root / "nanoclaw.db")) as tx:
        tx.executescript(
            "PRAGMA journal_mode = DELETE; PRAGMA writable_schema = ON;"
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'chats')"
            " WHERE name = 'messages_turn'"
        )
    with pytest.raises(BackupError, match="damaged"):
        await guarded(root).open()
    assert copy.schema(root / "nanoclaw.db") == 1
    assert list((root / "backups").iterdir()) == []


async def test_a_command_leaves_a_living_older_host_alone(tmp_path: Path) -> None:
    """Its schema is not changed under its feet; once it has ended, the command migrates like a host does."""
    root = open_home(tmp_path / "home").root
    lived_in(root / "nanoclaw.db", 6)
    with app.one_host(root / "nanoclaw.lock"):
        code, _, err = await nanoclaw(root, "groups", "list")
        assert (code, "stop it first" in err) == (1, True)
        assert copy.schema(root / "nanoclaw.db") == 6
        lock: AbstractContextManager[None] = app.one_host(root / "nanoclaw.lock")
        with pytest.raises(HomeError), lock:
            pass
    code, out, err = await nanoclaw(root, "groups", "list")
    assert (code, "family" in out) == (0, True)
    assert "schema 6" in err
    assert [copy.schema(path) for path in migrating.copies(root)] == [6]
