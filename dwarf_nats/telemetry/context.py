"""Trace contexts in the W3C format: from headers into this process and out of it again (T2).

OpenTelemetry is imported when there is a context to carry, so that it costs nothing without tracing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_API = "opentelemetry.trace"


_NOTHING = nullcontext()


def continued(traceparent: str, tracestate: str = "") -> AbstractContextManager[None]:
    """Continue the trace of a `traceparent`: spans begun inside are its children. An empty or malformed one is ignored."""
    return _continued(traceparent, tracestate) if traceparent else _NOTHING


@contextmanager
def _continued(traceparent: str, tracestate: str) -> Iterator[None]:
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {TRACEPARENT: traceparent, TRACESTATE: tracestate}
    token = context.attach(TraceContextTextMapPropagator().extract(carrier, context.get_current()))
    try:
        yield
    finally:
        context.detach(token)


def carried() -> dict[str, str]:
    """The headers that carry the current span on; none if there is no span."""
    if _API not in sys.modules:  # nobody here can have begun one
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def current_ids() -> Mapping[str, str]:
    """`trace_id` and `span_id` of the current span, in hex; empty if there is none."""
    if _API not in sys.modules:
        return {}
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}
