"""The counters of a replica: plain numbers that cost a dictionary look-up, read by the exporters (T1)."""

from __future__ import annotations

from collections import Counter

from dwarf_nats.telemetry import catalogue
from dwarf_nats.telemetry.catalogue import MANY_NAMES, OTHER, Metric

Labels = tuple[str, ...]


class Count(Counter[Labels]):
    """One counter of the catalogue by the values of its labels, in the catalogue's order.

    `count[labels] += 1`, or `add`. Beyond `MANY_NAMES` combinations, new ones are counted with their first label `other`.
    """

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def add(self, *labels: str, n: int = 1) -> None:
        """Add `n`."""
        count = self.get(labels, 0)
        if count == 0 and len(self) >= MANY_NAMES:
            labels = (OTHER, *labels[1:])
            count = self.get(labels, 0)
        self[labels] = count + n


class Counters:
    """The counters of a replica, from its start."""

    def __init__(self) -> None:
        self.flows_started = Count(catalogue.FLOWS_STARTED)
        self.flows_terminated = Count(catalogue.FLOWS_TERMINATED)
        self.executed = Count(catalogue.STEPS_EXECUTED)
        self.recovered = Count(catalogue.STEPS_RECOVERED)
        self.fenced = Count(catalogue.STEPS_FENCED)
        self.lost = Count(catalogue.STEPS_LOST)
        self.given_back = Count(catalogue.STEPS_GIVEN_BACK)
        self.skipped = Count(catalogue.SKIPPED_SATURATED)
        self.limit_waits = Count(catalogue.LIMIT_WAITS)
        self.cuts = Count(catalogue.RATE_CUTS)
        self.trips = Count(catalogue.BREAKER_TRIPS)
        self.probes = Count(catalogue.BREAKER_PROBES)
        self.requests = Count(catalogue.REQUESTS)
        self.refused = Count(catalogue.REQUESTS_REFUSED)
        self.lost_requests = Count(catalogue.REQUESTS_LOST)
        self.source_started = Count(catalogue.SOURCE_STARTED)
        self.source_rejected = Count(catalogue.SOURCE_REJECTED)
        self.outbox_started = Count(catalogue.OUTBOX_STARTED)
        self.malformed = Count(catalogue.SIGNALS_MALFORMED)
        self.schedule_runs = Count(catalogue.SCHEDULE_RUNS)
        self.values_removed = Count(catalogue.VALUES_REMOVED)
        self.value_bytes_removed = Count(catalogue.BYTES_REMOVED)
        self.value_sweeps = Count(catalogue.SWEEPS)
        self.dropped = Count(catalogue.SIGNALS_DROPPED)
        self.malformed_progress = Count(catalogue.PROGRESS_MALFORMED)

    def steps_per_flow(self) -> float:
        """Return how many steps flows ran here on average; 0 before the first flow."""
        flows = self.flows_started.total()
        return self.executed.total() / flows if flows else 0.0

    def counts(self) -> list[Count]:
        """All counters."""
        return [one for one in vars(self).values() if isinstance(one, Count)]
