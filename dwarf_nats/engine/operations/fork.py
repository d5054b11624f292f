"""Copies of flows that have ended, which run on from one of their steps (O14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.ids import NoneLeft
from dwarf_nats.engine.operations.control import check_types, checked_overrides, flow_was_deleted, step_and_flow
from dwarf_nats.engine.projections import cohort_in, flow_key
from dwarf_nats.errors import Conflict
from dwarf_nats.rules import forking, rewinding, unmerged
from dwarf_nats.workflow.state import State, decode_state
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import checked_tags
from dwarf_nats.workflow.tags import stored as stored_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwarf_nats.engine.operations.new_flows import GivenState
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
    from dwarf_nats.telemetry.traces import WorkflowSpan
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.tags import Tags


class FlowForks:
    """Forks flows. `Engine` documents the method."""

    def __init__(self, placement: Placement, replica: Replica) -> None:
        self._placement = placement
        self._graphs = replica.graphs
        self._tokens = replica.tokens
        self._traces = replica.traces
        self._limits = replica.settings.limits()

    async def fork(self, step: str, overrides: GivenState, tags: Tags | None) -> str:
        given = None if tags is None else checked_tags(tags, "tags")
        shard, key = self._placement.locate(step, "step")
        fields = checked_overrides(overrides, self._limits)
        target, flow = await step_and_flow(shard, key)
        await check_types(self._graphs, shard.number, flow, fields)
        flows = await shard.store.flows.tree(flow.root_id)
        root = flows.get(flow.root_id)
        if root is None:
            raise flow_was_deleted(key)
        if not root.status.terminal:
            raise Conflict(f"the flow is {root.status}: only one that has ended can be forked")
        rewinding.refuse_compensation(target)
        steps = await shard.store.flows.complete_steps(list(flows))
        inside = [one for one in steps if one.flow_id == flow.flow_id]
        merged = await self._merged_again(shard.number, inside, target.step_id, fields, graph_digest=flow.graph_digest)
        await _check_unchanged(shard, key, root)
        forked = await self._copied(
            shard, flows=flows, steps=steps, target=target.step_id, overrides=fields, again=merged
        )
        self._limits.check_bytes(len(forked.target.state), "the state with these overrides")
        if given is not None:
            forked.root.tags = stored_tags(given)
        spans = self._begin_traces(shard, forked, root.trace)
        change = await shard.store.control.insert_fork(root, forked)
        for span in spans:
            span.end()
        _announce(shard, change)
        return flow_key(shard.number, forked.root)

    async def _merged_again(
        self, shard: int, steps: Sequence[StepRow], target: int, overrides: State, *, graph_digest: str
    ) -> unmerged.Again | None:
        """Return the input of a fan-in that could not be merged; `None` for any other step. `steps`: those of its flow."""
        by_id = {one.step_id: one for one in steps}
        step = by_id.get(target)
        spawn_id = None if step is None else unmerged.cohort_of(step, by_id)
        if step is None or spawn_id is None:
            return None
        spawn, members = cohort_in(steps, by_id[spawn_id], self._limits)
        return unmerged.merge_again(
            graph=await self._graphs.frozen(shard, graph_digest),
            node=step.node,
            spawn=spawn,
            members=members,
            state=decode_state(step.state),
            overrides=overrides,
            limits=self._limits,
        )

    async def _copied(
        self,
        shard: Shard,
        *,
        flows: Mapping[int, FlowRow],
        steps: Sequence[StepRow],
        target: int,
        overrides: State,
        again: unmerged.Again | None,
    ) -> Forked:
        """Copy the tree, with as many ids as it turns out to need."""
        while True:
            try:
                return forking.fork(
                    flows,
                    steps,
                    target,
                    overrides,
                    new_flow=lambda: forking.NewFlowId(shard.flow_ids.take(), self._tokens()),
                    new_step=shard.step_ids.new,
                    again=again,
                )
            except NoneLeft:
                await shard.flow_ids.ensure(len(flows))
                await shard.step_ids.ensure(len(steps))

    def _begin_traces(self, shard: Shard, forked: Forked, original: str) -> list[WorkflowSpan]:
        """Begin the trace of the copy, linked to the original's, with a span for each sub-workflow that runs (T2)."""
        span = self._traces.workflow(
            f"{shard.number}-{forked.root.flow_id}", forked.root.workflow, follows=[original] if original else []
        )
        if span is None:
            return []
        spans = [span]
        for flow in forked.flows:
            flow.trace = span.trace_context
            if flow is not forked.root and flow.status is Status.RUNNING:
                child = self._traces.workflow(
                    f"{shard.number}-{flow.flow_id}", flow.workflow, parent=span.trace_context
                )
                if child is not None:
                    flow.trace = child.trace_context
                    spans.append(child)
        return spans


async def _check_unchanged(shard: Shard, key: Key, root: FlowRow) -> None:
    """Raise `Conflict` if the tree has changed since its root was read.

    Operations on a flow that has ended change its root's row as well: if that is as it was, so is all that was read.
    """
    again = await shard.store.flows.by_id(root.flow_id)
    if again is None:
        raise flow_was_deleted(key)
    if again.updated_at != root.updated_at:
        raise Conflict("the flow was changed while it was being copied: ask again")


def _announce(shard: Shard, change: TreeChange) -> None:
    """Follow up on the transaction that inserted the copy: count and announce its flows, look for its steps."""
    for one in change.changed:
        shard.counters.flows_started.add(one.workflow)
    changed = [
        shard.announcer.change(one, status, one.updated_at)
        for one in change.changed
        for status in (Status.CREATED, Status.RUNNING)
    ]
    shard.announcer.controlled(change, changed)
