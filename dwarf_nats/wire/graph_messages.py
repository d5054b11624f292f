"""The messages of the operations on graphs, as types (wire section 1)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw

from dwarf_nats.workflow.durability import Durability

from .message_fields import MOST, AnyJson, Integer, Maybe, Message, Request, Subject, Time, Truncated

Template = Annotated[str, Meta(description="A text; one that begins with = is a CEL expression over the state.")]
AnyTemplate = Annotated[Raw, Meta(description="Any JSON; texts that begin with = are CEL expressions over the state.")]
TemplateObject = Annotated[
    Raw,
    Meta(
        description="A JSON object; texts that begin with = are CEL expressions over the state.",
        extra_json_schema={"type": "object"},
    ),
]
Delay = Annotated[int, Meta(ge=0, le=MOST, description="Milliseconds.")]
FieldType = Literal["string", "number", "integer", "boolean", "object", "array"]


class GraphRequest(Request):
    """Names a graph."""

    name: Subject


class SendRequestAction(Request):
    """One NATS request to any service. All values are templates (N3)."""

    subject: Template
    payload: Maybe[AnyTemplate] = UNSET
    headers: Maybe[TemplateObject] = UNSET


class PublishAction(Request):
    """One NATS message. With `stream` the step waits for the acknowledgement of JetStream (N4)."""

    subject: Template
    payload: Maybe[AnyTemplate] = UNSET
    headers: Maybe[TemplateObject] = UNSET
    stream: Maybe[bool] = UNSET


class WaitAction(Request):
    """Wait for an event with this key; after `timeoutMs` the step fails with code 408 (N5)."""

    event: Subject
    key: Maybe[Template] = UNSET
    timeout_ms: Maybe[Delay] = UNSET


class AskAction(Request):
    """Pause with this payload until somebody resumes the step; after `timeoutMs` it fails with code 408 (N6)."""

    payload: Maybe[AnyTemplate] = UNSET
    timeout_ms: Maybe[Delay] = UNSET


class SleepAction(Request):
    """Wait for `ms` milliseconds, or until a time in RFC 3339; write one of both (N7)."""

    ms: Maybe[Annotated[int, Meta(ge=0, le=MOST)] | str] = UNSET
    until: Maybe[Template] = UNSET


class RetryAction(Request):
    """When an error of a step is retried (L1). Without `maxAttempts` and `giveUpAfterMs` it goes on for ever."""

    max_attempts: Maybe[Annotated[int, Meta(ge=1, le=MOST, description="Executions, the first included.")]] = UNSET
    initial_delay_ms: Maybe[Annotated[int, Meta(ge=0, le=MOST, description="Before the second; default 100.")]] = UNSET
    multiplier: Maybe[Annotated[float, Meta(ge=0, description="Each delay is by so much longer; default 2.")]] = UNSET
    max_delay_ms: Maybe[Annotated[int, Meta(ge=0, le=MOST, description="The longest delay; default 60000.")]] = UNSET
    give_up_after_ms: Maybe[
        Annotated[int, Meta(ge=0, le=MOST, description="No execution begins later after the first.")]
    ] = UNSET
    jitter: Maybe[Annotated[float, Meta(ge=0, le=1, description="Share by which a delay may be shorter.")]] = UNSET
    codes: Maybe[Annotated[list[Integer], Meta(description="Only errors with one of these codes; default all.")]] = (
        UNSET
    )


class Compensate(Request):
    """The way in which a completed step is undone: one of the three (N9). Their templates also know `changes`."""

    request: Maybe[SendRequestAction] = UNSET
    publish: Maybe[PublishAction] = UNSET
    set: Maybe[TemplateObject] = UNSET


QueueTimeoutMs = Annotated[
    int, Meta(ge=1, le=MOST, description="Milliseconds in the queue of a worker, before the step goes elsewhere.")
]


class GraphDefaults(Request):
    """Policies of all nodes that have none of their own (L1)."""

    timeout_ms: Maybe[Annotated[int, Meta(ge=1, le=MOST, description="Milliseconds for one call.")]] = UNSET
    queue_timeout_ms: Maybe[QueueTimeoutMs] = UNSET
    retry: Maybe[RetryAction] = UNSET


class GraphField(Request):
    """A declared field of the state (G11)."""

    type: Maybe[FieldType | list[FieldType]] = UNSET
    required: Maybe[Annotated[bool, Meta(description="A flow cannot be created without it.")]] = UNSET
    default: Maybe[AnyJson] = UNSET
    description: Maybe[str] = UNSET
    sealed: Maybe[Annotated[bool, Meta(description="It is encrypted, so no expression may read it.")]] = UNSET


class GraphTask(Request):
    """A node of a graph (G1). It asks the task `url`, by default of its name, or has one of the other kinds (N1-N7)."""

    name: str
    url: Maybe[Subject] = UNSET
    set: Maybe[Annotated[TemplateObject, Meta(description="Fields to change; null removes one.")]] = UNSET
    request: Maybe[SendRequestAction] = UNSET
    publish: Maybe[PublishAction] = UNSET
    wait: Maybe[WaitAction] = UNSET
    ask: Maybe[AskAction] = UNSET
    sleep: Maybe[SleepAction] = UNSET
    workflow: Maybe[Annotated[str, Meta(description="The sub-workflow to run.")]] = UNSET
    input: Maybe[Annotated[TemplateObject, Meta(description="What the sub-workflow is given.")]] = UNSET
    into: Maybe[Annotated[str, Meta(description="Field for what the node brings back; default its name.")]] = UNSET
    fan_in: Maybe[Annotated[bool, Meta(description="Branches meet here.")]] = UNSET
    timeout_ms: Maybe[Annotated[int, Meta(ge=1, le=MOST, description="Milliseconds for one call.")]] = UNSET
    queue_timeout_ms: Maybe[QueueTimeoutMs] = UNSET
    retry: Maybe[RetryAction] = UNSET
    compensate: Maybe[Annotated[str | Compensate, Meta(description="The url of a task, or an action.")]] = UNSET


class GraphTransition(
    Request,
    rename={
        "source": "from",
        "target": "to",
        "as_": "as",
        "with_goto": "withGoto",
        "for_each": "forEach",
        "on_error": "onError",
    },
):
    """An edge of a graph (G2)."""

    source: str
    target: str
    when: Maybe[str] = UNSET
    switch: Maybe[bool] = UNSET
    with_goto: Maybe[bool] = UNSET
    for_each: Maybe[str] = UNSET
    as_: Maybe[str] = UNSET
    on_error: Maybe[bool] = UNSET


DurabilityName = Annotated[
    Durability,
    Meta(
        description="The next task is asked once the result before it is in the database, or while that is being written."
    ),
]


class GraphDocument(Request):
    """A graph (G8)."""

    name: Subject
    tasks: list[GraphTask]
    entry_point: Maybe[str] = UNSET
    fields: Maybe[Annotated[dict[str, GraphField | None], Meta(description="Fields of the state, by name.")]] = UNSET
    defaults: Maybe[GraphDefaults] = UNSET
    durability: Maybe[DurabilityName] = UNSET
    transitions: Maybe[list[GraphTransition]] = UNSET
    reducers: Maybe[dict[str, str]] = UNSET
    annotations: Maybe[dict[str, str]] = UNSET
    fan_out_to_fan_in: Maybe[dict[str, str]] = UNSET


Warnings = Annotated[list[str], Meta(description="What looks like a mistake in the graph.")]


class GraphPutReply(Message):
    """The graph as registered; the digest is the SHA-256 of its canonical JSON."""

    name: str
    digest: str
    warnings: Maybe[Warnings] = UNSET


class GraphValidateReply(Message):
    """The graph is sound."""

    warnings: Maybe[Warnings] = UNSET


class GraphEntry(Message):
    """One registered graph."""

    name: str
    digest: str
    updated_at: Time


class GraphListReply(Message):
    """All registered graphs, by name; `truncated` if not all of them fit."""

    graphs: list[GraphEntry]
    truncated: Maybe[Truncated] = UNSET
