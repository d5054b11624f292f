"""An engine small enough to see through, for tests of the endpoints themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from dwarf_nats.actor import current_actor
from dwarf_nats.errors import Conflict, NotFound, TimedOut
from dwarf_nats.rules.shard_policies import ShardPolicy
from dwarf_nats.workflow.audit import AuditBegun, AuditNote, AuditQuery, AuditRecord
from dwarf_nats.workflow.bulk import Bulk, BulkFailure, BulkPage
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.limit import Limit, LimitInfo
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import (
    FlowCounts,
    FlowSummary,
    GraphInfo,
    HoldInfo,
    Outcome,
    ShardInfo,
    Step,
    TaskHealth,
)
from dwarf_nats.workflow.schedules import Schedule, ScheduleInfo
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue

KEY, STEP = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"


class StubEngine:
    """Notes what it was asked. Waits last until `stopped` is set. `outcome` is what the reading operations return."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.actors: list[str] = []
        self.notes: list[AuditNote] = []
        self.begun: list[AuditNote] = []
        self.called = asyncio.Event()
        self.stopped = asyncio.Event()
        self.waiting = 0
        self.outcome = Outcome(KEY, "order", Status.RUNNING)
        self.graphs: dict[str, Graph] = {}
        self.failure: Exception | None = None

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        self.actors.append(current_actor())
        self.called.set()
        if self.failure is not None:
            raise self.failure

    async def create(
        self, workflow: str | Graph, state: bytes | None, options: FlowOptions | None, /, *, start: bool = False
    ) -> str:
        self._note("create", workflow, state, options, start)
        return KEY

    async def create_task(
        self, task: str, state: bytes | None, options: FlowOptions | None, /, *, start: bool = False
    ) -> str:
        self._note("create_task", task, state, options, start)
        return KEY

    async def start(self, flow_key: str, notify: str = "", /) -> None:
        self._note("start", flow_key, notify)

    async def _wait(self, timeout: float | None) -> bool:
        self.waiting += 1
        try:
            await asyncio.wait_for(self.stopped.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def run(
        self, workflow: str | Graph, state: bytes | None, options: FlowOptions | None, timeout: float | None, /
    ) -> Outcome:
        self._note("run", workflow, state, options, timeout)
        if not await self._wait(timeout):
            raise TimedOut("the flow goes on", flow_key=KEY)
        return self.outcome

    async def await_(self, flow_key: str, timeout: float | None, /) -> Outcome:
        self._note("await", flow_key, timeout)
        if not await self._wait(timeout):
            raise TimedOut("the flow goes on")
        return self.outcome

    async def poll(self, flow_key: str, timeout: float | None, /) -> Outcome:
        self._note("poll", flow_key, timeout)
        await self._wait(timeout)
        return self.outcome

    async def snapshot(self, flow_key: str, /) -> Outcome:
        self._note("snapshot", flow_key)
        parse_key(flow_key)
        return self.outcome

    async def fingerprint(self, flow_key: str, /) -> tuple[str, Status]:
        self._note("fingerprint", flow_key)
        return "abc", Status.RUNNING

    async def history_page(self, flow_key: str, limit: int, cursor: str, /) -> tuple[list[Step], str]:
        self._note("history", flow_key, limit, cursor)
        return [
            Step(
                step_key=STEP,
                step_id=43,
                depth=1,
                task="charge",
                attempt=0,
                status=Status.COMPLETED,
                created_at=0,
                updated_at=0,
            )
        ], ""

    async def mermaid(self, flow_key: str, _fits: Callable[[str], bool], /) -> str:
        self._note("mermaid", flow_key)
        return "flowchart TD\n"

    async def flow_graph(self, flow_key: str, /) -> Graph:
        self._note("flow_graph", flow_key)
        return Graph("greet")

    async def step(self, step_key: str, /) -> Step:
        self._note("step", step_key)
        return Step(
            step_key=STEP,
            step_id=43,
            depth=1,
            task="charge",
            attempt=0,
            status=Status.COMPLETED,
            created_at=0,
            updated_at=0,
            state_json=b'{"a":1}',
            changes_json=b"{}",
        )

    async def list(self, query: Query, cursor: str = "", /) -> tuple[list[FlowSummary], str]:
        self._note("list", query, cursor)
        return [
            FlowSummary(
                flow_key=KEY,
                thread_key=KEY,
                workflow="order",
                status=Status.RUNNING,
                created_at=0,
                updated_at=0,
                priority=100,
            )
        ], "" if cursor else "next"

    async def count(self, query: Query, /) -> FlowCounts:
        self._note("count", query)
        return FlowCounts({Status.FAILED: 3})

    async def purge(self, query: Query, /) -> int:
        self._note("purge", query)
        return 3

    async def bulk(self, order: Bulk, /) -> BulkPage:
        self._note("bulk", order)
        if order.dry_run:
            return BulkPage(matched=3, sample=[])
        return BulkPage(matched=3, done=2, failed=[BulkFailure("1-42", 409, "no" * 200)] * 1, cursor="next")

    async def delete(self, flow_key: str, /) -> None:
        self._note("delete", flow_key)
        raise Conflict(f"flow {flow_key} is running: cancel it first")

    async def cancel(self, flow_key: str, reason: str = "", /) -> None:
        self._note("cancel", flow_key, reason)

    async def resume(self, flow_key: str, data: Any = None, /, *, step: str = "") -> None:
        self._note("resume", flow_key or step, bytes(data))

    async def resume_break(self, flow_key: str, overrides: bytes | None = None, /, *, step: str = "") -> None:
        self._note("resume_break", flow_key or step, overrides)

    async def break_before(self, flow_key: str, task: str, enabled: bool = True, /) -> None:
        self._note("break_before", flow_key, task, enabled)

    async def restart(self, flow_key: str, overrides: bytes | None = None, /) -> None:
        self._note("restart", flow_key, overrides)

    async def restart_from(self, step_key: str, overrides: bytes | None = None, /) -> None:
        self._note("restart_from", step_key, overrides)

    async def fork(self, step_key: str, overrides: bytes | None = None, tags: Tags | None = None, /) -> str:
        self._note("fork", step_key, overrides, tags)
        return KEY

    async def tag(self, flow_key: str, changes: TagChanges, /) -> dict[str, TagValue]:
        self._note("tag", flow_key, changes)
        return {name: value for name, value in changes.items() if value is not None}

    async def continue_(
        self, thread_key: str, state: bytes | None, options: FlowOptions | None, /, *, start: bool = False
    ) -> str:
        self._note("continue", thread_key, state, options, start)
        return KEY

    async def begin_audit(self, note: AuditNote, /) -> AuditBegun:
        self.begun.append(note)
        return AuditBegun(0, len(self.begun))

    async def complete_audit(self, begun: AuditBegun, note: AuditNote, /) -> None:
        assert begun.number == len(self.begun)
        self.notes.append(note)

    async def record_audit(self, note: AuditNote, /) -> None:
        self.notes.append(note)

    async def list_audit(self, query: AuditQuery, cursor: str, /) -> tuple[list[AuditRecord], str]:  # type: ignore[valid-type]
        self._note("list_audit", query, cursor)
        return [], ""

    async def put_schedule(self, schedule: Schedule, /) -> ScheduleInfo:
        self._note("put_schedule", schedule)
        return ScheduleInfo(schedule=schedule)

    async def get_schedule(self, name: str, /) -> ScheduleInfo:
        self._note("get_schedule", name)
        return ScheduleInfo(schedule=Schedule(name=name, workflow="report", cron="0 3 * * *"))

    async def list_schedules(
        self, limit: int | None, cursor: str, workflow: str | None, /
    ) -> tuple[Sequence[ScheduleInfo], str]:
        self._note("list_schedules", limit, cursor, workflow)
        return [], ""

    async def delete_schedule(self, name: str, /) -> None:
        self._note("delete_schedule", name)

    async def pause_schedule(self, name: str, /) -> ScheduleInfo:
        return await self.get_schedule(name)

    async def resume_schedule(self, name: str, /) -> ScheduleInfo:
        return await self.get_schedule(name)

    async def trigger_schedule(self, name: str, request: str | None, /) -> ScheduleInfo:
        self._note("trigger_schedule", name, request)
        return await self.get_schedule(name)

    async def backfill_schedule(self, name: str, first: int, last: int, /) -> int:
        self._note("backfill_schedule", name, first, last)
        return 7

    async def shard_info(self) -> list[ShardInfo]:  # type: ignore[valid-type]
        return [ShardInfo(shard=1, error="", latency_ms=0.5, flows=2, steps=3)]

    async def breaker_tripped(self, task: str, /) -> bool:
        self._note("breaker", task)
        return False

    def task_health(self) -> list[TaskHealth]:  # type: ignore[valid-type]
        return [
            TaskHealth(url="charge", rate=12.34567),
            TaskHealth(
                url="ship",
                rate=None,
                tripped_at=1_700_000_000_000_000,
                cause="no_responders",
                probes=2,
                probe_at=1_700_000_000_400_000,
            ),
        ]

    async def put_graph(self, graph: Graph, /) -> GraphInfo:
        graph.validate()
        if self.failure is not None:
            raise self.failure
        self.graphs[graph.name] = graph
        return GraphInfo(graph.name, graph.digest(), 0)

    async def validate_graph(self, graph: Graph, /) -> list[str]:
        graph.validate()
        return graph.warnings()

    async def get_graph(self, name: str, /) -> Graph:
        if name not in self.graphs:
            raise NotFound(f"no graph {name}")
        return self.graphs[name]

    async def delete_graph(self, name: str, /) -> None:
        if self.failure is not None:
            raise self.failure
        del self.graphs[name]

    async def put_limit(self, limit: Limit, /) -> None:
        self._note("put_limit", limit)

    async def list_limits(self) -> list[LimitInfo]:  # type: ignore[valid-type]
        self._note("list_limits")
        return []

    async def delete_limit(self, name: str, /) -> None:
        self._note("delete_limit", name)

    async def list_graphs(self) -> list[GraphInfo]:  # type: ignore[valid-type]
        return [GraphInfo(one.name, one.digest(), 0) for one in self.graphs.values()]

    async def put_hold(
        self, *, task: str = "", workflow: str = "", reason: str = "", until: int | None = None
    ) -> HoldInfo:
        self._note("put_hold", task, workflow, reason, until)
        return HoldInfo(task=task, workflow=workflow, reason=reason, since=0, until=until, actor=current_actor())

    async def list_holds(self) -> list[HoldInfo]:  # type: ignore[valid-type]
        return []

    async def delete_hold(self, *, task: str = "", workflow: str = "") -> None:
        self._note("delete_hold", task, workflow)

    async def put_shard(
        self, number: int, /, *, cordoned: bool | None = None, weight: float | None = None
    ) -> ShardPolicy:
        self._note("put_shard", number, cordoned, weight)
        return ShardPolicy(cordoned=bool(cordoned), weight=1.0 if weight is None else weight)
