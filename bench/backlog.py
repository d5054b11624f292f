"""A backlog under the load: so many flows of the same workflow pending in the same band, in one fairness key or many (C4).

The load has a key of its own that weighs as much as those of the backlog together, so it is served in turn with it. What
counts is what the replica executes in all while the load lasts, against the same load without a backlog.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import asyncpg

from dwarf_nats.workflow.limit import Limit
from dwarf_nats.workflow.status import Parked

from .arms import Servers, ServiceArm, Sides
from .result import Figures
from .shapes import ADD, ONE, WORKFLOW

FIRST_ID = 10**9
"""Far beyond the ids that the sequences give."""


@dataclass(slots=True, frozen=True)
class Backlog:
    """Lay down flows with their entry step pending, spread over a number of fairness keys."""

    flows: int
    keys: int = 1
    limit: int = 0
    """If there is one: its steps are of a task of which no more than so many run at once, and wait for that limit."""

    @property
    def name(self) -> str:
        """The arm's."""
        if not self.flows:
            return "no backlog"
        keys = f" in {self.keys:,} keys" if self.keys > 1 else ""
        return f"{self.flows:,}{keys}" + (f" behind a limit of {self.limit}" if self.limit else "")


BACKLOGS = (Backlog(0), Backlog(1_000), Backlog(100_000), Backlog(1_000_000), Backlog(1_000_000, 1_000))
LIMITED = (Backlog(0), Backlog(1_000_000), Backlog(1_000_000, limit=1), Backlog(1_000_000, limit=256))
LIMIT = "bench"

# Copies of a flow that the warm-up made. Each is due a microsecond after the one before, all before the load.
FLOWS = """
insert into dwarf_flows select f.* from generate_series(0, $1::int - 1) n
cross join lateral (select * from jsonb_populate_record((select t from dwarf_flows t where workflow = $3 limit 1),
  jsonb_build_object('flow_id', $4::bigint + n, 'thread_id', $4::bigint + n, 'root_id', $4::bigint + n,
    'status', 'running', 'final_state', null, 'fairness_weight', 1, 'fairness_key', 'tenant ' || n % $2::int))) f
"""
STEPS = """
insert into dwarf_steps select s.* from generate_series(0, $1::int - 1) n
cross join lateral (select * from jsonb_populate_record(
  (select t from dwarf_steps t join dwarf_flows using (flow_id) where workflow = $3 and depth = 1 limit 1),
  jsonb_build_object('flow_id', $4::bigint + n, 'step_id', $4::bigint + n, 'status', 'pending', 'changes', '{}',
    'lease_seq', 0, 'started_at', null, 'successor_id', null, 'fairness_weight', 1, 'fairness_key', 'tenant ' || n % $2::int,
    'not_before', $5::bigint + n, 'updated_at', $5::bigint + $1, 'url', $6::text, 'parked', $7::int))) s
"""
WAITS = """
insert into dwarf_limit_waits (step_id, name, slot, because, priority, fairness_key, turn, since)
select step_id, $1, $1 || '/', 'limit', priority, fairness_key, not_before, updated_at from dwarf_steps
where parked = $2::int and step_id >= $3::bigint
"""
DEFINE = """
insert into dwarf_definitions (kind, name, body, updated_at) values ('limit', $1, $2, 0) on conflict do nothing
"""
CHANGED = "update dwarf_deployment set definitions = definitions + 1"


PENDING = "select count(*) from dwarf_steps where status = 'pending'"


class BacklogArm(ServiceArm):
    """The service on PostgreSQL with a backlog. Its replica runs while it is measured only, else it would serve it out."""

    def __init__(self, backlog: Backlog, servers: Servers, sides: Sides) -> None:
        super().__init__("postgresql", servers, sides, "--weight", str(backlog.keys), name=backlog.name)
        self._backlog = backlog
        self._next_id = FIRST_ID

    async def warm_up(self, concurrency: int) -> None:
        """As ever, and then the backlog."""
        await super().warm_up(concurrency)
        await self._replicas[0].__aexit__(None, None, None)
        await self._lay_down()

    async def _lay_down(self) -> None:
        """Have as much backlog as there should be."""
        connection = await asyncpg.connect(self.dsns[0], command_timeout=600)
        try:
            missing = self._backlog.flows - await connection.fetchval(PENDING)
            if missing > self._backlog.flows // 2:
                now = time.time_ns() // 1000 - missing
                args = (missing, self._backlog.keys, WORKFLOW, self._next_id)
                await connection.execute(FLOWS, *args)
                if limit := self._backlog.limit:
                    await connection.execute(STEPS, *args, now, ONE, Parked.LIMIT.value)
                    await connection.execute(WAITS, LIMIT, Parked.LIMIT.value, self._next_id)
                    await connection.execute(DEFINE, LIMIT, Limit(name=LIMIT, task=ONE, concurrency=limit).body())
                    await connection.execute(CHANGED)
                    await connection.execute("vacuum analyze dwarf_limit_waits")
                else:
                    await connection.execute(STEPS, *args, now, ADD, Parked.NO.value)
                for command in ("vacuum analyze dwarf_flows", "vacuum analyze dwarf_steps", "checkpoint"):
                    await connection.execute(command)
                self._next_id += missing
        finally:
            await connection.close()

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run so many flows; the steps are all that were executed meanwhile."""
        if self._replicas[0].running:
            return await super().measure(concurrency, flows)
        await self._lay_down()
        async with self._replicas[0]:
            await super().warm_up(concurrency)
            found = await super().measure(concurrency, flows)
        assert found.group is not None
        assert found.groups_per_step is not None
        groups = found.groups_per_step * found.steps
        steps = round(found.group * groups) - flows  # members of groups are flows created and steps ended
        share = found.steps / steps
        return Figures(
            found.flows, steps, found.seconds, steps / found.seconds, found.p50_ms, found.p99_ms, found.group,
            groups / steps, {part: round(us * share, 2) for part, us in found.cpu_us.items()},
        )  # fmt: skip
