"""New flows, from a checked request to the row of the database and the first step (O1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from dwarf_nats.engine.operations.checks import start_time_us
from dwarf_nats.rules.steps import FlowContext, NewFlow, ReadyStep
from dwarf_nats.workflow import fields
from dwarf_nats.workflow.claims import CLAIM_TEXT
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.sealed import MARK_TEXT, without_content
from dwarf_nats.workflow.state import Raw, State, check_json, encode_state, encode_value, state_from
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    import asyncio

    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.telemetry.traces import WorkflowSpan
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.records import Outcome

GivenState: TypeAlias = Mapping[str, Any] | bytes | State | None
"""A state as a caller gives it: Python values, the JSON text of an object, or JSON texts by field."""


@dataclass(slots=True, kw_only=True)
class CreateRequest:
    """A checked request for a new flow.

    `workflow`: its name, or an inline graph. `thread`: a flow of the thread to join. `digest`: what the request is for, in
    hex; a repeated idempotency key must come with the same one, and it is empty without a key. `wait`: the outcome is asked
    for, too.
    """

    workflow: str | Graph
    state: State
    baggage: Raw
    options: FlowOptions
    thread: FlowRow | None = None
    digest: str = ""
    start: bool
    wait: bool = False


@dataclass(slots=True)
class Created:
    """A flow that was created, or found by its idempotency key.

    `outcome` is resolved when the flow stops if the request waits for it; `None` means: read it from the database.
    """

    shard: Shard
    key: str
    flow_id: int
    outcome: asyncio.Future[Outcome | None]


class FlowFactory:
    """Makes the values that the database creates flows from, and follows up on what it has created."""

    def __init__(self, replica: Replica) -> None:
        self._settings = replica.settings
        self._limits = replica.settings.limits()
        self._graphs = replica.graphs
        self._tokens = replica.tokens
        self._traces = replica.traces

    # -- before the transaction

    def request(
        self,
        workflow: str | Graph,
        state: GivenState,
        options: FlowOptions,
        *,
        thread: FlowRow | None = None,
        start: bool,
        wait: bool = False,
    ) -> CreateRequest:
        """Check what a caller gave, its options excepted. Raises `BadRequest`, `TooLarge`."""
        baggage = self.baggage(options.baggage)
        initial = self.state(state)
        if isinstance(workflow, str):
            check_subject_name(workflow, "workflow")
        digest = ""
        if options.idempotency_key is not None:
            digest = request_digest(workflow if isinstance(workflow, str) else workflow.name, initial)
        return CreateRequest(
            workflow=workflow,
            state=initial,
            baggage=baggage,
            options=options,
            thread=thread,
            digest=digest,
            start=start,
            wait=wait,
        )

    def state(self, state: GivenState) -> State:
        """Return a state by field. Raises `BadRequest`, `TooLarge`."""
        if isinstance(state, bytes):
            self._limits.check_bytes(len(state), "the state")
        initial = state_from(state, max_depth=self._limits.max_depth)
        if not isinstance(state, bytes):
            self._limits.check_bytes(len(encode_state(initial)), "the state")
        return initial

    def baggage(self, value: Any) -> Raw:
        """Return the JSON text of baggage. Raises `BadRequest`, `TooLarge`."""
        text = bytes(value) if isinstance(value, Raw) else encode_value({} if value is None else value, "baggage")
        self._limits.check_bytes(len(text), "the baggage")
        check_json(text, "baggage", self._limits.max_depth)
        return Raw(text)

    async def build(self, shard: Shard, request: CreateRequest, graph: Graph) -> NewFlow:
        """Have the graph saved and ids at hand; return the flow to be created on the shard. Raises `Unavailable`."""
        options, thread = request.options, request.thread
        if options.durability is not None:  # it is kept with the flow's own graph
            graph = graph.with_durability(options.durability)
        graph_digest, kept_until = await self._graphs.saved(shard.number, graph)
        await shard.flow_ids.ensure()
        flow_id = shard.flow_ids.take()
        await shard.step_ids.ensure()
        step_id = shard.step_ids.take()
        token = self._tokens()
        priority = options.priority if options.priority is not None else self._settings.default_priority
        entry = graph.nodes[graph.entry_point]
        state = fields.initial_state(graph, request.state)
        return NewFlow(
            flow=FlowContext(
                shard=shard.number,
                flow_id=flow_id,
                token=token,
                workflow=graph.name,
                digest=graph_digest,
                graph=graph,
                baggage=request.baggage,
                priority=priority,
                fairness_key=options.fairness_key,
                fairness_weight=options.fairness_weight,
                time_budget_ms=options.time_budget_ms,
                notify=options.notify or "",
                thread_id=thread.thread_id if thread is not None else flow_id,
                created_at=0,
                updated_at=0,
                root_id=flow_id,
            ),
            state=state,
            state_json=encode_state(state),
            step_id=step_id,
            step_token=self._tokens(),
            node=entry.name,
            url=entry.url,
            thread_token=thread.thread_token if thread is not None else token,
            start=request.start,
            start_at=start_time_us(options.start_at),
            idempotency_key=options.idempotency_key or "",
            request_digest=request.digest,
            delete_on_completion=options.delete_on_completion,
            tags=options.tags,
            kept_until=kept_until,
        )

    def begin_trace(self, new: NewFlow, *follows: str) -> WorkflowSpan | None:
        """Begin the root span of a flow, to be ended once the flow is there (T2). `follows`: contexts it is linked to."""
        span = self._traces.workflow(new.flow.public_id, new.flow.workflow, follows=[one for one in follows if one])
        if span is not None:
            new.flow.trace = span.trace_context
        return span


def after_creation(shard: Shard, new: NewFlow, created_at: int) -> None:
    """Follow up on the commit that created a flow: dispatch or announce its first step, announce the flow."""
    flow = new.flow
    if new.start:
        shard.counters.flows_started.add(flow.workflow)
    if shard.debug_log.enabled:
        shard.debug_log.created(flow)
    changed = [shard.announcer.change(flow, Status.CREATED, created_at)]
    if new.start:
        changed.append(shard.announcer.change(flow, Status.RUNNING, created_at))
    pending: list[ReadyStep] = []
    if new.eager:
        shard.executor.dispatch_first(new, created_at)
    elif new.start:
        due = max(new.start_at or 0, created_at)
        shard.ready_queue.hint_flow(flow, due - created_at, task=new.url)
        pending = [ReadyStep(new.step_id, flow.priority, due)]
    shard.announcer.announce(changed, pending)


def request_digest(workflow: str, state: State) -> str:
    """Return what a request is for: the SHA-256, in hex, of its workflow and state, whatever the order of their fields.

    Sealed values count as equal: a repetition of the request may have sealed them anew.
    """
    text = encode_state(state)
    values = orjson.loads(text)
    if MARK_TEXT in text or CLAIM_TEXT in text:
        values = without_content(values)
    canonical = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(workflow.encode() + b"\0" + canonical).hexdigest()
