"""The check for a connection pooler before PostgreSQL that keeps no session; the engine needs one (PgBouncer: session mode)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from dwarf_nats.ports import Unusable

if TYPE_CHECKING:
    from dwarf_nats.store.dsn import Target

POOLER_PROBES = 3
"""Comparisons of two connections before a pooler is taken to keep sessions: one may hit the same process by chance."""
POOLER_PROBE_SECONDS = 5.0
"""Seconds that all comparisons may take."""


async def check(target: Target, connection: Any) -> None:
    """Raise `Unusable` if a connection's transactions run in sessions that it shares with others.

    Directly at PostgreSQL this is one question: the process that answers is the one that let us in.
    """
    try:
        async with connection.transaction():
            pid = await connection.fetchval("select pg_backend_pid()")
        if pid == connection.get_server_pid() or not await _shares(target, connection):
            return
    except (
        asyncpg.InvalidSQLStatementNameError,  # what was prepared is unknown: another session
        asyncpg.DuplicatePreparedStatementError,
    ):
        pass
    except asyncpg.PostgresError as error:
        if "not allowed in statement" not in str(error):
            raise
    raise Unusable(
        f"PostgreSQL at {target.label} is behind a connection pooler in transaction mode, which keeps no session: set it to"
        " session mode (PgBouncer: pool_mode = session), or connect to PostgreSQL directly"
    )


async def _shares(target: Target, one: Any) -> bool:
    """Say whether two connections are ever served by one process, or one of them by two."""
    other: Any = None
    try:
        async with asyncio.timeout(POOLER_PROBE_SECONDS):
            other = await target.connect({})
            seen: set[int] = set()
            for _ in range(POOLER_PROBES):
                async with one.transaction():
                    mine = await one.fetchval("select pg_backend_pid()")
                async with other.transaction():
                    theirs = await other.fetchval("select pg_backend_pid()")
                seen.add(mine)
                if mine == theirs or len(seen) > 1:
                    return True
            return False
    except TimeoutError:  # it has no session for a second connection: each has its own
        return False
    finally:
        if other is not None:
            other.terminate()
