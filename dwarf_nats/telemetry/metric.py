"""One metric of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kind of a metric."""

    COUNTER = "counter"
    """Grows from the start of the replica."""
    GAUGE = "gauge"
    """The present value, as the replica read it last."""
    HISTOGRAM = "histogram"
    """The distribution of values over buckets."""


@dataclass(slots=True, frozen=True)
class Metric:
    """One metric. `interpretation`: its meaning for an operator. `rests_at_zero`: any other value needs to be investigated."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    description: str
    interpretation: str = ""
    rests_at_zero: bool = False
    of_deployment: bool = False
    """Read from the databases: each replica shows the same, so take the largest and never the sum."""
    buckets: tuple[float, ...] = ()
