"""Permits and counts of limits, and the steps that wait for one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports.limits import LimitWaits
from dwarf_nats.rules.limiting import Count, Permit, Root
from dwarf_nats.store.commands import Course
from dwarf_nats.store.statements import limits
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.limiting import Denied, Exchanged, Over, Waiting, Want
    from dwarf_nats.rules.steps import ReadyStep
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.limit import Limit


class SqlLimits:
    """Implements `ports.LimitStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- permits, on shard 1

    async def exchange(self, over: Sequence[Over], wants: Sequence[Want], by_name: Mapping[str, Limit]) -> Exchanged:
        course = Course(lambda: limits.exchange(over, wants, by_name))
        return await self._database.transact_by_index(lambda tx: tx.run(course))

    async def counts(self, slots: Collection[str]) -> dict[str, tuple[Count, int]]:
        rows = await self._database.fetch_by_index(limits.COUNTS, sorted(slots))
        return {slot: (Count(running, reserved, tokens, at), now) for slot, running, reserved, tokens, at, now in rows}

    async def running(self) -> dict[str, int]:
        return {name: int(running) for name, running in await self._database.fetch(limits.RUNNING)}

    async def permits(self, after: str, number: int) -> list[Permit]:
        return [Permit(*row) for row in await self._database.fetch_by_index(limits.PERMITS_AFTER, after, number)]

    async def prune_counts(self, age_us: int, number: int) -> None:
        await self._database.fetch(limits.PRUNE_COUNTS, age_us, number)

    # -- steps that wait

    async def roots(self, flow_ids: Collection[int]) -> dict[int, Root]:
        found = (Root(*row) for row in await self._database.fetch_by_index(limits.ROOTS, sorted(flow_ids)))
        return {root.flow_id: root for root in found}

    async def park(self, denied: Sequence[Denied]) -> list[int]:
        course = Course(lambda: limits.park(denied))
        return await self._database.transact_by_index(lambda tx: tx.run(course))

    async def move(self, waiting: Sequence[Denied]) -> None:
        course = Course(lambda: limits.move(waiting))
        await self._database.transact_by_index(lambda tx: tx.run(course))

    async def give_back(self, steps: Sequence[tuple[int, int, bool]], delay_us: int) -> None:
        course = Course(lambda: limits.give_back(steps, delay_us))
        await self._database.transact_by_index(lambda tx: tx.run(course))

    async def heads(self, wanted: Mapping[str, int]) -> list[Waiting]:
        course = Course(lambda: limits.heads(wanted))
        return await self._database.transact_by_index(lambda tx: tx.run(course))

    async def unpark(self, step_ids: Sequence[int]) -> list[ReadyStep]:
        course = Course(lambda: limits.unpark(step_ids))
        return await self._database.transact_by_index(lambda tx: tx.run(course))

    async def release(self, name: str, number: int) -> tuple[int, list[ReadyStep]]:
        return await self._database.transact_by_index(lambda tx: limits.release(tx, name, number))

    async def waiting(self) -> dict[str, LimitWaits]:
        return {
            name: LimitWaits(int(steps), int(oldest_us))
            for name, steps, oldest_us in await self._database.fetch(limits.WAITING)
        }

    async def queues(self, after: tuple[str, str], number: int) -> list[tuple[str, str]]:
        rows = await self._database.fetch_by_index(limits.QUEUES_AFTER, *after, number)
        return [(name, slot) for name, slot in rows]

    async def clear_stale(self, after: int, number: int) -> int:
        return await self._database.transact_by_index(lambda tx: limits.clear_stale(tx, after, number))

    async def ended(self, permits: Sequence[Permit]) -> tuple[list[Permit], list[int]]:
        steps = sorted(permit.holder for permit in permits if not permit.of_flow)
        flows = sorted(permit.holder for permit in permits if permit.of_flow)
        states: dict[int, limits.StepState] = {}
        living: set[int] = set()
        if steps:
            found = await self._database.fetch_by_index(limits.STEP_STATES, steps)
            states = {one.step_id: one for one in (limits.StepState(*values) for values in found)}
        if flows:
            living = {flow_id for (flow_id,) in await self._database.fetch_by_index(limits.LIVING_FLOWS, flows)}
        over = [
            permit
            for permit in permits
            if (permit.holder not in living if permit.of_flow else limits.is_over(permit, states.get(permit.holder)))
        ]
        still = [one.step_id for one in states.values() if one.status == Status.PENDING and one.parked == Parked.LIMIT]
        return over, still
