"""Rows laid down in a database in bulk: copies of a flow that was run there, as many as asked for.

Copies keep every column of their model but those said here, so they look like what the engine itself would have written.
Ids count up from a number far beyond those that the sequences give.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from .children import Failed
from .shapes import WORKFLOW

FINISHED_ID, ASLEEP_ID = 2 * 10**9, 10**9 // 2
"""First ids of what is laid down by `finished` and by `asleep`."""
_AT_ONCE = 50_000
_TIMEOUT_SECONDS = 600
_DAY_US = 86_400_000_000


async def finished(connection: asyncpg.Connection, steps: int) -> None:
    """Lay down finished steps with their flows, copies of a completed flow; whole flows, so a few more perhaps."""
    model, length = await connection.fetchrow(
        "select flow_id, count(*) from dwarf_steps where flow_id = (select flow_id from dwarf_flows"
        " where workflow = $1 and status = 'completed' order by flow_id limit 1) group by flow_id",
        WORKFLOW,
    )
    flow, step = f"({FINISHED_ID} + n)", f"({FINISHED_ID} + n * {length} + t.depth)"
    flows = {"flow_id": flow, "thread_id": flow, "root_id": flow}
    rows = {
        "flow_id": flow,
        "step_id": step,
        "predecessor_id": f"case when t.predecessor_id is not null then {step} - 1 end",
        "successor_id": f"case when t.successor_id is not null then {step} + 1 end",
    }
    await _copy(connection, "dwarf_flows", model, -(-steps // length), flows)
    await _copy(connection, "dwarf_steps", model, -(-steps // length), rows)
    await _check(connection, "status = 'completed' and step_id >= $1", FINISHED_ID, steps)


async def asleep(connection: asyncpg.Connection, flows: int) -> None:
    """Lay down flows whose entry step is due tomorrow."""
    model = await connection.fetchval("select flow_id from dwarf_flows where workflow = $1 limit 1", WORKFLOW)
    flow = f"({ASLEEP_ID} + n)"
    rows = {"flow_id": flow, "thread_id": flow, "root_id": flow, "status": "'running'", "final_state": "null"}
    await _copy(connection, "dwarf_flows", model, flows, rows)
    rows = {
        "flow_id": flow,
        "step_id": flow,
        "status": "'pending'",
        "changes": "'{}'",
        "lease_seq": "0",
        "claimed_by": "null",
        "lease_expires": "null",
        "started_at": "null",
        "successor_id": "null",
        "not_before": f"t.updated_at + {_DAY_US}",
    }
    await _copy(connection, "dwarf_steps", model, flows, rows, "and t.depth = 1")
    which = "status = 'pending' and parked = 0 and not_before > updated_at and step_id >= $1"
    await _check(connection, which, ASLEEP_ID, flows)


async def _check(connection: asyncpg.Connection, which: str, first: int, least: int) -> None:
    """Raises `Failed` unless as many steps are there: a benchmark of what is not there would look good."""
    there = await connection.fetchval(
        f"select count(*) from dwarf_steps where {which}", first, timeout=_TIMEOUT_SECONDS
    )
    if there < least:
        raise Failed(f"only {there:,} of {least:,} steps are in the tables, of those {which}")


async def settle_down(connection: asyncpg.Connection) -> None:
    """As after a while: vacuumed, analysed, written out."""
    for statement in ("vacuum analyze dwarf_flows", "vacuum analyze dwarf_steps", "checkpoint"):
        await connection.execute(statement, timeout=_TIMEOUT_SECONDS)


async def _copy(
    connection: asyncpg.Connection, table: str, model: int, count: int, changed: Mapping[str, str], which: str = ""
) -> None:
    """`count` copies of the rows of flow `model`; `changed`: expressions by column, over `t` and the number `n`."""
    columns = [
        row["attname"]
        for row in await connection.fetch(
            "select attname from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
            table,
        )
    ]
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    statement = (
        f"insert into {table} ({', '.join(columns)}) select {values}"
        f" from generate_series($2::bigint, $3::bigint) n, {table} t where t.flow_id = $1 {which}"
    )
    await connection.execute("set synchronous_commit = off")
    for first in range(0, count, _AT_ONCE):
        last = min(first + _AT_ONCE, count) - 1
        await connection.execute(statement, model, first, last, timeout=_TIMEOUT_SECONDS)
