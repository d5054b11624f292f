"""The instruments (T1): counters read from `Counters`, gauges with their last value, histograms fed one value at a time.

An engine checks once, when it is made, whether metrics are collected: with the API's own provider nothing is recorded, and no
database is read for a gauge.
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
SAMPLE_INTERVAL_US = 1_000
"""Least time between two recorded latencies of one task: a thousand values a second are enough, at some 10 µs each."""
_SUMMED_GAUGES = frozenset({catalogue.RUNNING, catalogue.FLOWS_ORPHANED})
"""Gauges that are added up if several engines share a provider; of the other gauges the largest value is reported."""


class Instruments:
    """The metrics of one engine. `counters`: its counters; `show` sets a gauge; the other methods record into histograms."""

    def __init__(self, provider: MeterProvider | None, counters: Counters) -> None:
        provider = provider if provider is not None else get_meter_provider()
        # The API's own providers, the proxy and the one that does nothing, live in its own modules.
        self.listening = not type(provider).__module__.startswith("opentelemetry.metrics")
        self.counters = counters
        self.was_collected = False
        """Metrics were collected since this was last reset: the gauges are worth reading again."""
        self.external_counters: dict[Metric, Callable[[], Mapping[Labels, float]]] = {}
        """Counters that other parts keep."""
        self.counts_at_close: dict[Metric, dict[Labels, float]] = {}
        """The counters at the last `close`, for an engine that is started again."""
        self._due: dict[Metric, dict[str, int]] = {
            one: {} for one in (catalogue.QUEUE_WAIT, catalogue.TASK_TIME, catalogue.FLOW_TIME)
        }
        self._gauges: dict[Metric, dict[Labels, float]] = {}
        self._instruments = _shared(provider) if self.listening else None

    def open(self) -> None:
        """Report from now on."""
        if self._instruments is not None:
            self._instruments.join(self)

    def close(self) -> None:
        """Stop reporting: gauges disappear, counted values stay."""
        self._gauges.clear()
        if self._instruments is not None:
            self._instruments.leave(self)

    def show(self, gauge: Metric, values: Mapping[Labels, float], rest: float = 0.0) -> None:
        """Set the values of a gauge by its labels. Series that are not among them any more are set to `rest`.

        A series that just ended would be drawn at its last value for minutes by databases that metrics are pushed to.
        """
        shown = dict.fromkeys(self._gauges.get(gauge, ()), rest)
        for labels, value in values.items():
            if labels in shown or len(shown) < MANY_NAMES:
                shown[labels] = value
        self._gauges[gauge] = shown

    def read(self, metric: Metric) -> dict[Labels, float]:
        """The values of a counter or gauge by its labels. A counter without labels exists from the start, so that its first
        increase counts as one."""
        if metric.kind is Kind.GAUGE:
            return self._gauges.get(metric, {})
        if metric in self.external_counters:
            return dict(self.external_counters[metric]())
        counted: dict[Labels, float] = {} if metric.labels else {(): 0}
        return counted | next((dict(one) for one in self.counters.counts() if one.metric is metric), {})

    def since_opened(self, metric: Metric) -> dict[Labels, float]:
        """The values as `read` returns them, less what was counted before the last `open`."""
        before = self.counts_at_close.get(metric)
        values = self.read(metric)
        return values if before is None else {labels: value - before.get(labels, 0) for labels, value in values.items()}

    def queue_wait(self, task: str, microseconds: int, now: int) -> None:
        """Record how long a step had been due when it was taken."""
        self._sample(catalogue.QUEUE_WAIT, task, microseconds, now)

    def task_time(self, task: str, microseconds: int, now: int) -> None:
        """Record how long a task took to answer."""
        self._sample(catalogue.TASK_TIME, task, microseconds, now)

    def flow_time(self, workflow: str, microseconds: int, now: int) -> None:
        """Record how long a flow took from its creation to its end."""
        self._sample(catalogue.FLOW_TIME, workflow, microseconds, now)

    def _sample(self, metric: Metric, task: str, microseconds: int, now: int) -> None:
        """Record, unless the last value of this task is less than `SAMPLE_INTERVAL_US` old."""
        due = self._due[metric]
        if self._instruments is None or now < due.get(task, 0):
            return
        if len(due) >= MANY_NAMES:
            due.clear()
        due[task] = now + SAMPLE_INTERVAL_US
        self._instruments.record(metric, task, microseconds * _MICRO)

    def commit_time(self, shard: str, microseconds: int) -> None:
        """Record how long the commit of a group took."""
        if self._instruments is not None:
            self._instruments.record(catalogue.COMMIT_TIME, shard, microseconds * _MICRO)


class _ProviderInstruments:
    """The instruments of one provider, which takes each name once: engines that share it are reported as one."""

    def __init__(self, provider: MeterProvider) -> None:
        self._provider = provider
        self._members: list[Instruments] = []
        self._ended: dict[Metric, dict[Labels, float]] = {}
        self._lock = threading.Lock()  # the exporter collects in a thread of its own
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
                        member.counts_at_close[metric] = member.read(metric)

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
                    member.was_collected = True
                    _merge(metric, merged, member.since_opened(metric))
            return [
                Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in merged.items()
            ]

        return observe


def _merge(metric: Metric, into: dict[Labels, float], values: Mapping[Labels, float]) -> None:
    added_up = metric.kind is Kind.COUNTER or metric in _SUMMED_GAUGES
    for labels, value in values.items():
        before = into.get(labels)
        into[labels] = value if before is None else before + value if added_up else max(before, value)


_all: WeakValueDictionary[int, _ProviderInstruments] = WeakValueDictionary()
"""The instruments by the identity of their provider. Its callbacks keep them alive, and they keep it alive."""


def _shared(provider: MeterProvider) -> _ProviderInstruments:
    known = _all.get(id(provider))
    if known is None:
        known = _all[id(provider)] = _ProviderInstruments(provider)
    return known
