"""The metrics of sources and outboxes."""

from __future__ import annotations

from .metric import Kind, Metric

SOURCE_STARTED = Metric(
    name="dwarf_source_started_total",
    kind=Kind.COUNTER,
    unit="{message}",
    labels=("source",),
    description="Messages of a source that have started a flow or signalled an event.",
    interpretation="Throughput of the source.",
)
SOURCE_REJECTED = Metric(
    name="dwarf_source_rejected_total",
    kind=Kind.COUNTER,
    unit="{message}",
    labels=("source",),
    description="Messages of a source that cannot be used: no JSON, an expression without a value, a request that would be"
    " refused.",
    interpretation="They are published on `dwarf.rejected.<source>`; `dwarf-nats source get NAME` shows the last reason.",
    rests_at_zero=True,
)
SOURCE_PENDING = Metric(
    name="dwarf_source_pending",
    kind=Kind.GAUGE,
    unit="{message}",
    labels=("source",),
    description="Messages that wait in the stream of a source.",
    interpretation="If it grows, flows are started more slowly than messages come, or the source is held up.",
    of_deployment=True,
)
OUTBOX_STARTED = Metric(
    name="dwarf_outbox_started_total",
    kind=Kind.COUNTER,
    unit="{row}",
    labels=(),
    description="Rows of outboxes that became flows.",
    interpretation="The load that comes by `dwarf_enqueue`.",
)
OUTBOX_ROWS = Metric(
    name="dwarf_outbox_rows",
    kind=Kind.GAUGE,
    unit="{row}",
    labels=("shard", "state"),
    description="Rows in the outbox of a shard: `waiting` to become flows, or `rejected`, which cannot be used and are kept"
    " with the reason. Counting ends at 10,000.",
    interpretation="Rejected rows need a person: `dwarf-nats outbox list` shows them.",
    of_deployment=True,
)
OUTBOX_OLDEST = Metric(
    name="dwarf_outbox_oldest_age_seconds",
    kind=Kind.GAUGE,
    unit="s",
    labels=("shard",),
    description="Age of the oldest row that waits in the outbox of a shard.",
    interpretation="Above a few seconds no replica takes rows, or their workflow is not there.",
    of_deployment=True,
)
