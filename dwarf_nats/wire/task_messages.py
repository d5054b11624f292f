"""The messages to task services and graph services and their answers, as types (wire sections 2 and 3)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from dwarf_nats.workflow.state import Raw

from .message_fields import MOST, AnyJson, Key, Maybe, Message, Object, Request, StepId, Subject, Time
from .tag_messages import TagChangesJson

MAX_DELAY_MS = 10**13
"""Longest delay of an answer, some 300 years; a longer one is taken for a mistake."""
ErrorJson = Annotated[
    Raw,
    Meta(description="An object with message and code, or a string.", extra_json_schema={"type": ["object", "string"]}),
]
Delay = Annotated[int, Meta(ge=0, le=MAX_DELAY_MS, description="Milliseconds.")]


Signal = Literal["accepted", "queued", "started", "progress"]


class Resumed(Message):
    """The end of the step's interrupt: the data that `resume` handed over, or that its deadline passed."""

    data: Maybe[AnyJson] = UNSET
    timed_out: Maybe[bool] = UNSET


class EventEnd(Message):
    """The end of the step's wait: the event, or that its time passed (E2)."""

    data: Maybe[AnyJson] = UNSET
    id: Maybe[str] = UNSET
    at: Maybe[Time] = UNSET
    timed_out: Maybe[bool] = UNSET


class SubgraphEnd(Message):
    """The end of the child flow: its final state, or the error text."""

    result: Maybe[Object] = UNSET
    error: Maybe[str] = UNSET


class Compensating(Message):
    """The completed step that is compensated, what it had changed, and why its flow ends (N9)."""

    step_key: Key
    changes: Object
    error: Maybe[dict[str, Any]] = UNSET
    cancel_reason: Maybe[str] = UNSET


class TaskRequest(Message):
    """What a task service is asked."""

    flow_key: Key
    step_key: Key
    workflow: Subject
    task: str
    url: Subject
    attempt: int
    state: Annotated[dict[str, Raw], Meta(description="A JSON object.")]
    baggage: AnyJson
    flow_created_at: Time
    flow_updated_at: Time
    deadline: Time
    resumed: Maybe[Resumed] = UNSET
    event: Maybe[EventEnd] = UNSET
    subgraph: Maybe[SubgraphEnd] = UNSET
    checkpoint: Maybe[
        Annotated[AnyJson, Meta(description="The data of the last progress of an earlier execution of this step.")]
    ] = UNSET
    compensating: Maybe[Compensating] = UNSET


class BatchedRequest(TaskRequest):
    """A request in a batch: `headers` has what would be headers of a request alone."""

    headers: Maybe[
        Annotated[
            dict[str, str], Meta(description="Deadline, attempt, accept time and trace, by the names of the headers.")
        ]
    ] = UNSET


class TaskProgress(Request):
    """How far a task has come, sent to the reply subject while it runs; 4 KiB at most (B7)."""

    fraction: Maybe[Annotated[float, Meta(ge=0, le=1, description="The share that is done.")]] = UNSET
    text: Maybe[Annotated[str, Meta(description="For people.")]] = UNSET
    data: Maybe[Annotated[AnyJson, Meta(description="The checkpoint of the next execution of the step.")]] = UNSET


class SubgraphCall(Request):
    """Run a child flow (P1)."""

    workflow: Subject
    input: Maybe[Object] = UNSET


class RetryCall(Request):
    """Run this step again later (X5). What is left out: `initialDelayMs` is 100, `multiplier` 2, `maxDelayMs` 60000; there is
    no bound on attempts and time. The changes of the answer are kept, also beside an error."""

    max_attempts: Maybe[Annotated[int, Meta(ge=1, le=MOST)]] = UNSET
    initial_delay_ms: Maybe[Delay] = UNSET
    multiplier: Maybe[Annotated[float, Meta(ge=0)]] = UNSET
    max_delay_ms: Maybe[Delay] = UNSET
    give_up_after_ms: Maybe[Delay] = UNSET


class WaitCall(Request):
    """Wait for an event (E2); without `timeoutMs` it waits without end."""

    event: Subject
    key: Maybe[Annotated[str, Meta(description="Any text of at most 256 bytes; empty if it is left out.")]] = UNSET
    timeout_ms: Maybe[Delay] = UNSET


class TaskReply(Request):
    """What a task service answers; an empty reply means success without changes."""

    changes: Maybe[Object] = UNSET
    goto: Maybe[str] = UNSET
    sleep_ms: Maybe[Delay] = UNSET
    interrupt: Maybe[AnyJson] = UNSET
    interrupt_timeout_ms: Maybe[Delay] = UNSET
    subgraph: Maybe[SubgraphCall] = UNSET
    retry: Maybe[RetryCall] = UNSET
    wait: Maybe[WaitCall] = UNSET
    tags: Maybe[TagChangesJson] = UNSET
    error: Maybe[ErrorJson] = UNSET


class BatchedReply(Request):
    """An answer in a batch, for one step: a reply as it would be alone, or a signal."""

    step_id: StepId
    reply: Maybe[Annotated[AnyJson, Meta(description="A task reply.")]] = UNSET
    signal: Maybe[Signal] = UNSET
    body: Maybe[Annotated[AnyJson, Meta(description="Of the signal `progress`: a task progress.")]] = UNSET
    headers: Maybe[Annotated[dict[str, str], Meta(description="What would be headers of a reply alone.")]] = UNSET


class WorkerCall(Request):
    """The roll call to a worker, and cancellations; step ids without tokens."""

    steps: list[StepId]
    cancel: list[StepId]


class WorkerReply(Message):
    """The steps that the worker still has. `queued`: those of them that have not begun, if it says that at all (K3)."""

    running: list[StepId]
    queued: Maybe[list[StepId]] = UNSET


class GraphLoadRequest(Message):
    """Asks any service for a graph; the reply is the graph."""

    workflow: Subject
    baggage: AnyJson
