"""One endpoint: from a raw request to a reply, and its statistics (wire: section 1; ADR-32)."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dwarf_nats.actor import acting
from dwarf_nats.errors import DwarfError, Internal
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.actors import actor_of
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.operations import OPERATIONS, SIGNAL, Operation
from dwarf_nats.wire.schema import schema_name
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.task_exceptions import closes_coroutine, ends_process

from . import (
    audit_handlers,
    bulk_handlers,
    event_handlers,
    hold_handlers,
    limit_handlers,
    retention_handlers,
    schedule_handlers,
    source_handlers,
)
from .engine_api import EngineApi
from .handlers import GRAPH_PAYLOADS, HANDLERS, Handler, RequestContext

log = logging.getLogger("dwarf_nats.bus")

QUEUE = "dwarf"
HANDLER_MODULES = (
    audit_handlers,
    bulk_handlers,
    event_handlers,
    hold_handlers,
    limit_handlers,
    retention_handlers,
    schedule_handlers,
    source_handlers,
)
"""The modules of handlers beside `handlers` itself: importing them is what enters their handlers."""


@dataclass(slots=True)
class Stats:
    """Statistics of an endpoint since it started."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0

    def failed(self, error: DwarfError) -> None:
        """Count a refusal; its text is kept without the tokens of keys."""
        self.errors += 1
        text = without_tokens(error.message)
        self.last_error = f"{error.code}:{text[:500]}"


class RawRequest(NamedTuple):
    """A request in its raw parts. `block`: its headers, if it has some."""

    subject: bytes
    reply: bytes
    body: bytes
    block: bytes | None


@dataclass(slots=True)
class Endpoint:
    """An operation at its subject."""

    operation: Operation
    subject: str
    handler: Handler
    stats: Stats = field(default_factory=Stats)

    def context(self, request: RawRequest) -> RequestContext:
        """The request, to be answered."""
        context = RequestContext(request.body, answerable=bool(request.reply))
        if self.subject.endswith(">"):
            context.rest_of_subject = request.subject[len(self.subject) - 1 :].decode("ascii", "replace")
        if not request.block:
            return context
        headers = h.read_headers(request.block)
        context.actor = actor_of(headers)
        if self.operation.keyed:
            if (msg_id := headers.get("nats-msg-id")) is not None:
                context.msg_id = h.percent_decode(msg_id)
            context.traceparent = headers.get("traceparent", "")
            context.tracestate = h.percent_decode(headers.get("tracestate", ""))
        return context

    def read(self, context: RequestContext) -> None:
        """Decode the request into `context.request`, unless it is a graph. Raises `BadRequest`, `TooLarge`."""
        kind = self.operation.request
        if context.request is None and kind not in GRAPH_PAYLOADS:
            context.request = decode(kind, context.payload)

    async def answer(self, engine: EngineApi, context: RequestContext) -> bytes:
        """Carry out one request. Raises `DwarfError`; any other exception is logged and becomes `Internal`."""
        began = time.perf_counter_ns()
        try:
            self.read(context)
            with acting(context.actor):
                return await self.handler(engine, context.request, context)
        except (DwarfError, asyncio.CancelledError):
            raise
        except BaseException as error:  # also a panic of a library: the caller waits for an answer
            if ends_process(error) or closes_coroutine(error, asyncio.current_task()):
                raise
            log.exception("%s failed", self.operation.name)
            raise Internal("internal error: this replica's log says what happened") from None
        finally:
            self.stats.nanoseconds += time.perf_counter_ns() - began

    def info(self) -> dict[str, Any]:
        """The endpoint in an INFO reply."""
        return {
            "name": self.operation.endpoint,
            "subject": self.subject,
            "queue_group": QUEUE,
            "metadata": {
                "operation": self.operation.name,
                "request_schema": schema_name(self.operation.request),
                "response_schema": schema_name(self.operation.reply),
            },
        }

    def statistics(self) -> dict[str, Any]:
        """The endpoint in a STATS reply."""
        done = self.stats.requests
        return {
            "name": self.operation.endpoint,
            "subject": self.subject,
            "queue_group": QUEUE,
            "num_requests": done,
            "num_errors": self.stats.errors,
            "last_error": self.stats.last_error,
            "processing_time": self.stats.nanoseconds,
            "average_processing_time": self.stats.nanoseconds // done if done else 0,
        }


def endpoints(subjects: Subjects) -> list[Endpoint]:
    """One endpoint for each operation, and one for signals by subject."""
    operations = [Endpoint(one, subjects.operation(one.name), HANDLERS[one.name]) for one in OPERATIONS]
    return [*operations, Endpoint(SIGNAL, subjects.signal(">"), event_handlers.signal_by_subject)]
