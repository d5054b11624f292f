"""Operations on existing flows: start, pauses, the end, running again (O2, O10-O13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwarf_nats.engine.operations.checks import check_is_root, check_text
from dwarf_nats.engine.operations.frozen_graphs import with_graphs
from dwarf_nats.engine.projections import final_state_of
from dwarf_nats.errors import BadRequest, NotFound, TooLarge
from dwarf_nats.workflow.fields import check_values
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.limits import over
from dwarf_nats.workflow.names import MAX_SUBJECT, check_subject_name
from dwarf_nats.workflow.state import Raw, State, check_json, encode_state, encode_value, state_from
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import checked_changes
from dwarf_nats.workflow.tags import read as read_tags

if TYPE_CHECKING:
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.operations.new_flows import GivenState
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.limits import Limits
    from dwarf_nats.workflow.tags import TagChanges, TagValue


class FlowControl:
    """Carries out operations on existing flows: each is one transaction, and what follows from it.

    `Engine` documents the methods.
    """

    def __init__(self, placement: Placement, replica: Replica) -> None:
        self._placement = placement
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()

    async def start(self, flow: str, notify: str) -> None:
        key = parse_key(flow)
        if notify:
            check_subject_name(notify, "notify target")
        shard = self._placement.shard_of(key)
        await shard.start(await shard.store.flows.get(key), notify)

    async def cancel(self, flow: str, reason: str) -> None:
        shard, key = self._placement.locate(flow)
        check_reason(reason, self._limits)
        row = await shard.store.flows.get(key)
        change = await with_graphs(
            self._graphs,
            shard.number,
            lambda graph_of: shard.store.control.cancel(
                row,
                reason,
                lambda flow, steps: final_state_of(graph_of(flow), list(steps), self._limits),
                lambda flow: graph_of(flow).compensates,
            ),
        )
        if any(one.status is Status.RUNNING for one in change.changed):
            runs_on(shard, change)  # flows that were paused run, because completed steps are compensated first
        else:
            shard.announcer.controlled(change, shard.announcer.stopped_flows(change))

    async def resume(self, flow: str, data: Any, *, step: str = "") -> None:
        shard, key = self._paused_at(flow, step)
        text = resume_text(data, self._limits)
        row, step_id = await _flow_and_step(shard, key, by_step=bool(step))
        runs_on(shard, await shard.store.control.resume(row, text.decode(), step_id))

    async def resume_break(self, flow: str, overrides: GivenState, *, step: str = "") -> None:
        shard, key = self._paused_at(flow, step)
        fields = checked_overrides(overrides, self._limits)
        row, step_id = await _flow_and_step(shard, key, by_step=bool(step))
        await check_types(self._graphs, shard.number, row, fields)
        runs_on(shard, await shard.store.control.resume_break(row, fields, self._limits, step_id))

    def _paused_at(self, flow: str, step: str) -> tuple[Shard, Key]:
        """The shard and the key of the flow or of the step that is to be continued (P5)."""
        if bool(flow) is bool(step):
            raise BadRequest(
                "name what is to be continued by exactly one key: that of a flow, for its oldest pause, or that of a step"
            )
        return self._placement.locate(step, "step") if step else self._placement.locate(flow)

    async def break_before(self, flow: str, task: str, *, enabled: bool) -> None:
        shard, key = self._placement.locate(flow)
        if not 0 < len(task) <= MAX_SUBJECT:
            raise BadRequest(f"task must be the name or url of a node, 1 to {MAX_SUBJECT} characters, got {len(task)}")
        check_text(task, "task")
        row = await shard.store.flows.get(key)
        await shard.store.control.break_before(row, task, enabled=enabled)

    async def tag(self, flow: str, changes: TagChanges) -> dict[str, TagValue]:
        checked = checked_changes(changes, "tags")
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        return read_tags(await shard.store.control.tag(row, checked))

    async def delete(self, flow: str) -> None:
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        check_is_root(shard.number, row, "deleted")
        await shard.store.control.delete(key.id)
        shard.waiters.wake(key.id, None)

    async def restart(self, flow: str, overrides: GivenState) -> None:
        shard, key = self._placement.locate(flow)
        fields = checked_overrides(overrides, self._limits)
        row = await shard.store.flows.get(key)
        check_is_root(shard.number, row, "restarted")
        await check_types(self._graphs, shard.number, row, fields)
        runs_anew(shard, await shard.store.control.restart(row, fields, self._limits))

    async def restart_from(self, step: str, overrides: GivenState) -> None:
        shard, key = self._placement.locate(step, "step")
        fields = checked_overrides(overrides, self._limits)
        row, flow = await step_and_flow(shard, key)
        await check_types(self._graphs, shard.number, flow, fields)
        change = await with_graphs(
            self._graphs,
            shard.number,
            lambda graph_of: shard.store.control.restart_from(
                row, flow, fields, graph_of=graph_of, limits=self._limits
            ),
        )
        runs_anew(shard, change)


def check_reason(reason: str, limits: Limits) -> None:
    """Raise `BadRequest` or `TooLarge` for a reason that a flow cannot keep."""
    check_text(reason, "reason")
    if (size := len(reason.encode())) > limits.max_error_bytes:
        remedy = "say it shorter"
        raise TooLarge(over(f"the reason is {size} bytes", "max_error_bytes", limits.max_error_bytes, remedy))


def resume_text(data: Any, limits: Limits) -> bytes:
    """Return what a task is resumed with as JSON text. Raises `BadRequest`, `TooLarge`."""
    text = bytes(data) if isinstance(data, Raw) else encode_value(data, "resume data")
    limits.check_bytes(len(text), "the resume data")
    check_json(text, "resume data", limits.max_depth)
    return text


def checked_overrides(overrides: GivenState, limits: Limits) -> State:
    """Return the fields that replace those of a state. Raises `BadRequest`, `TooLarge`."""
    fields = state_from(overrides, "overrides", limits.max_depth)
    limits.check_bytes(len(encode_state(fields)), "the overrides")
    return fields


async def check_types(graphs: GraphBook, shard: int, flow: FlowRow, overrides: State) -> None:
    """Raise `BadRequest` for an override that is not of the type its graph declares (G11)."""
    if overrides:
        check_values(await graphs.frozen(shard, flow.graph_digest), overrides, "the overrides")


async def step_and_flow(shard: Shard, key: Key) -> tuple[StepRow, FlowRow]:
    """Read a step and its flow. Raises `NotFound`."""
    step = await shard.store.flows.step(key)
    flow = await shard.store.flows.by_id(step.flow_id)
    if flow is None:
        raise flow_was_deleted(key)
    return step, flow


async def _flow_and_step(shard: Shard, key: Key, *, by_step: bool) -> tuple[FlowRow, int | None]:
    """Read the flow of a key, which is a flow's or a step's, and say which step. Raises `NotFound`."""
    if not by_step:
        return await shard.store.flows.get(key), None
    step, flow = await step_and_flow(shard, key)
    return flow, step.step_id


def flow_was_deleted(key: Key) -> NotFound:
    """Make the error for the key of a step whose flow is gone."""
    return NotFound(f"no step {key.public_id}: its flow was deleted this moment")


def runs_on(shard: Shard, change: TreeChange) -> None:
    """Follow up on a transaction that has flows run again: look for their steps, announce the flows."""
    shard.announcer.runs_on(change)


def runs_anew(shard: Shard, change: TreeChange) -> None:
    """As `runs_on`, for flows that were restarted and count as started once more."""
    for one in change.changed:
        if one.status is Status.RUNNING:
            shard.counters.flows_started.add(one.workflow)
    runs_on(shard, change)
