"""SQLite: one connection in one thread, and how statements run on it.

A group is one call into that thread, so a settlement of 500 steps costs one hop and one commit. `dwarf_now()` reads the
engine's clock, which a test moves by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import orjson

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway, Unusable
from dwarf_nats.store import migrate
from dwarf_nats.store.database import Operation, Row, Tx
from dwarf_nats.store.database_thread import DatabaseThread
from dwarf_nats.store.dialect import SQLITE, Sql
from dwarf_nats.store.faults import Outages, needs_a_person, of_sqlite, primary_code
from dwarf_nats.store.revisions import check_revision
from dwarf_nats.store.search import matches

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

T = TypeVar("T")
MIN_SQLITE_VERSION = (3, 38, 0)
LOCK_TIMEOUT_MS, SHORT_LOCK_TIMEOUT_MS = 5_000, 10
"""Milliseconds a statement waits for a lock of another process; the short one after a wait in vain, until something is
written again."""
STARTUP_LOCK_TIMEOUT_SECONDS = 1.0
"""Seconds a start waits for a lock in one go, so that it can be stopped in between."""


class Sqlite:
    """One SQLite file, or a database in memory (`path` empty)."""

    is_exclusive = True
    """One replica uses it at a time: it locks the file."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.in_memory = not path
        self.label = f"the SQLite file {path}" if path else "the SQLite database in memory"
        self._clock = clock
        self._thread: DatabaseThread | None = None
        self._lock = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._lock_file: IO[str] | None = None
        self._started = self._short_timeout = False
        self._now = 0
        self.outages = Outages()
        self.unavailable_reason = "the engine is not running: its database is closed"

    async def open(self) -> None:
        """Open the file. Raises `Unusable` if it cannot be used or another replica holds it, `Unavailable` if it is locked."""
        if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
            raise Unusable(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or later is needed")
        self._thread = DatabaseThread("dwarf-sqlite")
        try:
            await self._call(self._open)
        except BaseException:
            await self.close()
            raise

    def _open(self) -> None:
        try:
            if self.path:
                self._check_path()
                self._lock_the_file()
            connection = sqlite3.connect(
                self.path or ":memory:",
                isolation_level=None,
                check_same_thread=False,
                cached_statements=512,
                timeout=STARTUP_LOCK_TIMEOUT_SECONDS,
            )
            self._connection = connection
            connection.create_function("dwarf_now", 0, lambda: self._now)
            connection.create_function("regexp", 2, matches, deterministic=True)
            if self.path:
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = full")
                connection.execute("begin immediate")  # whether it can be written
                connection.execute("commit")
        except (sqlite3.Error, OSError) as error:
            words = (
                f"cannot open the SQLite file {self.path}: {error.strerror if isinstance(error, OSError) else error}"
            )
            raise (Unusable if needs_a_person(error) else DatabaseAway)(words) from error

    @property
    def is_missing(self) -> bool:
        """There is no such file, in a folder that is there."""
        return bool(self.path) and not Path(self.path).exists() and Path(self.path).parent.is_dir()

    async def startup_done(self) -> None:
        """Let statements wait longer for another process: nobody wants to stop the start any more."""
        await self.fetch(f"pragma busy_timeout = {LOCK_TIMEOUT_MS}")
        self._started = True

    async def open_shard(self, *, migrated: bool) -> None:
        """Open the file; then bring the schema up to date if `migrated`, else check it."""
        await self.open()
        if migrated:
            await migrate.migrate_sqlite(self)
        else:
            check_revision(await migrate.revision_sqlite(self), self.label)

    def _check_path(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise Unusable(f"cannot open the SQLite file {path}: it is a folder; name a file in it")
        if not path.parent.is_dir():
            raise Unusable(f"cannot open the SQLite file {path}: there is no folder {path.parent}; make it first")

    def _lock_the_file(self) -> None:
        lock_file = open(self.path + ".lock", "a+")  # noqa: SIM115 - held as long as the database is open
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock_file.seek(0)
            holder = lock_file.read(20).strip()
            lock_file.close()
            raise Unusable(
                f"the SQLite file {self.path} is in use by another replica{f' (process {holder})' if holder.isdigit() else ''}:"
                " SQLite serves one replica per file; stop the other one, or use PostgreSQL for several"
            ) from None
        except OSError:
            lock_file.close()
            raise
        lock_file.truncate(0)
        lock_file.write(str(os.getpid()))
        lock_file.flush()
        self._lock_file = lock_file

    def resize(self, size: int) -> None:
        """Change nothing: there is one connection."""

    async def close(self) -> None:
        """Close the file and give up its lock."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._started = self._short_timeout = False
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None

        if self._thread is not None:
            await self._call(close)
            self._thread.end()
            self._thread = None

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the database's thread, outside any transaction."""
        async with self._lock:
            return await self._call(lambda: work(self._opened()))

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement, committed when it returns."""
        return await self.call(lambda connection: self._session(connection).fetch(sql, *args))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Begin a transaction; nobody else has the connection meanwhile."""
        async with self._lock:
            try:
                await self._call(self._begin)
                yield _Transaction(self._within)
            except BaseException:
                # A database that was closed meanwhile has rolled back. What ended the transaction stays the error: of a
                # cancellation that became another one nobody would know, and its task would go on for ever.
                with contextlib.suppress(Unavailable):
                    await self._call(self._roll_back)
                raise
            await self._call(lambda: self._opened().execute("commit"))

    async def _within(self, work: Callable[[Session], T]) -> T:
        """Do a part of the transaction that is under way."""
        return await self._call(lambda: work(Session(self._opened(), self._now)))

    async def transact(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Do `work` in a transaction; nobody else writes meanwhile."""
        async with self.transaction() as tx:
            return await work(tx)

    async def transact_by_index(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """As `transact`: the statements name their indexes."""
        return await self.transact(work)

    async def fetch_by_index(self, sql: Sql, *args: Any) -> list[Row]:
        """As `fetch`: the statements name their indexes."""
        return await self.fetch(sql, *args)

    async def run(self, operation: Operation[T]) -> T:
        """Do an operation in a transaction, as one call into the thread."""

        def work() -> T:
            session = self._begin()
            try:
                result = operation.on_sqlite(session)
                session.connection.execute("commit")
            except BaseException:
                self._roll_back()
                raise
            return result

        async with self._lock:
            return await self._call(work)

    async def read(self, operation: Operation[T]) -> T:
        """Do an operation that writes nothing, outside any transaction."""
        return await self.call(lambda connection: operation.on_sqlite(self._session(connection)))

    async def read_aside(self, operation: Operation[T]) -> T:
        """As `read`: there is one connection."""
        return await self.read(operation)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable(self.unavailable_reason)
        return self._connection

    def _session(self, connection: sqlite3.Connection) -> Session:
        """A session outside any transaction, at the present moment."""
        self._now = self._clock.now()
        return Session(connection, self._now)

    def _begin(self) -> Session:
        """Begin a transaction; `dwarf_now()` is the same moment all through it, as `now()` is in PostgreSQL."""
        connection = self._opened()
        connection.execute("begin immediate")
        return self._session(connection)

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("rollback")

    def _with_lock_timeout(self, work: Callable[[], T]) -> T:
        """Do `work`. While another process has the file locked, one statement waits long for it and those after it briefly.

        They wait one behind the other, and their callers need an answer (B6).
        """
        changes = self._connection.total_changes if self._short_timeout and self._connection is not None else 0
        try:
            done = work()
        except sqlite3.OperationalError as error:
            if self._started and not self._short_timeout and primary_code(error) == sqlite3.SQLITE_BUSY:
                self._set_lock_timeout(SHORT_LOCK_TIMEOUT_MS)
                self._short_timeout = True
            raise
        if self._short_timeout and self._connection is not None and self._connection.total_changes != changes:
            self._set_lock_timeout(LOCK_TIMEOUT_MS)
            self._short_timeout = False
        return done

    def _set_lock_timeout(self, milliseconds: int) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._opened().execute(f"pragma busy_timeout = {milliseconds}")

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise Unavailable(self.unavailable_reason)
        try:
            return await self._thread.call(lambda: self._with_lock_timeout(work))
        except Exception as error:
            known = of_sqlite(error, self.path or "in memory")
            if known is None:
                raise
            self.outages.note(known)
            raise known from error


class Session:
    """The connection while an operation uses it, in the database's thread. `now`: microseconds since the epoch."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self.connection = connection
        self.now = now

    def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement of the shared words; an array is passed as JSON."""
        plain = [orjson.dumps(arg).decode() if isinstance(arg, list) else arg for arg in args]
        return self.connection.execute(SQLITE.text(sql), plain).fetchall()


class _Transaction:
    """A transaction each of whose statements is a call into the database's thread."""

    def __init__(self, within: Callable[[Callable[[Session], Any]], Awaitable[Any]]) -> None:
        self._within = within

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement."""
        rows: list[Row] = await self._within(lambda session: session.fetch(sql, *args))
        return rows

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows as they are."""
        sql = f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"
        await self._within(lambda session: session.connection.executemany(sql, rows))

    async def run(self, operation: Operation[T]) -> T:
        """Do an operation as a part of this transaction."""
        result: T = await self._within(operation.on_sqlite)
        return result
