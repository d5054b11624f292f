"""The client: every operation of the service as a method (wire section 1; O1-O16).

async with Client("nats://127.0.0.1:4222") as client:
    outcome = await client.run("greet", {"name": "ada"})
    print(outcome.status, outcome.state)
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from msgspec import UNSET
from nats.aio.client import Client as Nats

from dwarf_nats.errors import BadRequest, TimedOut, Unavailable
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import options_message, outcome_record
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome, Step

from .arguments import Values, check_options, json_object, workflow_fields
from .codec import SharedArguments, connect_arguments
from .deployment import Deployment
from .flow_control import FlowControl
from .flow_reads import FlowReads
from .holds import Holds
from .limits import Limits
from .message_sources import MessageSources
from .replies import decode
from .requester import WaitDeadline, wait_timed_out
from .retention import Retention
from .schedules import Schedules

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph

    from .flow_stream import FlowStream


@dataclass(slots=True, frozen=True)
class Change:
    """A flow after a change, as `watch` yields it."""

    fingerprint: str
    outcome: Outcome
    steps: list[Step]


class Client(FlowReads, FlowControl, Limits, Holds, Retention, Schedules, MessageSources, Deployment):
    """A client of the service. One client serves any number of coroutines at once.

    `url` names the NATS server(s), comma-separated; without it, `NATS_CONTEXT`, `NATS_URL` and the other variables of the
    `nats` CLI decide. `nc` is a connection to use instead of an own one; it is not closed. `how`: credentials and TLS, the
    fields of `ConnectOptions`. `prefix`: the subject prefix of the deployment.

    `timeout`: seconds to wait for a reply, on top of the time that a waiting operation takes on purpose. `patience`: seconds
    during which a request whose reply was lost is sent again if repeating it is harmless, and during which a wait tolerates
    that the service is unavailable. `retry_creates`: give every create a generated idempotency key, so that it may be
    sent again, too; creates with an idempotency key in their options always are. `actor`: who acts through this client, a
    person or a program; it is kept with what is done, in the audit trail for example. With a `codec`, chosen fields of what is
    sent are sealed, and what is received is opened. With `claim_checks`, large values travel by the object store.

    Every refusal is raised as a leaf of `DwarfError`; `Unavailable` also if nobody answers.
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
        actor: str = "",
        **how: Unpack[SharedArguments],
    ) -> None:
        super().__init__(
            nc,
            options=ConnectOptions(url=url, **connect_arguments(how)),
            prefix=prefix,
            name=name,
            timeout=timeout,
            patience=patience,
            actor=actor,
            codec=how.get("codec"),
        )
        self._claim_checks = how.get("claim_checks")
        self._retry_creates = retry_creates

    # --- creating and running flows ---

    async def create(
        self,
        workflow: str | Graph,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        start: bool = False,
    ) -> str:
        """Create a flow of a registered workflow, named, or of a graph sent along; returns its key (O1).

        Example: `key = await client.create("order", {"total": 5}, start=True)`
        """
        name, graph = workflow_fields(workflow)
        options, key = self._with_key(options)
        request = m.FlowCreateRequest(
            workflow=name,
            graph=graph,
            state=json_object(state, "state"),
            options=options_message(options),
            start=start or UNSET,
        )
        return await self._create("flow.create", request, key)

    async def create_task(
        self, task: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create a flow of a single task; returns its key (O1).

        Example: `key = await client.create_task("charge", {"total": 5})`
        """
        options, key = self._with_key(options)
        request = m.FlowCreateTaskRequest(
            task=task,
            state=json_object(state, "state"),
            options=options_message(options),
            start=start or UNSET,
        )
        return await self._create("flow.create_task", request, key)

    async def continue_(
        self, thread_key: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create the next flow of a thread, named by the key of any of its flows; returns its key (O15).

        Its graph is that of the thread's latest flow, which must be completed; its state is that flow's final state merged
        with `state` through the graph's reducers. Baggage is inherited unless given, scheduling is not. A `thread` in the
        options is refused. Raises `Conflict` if the latest flow is not completed, `BadRequest` if a reducer cannot merge.

        Example: `next_key = await client.continue_(key, {"total": 7}, start=True)`
        """
        options, key = self._with_key(options)
        request = m.FlowContinueRequest(
            thread_key=thread_key,
            state=json_object(state, "state"),
            options=options_message(options),
            start=start or UNSET,
        )
        return await self._create("flow.continue", request, key)

    async def start(self, flow_key: str, notify: str = "") -> None:
        """Start a created flow (O2); `notify` names the subject on which its outcome is announced (B4).

        Example: `await client.start(key)`
        """
        await self._request("flow.start", m.FlowStartRequest(flow_key=flow_key, notify=notify or UNSET))

    async def run(
        self,
        workflow: str | Graph,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        timeout: float | None = 30.0,
    ) -> Outcome:
        """Create a flow, start it and wait for its outcome (O3). `timeout`: in seconds, `None` for no limit.

        Raises `TimedOut`, with the key in `details["flow_key"]`, if the flow is still going then.

        Example: `outcome = await client.run("order", {"total": 5}, timeout=60)`
        """
        name, graph = workflow_fields(workflow)
        options, key = self._with_key(options)
        deadline = WaitDeadline(timeout, self._patience)
        request = m.FlowRunRequest(
            workflow=name,
            graph=graph,
            state=json_object(state, "state"),
            options=options_message(options),
            timeout_ms=_milliseconds(deadline.slice_seconds),
        )
        try:
            body = await self._request(
                "flow.run",
                request,
                wait_seconds=deadline.slice_seconds,
                repeatable=bool(key),
                retry_unavailable=bool(key),
                idempotency_key=key,
            )
            return outcome_record(decode(m.Outcome, body, "flow.run"))
        except (TimedOut, Unavailable) as error:
            # A wait that ended early (server cap, slice, a replica that stops) goes on with the key, if the reply has it.
            flow_key = error.details.get("flow_key")
            if not isinstance(flow_key, str):
                raise
            if deadline.is_over:
                raise wait_timed_out(flow_key, timeout) from None
        deadline.service_answered()
        return await self._wait("flow.await", flow_key, deadline, timeout)

    # --- waiting for flows ---

    async def await_(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Return the outcome as soon as the flow is stopped (O4).

        `timeout`: in seconds, `None` for no limit. Raises `TimedOut` if the flow is still going then.

        Example: `outcome = await client.await_(key, timeout=60)`
        """
        return await self._wait("flow.await", flow_key, WaitDeadline(timeout, self._patience), timeout)

    async def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Wait as `await_` does, but return where the flow stands if it is still going after `timeout` seconds (O4).

        Example: `outcome = await client.poll(key, timeout=1)`
        """
        return await self._wait("flow.poll", flow_key, WaitDeadline(timeout, self._patience), timeout)

    async def watch(self, flow_key: str, interval: float = 0.25) -> AsyncIterator[Change]:
        """Yield the flow as it is now, then again after every change, until it is completed, failed or cancelled.

        The flow is polled every `interval` seconds, and at once when it stops; several changes in between are one.

        Example: `async for change in client.watch(key): print(change.outcome.status)`
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

    def stream(self, flow_key: str, *, end_at_pause: bool = False) -> FlowStream:
        """Follow what the tasks of a flow, and of flows that it calls, emit while they run, until it is stopped (B8).

        An async iterator of `Chunk`s, and a context manager: inside of `async with`, nothing that is emitted is missed, so
        start the flow there. `flow_key` is that of the flow at the top. With `end_at_pause` the iteration also ends when
        the flow is interrupted. Afterwards `outcome` is the flow's.

        Example: `async for chunk in client.stream(key): print(chunk.text)`
        """
        from .flow_stream import FlowStream

        return FlowStream(self, flow_key, codec=self._codec, end_at_pause=end_at_pause)

    # --- requests ---

    async def _create(self, operation: str, request: Any, key: str) -> str:
        body = await self._request(
            operation, request, repeatable=bool(key), retry_unavailable=bool(key), idempotency_key=key
        )
        return decode(m.FlowKeyReply, body, operation).flow_key

    def _with_key(self, options: FlowOptions | None) -> tuple[FlowOptions | None, str]:
        """The options without their idempotency key, and the key, which travels in the header; a generated one if wanted."""
        check_options(options)
        if options is not None and options.idempotency_key is not None:
            if not options.idempotency_key:
                raise BadRequest("option idempotency_key is empty: leave it out, or give it a key")
            return replace(options, idempotency_key=None), options.idempotency_key
        # With a thread, a key is refused (O1), so such a create is sent once.
        if self._retry_creates and not (options is not None and options.thread is not None):
            return options, uuid.uuid4().hex
        return options, ""

    async def _wait(self, operation: str, flow_key: str, deadline: WaitDeadline, timeout: float | None) -> Outcome:
        """Ask with `flow.await` or `flow.poll`, a slice of the time after the other, until the flow stops or time is up."""
        while True:
            request = m.FlowWaitRequest(flow_key=flow_key, timeout_ms=_milliseconds(deadline.slice_seconds))
            try:
                body = await self._request(operation, request, wait_seconds=deadline.slice_seconds)
            except TimedOut:
                if deadline.is_over:
                    raise wait_timed_out(flow_key, timeout) from None
                deadline.service_answered()
            except Unavailable as error:
                await deadline.pause_or_raise(error)
            else:
                outcome = outcome_record(decode(m.Outcome, body, operation))
                if outcome.status.stopped or deadline.is_over:
                    return outcome
                deadline.service_answered()


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


__all__ = ["Change", "Client"]
