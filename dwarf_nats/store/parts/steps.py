"""The hot path on one shard: flows are created, steps found, claimed and settled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.scheduling.values import NO_BUDGETS, Page, PageRequest, Share
from dwarf_nats.rules.settlement import SettleResult
from dwarf_nats.rules.steps import NewIds
from dwarf_nats.store.statements import compensation
from dwarf_nats.store.statements.backlog import Backlog, KeyBacklogs
from dwarf_nats.store.statements.claim import Claim, ClaimProbe
from dwarf_nats.store.statements.cohorts import no_ids
from dwarf_nats.store.statements.create import CreateFlows
from dwarf_nats.store.statements.lease import EXTEND_LEASE
from dwarf_nats.store.statements.peek import Peek
from dwarf_nats.store.statements.ready import PromoteDue
from dwarf_nats.store.statements.settle import Settle
from dwarf_nats.store.statements.stale import CLOSE_STALE, NOT_CANCELLED
from dwarf_nats.store.statements.state_refs import HELD
from dwarf_nats.store.statements.step_details import PROGRESS, ProgressRow, SaveProgress
from dwarf_nats.workflow.answer import Compensating, ErrorInfo
from dwarf_nats.workflow.limits import UNBOUNDED, UNLIMITED, Limits
from dwarf_nats.workflow.progress import read_progress
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import ClaimedStep, NewFlow
    from dwarf_nats.store.database import Database
    from dwarf_nats.store.parts.replicas import SqlReplicas
    from dwarf_nats.workflow.records import KeyBacklog, PriorityBacklog


class SqlSteps:
    """Implements `ports.StepStore`."""

    def __init__(self, database: Database, replicas: SqlReplicas) -> None:
        self.shard = replicas.shard
        self._database = database
        self._replicas = replicas

    @property
    def in_memory(self) -> bool:
        return self._database.in_memory

    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]:
        return await self._database.run(
            CreateFlows(flows=group, replica_id=self._replicas.replica_id, budget_ms=budget_ms)
        )

    async def peek(self, request: PageRequest, blocked_tasks: Collection[str] = ()) -> Page:
        return await self._database.read(Peek(request, blocked_tasks))

    async def promote_due(self, limit: int) -> int:
        return await self._database.run(PromoteDue(limit))

    async def claim(
        self, limit: int, budget_ms: int, shares: Sequence[Share], task_budgets: Mapping[str, int] = NO_BUDGETS
    ) -> list[ClaimedRow]:
        if not shares:
            return []
        return await self._database.run(
            Claim(
                limit=limit,
                replica_id=self._replicas.replica_id,
                budget_ms=budget_ms,
                shares=shares,
                task_budgets=task_budgets,
            )
        )

    async def claim_probe(self, url: str, budget_ms: int) -> ClaimedRow | None:
        return await self._database.run(ClaimProbe(url=url, replica_id=self._replicas.replica_id, budget_ms=budget_ms))

    async def settle(
        self, group: Sequence[Settlement], budget_ms: int, new_step: NewIds = no_ids, limits: Limits = UNLIMITED
    ) -> SettleResult:
        return await self._database.run(
            Settle(
                group=group,
                replica_id=self._replicas.replica_id,
                budget_ms=budget_ms,
                new_step=new_step,
                limits=limits,
                several_shards=self._replicas.known_shards > 1,
            )
        )

    async def extend_lease(self, step_id: int, lease_seq: int, lease_us: int) -> bool:
        return bool(await self._database.fetch(EXTEND_LEASE, step_id, lease_seq, lease_us))

    async def key_backlogs(self, priorities: Sequence[int]) -> Mapping[int, list[KeyBacklog]]:
        return await self._database.read_aside(KeyBacklogs(priorities)) if priorities else {}

    async def backlogs(self, priorities: int, steps: int, keys: int) -> list[PriorityBacklog]:
        return await self._database.read_aside(Backlog(priorities, steps, keys))

    async def ref_source(self, step_ids: Collection[int]) -> state_refs.RefSource:
        return state_refs.RefSource(await self._database.fetch(HELD, sorted(step_ids)) if step_ids else ())

    async def compensation(self, step: ClaimedStep) -> Compensating:
        compensated = await self._database.fetch(compensation.COMPENSATED, step.step_id)
        reasons = await self._database.fetch(compensation.REASON, step.flow.flow_id)
        if not compensated or not reasons:
            raise state_refs.DanglingRef(f"the step that step {step.public_id} compensates is gone")
        ((step_id, token, changes),), ((status, error, cancel_reason),) = compensated, reasons
        return Compensating(
            step_key=f"{self.shard}-{step_id}-{token}",
            changes=Raw(changes.encode()),
            error=ErrorInfo.from_stored(error) if status == Status.FAILED else None,
            cancel_reason=(cancel_reason or "") if status == Status.CANCELLED else None,
        )

    async def save_progress(self, rows: Sequence[tuple[int, int, str, int]]) -> set[int]:
        return await self._database.run(SaveProgress([ProgressRow(*row) for row in rows]))

    async def checkpoints(self, step_ids: Sequence[int]) -> dict[int, Raw]:
        rows = await self._database.fetch(PROGRESS, list(step_ids))
        found = {step_id: read_progress(text.encode(), 0, UNBOUNDED).data_json for step_id, text in rows}
        return {step_id: Raw(data) for step_id, data in found.items() if data is not None}

    async def close_stale(self, step_ids: Sequence[int]) -> None:
        await self._database.fetch(CLOSE_STALE, list(step_ids))

    async def cancelled_among(self, step_ids: Sequence[int]) -> list[int]:
        others = {step_id for (step_id,) in await self._database.fetch(NOT_CANCELLED, list(step_ids))}
        return [step_id for step_id in step_ids if step_id not in others]
