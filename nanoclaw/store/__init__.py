"""Every SQL statement: this file owns the connections, one sibling per noun holds its statements.

A statement is a plain function of a transaction: `await store.write(turns.stop, turn_id, now=now)`. Rules that
need several of them are functions that call functions, in one transaction.
"""

import asyncio
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.errors import StoreError

Tx = sqlite3.Connection
Fault = sqlite3.OperationalError  # of the disk or the file, not of what was to be written
MIGRATIONS = Path(__file__).parent / "migrations"
_BATCH = 200  # jobs that may share one commit
_RETRY = 1.0  # seconds between two tries of a write that must not be lost
P = ParamSpec("P")
T = TypeVar("T")
_Job = tuple[Callable[[Tx], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]
_Answer = tuple[_Job, Any, BaseException | None]
# Surrounds the migration of a database that was written before: it hears its schema and the program's.
Guard = Callable[[int, int], AbstractContextManager[object]]


def new_id(cursor: sqlite3.Cursor) -> int:
    """The id that an INSERT has just chosen."""
    return cursor.lastrowid or 0


def storable(text: str) -> str:
    """A lone surrogate cannot be written as UTF-8: it becomes "?", the text stays. NUL would end it for a search."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


@contextmanager
def attempt(tx: Tx) -> Iterator[None]:
    """What the block wrote is undone when it raises: for who turns a refusal into an answer."""
    tx.execute("SAVEPOINT attempt")
    try:
        yield
    except BaseException:
        tx.execute("ROLLBACK TO attempt")
        raise
    finally:
        tx.execute("RELEASE attempt")


def containing(text: str) -> str:
    """A pattern for LIKE ... ESCAPE '!' (case of a-z does not count)."""
    return "%" + storable(text).replace("!", "!!").replace("%", "!%").replace("_", "!_") + "%"


class Store:
    """One writer thread with one connection, reads on a second: the loop never waits for an fsync."""

    def __init__(
        self,
        path: Path,
        relieve: Callable[[], bool] = lambda: False,
        guard: Guard = lambda have, known: nullcontext(),
        clean: Callable[[str], str] = str,
    ) -> None:
        """`relieve` makes room when nothing can be committed; whether another try is worth it.

        `guard` stands around the migration of a database that an older program wrote; what it raises comes out of
        open(), and nothing is changed.
        `clean` takes from a text for people what must not leave; SQL knows it by that name. It never raises.
        """
        self._path = path
        self._clean = clean
        self._relieve = relieve
        self._guard = guard
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(1, "store-read")
        self._reader: Tx | None = None
        self._unanswered: dict[asyncio.Future[Any], float] = {}  # oldest first: since when, on the monotonic clock
        self.fault = ""  # why the last commit failed

    async def open(self) -> None:
        """Create or migrate the database and start. Raises StoreError."""
        writer = await asyncio.to_thread(_open, self._path, self._guard)
        writer.create_function("clean", 1, self._clean)
        self._thread = threading.Thread(target=self._work, args=(writer,), name="store-write", daemon=True)
        self._thread.start()
        self._reader = await asyncio.get_running_loop().run_in_executor(self._readers, _connect, self._path)

    async def close(self) -> None:
        """Commit what waits, then close. Safe to call twice."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._readers, self._reader.close)
            self._reader = None
        self._readers.shutdown(wait=False)

    async def write(self, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a transaction of its own and return when it is on the disk.

        What `fn` raises undoes it and comes out here. Raises StoreError when nothing can be committed.
        """
        loop = asyncio.get_running_loop()
        if self._thread is None:
            raise StoreError("the store is closed")
        done: asyncio.Future[T] = loop.create_future()
        self._unanswered[done] = time.monotonic()
        done.add_done_callback(self._unanswered.pop)
        self._jobs.put((lambda tx: fn(tx, *args, **kwargs), done, loop))
        # A caller that is cancelled must not learn nothing: the job is done all the same.
        return await asyncio.shield(done)

    def behind(self) -> tuple[int, float]:
        """How many writes wait for their commit, and how many seconds the oldest has waited."""
        oldest = next(iter(self._unanswered.values()), None)
        return len(self._unanswered), 0.0 if oldest is None else time.monotonic() - oldest

    async def insist(self, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A write that must not be lost: while nothing can be committed (a full disk) it is tried again."""
        while True:
            try:
                return await self.write(fn, *args, **kwargs)
            except StoreError as e:
                logger.error("{}", e)
                await asyncio.sleep(_RETRY)

    async def read(self, fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on the reading connection; it sees every commit before this call. Raises StoreError."""
        if self._reader is None:
            raise StoreError("the store is closed")
        reader = self._reader
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: fn(reader, *args, **kwargs))
        except sqlite3.Error as e:
            raise StoreError(f"the database cannot be read: {e}") from None

    def _work(self, tx: Tx) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < _BATCH and not self._jobs.empty():
                if (more := self._jobs.get()) is None:
                    self._jobs.put(None)  # closing: after this batch
                    break
                batch.append(more)
            self.fault = _commit(tx, batch, self._relieve)
        tx.close()


def _commit(tx: Tx, batch: list[_Job], relieve: Callable[[], bool]) -> str:
    """Run the jobs in one transaction, each in a savepoint; answer after the commit. Why it failed, or ""."""
    told = ""
    try:
        answers = _transact(tx, batch)
    except sqlite3.Error as e:
        fault = StoreError(f"the database cannot be written: {e}; free some disk space or check home's rights")
        answers, told = [(job, None, fault) for job in batch], str(e)
        if relieve():
            with suppress(sqlite3.Error):
                answers, told = _transact(tx, batch), ""
    for (_, done, loop), value, error in answers:
        try:
            loop.call_soon_threadsafe(_answer, done, value, error)
        except RuntimeError:  # the loop is gone: the host was torn down while this was being written
            logger.debug("A job outlived its loop")
    return told


def _transact(tx: Tx, batch: list[_Job]) -> list[_Answer]:
    """Each job's value or error, on the disk. Raises sqlite3.Error: then nothing is."""
    try:
        tx.execute("BEGIN IMMEDIATE")
        answers = [(job, *_run(tx, job[0])) for job in batch]
        failpoints.hit("before-commit")
        if failpoints.fails("commit"):
            raise Fault("a test lets nothing be committed")
        tx.execute("COMMIT")
        failpoints.hit("after-commit")
    except sqlite3.Error:
        with suppress(sqlite3.Error):  # else this thread would end, and every later write wait for ever
            tx.execute("ROLLBACK")
        raise
    return answers


def _run(tx: Tx, fn: Callable[[Tx], Any]) -> tuple[Any, BaseException | None]:
    tx.execute("SAVEPOINT job")
    try:
        value = fn(tx)
    except Fault:  # the whole batch fails
        raise
    except Exception as e:
        tx.execute("ROLLBACK TO job")
        tx.execute("RELEASE job")
        return None, e
    tx.execute("RELEASE job")
    return value, None


def _answer(done: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(value)


def _connect(path: Path) -> Tx:
    tx = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    tx.row_factory = sqlite3.Row
    tx.create_function("clean", 1, str)
    tx.execute("PRAGMA foreign_keys = ON")
    tx.execute("PRAGMA synchronous = FULL")
    tx.execute("PRAGMA cache_size = -512")  # KiB; the system's own cache serves the rest
    return tx


def _open(path: Path, guard: Guard = lambda have, known: nullcontext()) -> Tx:
    tx = None
    try:
        path.touch(0o600)
        tx = _connect(path)
        tx.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts in a new file alone
        tx.execute("PRAGMA journal_mode = WAL")
        _bring_up(tx, guard)
    except BaseException as e:
        if tx is not None:
            tx.close()
        if isinstance(e, (sqlite3.Error, OSError)):
            raise StoreError(f"{path} cannot be opened: {e}") from None
        raise
    return tx


def _bring_up(tx: Tx, guard: Guard) -> None:
    """Run the migrations that it has not seen."""
    have, files = _schema(tx), sorted(MIGRATIONS.glob("*.sql"))
    if have > len(files):
        raise StoreError(
            f"the database is of a newer NanoClaw (schema {have}, this program knows {len(files)}): upgrade the program"
        )
    if have == len(files):
        return
    with guard(have, len(files)) if have else nullcontext():
        # Else a table that is made anew would take with it what names its rows. Counts outside of a transaction alone.
        tx.execute("PRAGMA foreign_keys = OFF")
        for n, file in enumerate(files, 1):
            _migrate(tx, n, file.read_text("utf-8"))
        tx.execute("PRAGMA foreign_keys = ON")


def _schema(tx: Tx) -> int:
    return int(tx.execute("PRAGMA user_version").fetchone()[0])


def _migrate(tx: Tx, n: int, sql: str) -> None:
    """One migration, whole or not at all; nothing where another process was quicker. Raises StoreError."""
    tx.execute("BEGIN IMMEDIATE")
    try:
        if _schema(tx) >= n:
            return
        before = _orphans(tx)
        for statement in _statements(sql):
            tx.execute(statement)
        if lost := _orphans(tx) - before:
            table, row, parent, _ = sorted(lost, key=str)[0]
            raise StoreError(
                f"the database was left as it was: after schema {n} row {row} of {table} would name a row of"
                f" {parent} that is not there"
            )
        tx.execute(f"PRAGMA user_version = {n}")
        tx.execute("COMMIT")
        logger.info("Migrated the database to schema {}", n)
    finally:
        if tx.in_transaction:
            tx.execute("ROLLBACK")


def _orphans(tx: Tx) -> set[tuple[Any, ...]]:
    """Rows that name others that are not there."""
    return {tuple(row) for row in tx.execute("PRAGMA foreign_key_check")}


def _statements(sql: str) -> Iterator[str]:
    """One by one: a whole script would commit what is open before it begins."""
    statement = ""
    for piece in re.split(r"(?<=;)", sql):
        statement += piece
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


__all__ = ["MIGRATIONS", "Fault", "Guard", "Store", "Tx", "attempt", "containing", "new_id", "storable"]
