"""Python functions as the services of an engine in the same process."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dwarf_nats.local.functions import NOT_HERE
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.names import subject_problem
from dwarf_nats.workflow.services import ServiceCall, ServiceReply
from dwarf_nats.workflow.sources import matches
from dwarf_nats.workflow.state import Raw, decode_value, encode_value
from dwarf_nats.workflow.task_error import error_info, failure

KEPT_MESSAGES = 1_000
"""Published messages that are kept, the newest: bounds the memory of a script that runs for long."""
Service: TypeAlias = Callable[[Any], Any]
"""Takes the payload of a request, plain or async, and returns the reply; an exception is the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that a publish node has sent."""

    subject: str
    payload: Any
    headers: Mapping[str, str]


class LocalServices:
    """The port `Services` over functions by subject, or by a pattern of subjects. `published`: the newest messages."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = dict(services)
        self.published: deque[Message] = deque(maxlen=KEPT_MESSAGES)

    async def request(self, call: ServiceCall) -> ServiceReply:
        """Call the function of the subject; a plain one in a thread."""
        function = self._find(call.subject)
        if function is None:
            message = f'no function answers requests to {call.subject}: give services={{"{call.subject}": function}}'
            return ServiceReply(error=ErrorInfo(message, NOT_HERE))
        try:
            value = await called(function, _payload(call))
        except Exception as error:
            answer = failure(error_info(error))
            return ServiceReply(error=answer.error, disposition=answer.disposition, cause=answer.cause)
        return ServiceReply(value=None if value is None else Raw(encode_value(value, f"the reply of {call.subject}")))

    async def publish(self, call: ServiceCall, *, stream: bool) -> ServiceReply:
        """Keep the message, and give it to the function of the subject, if there is one."""
        del stream  # a message that is kept here is stored
        message = Message(subject=call.subject, payload=_payload(call), headers=dict(call.headers))
        self.published.append(message)
        function = self._find(call.subject)
        if function is not None:
            await called(function, message.payload)
        return ServiceReply()

    def refuses(self, subject: str) -> str:
        """Return the reason why nothing can be sent to a subject; empty if it can."""
        return subject_problem(subject)

    def _find(self, subject: str) -> Service | None:
        return next((function for pattern, function in self._services.items() if matches(pattern, subject)), None)


async def called(function: Service, payload: Any) -> Any:
    """Call a function with a payload: a coroutine function on the event loop, a plain one in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(payload)
    value = await asyncio.to_thread(function, payload)
    return await value if inspect.isawaitable(value) else value


def _payload(call: ServiceCall) -> Any:
    return decode_value(Raw(call.payload)) if call.payload else None
