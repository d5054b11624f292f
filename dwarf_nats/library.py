"""The engine as a library: `open_engine` puts it together with its databases. No NATS is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest
from dwarf_nats.redact import redacted_url
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore, open_database

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, Logger, Notices, Signals, Tasks
    from dwarf_nats.telemetry.counters import Counters
    from dwarf_nats.telemetry.instruments import MeterProvider
    from dwarf_nats.telemetry.traces import TracerProvider


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
    logger: Logger | None = None,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    counters: Counters | None = None,
) -> Engine:
    """An engine on one or more databases; several DSNs are shards 1, 2, ….

    DSNs: `postgresql://…`, `sqlite:///path`, or `sqlite://` for one in memory. Start it with `async with`.
    `logger`, `meter_provider`, `tracer_provider`: where its logs, metrics and spans go, as `Engine` has it.
    Raises `BadRequest` for a DSN that is not understood.
    """
    settings = settings if settings is not None else EngineSettings()
    clock = clock if clock is not None else SystemClock()
    dsns = [dsn] if isinstance(dsn, str) else list(dsn)
    for number, one in enumerate(dsns, 1):
        first = dsns.index(one) + 1
        if first < number and one != "sqlite://":  # each of these is a database in memory of its own
            raise BadRequest(
                f"the database {redacted_url(one)} was given twice, as shard {first} and as shard {number}:"
                " give each database once"
            )
    stores = [SqlStore(number, one, pool=settings.pool, clock=clock) for number, one in enumerate(dsns, 1)]
    return Engine(
        stores, tasks=tasks, graphs=graphs, notices=notices, signals=signals, settings=settings, clock=clock, name=name,
        logger=logger, meter_provider=meter_provider, tracer_provider=tracer_provider, counters=counters,
    )  # fmt: skip


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
