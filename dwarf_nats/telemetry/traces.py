"""The spans (T2): `workflow` when a flow is made, `task` for every dispatch.

A flow carries the context of its `workflow` span with it in the database, as text: a `traceparent`, and after a blank the
`tracestate` if there is one. So any replica makes the spans of its dispatches children of it. The `workflow` span itself ends
with the creation: a flow may live for months, and the replica that sees its end cannot end a span of another process.

No key ever stands in a span.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace import TracerProvider as TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dwarf_nats.telemetry.catalogue import SCOPE
from dwarf_nats.workflow.keys import without_tokens

WORKFLOW, TASK = "workflow", "task"
FLOW_ID, STEP_ID = "dwarf.flow_id", "dwarf.step_id"
_NOWHERE = Context()
_w3c = TraceContextTextMapPropagator()


class WorkflowSpan:
    """The `workflow` span of a flow that is being created; it is not exported unless it is ended."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.trace_context = _text(span)
        """The trace context, to be stored with the flow."""

    def end(self) -> None:
        """End the span: the flow exists."""
        self._span.end()


class TaskSpan:
    """The `task` span of one dispatch: it lasts from the request to the task until its result is handed in."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._until: int | None = None
        self.trace_context = _text(span)
        self.child: WorkflowSpan | None = None
        """The `workflow` span of the flow it calls."""

    def enter(self) -> None:
        """Make it the current span of this asyncio task."""
        contexts.attach(trace.set_span_in_context(self._span))

    def failed(self, message: str) -> None:
        """Mark the span as failed: the task answered with an error."""
        self._span.set_status(Status(StatusCode.ERROR, without_tokens(message)))

    def done(self) -> None:
        """Fix the end of the span at this moment; its outcome follows with `end`."""
        self._until = time.time_ns()

    def end(self, outcome: str) -> None:
        """End the span with its outcome."""
        self._span.set_attribute("dwarf.outcome", outcome)
        self._span.end(self._until)


class Traces:
    """Makes the spans of one engine. None is made while `listening` is false: nobody would export them."""

    def __init__(self, provider: TracerProvider | None) -> None:
        provider = provider if provider is not None else trace.get_tracer_provider()
        self.listening = not type(provider).__module__.startswith("opentelemetry.trace")
        self._tracer = provider.get_tracer(SCOPE)

    def workflow(
        self, flow_id: str, workflow: str, *, parent: str = "", follows: Sequence[str] = ()
    ) -> WorkflowSpan | None:
        """Begin the span of a flow: a trace of its own, linked to the caller's current span and to those it `follows`; or,
        with a `parent`, in that one's trace. `flow_id`: token-free.
        """
        if not self.listening:
            return None
        linked = [] if parent else [trace.get_current_span().get_span_context(), *map(_span_context, follows)]
        span = self._tracer.start_span(
            WORKFLOW,
            context=_context(parent),
            kind=SpanKind.INTERNAL,
            attributes={FLOW_ID: flow_id, "dwarf.workflow": workflow},
            links=[Link(one) for one in linked if one.is_valid],
        )
        return WorkflowSpan(span)

    def dispatch(
        self, trace_context: str, *, flow_id: str, step_id: str, workflow: str, task: str, url: str, attempt: int
    ) -> TaskSpan | None:
        """Begin the span of a dispatch, in the trace of its flow. Ids are token-free."""
        if not self.listening or _not_sampled(trace_context):
            return None
        span = self._tracer.start_span(
            TASK,
            context=_context(trace_context),
            kind=SpanKind.CLIENT,
            attributes={
                FLOW_ID: flow_id,
                STEP_ID: step_id,
                "dwarf.workflow": workflow,
                "dwarf.task": task,
                "dwarf.url": url,
                "dwarf.attempt": attempt,
            },
        )
        return TaskSpan(span)


def split_trace_context(trace_context: str) -> tuple[str, str]:
    """The `traceparent` and `tracestate` that a flow carries."""
    traceparent, _, tracestate = trace_context.partition(" ")
    return traceparent, tracestate


def _not_sampled(trace_context: str) -> bool:
    """True if the sampler did not choose the flow: the lowest of the flags at the end of its `traceparent` is not set."""
    traceparent = split_trace_context(trace_context)[0]
    return bool(traceparent) and traceparent[-1] in "02468ace"


@lru_cache(maxsize=4096)
def _context(trace_context: str) -> Context:
    """The trace context that a flow carries; cached for its next steps."""
    if not trace_context:
        return _NOWHERE
    traceparent, tracestate = split_trace_context(trace_context)
    return _w3c.extract({"traceparent": traceparent, "tracestate": tracestate}, _NOWHERE)


def _span_context(trace_context: str) -> SpanContext:
    return trace.get_current_span(_context(trace_context)).get_span_context()


def _text(span: Span) -> str:
    found = span.get_span_context()
    if not found.is_valid:
        return ""
    traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
    return f"{traceparent} {found.trace_state.to_header()}" if found.trace_state else traceparent
