"""The ports of the statements to a database: run one, run several as one transaction, run the hot ones.

Statements are written with the macros of `dialect`. An `Operation` is for what one text cannot say for both databases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import sqlite3

    from dwarf_nats.store.dialect import Sql

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Row = Sequence[Any]


class PostgresSession(Protocol):
    """A connection to PostgreSQL while an operation has it."""

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement."""
        ...

    async def fetch_many(self, sql: Sql, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """Run one statement once for each row of parameters, in one round trip; all their rows, in this order."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction; without one each statement is committed by itself."""
        ...


class SqliteSession(Protocol):
    """The connection to SQLite while an operation has it, in the database's thread."""

    @property
    def connection(self) -> sqlite3.Connection: ...

    @property
    def now(self) -> int:
        """The time of the transaction, in microseconds since the epoch."""
        ...

    def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement of the shared words."""
        ...


class Operation(Protocol[T_co]):
    """Something done in one transaction that each database has its own statements for. It may be tried more than once."""

    async def on_postgres(self, session: PostgresSession) -> T_co: ...
    def on_sqlite(self, session: SqliteSession) -> T_co: ...


class Tx(Protocol):
    """One transaction."""

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement."""
        ...

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows as they are."""
        ...

    async def run(self, operation: Operation[T]) -> T:
        """Do an operation as a part of this transaction."""
        ...


class Database(Protocol):
    """One database. Raises `Unavailable` from every method while it is away."""

    @property
    def is_exclusive(self) -> bool:
        """Only one replica can use it at a time."""
        ...

    @property
    def in_memory(self) -> bool:
        """Its commits stay in memory."""
        ...

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement, committed when it returns."""
        ...

    async def fetch_by_index(self, sql: Sql, *args: Any) -> list[Row]:
        """As `fetch`, for a short statement that must be planned well whatever the tables were like when it was first run."""
        ...

    async def run(self, operation: Operation[T]) -> T:
        """Do a hot operation: short, by index, and on PostgreSQL on a connection of its own."""
        ...

    async def read(self, operation: Operation[T]) -> T:
        """As `run`, for an operation that writes nothing and need not see one moment."""
        ...

    async def read_aside(self, operation: Operation[T]) -> T:
        """As `read`, where no settlement waits for it."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """A transaction: committed at the end, rolled back by an exception."""
        ...

    async def transact(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Do `work` in a transaction, once more where it met a lock conflict (X10)."""
        ...

    async def transact_by_index(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """As `transact`; no table is read from end to end, whatever the planner knows of it."""
        ...
