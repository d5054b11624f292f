"""What the statements need of a database: to run one, and to run several as one transaction.

Statements are written once, in the SQL that PostgreSQL and SQLite share, with parameters `$1 … $n`; the few differences are
macros: `{now}` (microseconds since the epoch, the database's clock), `{in:$1}` (member of an array parameter),
`{greatest}`, `{regexp}` (text matches regular expression), `{message:error}` (message of a stored error), `{for_update}`,
`{this_transaction}` and `{oldest_transaction}` (numbers of this one, and of the oldest that runs), `{for_share}`,
`{skip_locked}` (lock what nobody holds, pass over the rest), `{size:changes}` (about how many bytes a text has,
where that can be told without reading it).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow

T = TypeVar("T")
Row = Sequence[Any]
_MACRO = re.compile(
    r"\{(now|greatest|regexp|this_transaction|oldest_transaction|for_update|for_share|skip_locked|in:\$\d+|size:\w+"
    r"|message:[\w.]+)\}"
)


class Tx(Protocol):
    """One transaction."""

    async def fetch(self, sql: str, *args: Any) -> list[Row]: ...

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows as they are."""
        ...

    async def create(self, new: NewFlow) -> int | None:
        """Insert a flow with its entry step, not running; its creation time, or nothing if its idempotency key was there."""
        ...


class Database(Protocol):
    """One database. Raises `Unavailable` from every method while it is away."""

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """Run one statement, committed when it returns."""
        ...

    async def fetch_by_index(self, sql: str, *args: Any) -> list[Row]:
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


@functools.lru_cache(maxsize=512)
def postgres_sql(sql: str) -> str:
    """The statement as PostgreSQL takes it."""

    def expand(match: re.Match[str]) -> str:
        macro = match[1]
        if macro == "now":
            return "(extract(epoch from now()) * 1000000)::bigint"
        if macro in ("for_update", "for_share"):
            return macro.replace("_", " ")
        if macro == "skip_locked":
            return "for update skip locked"
        if macro == "greatest":
            return "greatest"
        if macro == "regexp":
            return "~"
        if macro == "this_transaction":
            return "txid_current()"
        if macro == "oldest_transaction":
            return "txid_snapshot_xmin(txid_current_snapshot())"
        if macro.startswith("message:"):
            # No text of PostgreSQL holds a NUL: one that is escaped in the JSON reads as a blank.
            return f"replace({macro[8:]}, '\\u0000', '\\u0020')::json ->> 'message'"
        if macro.startswith("size:"):
            return f"octet_length({macro[5:]})"
        return f"= any({macro[3:]}::bigint[])"

    return _MACRO.sub(expand, sql)


@functools.lru_cache(maxsize=512)
def sqlite_sql(sql: str) -> str:
    """The statement as SQLite takes it."""

    def expand(match: re.Match[str]) -> str:
        macro = match[1]
        if macro == "now":
            return "dwarf_now()"
        if macro in ("for_update", "for_share", "skip_locked"):
            return ""
        if macro == "greatest":
            return "max"
        if macro in ("regexp", "this_transaction", "oldest_transaction"):  # there is one transaction at a time
            return {"regexp": "regexp", "this_transaction": "0", "oldest_transaction": "1"}[macro]
        if macro.startswith("message:"):
            return f"json_extract({macro[8:]}, '$.message')"
        if macro.startswith("size:"):
            return f"length({macro[5:]})"
        return f"in (select value from json_each({macro[3:]}))"

    return re.sub(r"\$(\d+)", r"?\1", _MACRO.sub(expand, sql))
