"""Settings of an engine and of the service around it. Durations in milliseconds unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.limits import Limits

LIMITS = tuple(one.name for one in fields(Limits))
"""Settings that are limits, by name."""


@dataclass(slots=True)
class EngineSettings:
    """How an engine behaves. `workers`, `time_budget_ms` and `default_priority` may be changed while it runs (O17)."""

    workers: int = 1024
    """Steps in hand at once; each costs memory, not a connection."""
    time_budget_ms: int = 120_000
    """What a task may take, unless its flow says otherwise (X3)."""
    default_priority: int = 100
    """Priority of flows that name none; 1 is the best."""
    pool: int = 4
    """Database connections per shard for operations; settling has one of its own."""
    drain_ms: int = 20_000
    """How long shutdown waits for tasks in hand (B3)."""
    replica_timeout_ms: int = 10_000
    """A replica silent for this long is taken for dead (B2)."""
    max_depth: int = 64
    """Levels of nesting in a state, the object itself being the first (S1)."""
    max_state_bytes: int = 8 * 1024 * 1024
    """Largest JSON text of a state, and of changes, overrides, resume data, payloads, baggage (413 beyond)."""
    max_branches: int = 100_000
    """Branches of one step."""
    max_fan_out_bytes: int = 256 * 1024 * 1024
    """The inputs of all branches of one step together, and what they bring to their fan-in."""
    max_steps: int = 100_000
    """Steps in a row within one flow, so that a loop ends; branches beside each other count once."""
    max_error_bytes: int = 64 * 1024
    """An error is cut beyond it; the reason of a cancel is a 413."""
    max_history: int = 20_000
    """Steps in one diagram, or in one whole history of the library."""
    max_graph_bytes: int = 1024 * 1024
    max_nodes: int = 2_000
    max_transitions: int = 10_000
    max_group: int = 500
    """Members of one settlement or creation group."""

    def __post_init__(self) -> None:
        for name in ("workers", "time_budget_ms", "default_priority", "pool", "replica_timeout_ms", *LIMITS):
            if getattr(self, name) < 1:
                raise BadRequest(f"setting {name} must be at least 1, got {getattr(self, name)}")
        if self.drain_ms < 0:
            raise BadRequest(f"setting drain_ms must not be negative, got {self.drain_ms}")

    def limits(self) -> Limits:
        """What may not be exceeded."""
        return Limits(**{name: getattr(self, name) for name in LIMITS})


@dataclass(slots=True)
class ServerSettings:
    """One replica of the service: where its servers are and what it is called on the bus."""

    dsns: list[str] = field(default_factory=list, repr=False)
    nats_url: str = field(default="", repr=False)
    prefix: str = "dwarf"
    task_prefix: str = "task"
    graph_prefix: str = "graph"
    context: str = ""
    creds: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = ""
    graphs_dir: Path | None = None
    workers: int = 1024
    time_budget_ms: int = 120_000
    replica_timeout_ms: int = 10_000
    drain_ms: int = 20_000
    default_priority: int = 100
    pool: int = 4
    events: bool = True
    signals: bool = True
    migrate: bool = True
    max_depth: int = 64
    max_state_bytes: int = 8 * 1024 * 1024
    max_branches: int = 100_000
    max_fan_out_bytes: int = 256 * 1024 * 1024
    max_steps: int = 100_000
    max_error_bytes: int = 64 * 1024
    max_history: int = 20_000
    max_graph_bytes: int = 1024 * 1024
    max_nodes: int = 2_000
    max_transitions: int = 10_000
    max_request_bytes: int = 16 * 1024 * 1024
    """Payload of one request; the server's `max_payload` may be lower (413 beyond)."""
    max_message_bytes: int = 0
    """Size of a message the replica sends, where a leaf node takes less than its own NATS server; 0: what that takes."""
    max_requests: int = 1024
    """Requests carried out at once, waiting ones apart; 429 beyond."""
    max_waiting: int = 10_000
    """Requests that wait for a flow at once (run, await, poll); 429 beyond."""
    max_queued_bytes: int = 64 * 1024 * 1024
    """Requests without a reply subject that wait for their turn, in bytes; what comes beyond is lost, counted and logged."""
    max_timeout_ms: int = 3_600_000
    """The longest wait a request may ask for; a longer one is cut to it."""
    accept_ms: int = 1_000
    """How long a task service may work on a request before it should say that it has accepted it."""
    roll_call_ms: int = 1_000
    """How often those that did are asked what they still run; three silences of twice that, and a worker is taken for hung."""
    health_port: int | None = None
    """Of HTTP probes; 0 takes a free one, `None` has none."""
    health_host: str = "127.0.0.1"
    wait_for_servers: bool = True
    """Keep trying while a database or NATS is away at start; else say which and exit."""
    log_format: str = "text"
    otlp: str = ""
    """The base URL of a collector that takes OTLP over HTTP; empty: what `OTEL_EXPORTER_OTLP_…` variables say, if any."""
    otlp_traces: bool = True
    """Send it traces too, not only metrics."""

    def engine(self) -> EngineSettings:
        """The engine's share of these settings."""
        return EngineSettings(
            workers=self.workers,
            time_budget_ms=self.time_budget_ms,
            default_priority=self.default_priority,
            pool=self.pool,
            drain_ms=self.drain_ms,
            replica_timeout_ms=self.replica_timeout_ms,
            **{name: getattr(self, name) for name in LIMITS},
        )
