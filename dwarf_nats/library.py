"""The engine as a library: `open_engine` puts it together with its databases. No NATS is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.ports import Ports
from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore, open_database
from dwarf_nats.telemetry.providers import Telemetry
from dwarf_nats.wire.codec import options_of_json

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, Logger, Notices, Peers, Services, Signals, Tasks
    from dwarf_nats.telemetry.counters import Counters
    from dwarf_nats.telemetry.instruments import MeterProvider
    from dwarf_nats.telemetry.traces import TracerProvider


class TelemetryArguments(TypedDict, total=False):
    """The keywords of `open_engine` that say where logs, metrics and spans go; see `Telemetry`."""

    logger: Logger | None
    meter_provider: MeterProvider | None
    tracer_provider: TracerProvider | None
    counters: Counters | None


class FurtherArguments(TelemetryArguments, total=False):
    """The keywords of `open_engine` that few hosts give.

    `services`: sends the requests and messages of graphs (N3, N4). `peers`: asks the other replicas for explanations (Q2).
    """

    services: Services | None
    peers: Peers | None


def open_engine(
    dsn: str | Sequence[str],
    *,
    tasks: Tasks,
    graphs: Graphs | None = None,
    notices: Notices | None = None,
    signals: Signals | None = None,
    settings: EngineSettings | None = None,
    clock: Clock | None = None,
    name: str = "",
    **further: Unpack[FurtherArguments],
) -> Engine:
    """Make an engine on one or more databases; several DSNs are shards 1, 2, …. Start it with `async with`.

    DSNs: `postgresql://…`, `sqlite:///path`, or `sqlite://` for one in memory. `tasks`, `graphs`, `services`, `notices`,
    `signals`, `peers`, `clock`: its ports. `name`: of this replica. `logger`, `meter_provider`, `tracer_provider`: where logs,
    metrics and spans go. Raises `BadRequest` for a DSN that is not understood.
    """
    ports = Ports(
        tasks=tasks,
        graphs=graphs,
        services=further.get("services"),
        notices=notices,
        signals=signals,
        peers=further.get("peers"),
        clock=clock,
    )
    telemetry = Telemetry(
        logger=further.get("logger"),
        meter_provider=further.get("meter_provider"),
        tracer_provider=further.get("tracer_provider"),
        counters=further.get("counters"),
    )
    return engine_on([dsn] if isinstance(dsn, str) else dsn, ports, settings, telemetry, name=name)


def engine_on(
    dsns: Sequence[str],
    ports: Ports,
    settings: EngineSettings | None = None,
    telemetry: Telemetry | None = None,
    *,
    name: str = "",
) -> Engine:
    """As `open_engine`, with the ports and the telemetry as one value each."""
    settings = settings if settings is not None else EngineSettings()
    clock = ports.clock if ports.clock is not None else SystemClock()
    dsns = list(dsns)
    for number, one in enumerate(dsns, 1):
        first = dsns.index(one) + 1
        if first < number and one != "sqlite://":  # each of these is a database in memory of its own
            raise BadRequest(
                f"the database {redacted_url(one)} was given twice, as shard {first} and as shard {number}:"
                " give each database once"
            )
    stores = [SqlStore(number, one, pool=settings.pool, clock=clock) for number, one in enumerate(dsns, 1)]
    return Engine(stores, replace(ports, clock=clock, read_options=options_of_json), settings, telemetry, name=name)


def check_dsns(dsns: Sequence[str]) -> None:
    """Raise `BadRequest` for a DSN that is not understood, before anything is connected."""
    for dsn in dsns:
        open_database(dsn, 1, SystemClock())


async def add_shard(engine: Engine, dsn: str) -> int:
    """Give a running engine one more database; its number. New flows go there too from now on.

    Raises `BadRequest` for a DSN that is not understood, `Unavailable` if the database is away.
    """
    number = engine.shard_count + 1
    await engine.add_shard(SqlStore(number, dsn, pool=engine.settings.pool, clock=engine.clock))
    return number
