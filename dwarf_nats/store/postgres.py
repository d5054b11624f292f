"""PostgreSQL: connections, and how statements run on them.

The hot statements run on a connection of their own, without the pool's reset round trip. That connection is told to use
nested loops over indexes only, and to sort nothing an index has in order: a group is joined to the tables by primary key,
and a plan cached while a table was empty must not become a scan of it when it has grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import asyncpg

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.store import migrate
from dwarf_nats.store.database import Operation, Row, Tx
from dwarf_nats.store.dialect import POSTGRES, Sql
from dwarf_nats.store.dsn import CONNECT_SECONDS, read
from dwarf_nats.store.faults import CONFLICTS, CONNECTION, Outages, of_postgres, one_line
from dwarf_nats.store.revisions import check_revision

T = TypeVar("T")
log = logging.getLogger("dwarf_nats.store")
SESSION_SETTINGS = {
    "application_name": "dwarf-nats",
    "jit": "off",
    # A replica that stands still in the middle of a transaction must not hold its locks for ever. When it goes on, it finds
    # its connection closed.
    "idle_in_transaction_session_timeout": "10000",
}
HOT_SETTINGS = {
    **SESSION_SETTINGS,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}

CONFLICT_ATTEMPTS = 4
"""Attempts of what meets lock conflicts. A deadlock has two sides and ends with the first of them, so few are enough."""
POOL_IDLE_SECONDS = 15.0
"""Seconds after which an unused connection of the pool is closed: behind a pooler in session mode others wait for it."""
FIRST_REPLAN_RUNS, MAX_REPLAN_RUNS = 8, 4_096
"""Runs of hot statements until their plans are discarded: the first time, doubled each time up to the maximum."""


class Postgres:
    """One PostgreSQL database."""

    is_exclusive = False
    """Several replicas may use it at once."""
    in_memory = False

    def __init__(self, dsn: str, pool: int) -> None:
        self._dsn = dsn
        self.target = read(dsn)
        self.label = f"PostgreSQL at {self.target.label}"
        self._size = pool
        self._pool: asyncpg.Pool | None = None
        self._hot: asyncpg.Connection | None = None
        self._hot_lock = asyncio.Lock()
        self._runs = 0
        self._replan_runs = FIRST_REPLAN_RUNS
        self.transactions = 0
        self.round_trips = 0
        """Counts of what this process asked of the database so far, without connecting and migrating."""
        self.unavailable_reason = "the engine is not running: its database is closed"
        self._listeners: dict[str, Callable[[], None]] = {}
        self._resizing: set[asyncio.Future[None]] = set()
        self.outages = Outages()

    async def open(self) -> None:
        """Connect. Raises `Unavailable` that names the host if the database does not answer."""
        try:
            self._pool = await self._new_pool()
        except (*CONNECTION, asyncpg.PostgresError) as error:
            raise DatabaseAway(f"PostgreSQL at {self.target.label} does not answer: {one_line(error)}") from error

    async def open_shard(self, *, migrated: bool) -> None:
        """Bring the schema up to date if `migrated`, else check it; then connect."""
        if migrated:
            await migrate.migrate_postgres(self._dsn)
        else:
            check_revision(await migrate.revision_postgres(self._dsn), self.label)
        await self.open()

    async def startup_done(self) -> None:
        """Nothing changes when the replica has started."""

    def _new_pool(self) -> asyncpg.Pool:
        async def connect(*_: Any, **__: Any) -> Any:
            return await self.target.connect(SESSION_SETTINGS)

        return asyncpg.create_pool(
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=POOL_IDLE_SECONDS,
            connect=connect,
            reset=_no_reset,
        )

    def resize(self, size: int) -> None:
        """Change the number of pooled connections. Those in use are closed when they are given back."""
        if size == self._size:
            return
        self._size = size
        if self._pool is not None:
            resizing = asyncio.ensure_future(self._replace_pool())
            self._resizing.add(resizing)
            resizing.add_done_callback(self._resizing.discard)

    async def _replace_pool(self) -> None:
        made = await self._new_pool()  # which connects to nothing yet
        old, self._pool = self._pool, made
        if old is None:  # closed meanwhile
            self._pool = None
            old = made
        await _ignoring_connection_errors(old.close())

    async def close(self) -> None:
        """Close all connections, by force after a second."""
        hot, self._hot = self._hot, None
        if hot is not None:
            await _ignoring_connection_errors(hot.close(timeout=1))
        for resizing in self._resizing:
            resizing.cancel()  # which ends the connections of the pool that was replaced by force
        await asyncio.gather(*self._resizing, return_exceptions=True)
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(1):
                    await pool.close()
            except (*CONNECTION, asyncpg.PostgresError):
                pool.terminate()

    def listen(self, channel: str, call: Callable[[], None]) -> None:
        """Call `call` on a notification, from the next connection of the hot statements on. Notifications may be lost."""
        self._listeners[channel] = call

    async def _connect_hot(self) -> asyncpg.Connection:
        if self._pool is None:
            raise Unavailable(self.unavailable_reason)
        hot = await self.target.connect(HOT_SETTINGS)
        try:
            for channel, call in self._listeners.items():
                await hot.add_listener(channel, lambda *_, call=call: call())
            if self._pool is None:  # closed while it was connecting
                raise Unavailable(self.unavailable_reason)
        except BaseException:
            hot.terminate()
            raise
        return hot

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement on a connection of the pool, again where it met a lock conflict (X10)."""
        with self._errors_translated():
            async with self._pool_connection() as connection:
                for _ in range(CONFLICT_ATTEMPTS - 1):
                    self._count()
                    try:
                        return list(await connection.fetch(POSTGRES.text(sql), *args))
                    except CONFLICTS as error:
                        log.debug("once more: %s", one_line(error))
                self._count()
                return list(await connection.fetch(POSTGRES.text(sql), *args))

    def _count(self, trips: int = 1, transactions: int = 1) -> None:
        self.round_trips += trips
        self.transactions += transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Begin a transaction on a connection of the pool."""
        with self._errors_translated():
            async with self._pool_connection() as connection, connection.transaction():
                session = Session(connection)
                yield session
                self._count(2 + session.trips)

    async def transact(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Do `work` in a transaction, once more where it met a lock conflict (X10)."""
        return await self._transact(work, ())

    async def transact_by_index(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """As `transact`; no table is read from end to end, whatever the planner knows of it."""
        return await self._transact(work, ("set local enable_seqscan = off",))

    async def _transact(self, work: Callable[[Tx], Awaitable[T]], settings: Sequence[str]) -> T:
        for attempt in range(CONFLICT_ATTEMPTS):
            committing = False
            with self._errors_translated():
                try:
                    async with self._pool_connection() as connection, connection.transaction():
                        for setting in settings:
                            await connection.execute(setting)
                        session = Session(connection)
                        result = await work(session)
                        committing = True
                        self._count(2 + len(settings) + session.trips)
                        return result
                except CONFLICTS as error:
                    if attempt == CONFLICT_ATTEMPTS - 1:
                        raise
                    log.debug("once more: %s", one_line(error))
                except Exception as error:
                    if committing and not _never_ran(error):
                        vars(error)["undecided"] = True
                    raise
        raise AssertionError("unreachable")

    async def run(self, operation: Operation[T]) -> T:
        """Do an operation on the connection of the hot statements."""

        async def work(connection: Any) -> T:
            session = Session(connection)
            try:
                return await operation.on_postgres(session)
            finally:
                self._count(session.trips)

        return await self._on_hot_connection(work)

    async def read(self, operation: Operation[T]) -> T:
        """As `run`."""
        return await self.run(operation)

    async def read_aside(self, operation: Operation[T]) -> T:
        """As `run`, on a connection of the pool, so that no settlement waits for it."""
        return await self.transact_by_index(lambda tx: tx.run(operation))

    async def fetch_by_index(self, sql: Sql, *args: Any) -> list[Row]:
        """As `fetch`, on the connection of the hot statements, whose plans read through indexes only."""

        async def work(connection: Any) -> list[Row]:
            self._count()
            return list(await connection.fetch(POSTGRES.text(sql), *args))

        return await self._on_hot_connection(work)

    async def _on_hot_connection(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async with self._hot_lock:
            for attempt in range(CONFLICT_ATTEMPTS):
                sent = False
                with self._errors_translated():
                    try:
                        if self._hot is None or self._hot.is_closed():
                            with self._connecting():
                                self._hot = await self._connect_hot()
                            self._runs, self._replan_runs = 0, FIRST_REPLAN_RUNS
                        await self._replan(self._hot)
                        sent = True
                        return await work(self._hot)
                    except CONFLICTS:
                        if attempt == CONFLICT_ATTEMPTS - 1:  # it is not what was to be written that is at fault
                            raise
                    except Exception as error:
                        if sent and not _never_ran(error):
                            vars(error)["undecided"] = True
                        if _ends_session(error):
                            self._drop_hot()
                        raise
            raise AssertionError("unreachable")

    def _drop_hot(self) -> None:
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.terminate()

    async def _replan(self, hot: Any) -> None:
        """Discard the plans now and then.

        A plan made while a table was known to be empty may read an index from end to end. Nothing tells the connection that
        the table has grown until it is analysed again.
        """
        self._runs += 1
        if self._runs >= self._replan_runs:
            self._runs = 0
            self._replan_runs = min(self._replan_runs * 2, MAX_REPLAN_RUNS)
            self._count()
            await hot.execute("discard plans")

    @asynccontextmanager
    async def _pool_connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise Unavailable(self.unavailable_reason)
        pool = self._pool
        with self._connecting():
            connection = await pool.acquire(timeout=max(CONNECT_SECONDS, self.target.timeout))
        try:
            yield connection
        except Exception as error:
            if _ends_session(error):
                with contextlib.suppress(asyncpg.InterfaceError):  # it has left the pool by itself
                    connection.terminate()  # the pool makes another
            raise
        finally:
            await pool.release(connection)

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Raise `DatabaseAway` for any refusal of a new connection, as while the database is closed for maintenance."""
        try:
            yield
        except asyncpg.PostgresError as error:
            raise DatabaseAway(f"PostgreSQL at {self.target.label} is away, try again: {one_line(error)}") from error

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        """Raise the engine's errors for those of asyncpg; log an outage once."""
        try:
            yield
        except DatabaseAway as error:
            self.outages.note(error)
            raise
        except Exception as error:
            known = of_postgres(error, self.target.label)
            if known is None:
                raise
            self.outages.note(known)
            if isinstance(known, Unavailable):
                known.undecided = getattr(error, "undecided", False)
            raise known from error


def _ends_session(error: Exception) -> bool:
    """Say whether the next attempt needs a new session: the role's settings or the server may be others then."""
    return isinstance(of_postgres(error, ""), Unavailable) and not isinstance(error, CONFLICTS)


def _never_ran(error: Exception) -> bool:
    """Say whether the statement certainly did not run: the server says so, or the driver never sent it.

    Otherwise the connection may have been lost when only the answer was missing.
    """
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True
    lost = asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError | asyncpg.CrashShutdownError
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, lost)


class Session:
    """A connection while a transaction or an operation uses it. Counts its round trips."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.trips = 0

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement."""
        self.trips += 1
        return list(await self._connection.fetch(POSTGRES.text(sql), *args))

    async def fetch_many(self, sql: Sql, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """Run one statement once for each row of parameters, in one round trip; all their rows, in this order."""
        self.trips += 1
        return list(await self._connection.fetchmany(POSTGRES.text(sql), rows))

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows as they are."""
        self.trips += 1
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)

    async def run(self, operation: Operation[T]) -> T:
        """Do an operation as a part of this transaction."""
        return await operation.on_postgres(self)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Begin a transaction on this connection."""
        self.trips += 2
        transaction: AbstractAsyncContextManager[Any] = self._connection.transaction()
        return transaction


async def _no_reset(_connection: asyncpg.Connection) -> None:
    """Do nothing when a connection goes back to the pool, which saves a round trip.

    No statement here leaves anything in its session, and asyncpg itself rolls back a transaction left open.
    """


async def _ignoring_connection_errors(closing: Any) -> None:
    try:
        await closing
    except (*CONNECTION, asyncpg.PostgresError) as error:
        log.debug("closing a connection: %s", one_line(error))
