"""How PostgreSQL would run a statement on tables with many rows."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from dwarf_nats.store.dialect import POSTGRES
from dwarf_nats.store.migrate import migrate_postgres

_FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id)
select n, 't', 'w', 'd' || n % 1000, 'completed', n, 't', 1, '', 1, '{}', '', '', '', 0, n, n, n
from generate_series(1, 20000) n
"""
_GRAPHS = "insert into dwarf_graphs (digest, body) select 'd' || n, '{}' from generate_series(1, 5000) n"


async def explained(dsn: str, sql: str, args: Sequence[str]) -> str:
    """The plan of a statement in a transaction that reads by index."""
    await migrate_postgres(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        if not await connection.fetchval("select count(*) from dwarf_flows"):
            await connection.execute(_FLOWS)
            await connection.execute(_GRAPHS)
            await connection.execute("analyze")
        async with connection.transaction():
            await connection.execute("set local enable_seqscan = off")
            await connection.execute(f"prepare it as {POSTGRES.text(sql)}")
            rows = await connection.fetch(f"explain execute it({', '.join(args)})")
    finally:
        await connection.close()
    return "\n".join(row[0] for row in rows)
