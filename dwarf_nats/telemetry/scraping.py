"""Metrics for Prometheus to scrape, in its text format; needs the extra `otel`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.telemetry.otlp import INSTALL

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
    from opentelemetry.sdk.resources import Resource
    from prometheus_client.metrics_core import Metric as Family

_TARGET = {"service.name": "service_name", "service.version": "service_version", "service.instance.id": "instance_id"}
"""Attributes of the resource that `target_info` shows."""


class Scraped:
    """The metrics of one provider as a page of text. `reader` is to be one of the provider's readers.

    Raises `BadRequest` if the extra is not installed.
    """

    def __init__(self) -> None:
        if find_spec("opentelemetry") is None or find_spec("prometheus_client") is None or not _has_sdk():
            raise BadRequest(f"--metrics needs the OpenTelemetry SDK and prometheus_client: {INSTALL}")
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from prometheus_client import CollectorRegistry

        self.reader: InMemoryMetricReader = InMemoryMetricReader()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._turn = threading.Lock()

    def page(self) -> bytes:
        """Read all metrics now. It may take a tenth of a second, so call it in a thread."""
        from prometheus_client import generate_latest

        with self._turn:
            return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield the metrics as Prometheus has them."""
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            yield _target(resource.resource)
            for scope in resource.scope_metrics:
                yield from map(_family, scope.metrics)


def _has_sdk() -> bool:
    return find_spec("opentelemetry.sdk") is not None


def _target(resource: Resource) -> Family:
    from prometheus_client.core import InfoMetricFamily

    shown = {name: str(resource.attributes[key]) for key, name in _TARGET.items() if key in resource.attributes}
    return InfoMetricFamily("target", "The replica", shown)


def _family(metric: Metric) -> Family:
    """A metric with its points. Names and units are in the catalogue such that nothing is added to them."""
    from opentelemetry.sdk.metrics.export import Histogram, Sum
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    points: list[Any] = list(metric.data.data_points)
    names = sorted({str(name) for point in points for name in point.attributes or ()})
    text = metric.description or ""
    if isinstance(metric.data, Histogram):
        family = HistogramMetricFamily(metric.name, text, labels=names)
        for point in points:
            family.add_metric(_labels(point, names), _buckets(point), point.sum)
        return family
    counts = isinstance(metric.data, Sum) and metric.data.is_monotonic
    made = (CounterMetricFamily if counts else GaugeMetricFamily)(metric.name, text, labels=names)
    for point in points:
        made.add_metric(_labels(point, names), point.value)
    return made


def _labels(point: Any, names: list[str]) -> list[str]:
    return [str(point.attributes.get(name, "")) for name in names]


def _buckets(point: Any) -> list[tuple[str, float]]:
    """Buckets as Prometheus counts them: each with all below it."""
    found, total = [], 0
    for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(total)))
    return found
