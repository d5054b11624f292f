"""The operations on a deployment: health, breakers and the registry of graphs. A base of `Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.graphs import warnings
from dwarf_nats.engine.maintenance.health import shard_health
from dwarf_nats.workflow.audit import AuditQuery
from dwarf_nats.workflow.names import check_task_name

if TYPE_CHECKING:
    from dwarf_nats.engine.lifecycle import Lifecycle
    from dwarf_nats.engine.operations.all import Operations
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.replica_facts import Question, ReplicaFacts
    from dwarf_nats.rules.shard_policies import ShardPolicy
    from dwarf_nats.workflow.audit import AuditBegun, AuditNote, AuditRecord
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.limit import Limit, LimitInfo
    from dwarf_nats.workflow.records import GraphInfo, HoldInfo, ShardHealth, ShardInfo, TaskHealth
    from dwarf_nats.workflow.retention import RetentionInfo, RetentionPreview, RetentionRule


class Administration:
    """The operations of an engine that concern no single flow."""

    shards: dict[int, Shard]
    replica: Replica
    _lifecycle: Lifecycle
    _operations: Operations

    # -- retention

    async def put_retention(self, rule: RetentionRule) -> None:
        """Set a rule by which ended flows are removed, in place of the one of its name (M2). Raises `BadRequest`."""
        await self._operations.retention.put(rule)

    async def list_retention(self) -> list[RetentionInfo]:
        """Return the rules by name, with what they have removed and when they were last carried out (M2)."""
        return await self._operations.retention.list()

    async def delete_retention(self, name: str) -> None:
        """Remove a rule; flows that it has not removed stay (M2). Raises `NotFound`."""
        await self._operations.retention.delete(name)

    async def preview_retention(self, rule: RetentionRule) -> RetentionPreview:
        """Count what a rule would remove now: one with an age as it is, one without by its name (M2). Raises `NotFound`."""
        return await self._operations.retention.preview(rule)

    # -- limits

    async def put_limit(self, limit: Limit) -> None:
        """Set a limit of a task or workflow, in place of the one of its name (K1). Raises `BadRequest`."""
        await self._operations.limits.put(limit)

    async def list_limits(self) -> list[LimitInfo]:
        """Return the limits by name, with how many they count and how many wait (K1)."""
        return await self._operations.limits.list()

    async def delete_limit(self, name: str) -> None:
        """Remove a limit: what waits for it may begin (K1). Raises `NotFound`."""
        await self._operations.limits.delete(name)

    # -- health

    async def shard_info(self) -> list[ShardInfo]:
        """Return health and size of every shard (O16)."""
        return await self._operations.queries.shard_info()

    async def put_shard(self, number: int, *, cordoned: bool | None = None, weight: float | None = None) -> ShardPolicy:
        """Say whether a shard takes new flows, and its share of them; what is left out stays as it is (O17).

        A cordoned shard goes on with its flows. Raises `BadRequest` for the last one that is open.
        """
        return await self._operations.shard_policies.put(number, cordoned=cordoned, weight=weight)

    def health(self) -> Sequence[ShardHealth]:
        """Tell whether it does its duties to each shard, from what is known here: no database is asked."""
        return [shard_health(shard, self.replica.settings, self.replica.clock) for shard in self.shards.values()]

    def dead_jobs(self) -> Sequence[str]:
        """Return the jobs of its own, beside those of the shards, that have ended and should not."""
        return self.replica.fetcher.dead_jobs() if self._lifecycle.ready else ()

    def facts(self, question: Question) -> ReplicaFacts:
        """Tell another replica what this one knows of steps and tasks: the other end of the port `Peers` (Q2)."""
        return self._operations.lookup.facts(question)

    async def breaker_tripped(self, task: str) -> bool:
        """Tell whether the breaker of a task, by its url or subject, is tripped somewhere in the deployment (O16)."""
        check_task_name(task)
        return await self.replica.backpressure.is_tripped(task)

    def task_health(self) -> Sequence[TaskHealth]:
        """Return the tasks this replica holds back, by url: what their valves allow, and why their breakers are tripped."""
        return self.replica.backpressure.task_health()

    # -- the audit trail

    async def begin_audit(self, note: AuditNote) -> AuditBegun:
        """Record an operation that is about to be carried out: its outcome is unknown until it is completed (M3)."""
        return await self.replica.audit.begin(note)

    async def complete_audit(self, begun: AuditBegun, note: AuditNote) -> None:
        """Record how an operation ended that was begun (M3)."""
        await self.replica.audit.complete(begun, note)

    async def record_audit(self, note: AuditNote) -> None:
        """Record an operation; returns when the record is written, or soon if its database is away (M3)."""
        await self.replica.audit.record([note])

    async def list_audit(self, query: AuditQuery | None = None, cursor: str = "") -> tuple[list[AuditRecord], str]:
        """Return records of operations that steered, newest first, and the cursor of the next page, empty on the last (M3)."""
        return await self.replica.audit.find(query if query is not None else AuditQuery(), cursor)

    # -- holds

    async def put_hold(
        self, *, task: str = "", workflow: str = "", reason: str = "", until: int | None = None
    ) -> HoldInfo:
        """Stop a task, by its url, or a workflow: their steps are not dispatched until the hold is deleted, or until `until`.

        What runs goes on, and flows may be created. A hold that is there is changed and keeps its age (K2). Raises
        `BadRequest`.
        """
        return await self._operations.holds.put(task, workflow, reason=reason, until=until)

    async def list_holds(self) -> list[HoldInfo]:
        """Return the holds, the oldest first, and how many steps each keeps."""
        return await self._operations.holds.list()

    async def delete_hold(self, *, task: str = "", workflow: str = "") -> None:
        """End a hold: the steps it kept go on. Raises `NotFound`, `BadRequest`."""
        await self._operations.holds.delete(task, workflow)

    # -- graphs

    async def put_graph(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name. `BadRequest` if it is not sound."""
        return await self.replica.graphs.put(graph)

    async def validate_graph(self, graph: Graph) -> list[str]:
        """Return what looks like a mistake in it (G11). `BadRequest` if it is not sound, `TooLarge` beyond the limits."""
        return await warnings(await self.replica.graphs.check(graph))

    async def get_graph(self, name: str) -> Graph:
        """Return the registered graph; `NotFound`."""
        return await self.replica.graphs.get(name)

    async def delete_graph(self, name: str) -> None:
        """Forget a registered graph; flows made of it keep theirs. `NotFound`."""
        await self.replica.graphs.delete(name)

    async def list_graphs(self) -> list[GraphInfo]:
        """Return the registered graphs, by name."""
        return await self.replica.graphs.list()
