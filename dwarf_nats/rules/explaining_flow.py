"""The explanation of a flow from the waits of its steps, or from how it ended (Q2). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.explaining import Callee, Subject, explain, reason_of
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Explanation, Reason, Wait, WaitsFor
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.explaining_queue import Scene
    from dwarf_nats.rules.living import FailedStep, Living, LivingFlow, LivingStep
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.workflow.graph import Graph

MAX_WAITS = 100
"""Steps that an explanation lists, the oldest waits first: more than a person reads, little enough for each reply."""

MAX_NESTED_LEVELS = 16
"""Levels of sub-workflows that an explanation nests; the steps of deeper ones stand in the last of them."""


def living_flow(flow: FlowRow, living: Living, graphs: Mapping[int, Graph], scene: Scene) -> Explanation:
    """The explanation of a flow that has not ended. `graphs`: of the flows of the steps, by flow id, if they are there."""
    waits = _waits(flow.flow_id, living, graphs, scene)
    leaves = list(_leaves(waits))
    counts: Counter[Reason] = Counter()
    if living.more:
        for group in living.groups:
            counts[reason_of(group, scene.now)] += group.steps
    else:
        counts.update(wait.reason for wait in leaves)
    return Explanation(
        flow_key=_key(scene.shard, flow),
        status=flow.status,
        text=_compensated(flow) + _living_text(flow, leaves, counts),
        remedy=leaves[0].remedy if leaves else "",
        waits=waits,
        truncated=living.more,
        counts=counts if living.more else {},
    )


def _waits(flow_id: int, living: Living, graphs: Mapping[int, Graph], scene: Scene) -> list[Wait]:
    """The waits of a flow's steps, those of flows that they called nested; the oldest first."""
    found: dict[int, list[Wait]] = {}
    for step in living.steps:
        subject = _subject(step, living, graphs)
        found.setdefault(step.flow_id, []).append(explain(subject, scene))
    for called, level in reversed(_from_the_top(flow_id, living.flows)):
        inner = sorted(found.pop(called.flow_id, ()), key=_age)
        if not inner or called.surgraph_flow_id is None or called.surgraph_step_id is None:
            continue
        caller = living.callers.get(called.surgraph_step_id)
        if caller is not None and level <= MAX_NESTED_LEVELS and _waits_for_child(caller):
            callee = Callee(workflow=called.workflow, flow_key=scene.flow_key(called), waits=inner)
            inner = [explain(_subject(caller, living, graphs), scene, callee)]
        found.setdefault(called.surgraph_flow_id, []).extend(inner)  # of a caller that is over, its flow is compensated
    return sorted(found.get(flow_id, ()), key=_age)


def _waits_for_child(step: LivingStep) -> bool:
    return step.status == Status.RUNNING and step.parked == Parked.CHILD


def _subject(step: LivingStep, living: Living, graphs: Mapping[int, Graph]) -> Subject:
    return Subject(
        step=step,
        flow=living.flows.get(step.flow_id),
        graph=graphs.get(step.flow_id),
        payload=living.payloads.get(step.step_id),
    )


def _from_the_top(flow_id: int, flows: Mapping[int, LivingFlow]) -> list[tuple[LivingFlow, int]]:
    """The flows below one with their levels, from 1, each after the one that called it."""
    called: dict[int | None, list[LivingFlow]] = {}
    for flow in flows.values():
        called.setdefault(flow.surgraph_flow_id, []).append(flow)
    order = [(flow, 1) for flow in called.get(flow_id, ())]
    for flow, level in order:
        order += [(inner, level + 1) for inner in called.get(flow.flow_id, ())]
    return order


def _leaves(waits: Sequence[Wait]) -> Iterator[Wait]:
    """The waits that have no others below them, the oldest first."""
    found = list(waits)
    for wait in found:
        found += wait.waits
    return iter(sorted((wait for wait in found if not wait.waits), key=_age))


def _age(wait: Wait) -> tuple[int, int]:
    return wait.since, wait.step_id


def _living_text(flow: FlowRow, leaves: Sequence[Wait], counts: Mapping[Reason, int]) -> str:
    total = sum(counts.values())
    if not leaves:
        return (
            "No step of it is under way, which should not be: if that lasts for minutes, it is a defect of the engine; cancel"
            " the flow, or run a step of it again (restart-from)."
        )
    if total == 1:
        return f"{leaves[0].task}: {leaves[0].text}"
    parts = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda one: -one[1]))
    what = "Paused" if flow.status is Status.INTERRUPTED else "Goes on"
    return f"{what}: {total} steps ({parts}). The oldest is {leaves[0].task}: {leaves[0].text}"


def _compensated(flow: FlowRow) -> str:
    if flow.compensating is None:
        return ""
    if flow.compensating == Status.FAILED:
        return f"What it did is being compensated before it fails{_error_text(flow.error)}. "
    if flow.compensating == Status.CANCELLED:
        return f"What it did is being compensated before it is cancelled{_reason_text(flow)}. "
    return "What it did is being compensated with the flow that called it. "


def ended_flow(shard: int, flow: FlowRow, failure: Sequence[FailedStep]) -> Explanation:
    """The explanation of a flow that has ended. `failure`: the step that failed, then that of the flow it called, and so on."""
    explanation = Explanation(flow_key=_key(shard, flow), status=flow.status, text="Completed.")
    is_root = flow.surgraph_flow_id is None
    if flow.status is Status.CANCELLED:
        explanation.text = f"Cancelled{_reason_text(flow)}."
        explanation.remedy = f"dwarf-nats flow restart {explanation.flow_key}" if is_root else ""
    elif flow.status is Status.FAILED:
        _failed(shard, flow, failure, explanation)
    return explanation


def _failed(shard: int, flow: FlowRow, failure: Sequence[FailedStep], explanation: Explanation) -> None:
    if not failure:
        explanation.text = f"Failed{_error_text(flow.error)}."
        explanation.remedy = f"dwarf-nats flow restart {explanation.flow_key}" if flow.surgraph_flow_id is None else ""
        return
    last, others = failure[-1], failure[0].failures - 1
    path = " › ".join(step.node for step in failure)
    also = f" {others} other {'step has' if others == 1 else 'steps have'} failed, too." if others else ""
    explanation.text = f"Failed at {path}{_error_text(last.error or flow.error)}.{also}"
    explanation.remedy = f"dwarf-nats flow restart-from {shard}-{last.step_id}-{last.token}"


def _error_text(error: str | None) -> str:
    info = ErrorInfo.from_stored(error)
    return "" if info is None else f": {info.message} ({info.code})"


def _reason_text(flow: FlowRow) -> str:
    return f": {flow.cancel_reason}" if flow.cancel_reason else ""


def waits_for(step: LivingStep, scene: Scene) -> WaitsFor:
    """The wait of a flow's oldest living step, as a list shows it."""
    wait = explain(Subject(step=step), scene)
    return WaitsFor(
        step_id=wait.step_id,
        task=wait.task,
        reason=wait.reason,
        since=wait.since,
        until=wait.until,
        text=wait.text,
    )


def _key(shard: int, flow: FlowRow) -> str:
    return f"{shard}-{flow.flow_id}-{flow.token}"
