"""What must hold of any flow that is at rest, whatever its graph: read from its rows alone.

Nothing here is taken from the engine but the graph's own words: the merge, the reducers and what follows what are told again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dwarf_nats.workflow.graph import Graph
from tests.chaos.rows import Row, Shard, State, merge
from tests.model.values import CannotMerge, reduced

OVER = ("completed", "failed", "cancelled")


def problems(shard: Shard, flow: Row, overrides: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one flow. `overrides` may have been given at a breakpoint."""
    yield from _at_rest(shard, flow)
    all_steps = shard.of_flow.get(flow.flow_id, [])
    steps = {step.step_id: step for step in all_steps if step.compensates is None}
    look = Look(flow, steps, shard.graphs[flow.graph_digest], overrides)
    look.undoing = sorted(
        (step for step in all_steps if step.compensates is not None), key=lambda step: int(step.step_id)
    )
    yield from look.problems()
    yield from _family(shard, flow)


def _at_rest(shard: Shard, flow: Row) -> Iterator[str]:
    """Nothing is pending, running, parked or leased."""
    if flow.status not in OVER:
        yield f"the flow is {flow.status}"
    if flow.final_state is None:
        yield "the flow has no final state"
    if flow.compensating is not None:
        yield f"the flow is still to be {flow.compensating}"
    if (flow.error is not None) != (flow.status == "failed"):
        yield f"the flow is {flow.status} with error {flow.error}"
    for step in shard.of_flow.get(flow.flow_id, []):
        if step.status not in OVER:
            yield f"step {step.step_id} {step.node} is {step.status} (parked {step.parked}, held by {step.claimed_by})"
        elif step.parked or step.claimed_by is not None or step.lease_expires is not None:
            yield f"step {step.step_id} {step.node} is {step.status}, and parked {step.parked} or held by {step.claimed_by}"


def _family(shard: Shard, flow: Row) -> Iterator[str]:
    """A child has a parent and one step that waited for it; a step has one child at most (P1, B5)."""
    if flow.surgraph_flow_id is None:
        if flow.root_id != flow.flow_id:
            yield f"a flow without a caller has root {flow.root_id}"
        return
    parent, caller = shard.flows.get(flow.surgraph_flow_id), shard.steps.get(flow.surgraph_step_id)
    if parent is None or caller is None or caller.flow_id != parent.flow_id:
        yield f"its caller {flow.surgraph_flow_id}/{flow.surgraph_step_id} is gone: an orphan"
        return
    if parent.root_id != flow.root_id:
        yield f"its root is {flow.root_id}, its caller's {parent.root_id}"
    siblings = [one.flow_id for one in shard.flows.values() if one.surgraph_step_id == flow.surgraph_step_id]
    if len(siblings) > 1:
        yield f"step {caller.step_id} has several children: {siblings}"
    # What the caller was given is what the child came to.
    undone = any(step.compensates is not None for step in shard.of_flow.get(flow.flow_id, []))
    given = caller.subgraph_result != flow.final_state and not undone
    if caller.status == "completed" and flow.status == "completed" and given:
        yield f"its caller was given {caller.subgraph_result}, its final state is {flow.final_state}"
    if caller.status == "completed" and flow.status == "cancelled":
        yield "it is cancelled, and its caller went on"


class Look:
    """One flow: its execution DAG, its cohorts, and how state went from step to step."""

    def __init__(self, flow: Row, steps: dict[int, Row], graph: Graph, overrides: Mapping[str, Any]) -> None:
        self._flow = flow
        self._steps = steps
        self._graph = graph
        self._overrides = overrides
        self._reducers = {name: str(kind) for name, kind in graph.reducers.items()}
        self.undoing: list[Row] = []
        """The compensations, in their order (N9)."""
        self._members: dict[int, list[Row]] = {}
        for step in steps.values():
            if step.spawn_id:
                self._members.setdefault(step.spawn_id, []).append(step)

    def problems(self) -> Iterator[str]:
        entries = [step for step in self._steps.values() if step.predecessor_id is None]
        if [step.node for step in entries] != [self._graph.entry_point]:
            yield f"its entry steps are {[(step.step_id, step.node) for step in entries]}"
        for step in self._steps.values():
            yield from (f"step {step.step_id} {step.node}: {text}" for text in self._step(step))
        for spawn_id, members in self._members.items():
            if spawn_id not in self._steps:
                yield f"a cohort without the step that spawned it: {sorted(one.step_id for one in members)} of {spawn_id}"
        for step in self._steps.values():
            if step.cohort_size is not None:
                yield from (f"cohort of step {step.step_id} {step.node}: {text}" for text in self._cohort(step))
        yield from self._end()

    # -- edges (F7) and the state that goes along them

    def _step(self, step: Row) -> Iterator[str]:
        if step.successor_id is not None:
            following = self._steps.get(step.successor_id)
            if following is None:
                yield f"its successor {step.successor_id} is not there"
            elif step.status != "completed":
                yield f"it is {step.status} and has successor {step.successor_id}"
            elif step.arrived:
                if following.spawn_id == step.spawn_id:
                    yield f"it has arrived, and its successor {following.step_id} is in the same cohort"
            elif following.predecessor_id != step.step_id:
                yield f"the predecessor of its successor {following.step_id} is {following.predecessor_id}"
        if step.predecessor_id is None:
            if step.depth != 1 or step.spawn_id:
                yield f"an entry step at depth {step.depth}, lineage {step.spawn_id}"
            return
        before = self._steps.get(step.predecessor_id)
        if before is None:
            yield f"its predecessor {step.predecessor_id} is not there"
        elif step.spawn_id == before.step_id:
            yield from self._branch(before, step)
        elif before.arrived and before.spawn_id and before.spawn_id != step.spawn_id:
            yield from self._fan_in(before, step)
        else:
            yield from self._next(before, step)

    def _next(self, before: Row, step: Row) -> Iterator[str]:
        """A plain step after another."""
        if before.successor_id != step.step_id:
            yield f"its predecessor {before.step_id} has successor {before.successor_id}"
        if step.depth != before.depth + 1:
            yield f"depth {step.depth} after {before.depth}"
        if (step.spawn_id, step.ordinal) != (before.spawn_id, before.ordinal):
            yield f"lineage {step.spawn_id}/{step.ordinal} after {before.spawn_id}/{before.ordinal}"
        straight = self._graph.fan_ins.get(before.node) == step.node  # no branches: straight to the fan-in (F5)
        if not straight and not any(edge.target == step.node for edge in self._graph.leaving(before.node)):
            yield f"there is no edge from {before.node} to it"
        yield from self._given(step, before.merged)

    def _branch(self, spawn: Row, step: Row) -> Iterator[str]:
        """The first step of a branch."""
        edges = [edge for edge in self._graph.leaving(spawn.node) if edge.target == step.node and edge.branches]
        if not edges:
            yield f"there is no edge from {spawn.node} to branch out to it"
        if spawn.successor_id is not None:
            yield f"the step that fanned out has successor {spawn.successor_id}"
        if step.depth != spawn.depth + 1:
            yield f"depth {step.depth} after {spawn.depth}"
        possible = [one for edge in edges for one in _inputs(edge.for_each, edge.as_, spawn.merged, step)]
        yield from self._given(step, *possible)

    def _fan_in(self, before: Row, step: Row) -> Iterator[str]:
        spawn = self._steps.get(before.spawn_id)
        if spawn is None:
            yield f"the step that fanned out, {before.spawn_id}, is not there"
            return
        wanted = self._graph.fan_ins.get(spawn.node)
        if step.node != wanted:
            yield f"the fan-in of {spawn.node} is {wanted}"
        if (step.spawn_id, step.ordinal) != (spawn.spawn_id, spawn.ordinal):
            yield f"lineage {step.spawn_id}/{step.ordinal}, that of the step that fanned out {spawn.spawn_id}/{spawn.ordinal}"
        arrived = [one for one in self._members[spawn.step_id] if one.arrived]
        if step.depth != max(one.depth for one in arrived) + 1:
            yield f"depth {step.depth} after {max(one.depth for one in arrived)}"
        if spawn.failures or spawn.arrivals != spawn.cohort_size:
            yield f"born though {spawn.arrivals} of {spawn.cohort_size} have arrived, {spawn.failures} failed"
        state, trouble = self.merged_cohort(spawn)
        if trouble and not step.error and "onErr" not in json.loads(step.changes):
            yield f"its input cannot be merged ({trouble}), and it ran"
        yield from self._given(step, state)

    def _given(self, step: Row, *possible: State) -> Iterator[str]:
        """The input is what it must be (S2, F3); a breakpoint may have been passed with overrides (O11)."""
        state = json.loads(step.state)
        allowed = list(possible)
        if step.breakpoint_hit:
            allowed += [merge(one, self._overrides) for one in possible]
        if state not in allowed:
            yield f"its input is {_short(state)}, should be {' or '.join(map(_short, allowed))}"

    # -- cohorts (F1, F2, F4)

    def _cohort(self, spawn: Row) -> Iterator[str]:
        members = self._members.get(spawn.step_id, [])
        firsts = sorted(one.ordinal for one in members if one.predecessor_id == spawn.step_id)
        if firsts != list(range(spawn.cohort_size)):
            yield f"its branches are {firsts}, its size is {spawn.cohort_size}"
        arrived = [one for one in members if one.arrived]
        # A nested cohort that has resolved with a failure is an arrival, too (X8).
        broken = [
            one for one in members if one.cohort_size is not None and one.arrivals >= one.cohort_size and one.failures
        ]
        ordinals = sorted(one.ordinal for one in [*arrived, *broken])
        if len(set(ordinals)) != len(ordinals):
            yield f"a branch has arrived twice: {ordinals}"
        if spawn.arrivals != len(ordinals):
            yield f"{spawn.arrivals} arrivals are counted, there are {len(ordinals)}"
        failed = sum(one.status == "failed" for one in arrived) + len(broken)
        if spawn.failures != failed:
            yield f"{spawn.failures} failures are counted, there are {failed}"
        if (spawn.cohort_error is not None) != (failed > 0):
            yield f"its error is {spawn.cohort_error}, with {failed} failures"
        if self._flow.status != "cancelled" and spawn.arrivals != spawn.cohort_size:
            yield f"{spawn.arrivals} of {spawn.cohort_size} have arrived, and the flow is {self._flow.status}"
        for one in arrived:
            if one.status not in ("completed", "failed"):
                yield f"step {one.step_id} has arrived and is {one.status}"
        targets = {one.successor_id for one in arrived if one.status == "completed"}
        resolved = spawn.arrivals == spawn.cohort_size and not spawn.failures
        if resolved and (len(targets) != 1 or None in targets):
            yield f"it has resolved, and its branches lead to {targets}"
        ids = {one.step_id for one in arrived}
        fan_ins = [one for one in self._steps.values() if one.predecessor_id in ids and one.spawn_id != spawn.step_id]
        if len(fan_ins) != resolved:
            yield f"it has {len(fan_ins)} fan-ins: {[one.step_id for one in fan_ins]} (F2)"
        if not resolved and targets - {None}:
            yield f"it has not resolved without failure, and its branches lead to {targets}"

    def merged_cohort(self, spawn: Row) -> tuple[State, str]:
        """What the fan-in receives (F3); if that cannot be, what the step that fanned out had, and why."""
        members = self._members.get(spawn.step_id, [])
        good = {one.ordinal for one in members if one.arrived and one.status == "completed"}
        part = sorted(
            (one for one in members if one.status == "completed" and one.ordinal in good),
            key=lambda one: (one.ordinal, one.depth, one.step_id),
        )
        private = {
            name
            for edge in self._graph.leaving(spawn.node)
            if edge.for_each
            for name in (edge.as_, f"{edge.as_}Index", f"{edge.as_}Count")
        }
        deltas = [
            {name: value for name, value in json.loads(step.changes).items() if name not in private} for step in part
        ]
        for step, delta in zip(part, deltas, strict=True):
            if not self._brings_its_error(step, self._graph.fan_ins[spawn.node], delta.get("onErr")):
                delta.pop("onErr", None)
        try:
            return reduced(self._reducers, spawn.merged, deltas), ""
        except CannotMerge as error:
            return spawn.merged, str(error)

    def _brings_its_error(self, step: Row, fan_in: str, error: Any) -> bool:
        """Whether its error edge led into the fan-in (F3)."""
        led = any(edge.on_error and edge.target == fan_in for edge in self._graph.leaving(step.node))
        return bool(step.arrived) and led and isinstance(error, dict) and error.get("task") == step.node

    # -- the end (X8, X9)

    def _end(self) -> Iterator[str]:
        if self._flow.final_state is None or self._flow.status not in OVER:
            return
        final = json.loads(self._flow.final_state)
        last = [
            one
            for one in self._steps.values()
            if one.successor_id is None and one.cohort_size is None and not one.spawn_id
        ]
        if self._flow.status == "completed":
            if len(last) != 1 or last[0].status != "completed":
                yield f"it is completed, and its last steps are {[(one.step_id, one.status) for one in last]}"
            elif not self._ends_with(final, last[0].merged):
                yield f"its final state is {_short(final)}, its last step says {_short(last[0].merged)}"
            for one in self._steps.values():
                if one.status == "failed" and not one.spawn_id:
                    yield f"it is completed, and step {one.step_id} failed"
            return
        spawns = [one for one in self._steps.values() if one.cohort_size is not None and not one.spawn_id]
        open_ = [one for one in spawns if one.failures or one.arrivals < one.cohort_size]
        if len(open_) + len(last) != 1:
            yield f"it is {self._flow.status}, and ends at {[(one.step_id, one.status) for one in [*open_, *last]]}"
            return
        if open_:
            wanted, _ = self.merged_cohort(open_[0])
        else:
            wanted = last[0].merged
            if last[0].status != self._flow.status:
                yield f"it is {self._flow.status}, and its last step is {last[0].status}"
        if not self._ends_with(final, wanted):
            yield f"its final state is {_short(final)}, should be {_short(wanted)} before compensations"

    def _ends_with(self, final: State, state: State) -> bool:
        """Whether a final state is this one with what compensations have changed since, in their order (N9)."""
        others = max((one.updated_at for one in self._steps.values()), default=0)
        if all(one.created_at >= others for one in self.undoing):
            for one in self.undoing:
                if one.status == "completed":
                    state = merge(state, json.loads(one.changes))
            return final == state
        # Some are of an earlier end of the flow, which was run again in part: of their fields nothing is known.
        fields = {name for one in self.undoing for name in json.loads(one.changes)}
        return {k: v for k, v in final.items() if k not in fields} == {
            k: v for k, v in state.items() if k not in fields
        }


def _inputs(for_each: str, as_: str, state: State, step: Row) -> Iterator[State]:
    """What a branch may be given (X7)."""
    if not for_each:
        yield state
        return
    elements = state.get(for_each)
    if not isinstance(elements, list):
        return
    rest = {name: value for name, value in state.items() if name != for_each}
    for index, element in enumerate(elements):
        if index <= step.ordinal:  # the branches of earlier edges come first
            yield {**rest, as_: element, f"{as_}Index": index, f"{as_}Count": len(elements)}


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 400 else f"{text[:200]} … {text[-180:]}"
