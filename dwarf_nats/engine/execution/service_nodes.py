"""Carries out the requests and messages of graphs (N3, N4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.engine.execution.observer import CallObserver
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.ports import BusAway
from dwarf_nats.rules.service_messages import service_message
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from dwarf_nats.workflow.services import NOT_SENT, ServiceCall, ServiceReply
from dwarf_nats.workflow.state import NULL
from dwarf_nats.workflow.task_exceptions import describe_error, was_cancelled

if TYPE_CHECKING:
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.ports import Services
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.graph import Node
    from dwarf_nats.workflow.state import Raw, State

LATE_SECONDS = 1.0
"""Time after the deadline at which a call is ended whose transport did not end it, as it should."""
_NO_EXTRA: Mapping[str, Raw] = {}


class ServiceNodes:
    """Sends the request or message of a step, and makes an answer of the reply."""

    def __init__(self, shared: Shared) -> None:
        self._clock = shared.clock
        self._services = shared.services
        self._observer = CallObserver(shared)

    def send(self, step: ClaimedStep, node: Node, *, budget_ms: int) -> Awaitable[Answer]:
        """Send the request or message of the node; its reply goes into the field of the node. As `send_action`.

        The reply to a compensation changes nothing, and its templates know what the compensated step had changed (N9).
        """
        action = node.action
        assert isinstance(action, SendRequest | PublishMessage)
        where, compensated = f"node {node.name!r}, {action.kind}", step.compensating
        if compensated is not None:
            extra = {"changes": compensated.changes}
            return self.send_action(step, action, where=where, extra=extra, budget_ms=budget_ms)
        into = (node.into or node.name) if isinstance(action, SendRequest) else ""
        return self.send_action(step, action, where=where, into=into, budget_ms=budget_ms)

    def send_action(
        self,
        step: ClaimedStep,
        action: SendRequest | PublishMessage,
        *,
        where: str,
        into: str = "",
        extra: Mapping[str, Raw] = _NO_EXTRA,
        budget_ms: int,
    ) -> Awaitable[Answer]:
        """Send what the action says; the answer, which is an error if it could not be made or sent, or was refused.

        `where` names the action in messages, such as `node 'quote', request`. The reply changes the field `into`, or nothing if
        there is none. `extra` is known to the templates beside the state. Raises `BusAway` and `Unavailable` if it is unknown
        whether it was sent.
        """
        services = self._services
        if services is None:
            message = f"{where}: this engine was opened without `services`, which send requests and messages"
            return _settled(Answer(error=ErrorInfo(message, 501), cause=NOT_SENT))
        try:
            made = service_message(action, step.input, where=where, extra=extra)
        except BadRequest as error:
            return _settled(Answer(error=ErrorInfo(error.message, error.code), cause=NOT_SENT))
        call = ServiceCall(
            name=action.subject,
            subject=made.subject,
            payload=made.payload,
            headers=made.headers,
            flow_id=step.flow.public_id,
            step_id=step.public_id,
            message_id=step.message_id,
            attempt=step.attempt,
            deadline=self._clock.now() + budget_ms * 1000,
            budget=budget_ms / 1000,
        )
        stream = action.stream if isinstance(action, PublishMessage) else None
        sending = _Sending(services, call, stream, into)
        if self._observer.listening or step.flow.trace:
            return self._observer.observe(step, sending.within)
        return sending.answer()


async def _settled(answer: Answer) -> Answer:
    return answer


class _Sending(NamedTuple):
    """One request, or one message where `stream` says whether a stream stores it; `into`: the field of the reply."""

    services: Services
    call: ServiceCall
    stream: bool | None
    into: str

    async def within(self, traceparent: str, tracestate: str) -> Answer:
        """As `answer`, within a trace."""
        self.call.traceparent, self.call.tracestate = traceparent, tracestate
        return await self.answer()

    async def answer(self) -> Answer:
        """Send it; the reply as an answer."""
        call = self.call
        running = asyncio.current_task()
        deadline = asyncio.timeout(call.budget + LATE_SECONDS)
        try:
            async with deadline:
                if self.stream is None:
                    return _answer_of(await self.services.request(call), self.into)
                return _answer_of(await self.services.publish(call, stream=self.stream), "")
        except (BusAway, Unavailable):
            raise
        except asyncio.CancelledError:
            if was_cancelled(running):
                raise
            return Answer(error=ErrorInfo("the call of the service was cancelled from inside", 500))
        except Exception as error:
            if deadline.expired():
                message = f"the service at {call.subject} did not answer within its time budget of {call.budget:g} s"
                return Answer(error=ErrorInfo(message, 408), cause="timeout")
            return Answer(error=ErrorInfo(f"the call of the service at {call.subject} failed: {describe_error(error)}"))


def _answer_of(reply: ServiceReply, into: str) -> Answer:
    if reply.error is not None:
        return Answer(error=reply.error, disposition=reply.disposition, cause=reply.cause)
    changes: State = {into: NULL if reply.value is None else reply.value} if into else {}
    return Answer(changes=changes)
