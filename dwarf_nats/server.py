"""The composition root of the service: one replica, its engine wired to NATS in all four places."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dwarf_nats.backoff import Backoff
from dwarf_nats.bus.connection import Connection, connect
from dwarf_nats.bus.graphs import ChainGraphs, DirectoryGraphs, NatsGraphs
from dwarf_nats.bus.health import Health
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.notices import NatsNotices
from dwarf_nats.bus.service import Service
from dwarf_nats.bus.signals import NatsSignals, PeerListener
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.library import check_dsns, open_engine
from dwarf_nats.ports import Unusable
from dwarf_nats.probes import ProbeServer
from dwarf_nats.telemetry import otlp
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.telemetry.instruments import MeterProvider
from dwarf_nats.telemetry.traces import TracerProvider
from dwarf_nats.wire.subjects import Subjects

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.settings import ServerSettings

log = logging.getLogger("dwarf_nats.server")
STARTUP_BACKOFF = Backoff.listed(0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses of a start that waits for its database."""
SAY_EVERY = 12
"""A start that waits says so again after so many tries, about a minute."""
Providers = tuple[MeterProvider | None, TracerProvider | None]


async def _engine(
    settings: ServerSettings,
    connection: Connection,
    inbox: Inbox,
    subjects: Subjects,
    origin: str,
    health: Health,
    counters: Counters,
    providers: Providers,
) -> Engine:
    sources = [DirectoryGraphs(settings.graphs_dir)] if settings.graphs_dir else []
    engine = open_engine(
        settings.dsns,
        tasks=NatsTasks(
            connection,
            inbox,
            subjects,
            accept_ms=settings.accept_ms,
            roll_call_seconds=settings.roll_call_ms / 1000,
            max_depth=settings.engine.max_depth,
        ),
        graphs=ChainGraphs(*sources, NatsGraphs(connection, inbox, subjects)),
        notices=NatsNotices(connection, subjects, events=settings.events),
        signals=NatsSignals(connection, origin, subjects, counters) if settings.signals else None,
        settings=settings.engine,
        name=origin,
        counters=counters,
        meter_provider=providers[0],
        tracer_provider=providers[1],
    )
    health.engine = engine
    failures = 0
    said = ""
    while True:
        try:
            await engine.startup(migrate=settings.migrate, patient=settings.wait_for_servers)
        except Unavailable as error:
            if not settings.wait_for_servers or isinstance(error, Unusable):
                raise
            if str(error) != said or failures % SAY_EVERY == 0:
                said = str(error)
                log.warning("waiting for the database: %s; Ctrl-C stops", error)
            health.waits_for = str(error)
            await asyncio.sleep(STARTUP_BACKOFF.delay(failures))
            failures += 1
        else:
            return engine


@asynccontextmanager
async def _telemetry(settings: ServerSettings, origin: str) -> AsyncIterator[Providers]:
    """Where the settings or the environment say that metrics and spans go; sent to the last at the end."""
    exporting = otlp.set_up(settings.otlp, origin, traces=settings.otlp_traces)
    if exporting is None:
        yield None, None
        return
    try:
        yield exporting.meter_provider, exporting.tracer_provider
    finally:
        await exporting.close()


@asynccontextmanager
async def replica(
    settings: ServerSettings,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[Engine]:
    """A running replica. At the end it drains: stops claiming, answers the requests taken, waits for the tasks in hand,
    then closes the connection (wire: section 6).

    Metrics and spans go to the providers given, else where the settings or the environment say. Raises `Unavailable` naming the
    server that is away (unless told to wait for it), `BadRequest` for settings that make no sense.
    """
    if not settings.dsns:
        raise BadRequest("no database given: use --dsn postgresql://… or --dsn sqlite:///path")
    check_dsns(settings.dsns)
    origin = secrets.token_hex(8)
    async with _telemetry(settings, origin) as (instruments, tracers):
        providers = (meter_provider or instruments, tracer_provider or tracers)
        async with _replica(settings, origin, providers) as engine:
            yield engine


@asynccontextmanager
async def _replica(settings: ServerSettings, origin: str, providers: Providers) -> AsyncIterator[Engine]:
    counters = Counters()
    subjects = Subjects(settings.prefix, settings.task_prefix, settings.graph_prefix)
    health = Health(origin, subjects)
    async with _probes(settings, health), _serving(settings, origin, subjects, health, counters, providers) as engine:
        yield engine


@asynccontextmanager
async def _probes(settings: ServerSettings, health: Health) -> AsyncIterator[None]:
    """The health port, if one is asked for: it answers from the first moment to the last."""
    if settings.health_port is None:
        yield
        return
    async with ProbeServer(settings.health_host, settings.health_port, health.report):
        yield


@asynccontextmanager
async def _serving(
    settings: ServerSettings, origin: str, subjects: Subjects, health: Health, counters: Counters, providers: Providers
) -> AsyncIterator[Engine]:
    connection = await connect(settings.connection, f"dwarf-nats-{origin}", retry=settings.wait_for_servers)
    connection.most_bytes = settings.max_message_bytes
    try:
        subjects.check_apart(connection.new_inbox())
        await health.listen(connection)
        inbox = Inbox(connection, subjects)
        await inbox.start()
        engine = await _engine(settings, connection, inbox, subjects, origin, health, counters, providers)
        service = Service(
            connection,
            engine,
            subjects,
            service_id=origin,
            max_request_bytes=settings.max_request_bytes,
            limits=settings.requests,
            counters=counters,
        )
        try:
            if settings.signals:
                await PeerListener(connection, origin, engine.peers, subjects, counters).start()
            await service.start()
            health.serving = True
            log.info("replica %s is ready: %d shard(s), prefix %s", origin, len(settings.dsns), settings.prefix)
            yield engine
        finally:
            health.draining = True
            engine.stop_claiming()
            await service.drain(settings.engine.drain_ms / 1000)
            await engine.shutdown()
            log.info("replica %s has drained", origin)
    finally:
        with contextlib.suppress(Exception):
            await connection.close()


async def run_server(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once (B3)."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    main = asyncio.current_task()
    assert main is not None

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stopping at once")
            main.cancel()
        else:
            log.info("draining; a second signal stops at once")
            stop.set()
            if not started.is_set():
                main.cancel()

    started = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with replica(settings):
            started.set()
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
