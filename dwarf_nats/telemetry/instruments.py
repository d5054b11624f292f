"""The instruments (T1): counters read from the tally, gauges from what the engine has read last, histograms fed one by one.

Whether anybody listens is decided once, when the engine is made: with the provider that the API has by itself nothing is
recorded, and no gauge is read for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, Observation, get_meter_provider
from opentelemetry.metrics import MeterProvider as MeterProvider

from dwarf_nats.telemetry import catalogue
from dwarf_nats.telemetry.catalogue import CATALOGUE, MANY_NAMES, OTHER, SCOPE, Kind, Metric

if TYPE_CHECKING:
    from dwarf_nats.telemetry.counters import Counters, Labels

_MICRO = 1e-6
SAMPLE_US = 1_000
"""Latencies of one task are recorded so far apart."""
_ADDED_UP = frozenset({catalogue.RUNNING, catalogue.FLOWS_ORPHANED})
"""Gauges that are added up where several engines share a provider; of the others the largest is shown."""


class Instruments:
    """What one engine shows. `counters` has its counters; `show` sets a gauge; the rest records into histograms."""

    def __init__(self, provider: MeterProvider | None, counters: Counters) -> None:
        provider = provider if provider is not None else get_meter_provider()
        # The API's own providers, the proxy and the one that does nothing, live in its own modules.
        self.listening = not type(provider).__module__.startswith("opentelemetry.metrics")
        self.counters = counters
        self.asked = False
        """Whether somebody has collected since this was set back: then the gauges are worth reading for."""
        self.extra: dict[Metric, Callable[[], Mapping[Labels, float]]] = {}
        """Counters that are kept elsewhere."""
        self.before: dict[Metric, dict[Labels, float]] = {}
        """Where the counters stood when it was closed, for an engine that is started again."""
        self._due: dict[Metric, dict[str, int]] = {catalogue.QUEUE_WAIT: {}, catalogue.TASK_TIME: {}}
        self._gauges: dict[Metric, dict[Labels, float]] = {}
        self._instruments = _shared(provider) if self.listening else None

    def open(self) -> None:
        """Be seen from now on."""
        if self._instruments is not None:
            self._instruments.join(self)

    def close(self) -> None:
        """Count no more, and show nothing that stands for now; what was counted stays counted."""
        self._gauges.clear()
        if self._instruments is not None:
            self._instruments.leave(self)

    def show(self, gauge: Metric, values: Mapping[Labels, float], rest: float = 0.0) -> None:
        """What a gauge stands at. What it showed before and is not there any more is shown `rest`ing.

        (A series that just ends is drawn at its last value for minutes by whoever stores what is pushed.)
        """
        shown = dict.fromkeys(self._gauges.get(gauge, ()), rest)
        for labels, value in values.items():
            if labels in shown or len(shown) < MANY_NAMES:
                shown[labels] = value
        self._gauges[gauge] = shown

    def read(self, metric: Metric) -> dict[Labels, float]:
        """The values of a counter or gauge by its labels. A counter without labels is there from the start, so that its first
        increase is seen as one."""
        if metric.kind is Kind.GAUGE:
            return self._gauges.get(metric, {})
        if metric in self.extra:
            return dict(self.extra[metric]())
        counted: dict[Labels, float] = {} if metric.labels else {(): 0}
        return counted | next((dict(one) for one in self.counters.counts() if one.metric is metric), {})

    def since_opened(self, metric: Metric) -> dict[Labels, float]:
        """As `read`, without what was counted before it was opened the last time."""
        before = self.before.get(metric)
        values = self.read(metric)
        return values if before is None else {labels: value - before.get(labels, 0) for labels, value in values.items()}

    def queue_wait(self, task: str, microseconds: int, now: int) -> None:
        """A step was taken that had been due for so long."""
        self._sample(catalogue.QUEUE_WAIT, task, microseconds, now)

    def task_time(self, task: str, microseconds: int, now: int) -> None:
        """A task answered."""
        self._sample(catalogue.TASK_TIME, task, microseconds, now)

    def _sample(self, metric: Metric, task: str, microseconds: int, now: int) -> None:
        """Record, unless that was done for this task a moment ago: a thousand values a second will do, at some 10 µs each."""
        due = self._due[metric]
        if self._instruments is None or now < due.get(task, 0):
            return
        if len(due) >= MANY_NAMES:
            due.clear()
        due[task] = now + SAMPLE_US
        self._instruments.record(metric, task, microseconds * _MICRO)

    def commit_time(self, shard: str, microseconds: int) -> None:
        """A group of results was committed."""
        if self._instruments is not None:
            self._instruments.record(catalogue.COMMIT_TIME, shard, microseconds * _MICRO)


class _Instruments:
    """The instruments of one provider, which takes each name once: engines that share it are shown as one."""

    def __init__(self, provider: MeterProvider) -> None:
        self._provider = provider
        self._members: list[Instruments] = []
        self._ended: dict[Metric, dict[Labels, float]] = {}
        self._lock = threading.Lock()  # collected in a thread of the exporter's
        self._histograms: dict[Metric, Histogram] = {}
        self._attributes: dict[Metric, dict[str, dict[str, str]]] = {}
        meter = provider.get_meter(SCOPE)
        for one in CATALOGUE:
            if one.kind is Kind.HISTOGRAM:
                self._attributes[one] = {}
                self._histograms[one] = meter.create_histogram(
                    one.name, one.unit, one.description, explicit_bucket_boundaries_advisory=one.buckets
                )
            else:
                make = meter.create_observable_counter if one.kind is Kind.COUNTER else meter.create_observable_gauge
                make(one.name, [self._callback(one)], one.unit, one.description)

    def join(self, member: Instruments) -> None:
        with self._lock:
            if member not in self._members:
                self._members.append(member)

    def leave(self, member: Instruments) -> None:
        with self._lock:
            if member in self._members:
                self._members.remove(member)
                for metric in CATALOGUE:
                    if metric.kind is Kind.COUNTER:
                        _merge(metric, self._ended.setdefault(metric, {}), member.since_opened(metric))
                        member.before[metric] = member.read(metric)

    def record(self, metric: Metric, label: str, value: float) -> None:
        known = self._attributes[metric]
        attributes = known.get(label)
        if attributes is None:
            if len(known) >= MANY_NAMES and label != OTHER:
                return self.record(metric, OTHER, value)
            attributes = known[label] = {metric.labels[0]: label}
        return self._histograms[metric].record(value, attributes)

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                merged = dict(self._ended.get(metric, {}))
                for member in self._members:
                    member.asked = True
                    _merge(metric, merged, member.since_opened(metric))
            return [
                Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in merged.items()
            ]

        return observe


def _merge(metric: Metric, into: dict[Labels, float], values: Mapping[Labels, float]) -> None:
    added_up = metric.kind is Kind.COUNTER or metric in _ADDED_UP
    for labels, value in values.items():
        before = into.get(labels)
        into[labels] = value if before is None else before + value if added_up else max(before, value)


_all: WeakValueDictionary[int, _Instruments] = WeakValueDictionary()
"""By the identity of their provider, which keeps them alive through the callbacks it has, and they it."""


def _shared(provider: MeterProvider) -> _Instruments:
    known = _all.get(id(provider))
    if known is None:
        known = _all[id(provider)] = _Instruments(provider)
    return known
