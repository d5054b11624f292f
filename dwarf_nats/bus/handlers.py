"""The handlers of the operations: each takes a request and returns the bytes of the reply (wire: section 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.render.history import fits_mermaid
from dwarf_nats.wire import messages as m
from dwarf_nats.wire import truncation
from dwarf_nats.wire.codec import encode, flow_options, or_default, query, raw_bytes
from dwarf_nats.wire.decoding import EMPTY
from dwarf_nats.wire.operations import OPERATION_NAMES
from dwarf_nats.wire.shards import counts_message, shard_message
from dwarf_nats.wire.tag_messages import tag_changes, tags_given, tags_json
from dwarf_nats.wire.times import rfc3339
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.names import check_subject_name, check_task_name
from dwarf_nats.workflow.options import LIST_DEFAULT_FLOWS
from dwarf_nats.workflow.records import TaskHealth
from dwarf_nats.workflow.state import NULL, check_json

from .engine_api import EngineApi

THREAD_MIN_GRAPH_BYTES = 50_000
"""Size of a graph, in bytes, from which it is read in a thread, so that other requests are not held up."""
THREAD_MIN_STEPS = 200
"""Steps of a page from which it is written in a thread, for the same reason."""


def task_health_message(task: TaskHealth) -> dict[str, object]:
    """The entry of a task in STATS: its rate if its valve limits it, its breaker if that is tripped."""
    message: dict[str, object] = {"task": task.url}
    if task.rate is not None:
        message["ratePerSecond"] = round(task.rate, 3)
    if task.tripped_at:
        message["breaker"] = {
            "cause": task.cause,
            "since": rfc3339(task.tripped_at),
            "probes": task.probes,
            "probeAt": rfc3339(task.probe_at),
        }
    return message


def _unbounded() -> int:
    return UNBOUNDED


@dataclass(slots=True)
class RequestContext:
    """One request. `payload`: its bytes. `msg_id`: its `Nats-Msg-Id`, if it has one. `answerable`: it has a reply subject.

    `traceparent` and `tracestate`: of the caller who creates a flow, which is linked to it (T2). `max_reply_bytes`: the size a
    reply may have at the moment; a reconnect to another server may change it. `actor`: who asks, as far as is known (M3).
    """

    payload: bytes
    msg_id: str | None = None
    answerable: bool = True
    rest_of_subject: str = ""
    """The tokens in place of the wildcard of its endpoint's subject."""
    default_timeout_seconds: float = 30.0
    max_timeout_seconds: float = 3600.0
    traceparent: str = ""
    tracestate: str = ""
    actor: str = ""
    max_reply_bytes: Callable[[], int] = _unbounded
    request: msgspec.Struct | None = None
    """The request, once it has been read; a graph is none."""

    def timeout(self, timeout_ms: int | UnsetType) -> float:
        """Seconds to wait: the default where none is given, capped; 0 means do not wait."""
        if isinstance(timeout_ms, UnsetType):
            return min(self.default_timeout_seconds, self.max_timeout_seconds)
        # Compared as an integer: it may be too large for a float.
        return self.max_timeout_seconds if timeout_ms >= self.max_timeout_seconds * 1000 else timeout_ms / 1000


Handler = Callable[[EngineApi, Any, RequestContext], Awaitable[bytes]]
H = TypeVar("H", bound=Handler)

HANDLERS: dict[str, Handler] = {}
"""The handler of each operation, filled by `handles`."""


def handles(operation: str) -> Callable[[H], H]:
    """Mark the handler of an operation; each of `OPERATIONS` has exactly one."""
    if operation not in OPERATION_NAMES or operation in HANDLERS:
        raise ValueError(f"{operation} is no operation, or has a handler already")

    def register(handler: H) -> H:
        HANDLERS[operation] = handler
        return handler

    return register


def _flow_key(key: str) -> bytes:
    return encode(m.FlowKeyReply(flow_key=key))


def _source(request: m.FlowCreateRequest | m.FlowRunRequest) -> str | Graph:
    """The workflow's name, or the inline graph."""
    if isinstance(request.graph, UnsetType):
        if isinstance(request.workflow, UnsetType):
            raise BadRequest("name a `workflow`, or send a `graph`")
        return check_subject_name(request.workflow, "workflow name")
    if not isinstance(request.workflow, UnsetType):
        raise BadRequest("send either `workflow` or `graph`, not both")
    return Graph.from_json(bytes(request.graph))


@handles("flow.create")
async def create(engine: EngineApi, request: m.FlowCreateRequest, context: RequestContext) -> bytes:
    options = flow_options(request.options, context.msg_id)
    start = or_default(request.start, default=False) or not context.answerable
    return _flow_key(await engine.create(_source(request), raw_bytes(request.state), options, start=start))


@handles("flow.create_task")
async def create_task(engine: EngineApi, request: m.FlowCreateTaskRequest, context: RequestContext) -> bytes:
    options = flow_options(request.options, context.msg_id)
    start = or_default(request.start, default=False) or not context.answerable
    task = check_subject_name(request.task, "task")
    return _flow_key(await engine.create_task(task, raw_bytes(request.state), options, start=start))


@handles("flow.start")
async def start(engine: EngineApi, request: m.FlowStartRequest, _context: RequestContext) -> bytes:
    notify = or_default(request.notify, "")
    if notify:
        check_subject_name(notify, "notify target")
    await engine.start(request.flow_key, notify)
    return EMPTY


@handles("flow.run")
async def run(engine: EngineApi, request: m.FlowRunRequest, context: RequestContext) -> bytes:
    options = flow_options(request.options, context.msg_id)
    timeout = context.timeout(request.timeout_ms)
    outcome = await engine.run(_source(request), raw_bytes(request.state), options, timeout)
    return truncation.outcome(outcome, context.max_reply_bytes())


@handles("flow.await")
async def await_(engine: EngineApi, request: m.FlowWaitRequest, context: RequestContext) -> bytes:
    outcome = await engine.await_(request.flow_key, context.timeout(request.timeout_ms))
    return truncation.outcome(outcome, context.max_reply_bytes())


@handles("flow.poll")
async def poll(engine: EngineApi, request: m.FlowWaitRequest, context: RequestContext) -> bytes:
    outcome = await engine.poll(request.flow_key, context.timeout(request.timeout_ms))
    return truncation.outcome(outcome, context.max_reply_bytes())


@handles("flow.snapshot")
async def snapshot(engine: EngineApi, request: m.FlowRequest, context: RequestContext) -> bytes:
    outcome = await engine.snapshot(request.flow_key)
    return truncation.outcome(outcome, context.max_reply_bytes())


@handles("flow.fingerprint")
async def fingerprint(engine: EngineApi, request: m.FlowRequest, _context: RequestContext) -> bytes:
    digest, status = await engine.fingerprint(request.flow_key)
    return encode({"fingerprint": digest, "status": status.value})


@handles("flow.history")
async def history(engine: EngineApi, request: m.FlowHistoryRequest, context: RequestContext) -> bytes:
    steps, cursor = await engine.history_page(
        request.flow_key, or_default(request.limit, 100), or_default(request.cursor, "")
    )
    if len(steps) > THREAD_MIN_STEPS or any(step.sub_history for step in steps):
        return await asyncio.to_thread(truncation.history, steps, cursor, context.max_reply_bytes())
    return truncation.history(steps, cursor, context.max_reply_bytes())


@handles("flow.mermaid")
async def mermaid(engine: EngineApi, request: m.FlowRequest, context: RequestContext) -> bytes:
    max_bytes = context.max_reply_bytes()

    def fits(text: str) -> bool:
        return fits_mermaid(text) and len(encode(m.MermaidReply(mermaid=text))) <= max_bytes

    return encode(m.MermaidReply(mermaid=await engine.mermaid(request.flow_key, fits)))


@handles("flow.graph")
async def flow_graph(engine: EngineApi, request: m.FlowRequest, _context: RequestContext) -> bytes:
    graph = await engine.flow_graph(request.flow_key)
    return encode(m.FlowGraphReply(graph=msgspec.Raw(graph.to_json()), digest=graph.digest()))


@handles("flow.explain")
async def explain(engine: EngineApi, request: m.FlowRequest, context: RequestContext) -> bytes:
    explanation = await engine.explain(request.flow_key)
    return truncation.explanation(explanation, context.max_reply_bytes())


@handles("step.get")
async def step(engine: EngineApi, request: m.StepRequest, context: RequestContext) -> bytes:
    found = await engine.step(request.step_key)
    return truncation.step(found, context.max_reply_bytes())


@handles("flow.list")
async def list_(engine: EngineApi, request: m.FlowListRequest, context: RequestContext) -> bytes:
    wanted = query(request)
    while True:
        flows, cursor = await engine.list(wanted, or_default(request.cursor, ""))
        body, fit = truncation.flows(flows, cursor, context.max_reply_bytes(), limit=wanted.limit or LIST_DEFAULT_FLOWS)
        if fit == len(flows):
            return body
        wanted = replace(wanted, limit=max(1, fit))


@handles("flow.count")
async def count(engine: EngineApi, request: m.FlowCountRequest, _context: RequestContext) -> bytes:
    return encode(counts_message(await engine.count(query(request))))


@handles("flow.purge")
async def purge(engine: EngineApi, request: m.FlowPurgeRequest, _context: RequestContext) -> bytes:
    return encode(m.FlowPurgeReply(deleted=await engine.purge(query(request))))


@handles("flow.delete")
async def delete(engine: EngineApi, request: m.FlowRequest, _context: RequestContext) -> bytes:
    await engine.delete(request.flow_key)
    return EMPTY


@handles("flow.cancel")
async def cancel(engine: EngineApi, request: m.FlowCancelRequest, _context: RequestContext) -> bytes:
    await engine.cancel(request.flow_key, or_default(request.reason, ""))
    return EMPTY


@handles("flow.resume")
async def resume(engine: EngineApi, request: m.FlowResumeRequest, _context: RequestContext) -> bytes:
    data = or_default(request.data, NULL)
    check_json(bytes(data), "field `data`", UNBOUNDED)  # the engine checks the depth
    await engine.resume(or_default(request.flow_key, ""), data, step=or_default(request.step_key, ""))
    return EMPTY


@handles("flow.resume_break")
async def resume_break(engine: EngineApi, request: m.FlowResumeBreakRequest, _context: RequestContext) -> bytes:
    overrides = raw_bytes(request.overrides)
    await engine.resume_break(or_default(request.flow_key, ""), overrides, step=or_default(request.step_key, ""))
    return EMPTY


@handles("flow.break_before")
async def break_before(engine: EngineApi, request: m.FlowBreakBeforeRequest, _context: RequestContext) -> bytes:
    await engine.break_before(request.flow_key, request.task, or_default(request.enabled, default=True))
    return EMPTY


@handles("flow.restart")
async def restart(engine: EngineApi, request: m.FlowOverridesRequest, _context: RequestContext) -> bytes:
    await engine.restart(request.flow_key, raw_bytes(request.overrides))
    return EMPTY


@handles("flow.restart_from")
async def restart_from(engine: EngineApi, request: m.StepOverridesRequest, _context: RequestContext) -> bytes:
    await engine.restart_from(request.step_key, raw_bytes(request.overrides))
    return EMPTY


@handles("flow.fork")
async def fork(engine: EngineApi, request: m.FlowForkRequest, _context: RequestContext) -> bytes:
    tags = tags_given(request.tags, "field `tags`")
    return _flow_key(await engine.fork(request.step_key, raw_bytes(request.overrides), tags))


@handles("flow.tag")
async def tag(engine: EngineApi, request: m.FlowTagRequest, _context: RequestContext) -> bytes:
    tags = await engine.tag(request.flow_key, tag_changes(request.tags, "field `tags`"))
    return encode(m.FlowTagReply(tags=tags_json(tags)))


@handles("flow.continue")
async def continue_(engine: EngineApi, request: m.FlowContinueRequest, context: RequestContext) -> bytes:
    options = flow_options(request.options, context.msg_id)
    if options is not None and options.thread is not None:
        raise BadRequest("the field `options.threadKey` has no place in a continue: `threadKey` names the thread")
    # Without a reply subject nobody learns the key, as with a create, so it is started too.
    start = or_default(request.start, default=False) or not context.answerable
    return _flow_key(await engine.continue_(request.thread_key, raw_bytes(request.state), options, start=start))


@handles("task.breaker")
async def breaker(engine: EngineApi, request: m.TaskBreakerRequest, _context: RequestContext) -> bytes:
    task = check_task_name(request.task)
    return encode(m.TaskBreakerReply(task=task, tripped=await engine.breaker_tripped(task)))


@handles("shard.put")
async def put_shard(engine: EngineApi, request: m.ShardPutRequest, _context: RequestContext) -> bytes:
    policy = await engine.put_shard(
        request.shard, cordoned=or_default(request.cordoned, None), weight=or_default(request.weight, None)
    )
    return encode(m.ShardPutReply(shard=request.shard, cordoned=policy.cordoned, weight=policy.weight))


@handles("shard.info")
async def shards(engine: EngineApi, _request: m.EmptyRequest, _context: RequestContext) -> bytes:
    found = [shard_message(one) for one in await engine.shard_info()]
    return encode(m.ShardInfoReply(shards=found))


async def _graph_in(payload: bytes) -> Graph:
    """The graph of a request; a large one is read in a thread."""
    if len(payload) <= THREAD_MIN_GRAPH_BYTES:
        return Graph.from_json(payload)
    return await asyncio.to_thread(Graph.from_json, payload)


@handles("graph.put")
async def graph_put(engine: EngineApi, _request: None, context: RequestContext) -> bytes:
    info = await engine.put_graph(await _graph_in(context.payload or EMPTY))
    return truncation.with_warnings(
        m.GraphPutReply(name=info.name, digest=info.digest), info.warnings, context.max_reply_bytes()
    )


@handles("graph.get")
async def graph_get(engine: EngineApi, request: m.GraphRequest, _context: RequestContext) -> bytes:
    graph = await engine.get_graph(check_subject_name(request.name, "graph name"))
    return graph.to_json()


@handles("graph.delete")
async def graph_delete(engine: EngineApi, request: m.GraphRequest, _context: RequestContext) -> bytes:
    await engine.delete_graph(check_subject_name(request.name, "graph name"))
    return EMPTY


@handles("graph.list")
async def graph_list(engine: EngineApi, _request: m.EmptyRequest, context: RequestContext) -> bytes:
    found = await engine.list_graphs()
    return truncation.graphs(found, context.max_reply_bytes())


@handles("graph.validate")
async def graph_validate(engine: EngineApi, _request: None, context: RequestContext) -> bytes:
    warnings = await engine.validate_graph(await _graph_in(context.payload or EMPTY))
    return truncation.with_warnings(m.GraphValidateReply(), warnings, context.max_reply_bytes())


@handles("graph.mermaid")
async def graph_diagram(engine: EngineApi, request: m.GraphRequest, _context: RequestContext) -> bytes:
    graph = await engine.get_graph(check_subject_name(request.name, "graph name"))
    return encode(m.MermaidReply(mermaid=graph_mermaid(graph)))


GRAPH_PAYLOADS: frozenset[type[msgspec.Struct]] = frozenset({m.GraphDocument})
"""Requests whose payload is a graph, read and checked by `Graph.from_json`."""
