"""The client: every operation of the service as a method (wire section 1; O1-O16).

async with Client("nats://127.0.0.1:4222") as client:
    outcome = await client.run("greet", {"name": "ada"})
    print(outcome.status, outcome.state)
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, Unpack

from msgspec import UNSET, Raw, UnsetType
from nats.aio.client import Client as Nats

from dwarf_nats.errors import BadRequest, TimedOut, Unavailable
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.connecting import ConnectArguments, ConnectOptions
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import FlowSummary, GraphInfo, Outcome, ShardInfo, Step
from dwarf_nats.workflow.state import encode_value
from dwarf_nats.workflow.status import Status

from . import replies
from .discovery import all_replies
from .requester import Requester, WaitDeadline, timed_out

Values: TypeAlias = Mapping[str, Any] | bytes | None
"""A state or overrides: Python values, or the JSON text of an object."""
Steps: TypeAlias = list[Step]
Summaries: TypeAlias = list[FlowSummary]
Shards: TypeAlias = list[ShardInfo]
Graphs: TypeAlias = list[GraphInfo]
Texts: TypeAlias = list[str]
Healths: TypeAlias = list[m.HealthReply]


@dataclass(slots=True, frozen=True)
class Change:
    """What `watch` sees each time something about a flow changed."""

    fingerprint: str
    outcome: Outcome
    steps: list[Step]


class Client(Requester):
    """A caller of the service. One client serves any number of coroutines at once.

    `url` names the NATS server(s), comma-separated; left out, `NATS_CONTEXT`, `NATS_URL` and the other variables of the
    `nats` CLI decide. `nc` is a connection to use instead of an own one; it is not closed. `how`: who we are, as
    `ConnectOptions` has it. `prefix`: the deployment's.

    `timeout`: seconds to wait for a reply, on top of what a waiting operation may take on purpose. `patience`: seconds
    during which a request whose reply was lost is sent again where that does no harm, and during which a wait puts up
    with a service that is away. `retry_creates`: give every create a generated idempotency key, so that it too may be
    sent again; creates with a key of the caller's own always are.

    Every refusal is raised as a leaf of `DwarfError`; `Unavailable` also when nobody answers.
    """

    def __init__(
        self,
        url: str = "",
        *,
        nc: Nats | None = None,
        prefix: str = "dwarf",
        name: str = "dwarf-client",
        timeout: float = 5.0,
        patience: float = 15.0,
        retry_creates: bool = False,
        **how: Unpack[ConnectArguments],
    ) -> None:
        super().__init__(nc, ConnectOptions(url=url, **how), prefix, name, timeout, patience)
        self._retry_creates = retry_creates

    # --- making and running flows ---

    async def create(
        self,
        workflow: str | Graph,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        start: bool = False,
    ) -> str:
        """Make a flow of a workflow known by name, or of a graph sent along; returns its key (O1)."""
        name, graph = _workflow(workflow)
        options, key = self._keyed(options)
        request = m.FlowCreateRequest(
            workflow=name,
            graph=graph,
            state=replies.json_object(state, "state"),
            options=replies.options_message(options),
            start=start or UNSET,
        )
        return await self._made("flow.create", request, key)

    async def create_task(
        self, task: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Make a flow of a single task; returns its key (O1)."""
        options, key = self._keyed(options)
        request = m.FlowCreateTaskRequest(
            task=task,
            state=replies.json_object(state, "state"),
            options=replies.options_message(options),
            start=start or UNSET,
        )
        return await self._made("flow.create_task", request, key)

    async def start(self, flow_key: str, notify: str = "") -> None:
        """Start a created flow (O2); `notify` names where its outcome is announced (B4)."""
        await self._ask("flow.start", m.FlowStartRequest(flow_key=flow_key, notify=notify or UNSET))

    async def run(
        self,
        workflow: str | Graph,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        timeout: float | None = 30.0,
    ) -> Outcome:
        """Create, start and await (O3). `timeout` in seconds, `None`: however long it takes.

        Raises `TimedOut`, with the key in `details["flow_key"]`, if the flow is still going then.
        """
        name, graph = _workflow(workflow)
        options, key = self._keyed(options)
        waiting = WaitDeadline(timeout, self._patience)
        request = m.FlowRunRequest(
            workflow=name,
            graph=graph,
            state=replies.json_object(state, "state"),
            options=replies.options_message(options),
            timeout_ms=_ms(waiting.slice),
        )
        try:
            body = await self._ask("flow.run", request, wait=waiting.slice, again=bool(key), patient=bool(key), key=key)
            return replies.outcome(body, "flow.run")
        except (TimedOut, Unavailable) as error:
            # A wait that ended early (cap, slice, a replica that stops) goes on with the key, if the reply has it.
            flow_key = error.details.get("flow_key")
            if not isinstance(flow_key, str):
                raise
            if waiting.over:
                raise timed_out(flow_key, timeout) from None
        waiting.answered()
        return await self._wait("flow.await", flow_key, waiting, timeout)

    async def await_(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """The outcome as soon as the flow is stopped (O4); `TimedOut` after `timeout` seconds (`None`: never)."""
        return await self._wait("flow.await", flow_key, WaitDeadline(timeout, self._patience), timeout)

    async def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """As `await_`, but a timeout answers with where the flow stands (O4)."""
        return await self._wait("flow.poll", flow_key, WaitDeadline(timeout, self._patience), timeout)

    async def continue_(
        self, thread_key: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Make the next flow of a thread, named by the key of any of its flows; returns its key (O15).

        Its graph is that of the thread's latest flow, which must be completed; its state is that flow's final state merged
        with `state` through the graph's reducers. Baggage is inherited unless given, scheduling is not. A `thread` in the
        options is refused. Raises `Conflict` if the latest flow is not completed, `BadRequest` if a reducer cannot merge.
        """
        options, key = self._keyed(options)
        request = m.FlowContinueRequest(
            thread_key=thread_key,
            state=replies.json_object(state, "state"),
            options=replies.options_message(options),
            start=start or UNSET,
        )
        return await self._made("flow.continue", request, key)

    # --- looking at flows ---

    async def snapshot(self, flow_key: str) -> Outcome:
        """Where a flow stands (O5)."""
        return replies.outcome(await self._look("flow.snapshot", m.FlowRequest(flow_key=flow_key)), "flow.snapshot")

    async def fingerprint(self, flow_key: str) -> tuple[str, Status]:
        """A digest that changes whenever anything observable about the flow does, and its status (O6)."""
        body = await self._look("flow.fingerprint", m.FlowRequest(flow_key=flow_key))
        reply = replies.decode(m.FingerprintReply, body, "flow.fingerprint")
        return reply.fingerprint, Status(reply.status)

    async def history(self, flow_key: str) -> Steps:
        """All steps of the flow by depth and id, without state and changes, however many pages they are (O7).

        Below a step that called a sub-workflow stands the beginning of its history; if the step is `truncated`, its
        `sub_flow_key` reads all of it. `iter_history` yields the steps as they come.
        """
        return [step async for step in self.iter_history(flow_key)]

    async def iter_history(self, flow_key: str, limit: int = 1000) -> AsyncIterator[Step]:
        """The steps of the flow one after the other, as `history` has them; `limit` is the size of a page."""
        cursor = ""
        while True:
            page, cursor = await self.history_page(flow_key, limit, cursor)
            for step in page:
                yield step
            if not cursor:
                return

    async def history_page(self, flow_key: str, limit: int = 100, cursor: str = "") -> tuple[Steps, str]:
        """At most `limit` steps after the cursor, and the cursor of the next page, empty on the last (O7).

        A page that would not fit the bus is shorter.
        """
        request = m.FlowHistoryRequest(
            flow_key=flow_key, limit=UNSET if limit == 100 else limit, cursor=cursor or UNSET
        )
        reply = replies.decode(m.HistoryReply, await self._look("flow.history", request), "flow.history")
        following = "" if isinstance(reply.cursor, UnsetType) else reply.cursor
        return [replies.step(one) for one in reply.steps], following

    async def step(self, step_key: str) -> Step:
        """One step with state, changes and the keys of its neighbours (O7)."""
        body = await self._look("step.get", m.StepRequest(step_key=step_key))
        return replies.step(replies.decode(m.Step, body, "step.get"))

    async def mermaid(self, flow_key: str) -> str:
        """The flow's history as a Mermaid flowchart (O8)."""
        body = await self._look("flow.mermaid", m.FlowRequest(flow_key=flow_key))
        return replies.decode(m.MermaidReply, body, "flow.mermaid").mermaid

    async def watch(self, flow_key: str, interval: float = 0.25) -> AsyncIterator[Change]:
        """Yield what there is now, then again after every change, until the flow is completed, failed or cancelled.

        Looks every `interval` seconds, and at once when the flow stops; changes in between are seen as one.
        """
        seen = ""
        while True:
            fingerprint, status = await self.fingerprint(flow_key)
            if fingerprint != seen:
                seen = fingerprint
                outcome = await self.snapshot(flow_key)
                yield Change(fingerprint, outcome, await self.history(flow_key))
                if outcome.status.terminal:
                    return
            elif status.terminal:
                return
            if status.stopped:
                await asyncio.sleep(interval)
            else:
                await self.poll(flow_key, interval)

    async def list(self, query: Query | None = None, cursor: str = "") -> tuple[Summaries, str]:
        """A page of root flows, newest first, and the cursor of the next page, empty on the last (O9)."""
        request = m.FlowListRequest(**replies.filters(query or Query()), cursor=cursor or UNSET)
        reply = replies.decode(m.FlowListReply, await self._look("flow.list", request), "flow.list")
        following = "" if isinstance(reply.cursor, UnsetType) else reply.cursor
        return [replies.summary(one) for one in reply.flows], following

    async def list_all(self, query: Query | None = None) -> AsyncIterator[FlowSummary]:
        """Every flow that matches, page by page; `limit` is the size of a page."""
        cursor = ""
        while True:
            page, cursor = await self.list(query, cursor)
            for flow in page:
                yield flow
            if not cursor:
                return

    # --- steering flows ---

    async def cancel(self, flow_key: str, reason: str = "") -> None:
        """Cancel a flow that is not terminal yet (O10)."""
        await self._ask("flow.cancel", m.FlowCancelRequest(flow_key=flow_key, reason=reason or UNSET))

    async def resume(self, flow_key: str, data: Any = None) -> None:
        """Continue the oldest interrupt of a flow; the task's `interrupt` call returns `data` (O11).

        Any flow of a chain of subgraphs will do. `data`: Python values, or `msgspec.Raw` JSON text. The flow runs again once
        no branch is paused any more. Raises `Conflict` if no interrupt paused it.
        """
        text = UNSET if data is None else Raw(encode_value(data, "data"))
        await self._ask("flow.resume", m.FlowResumeRequest(flow_key=flow_key, data=text))

    async def resume_break(self, flow_key: str, overrides: Values = None) -> None:
        """Continue the oldest breakpoint of a flow, fields of the step's state replaced, `None` deletes one (O11).

        Raises `Conflict` if no breakpoint paused it.
        """
        await self._ask("flow.resume_break", _overriding(flow_key, overrides))

    async def break_before(self, flow_key: str, task: str, enabled: bool = True) -> None:
        """Pause a flow before it runs a task, or no longer, by the node's name or the url of just one node (O12).

        Holds for subgraphs too. Raises `Conflict` on a flow that has ended.
        """
        request = m.FlowBreakBeforeRequest(flow_key=flow_key, task=task, enabled=UNSET if enabled else False)
        await self._look("flow.break_before", request)

    async def restart(self, flow_key: str, overrides: Values = None) -> None:
        """Run a stopped flow again from its entry step, in place; later steps and subgraphs are removed (O13).

        `overrides` replace fields of the entry state, `None` deletes one. Raises `Conflict` while it runs.
        """
        await self._ask("flow.restart", _overriding(flow_key, overrides))

    async def restart_from(self, step_key: str, overrides: Values = None) -> None:
        """Run a step again, in place, and on from there; exactly what it had led to is removed (O13).

        `overrides` replace fields of the step's state, `None` deletes one. Raises `Conflict` unless the step and what it led
        to are at rest, and on a cancelled flow.
        """
        overridden = replies.json_object(overrides, "overrides")
        await self._ask("flow.restart_from", m.StepOverridesRequest(step_key=step_key, overrides=overridden))

    async def fork(self, step_key: str, overrides: Values = None) -> str:
        """Copy a flow that has ended up to this step and run the copy on from there; returns its key (O14).

        The original stays as it is. `overrides` replace fields of the step's state, `None` deletes one. Raises `Conflict`
        if the flow has not ended.
        """
        overridden = replies.json_object(overrides, "overrides")
        body = await self._ask("flow.fork", m.StepOverridesRequest(step_key=step_key, overrides=overridden))
        return replies.decode(m.FlowKeyReply, body, "flow.fork").flow_key

    async def delete(self, flow_key: str) -> None:
        """Delete a flow that is not running (O9)."""
        await self._ask("flow.delete", m.FlowRequest(flow_key=flow_key))

    async def purge(self, query: Query) -> int:
        """Delete what matches and is not running; at least one of status, workflow, older_than_ms (O9)."""
        request = m.FlowPurgeRequest(**replies.filters(query))
        return replies.decode(m.FlowPurgeReply, await self._ask("flow.purge", request), "flow.purge").deleted

    # --- the deployment ---

    async def breaker(self, task: str) -> bool:
        """Whether the breaker of a task, named by its url, is tripped (O16)."""
        body = await self._look("task.breaker", m.TaskBreakerRequest(task=task))
        return replies.decode(m.TaskBreakerReply, body, "task.breaker").tripped

    async def health(self, wait: float = 2.0) -> Healths:
        """What each replica says of its health: `ready`, `live`, and a `reason` if not; in the order they answered.

        All replicas are asked at once; those that say nothing within `wait` seconds, or long after the others, are missing.
        Raises `Unavailable` if none answers.
        """
        await self._ready()
        found = await all_replies(self.nc, self.subjects.health(), wait)
        if not found:
            raise Unavailable(self._nobody(), cause="no_responders")
        return [replies.decode(m.HealthReply, message.data, "health") for message in found]

    async def shard_info(self) -> Shards:
        """Health and size of every shard (O16)."""
        body = await self._look("shard.info", m.EmptyRequest())
        return [replies.shard(one) for one in replies.decode(m.ShardInfoReply, body, "shard.info").shards]

    async def put_graph(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name, replacing what was there; with what looks like a mistake in it (G11).

        `updated_at` is 0: the reply does not tell.
        """
        reply = replies.decode(m.GraphPutReply, await self._look("graph.put", _graph(graph)), "graph.put")
        return GraphInfo(reply.name, reply.digest, 0, tuple(replies.texts(reply.warnings)))

    async def get_graph(self, name: str) -> Graph:
        """A registered graph."""
        return Graph.from_json(await self._look("graph.get", m.GraphRequest(name=name)))

    async def delete_graph(self, name: str) -> None:
        """Take a graph out of the registry; flows made of it keep theirs (G10)."""
        await self._ask("graph.delete", m.GraphRequest(name=name))

    async def list_graphs(self) -> Graphs:
        """All registered graphs."""
        reply = replies.decode(m.GraphListReply, await self._look("graph.list", m.EmptyRequest()), "graph.list")
        return [GraphInfo(one.name, one.digest, replies.micros(one.updated_at)) for one in reply.graphs]

    async def validate_graph(self, graph: Graph) -> Texts:
        """What looks like a mistake in the graph (G11). Raises `BadRequest` if the service would refuse it (G6)."""
        body = await self._look("graph.validate", _graph(graph))
        return replies.texts(replies.decode(m.GraphValidateReply, body, "graph.validate").warnings)

    async def graph_mermaid(self, name: str) -> str:
        """A registered graph as a Mermaid flowchart (D1)."""
        body = await self._look("graph.mermaid", m.GraphRequest(name=name))
        return replies.decode(m.MermaidReply, body, "graph.mermaid").mermaid

    # --- manners ---

    async def _look(self, operation: str, message: Any) -> bytes:
        """Ask what may be asked twice."""
        return await self._ask(operation, message, again=True)

    async def _made(self, operation: str, request: Any, key: str) -> str:
        body = await self._ask(operation, request, again=bool(key), patient=bool(key), key=key)
        return replies.decode(m.FlowKeyReply, body, operation).flow_key

    def _keyed(self, options: FlowOptions | None) -> tuple[FlowOptions | None, str]:
        """The options without the idempotency key, and the key: it travels in the header."""
        replies.check_options(options)
        if options is not None and options.idempotency_key is not None:
            if not options.idempotency_key:
                raise BadRequest("option idempotency_key is empty: leave it out, or give it a key")
            return replace(options, idempotency_key=None), options.idempotency_key
        # With a thread, a key is refused (O1), so such a create is sent once.
        if self._retry_creates and not (options is not None and options.thread is not None):
            return options, uuid.uuid4().hex
        return options, ""

    async def _wait(self, operation: str, flow_key: str, waiting: WaitDeadline, timeout: float | None) -> Outcome:
        while True:
            request = m.FlowWaitRequest(flow_key=flow_key, timeout_ms=_ms(waiting.slice))
            try:
                body = await self._ask(operation, request, wait=waiting.slice)
            except TimedOut:
                if waiting.over:
                    raise timed_out(flow_key, timeout) from None
                waiting.answered()
            except Unavailable as error:
                await waiting.away(error)
            else:
                outcome = replies.outcome(body, operation)
                if outcome.status.stopped or waiting.over:
                    return outcome
                waiting.answered()


def _workflow(workflow: str | Graph) -> tuple[str | UnsetType, Raw | UnsetType]:
    if isinstance(workflow, str):
        return workflow, UNSET
    return UNSET, Raw(_graph(workflow))


def _graph(graph: Graph) -> bytes:
    if not isinstance(graph, Graph):
        raise BadRequest(f"a graph must be a Graph, got {type(graph).__name__}: read JSON text with Graph.from_json")
    return graph.to_json()


def _overriding(flow_key: str, overrides: Values) -> m.FlowOverridesRequest:
    return m.FlowOverridesRequest(flow_key=flow_key, overrides=replies.json_object(overrides, "overrides"))


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


__all__ = ["Change", "Client"]
