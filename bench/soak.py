"""The same load for minutes: what must stay flat stays flat.

Flows are marked to be deleted once they have completed, so after two minutes the tables hold what comes in two minutes, and
what is deleted becomes room for what comes, if autovacuum keeps up. Each minute is a round.
"""

from __future__ import annotations

import time

import asyncpg

from .arms import Servers, ServiceArm, Sides
from .result import Figures

_MINUTE = 60.0
_CHUNK_SECONDS = 10.0
_TABLES = """
select sum(pg_total_relation_size(relid))::float8 / 1048576 as tables_mib,
  100.0 * sum(n_dead_tup) / greatest(sum(n_live_tup + n_dead_tup), 1) as dead_rows_percent,
  sum(autovacuum_count)::float8 as vacuums,
  (select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid())::float8 as connections
from pg_stat_user_tables where relname in ('dwarf_steps', 'dwarf_flows')
"""


class SoakArm(ServiceArm):
    """One replica under a load that goes on."""

    def __init__(self, servers: Servers, sides: Sides) -> None:
        super().__init__("postgresql", servers, sides, "--leaving")

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run for `flows` seconds, a round for each minute but the last, which is returned."""
        end = time.monotonic() + flows
        per_chunk = 100 * concurrency
        while True:
            found = await self._minute(concurrency, per_chunk, min(_MINUTE, end - time.monotonic()))
            per_chunk = max(concurrency, round(found.flows / found.seconds * _CHUNK_SECONDS))
            if time.monotonic() + _CHUNK_SECONDS > end:
                return found
            self.figures.rounds.append(found)

    async def _minute(self, concurrency: int, per_chunk: int, seconds: float) -> Figures:
        start = time.monotonic()
        chunks = []
        while time.monotonic() - start < seconds:
            chunks.append(await super().measure(concurrency, per_chunk))
        found = chunks[-1]
        found.flows, found.steps = sum(one.flows for one in chunks), sum(one.steps for one in chunks)
        found.seconds = sum(one.seconds for one in chunks)
        found.steps_per_s = found.steps / found.seconds
        found.measures = {"rss_mib": await self.rss_kib() / 1024, **await self._tables()}
        found.measures["asyncio_tasks"] = sum([float((await one.ask())["tasks"]) for one in self._replicas])
        return found

    async def _tables(self) -> dict[str, float]:
        connection = await asyncpg.connect(self.dsns[0])
        try:
            return {name: float(value) for name, value in (await connection.fetchrow(_TABLES)).items()}
        finally:
            await connection.close()

    async def warm_up(self, concurrency: int) -> None:
        """A few flows."""
        await super().measure(concurrency, concurrency)
