"""Operations that steer flows which exist: pauses, the end, running again, copies (O10-O14)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from dwarf_nats.engine.ids import NoneLeft
from dwarf_nats.engine.operations.create import check_text
from dwarf_nats.engine.projections import cohort_in, final_state_of, flow_key, outcome_of
from dwarf_nats.errors import BadRequest, Conflict, NotFound, TooLarge
from dwarf_nats.rules import forking, unmerged
from dwarf_nats.workflow.limits import Limits, over
from dwarf_nats.workflow.names import MAX_NAME
from dwarf_nats.workflow.state import Raw, State, check_json, decode_state, encode_state, encode_value, state_from
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.telemetry.traces import Traces, Workflow
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.keys import Key, Tokens
    from dwarf_nats.workflow.records import StatusChanged

Overrides = Mapping[str, Any] | bytes | State | None


class Steering:
    """Each operation is one transaction of the store, and what follows it."""

    def __init__(self, settings: EngineSettings, graphs: GraphBook, tokens: Tokens, traces: Traces) -> None:
        self._traces = traces
        self._limits = settings.limits()
        self._graphs = graphs
        self._tokens = tokens

    async def cancel(self, shard: Shard, key: Key, reason: str) -> None:
        check_text(reason, "reason")
        if (size := len(reason.encode())) > self._limits.max_error_bytes:
            remedy = "say it shorter"
            raise TooLarge(over(f"the reason is {size} bytes", "max_error_bytes", self._limits.max_error_bytes, remedy))
        row = await shard.store.flow(key)
        result = await with_final_states(
            self._graphs,
            shard.number,
            lambda final_state: shard.store.cancel(row, reason, final_state),
            self._limits,
        )
        shard.steered(result, ended(shard, result))

    async def resume(self, shard: Shard, key: Key, data: Any) -> None:
        text = bytes(data) if isinstance(data, Raw) else encode_value(data, "resume data")
        self._limits.check_bytes(len(text), "the resume data")
        check_json(text, "resume data", self._limits.max_depth)
        row = await shard.store.flow(key)
        self._run_again(shard, await shard.store.resume(row, text.decode(), None))

    async def resume_break(self, shard: Shard, key: Key, overrides: Overrides) -> None:
        fields = self._overrides(overrides)
        row = await shard.store.flow(key)
        self._run_again(shard, await shard.store.resume(row, None, fields, self._limits))

    async def break_before(self, shard: Shard, key: Key, task: str, *, enabled: bool) -> None:
        if not 0 < len(task) <= MAX_NAME:
            raise BadRequest(f"task must be the name or url of a node, 1 to {MAX_NAME} characters, got {len(task)}")
        check_text(task, "task")
        row = await shard.store.flow(key)
        await shard.store.break_before(row, task, enabled=enabled)

    async def delete(self, shard: Shard, key: Key) -> None:
        row = await shard.store.flow(key)
        only_roots(shard.number, row, "deleted")
        await shard.store.delete(key.id)
        shard.waiters.wake(key.id, None)

    async def restart(self, shard: Shard, key: Key, overrides: Overrides) -> None:
        fields = self._overrides(overrides)
        row = await shard.store.flow(key)
        only_roots(shard.number, row, "restarted")
        self._run_again(shard, await shard.store.restart(row, fields, self._limits), anew=True)

    async def restart_from(self, shard: Shard, key: Key, overrides: Overrides) -> None:
        fields = self._overrides(overrides)
        step, flow = await _step_and_flow(shard, key)
        result = await with_graphs(
            self._graphs,
            shard.number,
            lambda graph_of: shard.store.restart_from(step, flow, fields, graph_of, self._limits),
        )
        self._run_again(shard, result, anew=True)

    async def fork(self, shard: Shard, key: Key, overrides: Overrides) -> str:
        fields = self._overrides(overrides)
        step, flow = await _step_and_flow(shard, key)
        flows = await shard.store.tree(flow.root_id)
        root = flows.get(flow.root_id)
        if root is None:
            raise _deleted(key)
        if not root.status.terminal:
            raise Conflict(f"the flow is {root.status}: only one that has ended can be forked")
        steps = await shard.store.steps(list(flows), whole=True)
        merged = await self._merged_again(
            shard, flow, [one for one in steps if one.flow_id == flow.flow_id], step, fields
        )
        # What steers a flow that has ended changes its root's row as well: if that is as it was, so is all that was read.
        again = await shard.store.flow_by_id(root.flow_id)
        if again is None:
            raise _deleted(key)
        if again.updated_at != root.updated_at:
            raise Conflict("the flow was changed while it was being copied: ask again")
        while True:
            try:
                forked = forking.fork(
                    flows, steps, step.step_id, fields,
                    lambda: (shard.flow_ids.take(), self._tokens()), lambda: (shard.step_ids.take(), self._tokens()),
                    merged,
                )  # fmt: skip
            except NoneLeft:
                await shard.flow_ids.ensure(len(flows))
                await shard.step_ids.ensure(len(steps))
            else:
                break
        self._limits.check_bytes(len(forked.target.state), "the state with these overrides")
        spans = self._trace(shard, forked, root.trace)
        result = await shard.store.insert_fork(root, forked)
        for span in spans:
            span.end()
        for one in result.changed:
            shard.counters.flows_started.add(one.workflow)
        changed = [
            shard.change(one.flow_id, one.thread_id, one.workflow, status, one.updated_at)
            for one in result.changed
            for status in (Status.CREATED, Status.RUNNING)
        ]
        shard.steered(result, changed)
        return flow_key(shard.number, forked.root)

    async def _merged_again(
        self, shard: Shard, flow: FlowRow, steps: list[StepRow], target: StepRow, overrides: State
    ) -> unmerged.Again | None:
        """The input of a fan-in that could not be merged; nothing for any other step."""
        by_id = {one.step_id: one for one in steps}
        step = by_id.get(target.step_id)
        spawn_id = None if step is None else unmerged.cohort_of(step, by_id)
        if step is None or spawn_id is None:
            return None
        spawn, members = cohort_in(steps, by_id[spawn_id], self._limits)
        graph = await self._graphs.frozen(shard.number, flow.graph_digest)
        return unmerged.merge_again(graph, step.node, spawn, members, decode_state(step.state), overrides, self._limits)

    def _trace(self, shard: Shard, forked: Forked, original: str) -> list[Workflow]:
        """The copy has a trace of its own, linked to the original's, with a span for each sub-workflow that runs (T2)."""
        span = self._traces.workflow(
            f"{shard.number}-{forked.root.flow_id}", forked.root.workflow, follows=[original] if original else []
        )
        if span is None:
            return []
        spans = [span]
        for flow in forked.flows:
            flow.trace = span.carried
            if flow is not forked.root and flow.status is Status.RUNNING:
                below = self._traces.workflow(f"{shard.number}-{flow.flow_id}", flow.workflow, parent=span.carried)
                if below is not None:
                    flow.trace = below.carried
                    spans.append(below)
        return spans

    def _run_again(self, shard: Shard, result: TreeChange, *, anew: bool = False) -> None:
        """`anew`: not by a resume."""
        if anew:
            for one in result.changed:
                if one.status is Status.RUNNING:
                    shard.counters.flows_started.add(one.workflow)
        changed: list[StatusChanged] = [
            shard.change(one.flow_id, one.thread_id, one.workflow, Status.RUNNING, one.updated_at)
            for one in result.changed
        ]
        shard.steered(result, changed)

    def _overrides(self, overrides: Overrides) -> State:
        fields = state_from(overrides, "overrides", self._limits.max_depth)
        self._limits.check_bytes(len(encode_state(fields)), "the overrides")
        return fields


def ended(shard: Shard, result: TreeChange) -> list[StatusChanged]:
    """Wake who waits for the flows that stopped, tell who asked to be told; the changes."""
    return [
        shard.stopped(one.flow_id, one.thread_id, one.notify, outcome_of(shard.number, one), one.updated_at)
        for one in result.changed
    ]


async def with_final_states(
    graphs: GraphBook,
    shard: int,
    work: Callable[[Callable[[FlowRow, list[StepRow]], bytes]], Awaitable[TreeChange]],
    limits: Limits,
) -> TreeChange:
    """Do `work`, a transaction that makes final states of steps; once more whenever a graph for that was not at hand."""
    return await with_graphs(
        graphs,
        shard,
        lambda graph_of: work(lambda flow, steps: final_state_of(graph_of(flow), list(steps), limits)),
    )


async def with_graphs(
    graphs: GraphBook, shard: int, work: Callable[[Callable[[FlowRow], Graph]], Awaitable[TreeChange]]
) -> TreeChange:
    """Do `work`, a transaction that asks for graphs; once more whenever one was not at hand."""
    known: dict[str, Graph] = {}

    def graph_of(flow: FlowRow) -> Graph:
        graph = known.get(flow.graph_digest)
        if graph is None:
            raise _GraphWanted(flow.graph_digest)
        return graph

    while True:
        try:
            return await work(graph_of)
        except _GraphWanted as wanted:
            known[wanted.digest] = await graphs.frozen(shard, wanted.digest)


class _GraphWanted(Exception):
    """A transaction needs a graph that is not at hand."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


async def _step_and_flow(shard: Shard, key: Key) -> tuple[StepRow, FlowRow]:
    step = await shard.store.step(key)
    flow = await shard.store.flow_by_id(step.flow_id)
    if flow is None:
        raise _deleted(key)
    return step, flow


def _deleted(key: Key) -> NotFound:
    return NotFound(f"no step {key.public_id}: its flow was deleted this moment")


def only_roots(shard: int, flow: FlowRow, verb: str) -> None:
    """Raise `BadRequest` for a flow that another one called (semantics: keys-of-child-flows)."""
    if flow.surgraph_flow_id is not None:
        raise BadRequest(
            f"flow {shard}-{flow.flow_id} is a sub-workflow of flow {shard}-{flow.root_id} and cannot be {verb} by itself:"
            f" use the key of {shard}-{flow.root_id}"
        )
