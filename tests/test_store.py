"""The store: whole transactions, shared commits, and a schema that only moves forward."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from nanoclaw import store as store_module
from nanoclaw.app import opened
from nanoclaw.errors import Refused, StoreError
from nanoclaw.store import MIGRATIONS, Store, Tx


def put(tx: Tx, key: str) -> None:
    tx.execute("INSERT INTO meta(key, value) VALUES(?, '')", (key,))


def put_and_refuse(tx: Tx, key: str) -> None:
    put(tx, key)
    raise Refused("no")


def keys(tx: Tx) -> list[str]:
    return [r["key"] for r in tx.execute("SELECT key FROM meta ORDER BY key")]


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A read sees every write that has returned, and so does the next life."""
    async with opened(Store(tmp_path / "db")) as store:
        await store.write(put, "a")
        assert await store.read(keys) == ["a"]
    async with opened(Store(tmp_path / "db")) as store:
        assert await store.read(keys) == ["a"]


async def test_a_failed_job_does_not_undo_its_neighbours(tmp_path: Path) -> None:
    """Jobs share a commit and nothing else."""
    async with opened(Store(tmp_path / "db")) as store:
        jobs = [store.write(put_and_refuse if n % 3 == 1 else put, f"{n:02}") for n in range(30)]
        done = await asyncio.gather(*jobs, return_exceptions=True)
        assert [isinstance(x, Refused) for x in done] == [n % 3 == 1 for n in range(30)]
        assert await store.read(keys) == [f"{n:02}" for n in range(30) if n % 3 != 1]


async def test_a_broken_constraint_is_the_jobs_own_fault(tmp_path: Path) -> None:
    """It comes out at its caller."""
    async with opened(Store(tmp_path / "db")) as store:
        await store.write(put, "a")
        with pytest.raises(sqlite3.IntegrityError):
            await store.write(put, "a")


async def test_a_cancelled_caller_does_not_undo_the_write(tmp_path: Path) -> None:
    """Nobody may believe that nothing happened."""
    async with opened(Store(tmp_path / "db")) as store:
        writing = asyncio.ensure_future(store.write(put, "a"))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        await store.write(put, "b")
        assert await store.read(keys) == ["a", "b"]


async def test_a_full_disk_is_said_and_passes(tmp_path: Path) -> None:
    """StoreError while there is no room; nothing half is kept, and the same store goes on afterwards."""
    async with opened(Store(tmp_path / "db")) as store:
        await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 1").fetchall())
        with pytest.raises(StoreError, match="free some disk space"):
            await store.write(put, "x" * 1_000_000)
        await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 1000000").fetchall())
        await store.write(put, "b")
        assert await store.read(keys) == ["b"]


async def test_a_rollback_that_fails_ends_nothing(tmp_path: Path) -> None:
    """SQLite may have rolled back by itself: the writer goes on with the next job."""

    def broken(tx: Tx) -> None:
        put(tx, "a")
        tx.execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(Store(tmp_path / "db")) as store:
        with pytest.raises(StoreError, match="disk I/O error"):
            await store.write(broken)
        await store.write(put, "b")
        assert await store.read(keys) == ["b"]


async def test_a_read_that_fails_is_said(tmp_path: Path) -> None:
    """As StoreError, like a write."""

    def broken(tx: Tx) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(Store(tmp_path / "db")) as store:
        with pytest.raises(StoreError, match="cannot be read"):
            await store.read(broken)


async def test_insist_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must not be lost is written as soon as it can be."""
    monkeypatch.setattr(store_module, "_RETRY", 0.01)
    async with opened(Store(tmp_path / "db")) as store:
        await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 1").fetchall())
        writing = asyncio.ensure_future(store.insist(put, "x" * 1_000_000))
        await asyncio.wait({writing}, timeout=0.05)
        assert not writing.done()
        await store.insist(lambda tx: tx.execute("PRAGMA max_page_count = 1000000").fetchall())
        await writing


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """An old program does not touch a new database."""
    with sqlite3.connect(tmp_path / "db") as tx:
        tx.execute("PRAGMA user_version = 999")
    tx.close()
    with pytest.raises(StoreError, match="newer NanoClaw"):
        await Store(tmp_path / "db").open()


async def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    """The version counts the files; a second opening changes nothing."""
    for _ in range(2):
        async with opened(Store(tmp_path / "db")) as store:
            version = await store.read(lambda tx: tx.execute("PRAGMA user_version").fetchone()[0])
            assert version == len(list(MIGRATIONS.glob("*.sql")))


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        await Store(tmp_path / "db").open()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Closing twice is no error, using it afterwards is."""
    store = Store(tmp_path / "db")
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError):
        await store.write(put, "a")
    with pytest.raises(StoreError):
        await store.read(keys)
