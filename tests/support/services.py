"""Services in the test's own process, in place of NATS (N3, N4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dwarf_nats.workflow.answer import Disposition, ErrorInfo
from dwarf_nats.workflow.names import subject_problem
from dwarf_nats.workflow.services import ServiceCall, ServiceReply
from dwarf_nats.workflow.state import Raw, encode_value

Handler = Callable[[ServiceCall], Any]


class LocalServices:
    """Answers requests by handlers, one a subject, which return a value, a `ServiceReply`, or raise; keeps messages."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = dict(handlers)
        self.requests: list[ServiceCall] = []
        self.published: list[tuple[ServiceCall, bool]] = []

    async def request(self, call: ServiceCall) -> ServiceReply:
        handler = self.handlers.get(call.subject)
        if handler is None:
            error = ErrorInfo(f"nobody subscribes to {call.subject}", 503)
            return ServiceReply(error=error, disposition=Disposition.BREAKER, cause="no_responders")
        self.requests.append(call)
        value = handler(call)
        if hasattr(value, "__await__"):
            value = await value
        return value if isinstance(value, ServiceReply) else ServiceReply(value=Raw(encode_value(value)))

    async def publish(self, call: ServiceCall, *, stream: bool) -> ServiceReply:
        self.published.append((call, stream))
        return ServiceReply()

    def refuses(self, subject: str) -> str:
        return subject_problem(subject)
