"""Settings of an engine and of the service around it. Durations in milliseconds unless the name says otherwise.

Each setting stands here once, with its name, type, default, bounds and help. The options and variables of `dwarf-nats`, the
keys of `dwarf.toml`, the checks and the reference in `docs/operating/configuration.md` are made from it (`SERVER_SETTINGS`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.workflow.limits import Limits

OPTIONS, NATS, SERVICE, TUNING, LIMITS = "Options", "NATS", "The service", "Tuning", "Limits"
SECTIONS = (OPTIONS, NATS, SERVICE, TUNING, LIMITS)
"""Headings in the help of a command and in the reference, in their order."""
_UNITS = {"_ms": "ms", "_bytes": "bytes", "_port": "port"}
_ROW = "setting"
"""The entry of a field's metadata that holds its `Setting`."""
T = TypeVar("T")


class LogFormat(StrEnum):
    """The form of log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least level of log lines. Keys stand in `debug` lines only: a key lets its reader control the flow."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(slots=True, frozen=True, kw_only=True)
class Setting:
    """One setting, under all its names.

    `name`: unique among all settings. `key`: in `dwarf.toml`, with `-` for `_`; the option and the variable are named after it.
    `text`: help of the option; `reference`: the text of the reference, if it is longer. `least`, `most`: bounds.
    `part`: the field of `ServerSettings` with the nested value that keeps it, under the name `attribute`.
    """

    name: str = ""
    kind: Any = None
    default: Any = None
    text: str = ""
    reference: str = ""
    least: int | None = None
    most: int | None = None
    section: str = OPTIONS
    key: str = ""
    metavar: str | None = None
    part: str = ""
    attribute: str = ""
    has_option: bool = True
    of_command: bool = False
    """A setting of the command `serve`, of which a replica knows nothing."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"DWARF_{self.key.upper()}"

    @property
    def unit(self) -> str:
        """The unit, by the ending of the name; empty if it has none."""
        return next((unit for ending, unit in _UNITS.items() if self.name.endswith(ending)), "")

    @property
    def meaning(self) -> str:
        """The text of the reference."""
        return self.reference or self.text

    def check(self, value: int) -> None:
        """Raise `BadRequest` for a number below the least."""
        if self.least == 0 and value < 0:
            raise BadRequest(f"setting {self.name} must not be negative, got {value}")
        if self.least is not None and value < self.least:
            raise BadRequest(f"setting {self.name} must be at least {self.least}, got {value}")


def setting(default: T, text: str, **more: Any) -> T:
    """A field of a dataclass that is a setting. `more`: fields of `Setting`."""
    metadata = {_ROW: Setting(default=default, text=text, **more)}
    if isinstance(default, list):  # the databases: a DSN may hold a password
        return cast("T", field(default_factory=list, repr=False, metadata=metadata))
    return field(default=default, metadata=metadata)


@dataclass(slots=True)
class EngineSettings:
    """Settings of an engine. `workers`, `time_budget_ms` and `default_priority` may be changed while it runs (O17).

    The rules behind: time budget (X3), replica timeout (B2), drain (B3), nesting (S1). Beyond a limit the answer is a 413
    (`Limits`). Raises `BadRequest` for a value out of bounds.
    """

    workers: int = setting(1024, "Worker slots: steps that run at once; each costs memory.", least=1, section=TUNING)
    time_budget_ms: int = setting(120_000, "Time budget of a task, unless its flow has one.", least=1, section=TUNING)
    replica_timeout_ms: int = setting(10_000, "Silence after which a replica counts as dead.", least=1, section=TUNING)
    drain_ms: int = setting(20_000, "Longest wait for running tasks at a shutdown.", least=0, section=TUNING)
    default_priority: int = setting(100, "Priority of flows that name none; 1 is the best.", least=1, section=TUNING)
    pool: int = setting(
        4,
        "PostgreSQL connections per database and replica for operations; results are written over one more.",
        least=1,
        section=TUNING,
    )
    max_state_bytes: int = setting(
        8 * 1024 * 1024, "Longest JSON text of a state, and of each value that goes into one.", least=1, section=LIMITS
    )
    max_depth: int = setting(64, "Deepest nesting of a state.", least=1, section=LIMITS)
    max_branches: int = setting(100_000, "Most branches of one fan-out.", least=1, section=LIMITS)
    max_fan_out_bytes: int = setting(
        256 * 1024 * 1024,
        "Most bytes that the inputs of all branches of one fan-out have together.",
        least=1,
        section=LIMITS,
    )
    max_steps: int = setting(100_000, "Most steps in a row within one flow.", least=1, section=LIMITS)
    max_error_bytes: int = setting(64 * 1024, "Longest text of an error; the rest is cut.", least=1, section=LIMITS)
    max_history: int = setting(20_000, "Most steps in one diagram.", least=1, section=LIMITS)
    max_graph_bytes: int = setting(1024 * 1024, "Longest JSON text of a graph.", least=1, section=LIMITS)
    max_nodes: int = setting(2_000, "Most nodes of a graph.", least=1, section=LIMITS)
    max_transitions: int = setting(10_000, "Most transitions of a graph.", least=1, section=LIMITS)
    audit_ms: int = setting(
        90 * 86_400_000, "Time for which audit records are kept; 0: for ever.", least=0, section=TUNING
    )
    max_group: int = setting(500, "Most members of one settlement or creation group.", has_option=False)

    def __post_init__(self) -> None:
        for row in ENGINE_SETTINGS:
            row.check(getattr(self, row.name))

    def limits(self) -> Limits:
        """The limits among them, as they are now."""
        return Limits(**{one.name: getattr(self, one.name) for one in dataclasses.fields(Limits)})


@dataclass(slots=True, frozen=True)
class RequestLimits:
    """Bounds for the requests that one replica carries out; 429 beyond.

    Requests without a reply subject wait for their turn, up to `max_queued_bytes` of them; they take at most half of
    `max_requests`, and do not wait for a flow. `default_timeout_ms`: the wait of a request that names none.
    """

    max_requests: int = setting(
        1024,
        "Requests that are carried out at once, without those that wait for a flow; more get a 429.",
        least=1,
        section=TUNING,
    )
    max_waiting: int = setting(
        10_000,
        "Requests that wait for a flow at once; more get a 429.",
        reference="Requests that wait for a flow at once (run, await, poll); more get a 429.",
        least=1,
        section=TUNING,
    )
    max_queued_bytes: int = setting(
        64 * 1024 * 1024,
        "Queue of requests without a reply subject, in bytes; more are lost, counted and logged.",
        least=1,
        section=TUNING,
    )
    max_timeout_ms: int = setting(
        3_600_000, "Longest wait of a request; a longer one is shortened to it.", least=0, section=TUNING
    )
    default_timeout_ms: int = 30_000


@dataclass(slots=True)
class ServerSettings:
    """One replica of the service: its databases, its place on the bus, what it may take on.

    `ServerSettings.of` takes every setting by its name in the reference, nested ones too.
    """

    dsns: list[str] = setting(
        [],
        "postgresql://… or sqlite:///path; several, in this order, are shards 1, 2, …",
        key="dsn",
        metavar="DSN",
    )
    connection: ConnectOptions = field(default_factory=ConnectOptions)
    prefix: str = setting("dwarf", "Prefix of the service's subjects.", section=SERVICE)
    task_prefix: str = setting("task", "Prefix of task subjects.")
    graph_prefix: str = setting("graph", "Prefix of graph subjects.")
    graphs_dir: Path | None = setting(
        None, "Folder of graph files, JSON or YAML, read again when they change.", key="graphs"
    )
    events: bool = setting(default=True, text="Publish an event for every change of a flow's status.")
    signals: bool = setting(default=True, text="Signal other replicas. Without signals they poll.")
    migrate: bool = setting(
        default=True, text="Migrate the databases first if needed; replicas that start together take turns."
    )
    wait_for_servers: bool = setting(
        default=True,
        text="Keep trying while a server is away at start; otherwise name it and exit.",
        reference="Keep trying while a database or NATS is away at start; otherwise name it and exit.",
        key="wait",
    )
    health_port: int | None = setting(
        None,
        "Answer HTTP probes on /livez and /readyz there.",
        reference="Port of HTTP probes; 0 takes a free one, `None` has none.",
        least=0,
        most=65535,
    )
    health_host: str = setting("127.0.0.1", "Address of the health port; 0.0.0.0 for all.")
    metrics: bool = setting(default=False, text="Serve metrics for Prometheus at /metrics of the health port.")
    console: str = setting(
        "",
        "Serve the web console too, at this address: 127.0.0.1:8080.",
        metavar="ADDRESS",
        of_command=True,
    )
    console_passwords: Path | None = setting(
        None, "File of users and hashed passwords for that console.", of_command=True
    )
    replicas: int = setting(1, "Number of processes, each a replica; not with SQLite.", least=1, of_command=True)
    log_format: LogFormat = setting(LogFormat.TEXT, "Format of the lines on stderr.")
    log_level: LogLevel = setting(
        LogLevel.INFO, "Lowest level that is logged; debug lines contain keys.", of_command=True
    )
    otlp: str = setting(
        "",
        "A collector for metrics and traces, by OTLP: http://host:4318.",
        reference="The base URL of a collector that takes OTLP over HTTP; empty: what `OTEL_EXPORTER_OTLP_…` variables say, if"
        " any.",
        metavar="URL",
    )
    otlp_traces: bool = setting(
        default=True,
        text="Send traces to the collector, too.",
        reference="Send traces to the collector, not only metrics.",
    )
    max_request_bytes: int = setting(
        16 * 1024 * 1024,
        "Payload of one request.",
        reference="Payload of one request; the server's `max_payload` may be lower (413 beyond).",
        least=1,
        section=LIMITS,
    )
    max_message_bytes: int = setting(
        0,
        "Largest message that the replica sends, for leaf nodes that take less than its NATS server; 0: the server's limit.",
        reference="Largest message that the replica sends, for leaf nodes that take less than its own NATS server; 0: the"
        " server's limit.",
        least=0,
        section=LIMITS,
    )
    claim_bucket: str = setting(
        "",
        "Remove large values that no flow uses from this bucket.",
        reference="The bucket of large values. Values that no row refers to are removed from it. Empty: nothing is removed.",
        section=SERVICE,
    )
    claim_grace_ms: int = setting(
        86_400_000,
        "Age from which unused large values are removed.",
        least=3_600_000,
        section=TUNING,
    )
    engine: EngineSettings = field(default_factory=EngineSettings)
    requests: RequestLimits = field(default_factory=RequestLimits)
    accept_ms: int = setting(
        1_000,
        "Time after which a task service should say that it is at work.",
        reference="Time after which a task service should say that it has accepted a request.",
        least=1,
        section=TUNING,
    )
    roll_call_ms: int = setting(
        1_000,
        "Interval at which a service that is at work is asked which steps it still runs.",
        reference="Interval at which a service that has accepted is asked which steps it still runs; after three"
        " unanswered calls of twice that time, it counts as hung.",
        least=10,
        section=TUNING,
    )

    @classmethod
    def of(cls, **values: Any) -> ServerSettings:
        """Settings by the names of the reference. Raises `TypeError` for an unknown name, `BadRequest` for a bad value."""
        parts: dict[str, dict[str, Any]] = {"": {}, **{part: {} for part in PARTS}}
        for name, value in values.items():
            if name not in SERVER_SETTINGS:
                raise TypeError(f"there is no setting {name}")
            row = SERVER_SETTINGS[name]
            parts[row.part][row.attribute] = value
        own = parts.pop("")
        return cls(**own, **{part: PARTS[part](**given) for part, given in parts.items()})


def _connection(attribute: str, kind: Any, text: str, *, name: str = "", key: str = "") -> Setting:
    name = name or attribute
    default = False if kind is bool else None if kind == Path | None else ""
    return Setting(
        name=name,
        kind=kind,
        default=default,
        text=text,
        section=NATS,
        key=key or name,
        part="connection",
        attribute=attribute,
    )


CONNECTION_SETTINGS = (
    _connection(
        "url",
        str,
        "Servers, several separated by commas; else NATS_URL, else nats://127.0.0.1:4222.",
        name="nats_url",
        key="nats",
    ),
    _connection("context", str, "A context of the nats command line, by name or path."),
    _connection("creds", Path | None, "Credentials file (JWT)."),
    _connection("nkey", Path | None, "File with an nkey's seed."),
    _connection("tls_ca", Path | None, "Certificates of the authorities to trust; TLS is then required."),
    _connection("tls_cert", Path | None, "Client certificate."),
    _connection("tls_key", Path | None, "Client key."),
    _connection("tls_first", bool, "Begin with TLS, before the server sends anything."),
    _connection(
        "inbox_prefix",
        str,
        "Prefix of the subjects on which replies arrive; else the context's, else _INBOX.",
    ),
)
"""The fields of `ConnectOptions` that have an option; all commands that talk to NATS share them."""
PARTS: dict[str, type] = {"connection": ConnectOptions, "engine": EngineSettings, "requests": RequestLimits}
"""The nested values of `ServerSettings`."""


def row_of(one: dataclasses.Field[Any]) -> Setting | None:
    """The setting that a field of a dataclass is, or `None` for other fields."""
    return one.metadata.get(_ROW)


def rows_of(cls: type, part: str = "") -> Iterator[Setting]:
    """The settings of a dataclass, those of nested values where their field stands."""
    kinds = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        row = row_of(one)
        if row is not None:
            yield dataclasses.replace(
                row, name=one.name, kind=kinds[one.name], key=row.key or one.name, part=part, attribute=one.name
            )
        elif one.name == "connection":
            yield from CONNECTION_SETTINGS
        elif one.name in PARTS:
            yield from rows_of(PARTS[one.name], one.name)


ENGINE_SETTINGS = tuple(rows_of(EngineSettings, "engine"))
"""The settings of `EngineSettings`."""
SERVER_SETTINGS = {
    one.name: one for one in sorted(rows_of(ServerSettings), key=lambda row: SECTIONS.index(row.section))
}
"""All settings by name, section by section."""
