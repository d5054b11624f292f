"""Sending metrics and traces to a collector by OTLP over HTTP; needs the extra `otel`.

The SDK sends in threads of its own. A collector that is away does not disturb the service: batches are tried again for some
seconds and then dropped, and the log says so every few minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url
from dwarf_nats.telemetry.catalogue import SCOPE
from dwarf_nats.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("dwarf_nats.telemetry")
INSTALL = "pip install 'dwarf-nats[otel]'"
INTERVAL_MS = 15_000
"""Interval at which metrics are sent, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise."""
FLUSH_SECONDS = 3.0
"""Longest wait at the end of the service for the last batches."""
GIVE_UP_SECONDS = 2.0
"""Longest wait after that for the exporters to give up."""
COMPLAINT_INTERVAL_SECONDS = 300.0
"""Least time between two complaints about a collector in the log."""
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = {"metrics": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "traces": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
_NOISY_LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)


@dataclass(slots=True)
class Exporting:
    """The providers for an engine that are exported; `None` if there is no collector."""

    meter_provider: MeterProvider | None = None
    tracer_provider: TracerProvider | None = None
    exporters: list[MetricExporter | SpanExporter] = field(default_factory=list)

    async def close(self) -> None:
        """Send the last batches, for `FLUSH_SECONDS` at most."""
        closing = [one.shutdown for one in (self.meter_provider, self.tracer_provider) if one is not None]
        if not closing:
            return
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def close(one: Callable[[], object]) -> None:
            try:
                one()
            except Exception as error:
                log.debug("the end of telemetry: %s", error)

        def run() -> None:
            # One of the two may wait for its collector while that of the other is there.
            threads = [threading.Thread(target=close, args=(one,), daemon=True) for one in closing]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=run, name="dwarf-telemetry-end", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("the collector did not take the last metrics and spans within %g s", FLUSH_SECONDS)
            for exporter in self.exporters:
                exporter.shutdown()  # they stop waiting for their next try, and their threads end
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await done.wait()


def set_up(
    url: str,
    instance: str,
    *,
    traces: bool = True,
    readers: Sequence[MetricReader] = (),
    environment: Mapping[str, str] | None = None,
) -> Exporting | None:
    """Send to the collector at `url` from now on; without one, to where the `OTEL_EXPORTER_OTLP_…` variables say, if anywhere.

    `url`: its base, to which `/v1/metrics` and `/v1/traces` are added. `instance`: the replica's id. `readers`: others that
    read the metrics. Raises `BadRequest` for a URL that is none, or if the extra is not installed; where only the environment
    asks, that is logged instead.
    """
    environment = environment if environment is not None else os.environ
    wanted = _wanted(url, environment, traces=traces)
    if not (wanted or readers) or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise BadRequest(f"--otlp {redacted_url(url)!r} is no URL of a collector: use http://host:4318")
    if not _installed():
        if url:
            raise BadRequest(f"--otlp needs the OpenTelemetry SDK and its exporter: {INSTALL}")
        log.warning("OTEL_EXPORTER_OTLP_… variables are set, but there is nothing to send with: %s", INSTALL)
        return None
    resource = _resource(instance)
    _quiet_loggers()
    exporting = Exporting()
    base = url.rstrip("/")
    if "metrics" in wanted:
        readers = [*readers, _exporting_reader(f"{base}/v1/metrics" if url else None, exporting.exporters)]
    if readers:
        exporting.meter_provider = _meter_provider(resource, readers)
    if "traces" in wanted:
        exporting.tracer_provider = _tracer_provider(
            resource, f"{base}/v1/traces" if url else None, exporting.exporters
        )
    if wanted:
        log.info(
            "sending %s to %s",
            " and ".join(sorted(wanted)),
            redacted_url(url) if url else "the collector of the environment",
        )
    return exporting


def _installed() -> bool:
    try:
        return all(
            find_spec(one) is not None for one in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:  # a package above it is not there
        return False


def _wanted(url: str, environment: Mapping[str, str], *, traces: bool) -> set[str]:
    wanted = set(_ENDPOINTS) if url or environment.get(_ENDPOINT) else set()
    if not url:
        wanted |= {signal for signal, name in _ENDPOINTS.items() if environment.get(name)}
    return wanted if traces else wanted - {"traces"}


def _resource(instance: str) -> Resource:
    """The identity of the sender; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` overrule it."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {"service.name": SCOPE.replace("_", "-"), "service.version": __version__, "service.instance.id": instance}
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _meter_provider(resource: Resource, readers: Sequence[MetricReader]) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider

    return MeterProvider(readers, resource=resource, shutdown_on_exit=False)


def _exporting_reader(endpoint: str | None, exporters: list[Any]) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    interval = None if os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") else INTERVAL_MS
    exporters.append(exporter := OTLPMetricExporter(endpoint))
    return PeriodicExportingMetricReader(exporter, export_interval_millis=interval)


def _tracer_provider(resource: Resource, endpoint: str | None, exporters: list[Any]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporters.append(exporter := OTLPSpanExporter(endpoint))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class _Complaints(logging.Filter):
    """Lets one complaint pass every `COMPLAINT_INTERVAL_SECONDS`, as a warning: the others repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno < logging.ERROR or now < self._next:
            return False
        self._next = now + COMPLAINT_INTERVAL_SECONDS
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = (
            f"telemetry: {record.getMessage()} (such lines come once in {COMPLAINT_INTERVAL_SECONDS / 60:g} minutes)"
        )
        record.args = ()
        return True


class _HeadersUnread(logging.Filter):
    """Replaces log lines of the SDK that quote malformed headers (`OTEL_EXPORTER_OTLP_HEADERS`): they may hold secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = "telemetry: a header of OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value", ()
        return True


def _quiet_loggers() -> None:
    reader = logging.getLogger("opentelemetry.util.re")
    if not any(isinstance(one, _HeadersUnread) for one in reader.filters):
        reader.addFilter(_HeadersUnread())
    for name in _NOISY_LOGGERS:
        noisy = logging.getLogger(name)
        if not any(isinstance(one, _Complaints) for one in noisy.filters):
            noisy.addFilter(_Complaints())
