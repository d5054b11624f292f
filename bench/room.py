"""The room that the tables take, the CPU time that the database and the engine spend, and rows laid down by SQL.

For benchmarks of work on very many flows beside a load.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import asyncpg

from dwarf_nats.store.store import SqlStore

from .processes import parent_of
from .shapes import WORKFLOW

FIRST_ID = 10**9
"""Far beyond the ids that the sequences give."""
AT_ONCE_FLOWS = 20_000
"""Flows laid down in one statement."""
NUMBERS = {
    False: "with numbers as (select generate_series(cast({} as bigint), {}) as n) ",
    True: "with recursive numbers(n) as (select {} union all select n + 1 from numbers where n < {}) ",
}
COLUMNS = {
    False: "select attname from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
    True: "select name from pragma_table_info($1)",
}
MODEL = (
    f"select flow_id, created_at from dwarf_flows where workflow = '{WORKFLOW}' and status = 'completed'"
    f" and flow_id < {FIRST_ID} limit 1"
)
ROOM_POSTGRES = """
select sum(pg_total_relation_size(relid))::float8 / 1048576, sum(n_dead_tup)::float8, sum(n_live_tup)::float8,
  sum(autovacuum_count)::float8
from pg_stat_user_tables where relname in ('dwarf_steps', 'dwarf_flows', 'dwarf_tags')
"""
PARTS = ("database", "engine")
"""Parts whose CPU time counts; SQLite is a part of the engine."""


async def copies(
    store: SqlStore, table: str, model: int, changed: dict[str, str], *, flows: int, which: str = ""
) -> None:
    """Lay down copies of the rows of a flow; `changed`: expressions by column, over `t` and the number `n`."""
    sqlite = "SQLite" in store.label
    names = [name for (name,) in await store.database.fetch(COLUMNS[sqlite], table)]
    values = ", ".join(changed.get(name, f"t.{name}") for name in names)
    for numbers in numbered(store, flows):
        await store.database.fetch(
            f"insert into {table} ({', '.join(names)}) {numbers}"
            f"select {values} from numbers, {table} t where t.flow_id = $1 {which}",
            model,
        )


def numbered(store: SqlStore, flows: int) -> list[str]:
    """The beginnings of statements over `numbers`, which have the numbers of all flows together."""
    template = NUMBERS["SQLite" in store.label]
    return [template.format(first, min(first + AT_ONCE_FLOWS, flows) - 1) for first in range(0, flows, AT_ONCE_FLOWS)]


async def room(dsn: str) -> str:
    """Return what the database says of its tables."""
    if dsn.startswith("sqlite"):
        connection = sqlite3.connect(f"file:{dsn.removeprefix('sqlite:///')}?mode=ro", uri=True)
        try:
            pages, free, size = (
                connection.execute(f"pragma {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        finally:
            connection.close()
        return f"{pages * size / 2**20:,.0f} MiB, of which {free * size / 2**20:,.0f} MiB free to be used again"
    postgres = await asyncpg.connect(dsn)
    try:
        mib, dead, live, vacuums = await postgres.fetchrow(ROOM_POSTGRES)
    finally:
        await postgres.close()
    return f"{mib:,.0f} MiB, {live:,.0f} live and {dead:,.0f} dead rows, {vacuums:,.0f} autovacuums"


async def postmaster_of(dsn: str) -> int:
    """The process whose children serve a database on this machine."""
    connection = await asyncpg.connect(dsn)
    try:
        found = parent_of(connection.get_server_pid())
    finally:
        await connection.close()
    assert found is not None
    return found


@dataclass(slots=True)
class Spent:
    """CPU seconds, and what was done in them: steps of the load, and members of the work beside it."""

    seconds: float = 0.0
    steps: int = 0
    members: int = 0

    def add(self, before: dict[str, float], after: dict[str, float], steps: int, members: int = 0) -> None:
        """Add what was spent between two readings."""
        self.seconds += sum(after[part] - before[part] for part in PARTS if part in after)
        self.steps += steps
        self.members += members


@dataclass(slots=True)
class Costs:
    """The CPU time that the load spends by itself, and with the work beside it, however busy the machine is."""

    alone: Spent = field(default_factory=Spent)
    together: Spent = field(default_factory=Spent)

    def per_member(self) -> float:
        """Microseconds of one member of the work: what was spent beyond the steps of the load."""
        step = self.alone.seconds / self.alone.steps if self.alone.steps else 0.0
        return (self.together.seconds - step * self.together.steps) / max(1, self.together.members) * 1e6

    def text(self) -> str:
        step = self.alone.seconds / self.alone.steps * 1e6 if self.alone.steps else 0.0
        return f"CPU of database and engine: {self.per_member():,.0f} µs a flow, {step:,.0f} µs a step of the load"
