"""The metrics of large values, which the claim sweep removes."""

from __future__ import annotations

from .metric import Kind, Metric

VALUES = Metric(
    name="dwarf_large_values",
    kind=Kind.GAUGE,
    unit="{value}",
    labels=("state",),
    description="Large values in the bucket after the last sweep: `kept`, and `unused` ones, which the next sweep removes if it"
    " finds them unused, too. The replica that sweeps shows them.",
    interpretation="If `kept` grows while the flows do not, flows stay for long, or values are younger than --claim-grace.",
    of_deployment=True,
)
VALUE_BYTES = Metric(
    name="dwarf_large_values_bytes",
    kind=Kind.GAUGE,
    unit="{byte}",
    labels=("state",),
    description="The bytes of these values.",
    interpretation="The storage that the bucket needs, on each of its replicas.",
    of_deployment=True,
)
LAST_SWEEP = Metric(
    name="dwarf_large_values_last_sweep_timestamp_seconds",
    kind=Kind.GAUGE,
    unit="s",
    labels=(),
    description="When the last sweep was carried out to its end, in seconds since 1970.",
    interpretation="A sweep begins an hour after the one before it.",
    of_deployment=True,
)
VALUES_REMOVED = Metric(
    name="dwarf_large_values_removed_total",
    kind=Kind.COUNTER,
    unit="{value}",
    labels=(),
    description="Large values that the sweep has removed, since no row refers to them any more.",
    interpretation="Without any while flows are deleted, the bucket grows: look at the sweeps.",
)
BYTES_REMOVED = Metric(
    name="dwarf_large_values_removed_bytes_total",
    kind=Kind.COUNTER,
    unit="{byte}",
    labels=(),
    description="The bytes of the large values that the sweep has removed.",
    interpretation="Storage that was freed.",
)
SWEEPS = Metric(
    name="dwarf_large_value_sweeps_total",
    kind=Kind.COUNTER,
    unit="{sweep}",
    labels=("outcome",),
    description="Sweeps of large values: `done`; `away`, which ended because a database or the bucket was away; `failed`.",
    interpretation="The log of a sweep that failed says why, for example missing permissions for the bucket.",
)
