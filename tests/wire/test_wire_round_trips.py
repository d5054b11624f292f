"""Records and messages: what one side writes, the other side reads, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from dwarf_nats.errors import BadRequest, Conflict, DwarfError, Internal, TimedOut
from dwarf_nats.wire import codec, shards
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.explanations import explanation_message, explanation_record
from dwarf_nats.wire.headers import read_headers
from dwarf_nats.wire.refusals import decode_error, encode_error
from dwarf_nats.wire.steps import step_message, step_record
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Because, Explanation, Reason, Wait, WaitsFor
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import (
    FlowCounts,
    FlowSummary,
    GraphInfo,
    KeyBacklog,
    Outcome,
    Pause,
    PriorityBacklog,
    ShardInfo,
    Step,
)
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause

KEY, OTHER = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"
AT = 1_770_000_000_123_456
ERROR = ErrorInfo("card declined", 402, {"task": "charge"})
STEP = Step(
    step_key=OTHER,
    step_id=43,
    depth=1,
    task="charge",
    attempt=2,
    status=Status.FAILED,
    created_at=AT,
    updated_at=AT + 1,
    started_at=AT + 2,
    error=ERROR,
    predecessor_id=42,
    successor_id=44,
    state_json=b'{"a":1.10}',
    changes_json=b"{}",
    interrupt_json=b"null",
    prev_key=KEY,
    next_key=KEY,
    subgraph=True,
    sub_workflow="pay",
    sub_flow_key=KEY,
    problems=["one"],
    handled_error=ERROR,
    branch=Branch(index=1, count=5, of="split"),
    attempts=[FailedAttempt(attempt=0, started_at=AT, ended_at=AT + 5, error=ERROR)],
    pause=StepPause(kind="interrupt", since=AT, until=AT + 9, payload_json=b"null"),
    progress=Progress(at=AT, fraction=0.25, text="page 3", data_json=b'{"page":3}'),
    truncated=True,
)
BARE_STEP = Step(
    step_key=KEY, step_id=42, depth=0, task="a", attempt=0, status=Status.PENDING, created_at=AT, updated_at=AT
)
NESTED = Step(
    step_key=KEY,
    step_id=41,
    depth=0,
    task="call",
    attempt=0,
    status=Status.RUNNING,
    created_at=AT,
    updated_at=AT,
    sub_history=[STEP, BARE_STEP],
)
SUMMARY = FlowSummary(
    flow_key=KEY,
    thread_key=OTHER,
    workflow="order",
    status=Status.CANCELLED,
    created_at=AT,
    updated_at=AT + 1,
    priority=7,
    fairness_key="acme",
    started_at=AT + 2,
    task="charge",
    error=ERROR,
    cancel_reason="changed my mind",
    waits_for=WaitsFor(step_id=43, task="charge", reason=Reason.QUEUED, since=AT, text="Waits.", until=AT + 1),
    tags={"customer": 2**63 - 1, "channel": "web", "share": 0.5, "urgent": True},
)
WAIT = Wait(
    step_key=OTHER,
    step_id=43,
    task="charge",
    url="billing.charge",
    reason=Reason.QUEUED,
    since=AT,
    text="Waits.",
    until=AT + 1,
    remedy="dwarf-nats health",
    because=Because.RATE,
    worker="worker.1",
    replica="r1",
    deadline=AT + 2,
    progress=Progress(at=AT, fraction=0.5, text="half"),
    branch=Branch(index=1, count=5, of="split"),
    attempt=2,
    max_attempts=5,
    error=ERROR,
    payload_json=b'{"a":1.10}',
    event="order.paid",
    key="7",
)
BARE_WAIT = Wait(step_key=KEY, step_id=42, task="a", url="a", reason=Reason.CREATED, since=AT, text="Waits.")
CALLING = replace(
    BARE_WAIT, reason=Reason.SUBGRAPH, workflow="pay", flow_key=KEY, waits=[WAIT, replace(BARE_WAIT, waits=[BARE_WAIT])]
)
EXPLANATIONS = [
    Explanation(flow_key=KEY, status=Status.RUNNING, text="Waits.", waits=[CALLING, WAIT]),
    Explanation(
        flow_key=KEY,
        status=Status.FAILED,
        text="Failed.",
        remedy="dwarf-nats flow restart",
        truncated=True,
        counts={Reason.RETRY: 7},
    ),
]
BARE_SUMMARY = FlowSummary(
    flow_key=KEY,
    thread_key=KEY,
    workflow="order",
    status=Status.CREATED,
    created_at=AT,
    updated_at=AT,
    priority=100,
)
OUTCOME = Outcome(
    flow_key=KEY,
    workflow="order",
    status=Status.FAILED,
    state_json=b'{"a":1.10}',
    error=ERROR,
    cancel_reason="why",
    interrupt_json=b"[1]",
    pauses=[
        Pause(step_key=KEY, task="ask", kind="interrupt", since=AT, until=AT + 7, payload_json=b'{"n":1.10}'),
        Pause(step_key=KEY, task="charge", kind="breakpoint", since=AT + 1),
    ],
    tags={"customer": 4711, "channel": "web"},
    truncated=True,
)
CASES: list[tuple[Any, type[msgspec.Struct], Callable[[Any], Any], Callable[[Any], Any]]] = [
    (OUTCOME, m.Outcome, codec.outcome_message, codec.outcome_record),
    (Outcome(KEY, "order", Status.RUNNING), m.Outcome, codec.outcome_message, codec.outcome_record),
    (STEP, m.Step, step_message, step_record),
    (BARE_STEP, m.Step, step_message, step_record),
    (NESTED, m.Step, step_message, step_record),
    (SUMMARY, m.FlowSummary, codec.summary_message, codec.summary_record),
    (BARE_SUMMARY, m.FlowSummary, codec.summary_message, codec.summary_record),
    *((one, m.ExplanationReply, explanation_message, explanation_record) for one in EXPLANATIONS),
    (
        ShardInfo(shard=2, error="away", latency_ms=0.5, flows=3, steps=4, joining=True),
        m.Shard,
        shards.shard_message,
        shards.shard_record,
    ),
    (
        FlowCounts({Status.FAILED: 1000, Status.RUNNING: 3}, more=frozenset({Status.FAILED}), searched_to=AT),
        m.FlowCountReply,
        shards.counts_message,
        shards.counts_record,
    ),
    (
        ShardInfo(shard=1, backlog=(PriorityBacklog(10, 3, 1, 2_000, (KeyBacklog("acme", 3, 2_000),)),)),
        m.Shard,
        shards.shard_message,
        shards.shard_record,
    ),
    (ShardInfo(shard=1), m.Shard, shards.shard_message, shards.shard_record),
    (GraphInfo("order", "ab" * 32, AT), m.GraphEntry, codec.graph_message, codec.graph_record),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: type(case[0]).__name__)
def test_a_record_is_the_same_after_its_way_over_the_wire(case: tuple[Any, Any, Any, Any]) -> None:
    record, kind, to_message, to_record = case
    assert to_record(msgspec.json.decode(codec.encode(to_message(record)), type=kind)) == record


def test_options_are_the_same_after_their_way_over_the_wire() -> None:
    options = FlowOptions(
        priority=3,
        fairness_key="acme",
        fairness_weight=2.5,
        start_at=datetime(2030, 1, 1, tzinfo=UTC),
        notify="orders.done",
        time_budget_ms=10,
        thread=KEY,
        delete_on_completion=True,
        idempotency_key="once",
        tags={"customer": 4711, "urgent": False, "share": 1.0},
    )
    assert received(FlowOptions(tags={})).tags == {}
    assert received(options) == options
    assert received(FlowOptions()) == FlowOptions()
    baggage = received(FlowOptions(baggage={"tenant": "acme"})).baggage
    assert msgspec.json.decode(bytes(baggage)) == {"tenant": "acme"}


def received(options: FlowOptions) -> FlowOptions:
    found = codec.flow_options(msgspec.json.decode(codec.encode(codec.options_message(options)), type=m.Options))
    assert found is not None
    return found


def test_filters_are_the_same_after_their_way_over_the_wire() -> None:
    query = Query(
        status="failed",
        workflow="order",
        thread=KEY,
        task="charge",
        fairness_key="",
        priority=1,
        older_than_ms=2,
        newer_than_ms=3,
        shard=4,
        search="card",
        limit=5,
        tags={"customer": 4711},
    )
    for one in (query, Query()):
        request = m.FlowPurgeRequest(**codec.filter_fields(one))
        assert codec.query(msgspec.json.decode(codec.encode(request), type=m.FlowPurgeRequest)) == one


@pytest.mark.parametrize(
    "error", [BadRequest("no, really"), TimedOut("größer", flow_key=KEY), Conflict("a\nb", tried=2), Internal("")]
)
def test_a_refusal_is_the_same_after_its_way_over_the_wire(error: DwarfError) -> None:
    block, body = encode_error(error)
    found = decode_error(read_headers(block), body)
    assert type(found) is type(error)
    assert (found.message, found.details) == (error.message, error.details)


def test_a_refusal_without_a_body_has_the_text_of_its_header() -> None:
    found = decode_error({"Nats-Service-Error-Code": "409", "Nats-Service-Error": "gr%C3%B6%C3%9Fer"}, b"")
    assert isinstance(found, Conflict)
    assert (found.message, found.details) == ("größer", {})
    unknown = decode_error({"Nats-Service-Error-Code": "x"}, b"no json")
    assert isinstance(unknown, Internal)
    assert unknown.message == "the service refused with code 500"
    assert decode_error({}, b"{}") is None
    assert decode_error(None, b"") is None
