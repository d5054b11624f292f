"""What must hold of compensations, read from rows and from the workers' account alone (N9).

A *line* is what was undone together, for one end: that of the flow on top, which failed or was cancelled.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX, SendRequest
from tests.chaos.account import Execution
from tests.chaos.plain_services import Call
from tests.chaos.rows import Row, Shard


@dataclass
class Undone:
    """One tree of flows. `again`: it, or a part of it, was run again, so that not all was undone at the same end."""

    shard: Shard
    root_id: int
    again: bool
    executions: Mapping[str, Sequence[Execution]]
    """By the keys of steps."""
    calls: Mapping[str, Sequence[Call]]
    """Of plain services, by the shard and id of the step."""

    def __post_init__(self) -> None:
        self._flows = {flow.flow_id: flow for flow in self.shard.tree(self.root_id)}
        self._steps = {step.step_id: step for flow_id in self._flows for step in self.shard.of_flow.get(flow_id, [])}
        self._undoing: dict[int, list[Row]] = {}
        for step in self._steps.values():
            if step.compensates is not None:
                self._undoing.setdefault(step.compensates, []).append(step)
        self._times: dict[int, int] = {}

    def problems(self) -> Iterator[str]:
        for step in self._steps.values():
            if step.compensates is None:
                yield from (f"step {step.step_id} {step.node}: {text}" for text in self._once(step))
        for compensated_id, found in self._undoing.items():
            if compensated_id not in self._steps:
                yield f"{[one.step_id for one in found]} compensate step {compensated_id}, which is not there"
                return
            for one in found:
                texts = self._one(one, self._steps[compensated_id])
                yield from (f"compensation {one.step_id} {one.node}: {text}" for text in texts)
        if not self.again:
            for line in self.lines().values():
                yield from self._order(line)

    def lines(self) -> dict[int, list[Row]]:
        """The compensations by the flow on top of their line, in the order in which they ran."""
        found: dict[int, list[Row]] = {}
        for one in sorted(itertools.chain(*self._undoing.values()), key=lambda one: int(one.step_id)):
            top = self._top(self._flows[one.flow_id])
            if top is not None:
                found.setdefault(top, []).append(one)
        return found

    # -- each completed step once, and no other

    def _once(self, step: Row) -> Iterator[str]:
        flow = self._flows[step.flow_id]
        undoing = self._undoing.get(step.step_id, [])
        compensations = self.shard.graphs[flow.graph_digest].compensations
        handled = _handled(step)
        if handled != (step.status == "completed" and step.error is not None):
            yield f"it is {step.status} with the error {step.error}, and its changes say {handled}"
        did_its_work = step.status == "completed" and not handled
        if len(undoing) > 1:
            yield f"it was compensated {len(undoing)} times"
        if undoing and not did_its_work:
            yield f"it was compensated, and it is {step.status} (error {step.error})"
        wanted = did_its_work and f"{step.node}{COMPENSATION_SUFFIX}" in compensations and step.copied_from is None
        top = self._top(flow)
        if wanted and top is not None and not undoing:
            yield f"it was not compensated, and flow {top} is {self._flows[top].status}"
        if undoing and not self.again and step.copied_from is None and top is None:
            yield "it was compensated, and its flow did not fail and was not cancelled"

    def _top(self, flow: Row) -> int | None:
        """The flow for whose end the steps of this one are undone; nothing if none has come to such an end."""
        top = None
        at: Row | None = flow
        while at is not None:
            if at.status == "failed":
                return int(at.flow_id)
            if at.status == "cancelled":
                top = int(at.flow_id)
            at = self._flows.get(at.surgraph_flow_id)
        return top

    # -- one of them

    def _one(self, one: Row, step: Row) -> Iterator[str]:
        if one.node != f"{step.node}{COMPENSATION_SUFFIX}" or one.flow_id != step.flow_id:
            yield f"it is of flow {one.flow_id}, and compensates {step.node} of flow {step.flow_id}"
        if one.status not in ("completed", "failed"):
            yield f"it is {one.status}"
        if json.loads(one.state) != json.loads(step.state):
            yield f"it was given {one.state}, and the step {step.state}"
        if step.copied_from is not None:
            return  # done with the original
        key = f"{self.shard.number}-{step.step_id}-{step.token}"
        for run in self.executions.get(f"{self.shard.number}-{one.step_id}-{one.token}", ()):
            if run.undoes != key:
                yield f"it was told to undo {run.undoes}, and compensates {key}"
        if isinstance(self.shard.node(one).action, SendRequest) and one.status == "completed":
            calls = self.calls.get(f"{self.shard.number}-{one.step_id}", ())
            receipt = next(iter(json.loads(step.changes).values()))["receipt"]
            if not calls or any(call.payload != {"of": receipt} for call in calls):
                yield f"it is completed, and the service was asked {calls} for {receipt}"

    # -- the order

    def _order(self, line: list[Row]) -> Iterator[str]:
        for before, after in itertools.pairwise(line):
            if (after.started_at or 0) < before.updated_at:
                yield f"compensation {after.step_id} began at {after.started_at}, {before.step_id} ended at {before.updated_at}"
            if self._began(after) < self._began(before):
                yield f"compensation {after.step_id} {after.node} was executed before {before.step_id} {before.node}"
        for before, after in itertools.combinations(line, 2):
            first, second = self._steps[before.compensates], self._steps[after.compensates]
            if not self._may_precede(first, second):
                yield (
                    f"step {first.step_id} {first.node} was compensated before {second.step_id} {second.node},"
                    " which completed later"
                )

    def _began(self, one: Row) -> float:
        runs = self.executions.get(f"{self.shard.number}-{one.step_id}-{one.token}", ())
        return min((run.began for run in runs), default=one.started_at / 1e6)

    def _may_precede(self, first: Row, second: Row) -> bool:
        """Whether one may be undone before the other: both by the step of the flow they have in common."""
        above, beside = self._callers(first), self._callers(second)
        for one, other in zip(above, beside, strict=False):
            if one is other:
                continue
            return self._time(one) >= self._time(other) and one.step_id not in self._led_to(other)
        return len(above) > len(beside)  # a child's before that of the step that called it

    def _callers(self, step: Row) -> list[Row]:
        """The steps that called its flow, from the root on, and itself."""
        found = [step]
        while (caller := self._flows[found[0].flow_id].surgraph_step_id) is not None:
            found.insert(0, self._steps[caller])
        return found

    def _time(self, step: Row) -> int:
        """When it completed: never before what led to it, even if the clock of the database was set back."""
        if step.step_id not in self._times:
            before = self._steps.get(step.predecessor_id) if step.predecessor_id else None
            self._times[step.step_id] = max(step.updated_at, self._time(before) if before is not None else 0)
        return self._times[step.step_id]

    def _led_to(self, step: Row) -> set[int]:
        """The steps that led to one."""
        found: set[int] = set()
        while step.predecessor_id:
            step = self._steps[step.predecessor_id]
            found.add(step.step_id)
        return found


def _handled(step: Row) -> bool:
    """Whether it took its error edge."""
    error = json.loads(step.changes).get("onErr")
    return step.status == "completed" and isinstance(error, dict) and error.get("task") == step.node
