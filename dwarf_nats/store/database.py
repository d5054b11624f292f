"""What the statements need of a database: to run one, and to run several as one transaction.

Their words are those of `dialect`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.dialect import Sql

T = TypeVar("T")
Row = Sequence[Any]


class Tx(Protocol):
    """One transaction."""

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]: ...

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows as they are."""
        ...

    async def create(self, new: NewFlow) -> int | None:
        """Insert a flow with its entry step, not running; its creation time, or nothing if its idempotency key was there."""
        ...


class Database(Protocol):
    """One database. Raises `Unavailable` from every method while it is away."""

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        """Run one statement, committed when it returns."""
        ...

    async def fetch_by_index(self, sql: Sql, *args: Any) -> list[Row]:
        """As `fetch`, for a short statement that must be planned well whatever the tables were like when it was first run."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """A transaction: committed at the end, rolled back by an exception."""
        ...

    async def transact(self, work: Callable[[Tx], Awaitable[T]], *, by_index: bool = False) -> T:
        """Do `work` in a transaction, once more where it met a lock conflict (X10).

        `by_index`: no table is read from end to end, whatever the planner knows of it.
        """
        ...

    async def next_ids(self, kind: str) -> tuple[int, int]:
        """A block of ids for `flow`, `step` or `replica`: the first one and how many."""
        ...
