"""The composition root of the service: one replica, its engine with NATS behind its ports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dwarf_nats.backoff import Backoff
from dwarf_nats.bus.connection import Connection, connect
from dwarf_nats.bus.graphs import ChainGraphs, DirectoryGraphs, NatsGraphs
from dwarf_nats.bus.health import Health
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.notices import NatsNotices
from dwarf_nats.bus.peer_facts import NatsPeers
from dwarf_nats.bus.service import Service
from dwarf_nats.bus.services import NatsServices
from dwarf_nats.bus.signals import NatsSignals, PeerListener
from dwarf_nats.bus.sources import NatsSources
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.bus.values import NatsValues
from dwarf_nats.clock import SystemClock
from dwarf_nats.collector import collect_seldom
from dwarf_nats.engine.ports import Ports
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.library import check_dsns, engine_on
from dwarf_nats.ports import Unusable
from dwarf_nats.probes import ProbeServer
from dwarf_nats.telemetry import otlp
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.telemetry.instruments import MeterProvider
from dwarf_nats.telemetry.providers import Telemetry
from dwarf_nats.telemetry.scraping import Scraped
from dwarf_nats.telemetry.traces import TracerProvider
from dwarf_nats.wire.subjects import Subjects

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.settings import ServerSettings

log = logging.getLogger("dwarf_nats.server")
STARTUP_BACKOFF = Backoff.listed(0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses of a start that waits for its database."""
LOG_EVERY_ATTEMPTS = 12
"""Attempts of a start that waits, after which it logs the same reason again: about a minute."""


@asynccontextmanager
async def replica(
    settings: ServerSettings,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[Engine]:
    """A running replica. At the end it drains: stops claiming, answers the requests taken, waits for the tasks in flight,
    then closes the connection (wire: section 6).

    Metrics and spans go to the providers given, else where the settings or the environment say. Raises `Unavailable` naming the
    server that is away (unless told to wait for it), `BadRequest` for settings that contradict each other.
    """
    if not settings.dsns:
        raise BadRequest("no database given: use --dsn postgresql://… or --dsn sqlite:///path")
    check_dsns(settings.dsns)
    if settings.metrics and settings.health_port is None:
        raise BadRequest("metrics are served on the health port: add --health-port 8080, or leave --metrics out")
    origin = secrets.token_hex(8)
    scraped = Scraped() if settings.metrics else None
    async with _exporting(settings, origin, scraped) as exported:
        telemetry = Telemetry(
            meter_provider=meter_provider or exported.meter_provider,
            tracer_provider=tracer_provider or exported.tracer_provider,
            counters=Counters(),
        )
        one = _Replica(settings, origin, telemetry, scraped.page if scraped is not None else None)
        async with one.probes(), one.serving() as engine:
            yield engine


@asynccontextmanager
async def _exporting(settings: ServerSettings, origin: str, scraped: Scraped | None) -> AsyncIterator[otlp.Exporting]:
    """The providers that the settings or the environment ask for, which send what is left at the end."""
    readers = [scraped.reader] if scraped is not None else []
    exporting = otlp.set_up(settings.otlp, origin, traces=settings.otlp_traces, readers=readers)
    if exporting is None:
        yield otlp.Exporting()
        return
    try:
        yield exporting
    finally:
        await exporting.close()


class _Replica:
    """The parts of one replica and their order at its start and its end. `origin`: its id. `metrics`: the page of them."""

    def __init__(
        self, settings: ServerSettings, origin: str, telemetry: Telemetry, metrics: Callable[[], bytes] | None
    ) -> None:
        self._settings = settings
        self._origin = origin
        self._metrics = metrics
        self._telemetry = telemetry
        self._subjects = Subjects(settings.prefix, settings.task_prefix, settings.graph_prefix)
        self._health = Health(origin, self._subjects)
        self._peers: NatsPeers | None = None
        self._sources: NatsSources | None = None

    @asynccontextmanager
    async def probes(self) -> AsyncIterator[None]:
        """The health port, if one is asked for: it answers from the first moment to the last."""
        if self._settings.health_port is None:
            yield
            return
        host, port = self._settings.health_host, self._settings.health_port
        async with ProbeServer(host, port, self._health.report, self._metrics):
            yield

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Engine]:
        """The connection, and the service while it is open."""
        settings, subjects = self._settings, self._subjects
        name = f"dwarf-nats-{self._origin}"
        connection = await connect(settings.connection, name, retry=settings.wait_for_servers)
        connection.max_message_bytes = settings.max_message_bytes
        try:
            subjects.check_apart(connection.new_inbox())
            await self._health.listen(connection)
            inbox = Inbox(connection, subjects)
            await inbox.start()
            engine = self._engine(connection, inbox)
            self._health.engine = engine
            await self._start(engine)
            async with self._service(connection, engine):
                yield engine
        finally:
            with contextlib.suppress(Exception):
                await connection.close()

    def _engine(self, connection: Connection, inbox: Inbox) -> Engine:
        settings, subjects = self._settings, self._subjects
        counters = self._telemetry.counters
        files = [DirectoryGraphs(settings.graphs_dir)] if settings.graphs_dir else []
        tasks = NatsTasks(
            connection,
            inbox,
            subjects,
            accept_ms=settings.accept_ms,
            roll_call_seconds=settings.roll_call_ms / 1000,
            max_depth=settings.engine.max_depth,
            counters=counters,
        )
        self._sources = NatsSources(
            connection, subjects, counters or Counters(), clock=SystemClock(), max_depth=settings.engine.max_depth
        )
        if settings.signals:
            self._peers = NatsPeers(connection, self._origin, subjects)
        ports = Ports(
            tasks=tasks,
            capabilities=tasks.capabilities,
            graphs=ChainGraphs(*files, NatsGraphs(connection, inbox, subjects)),
            services=NatsServices(connection, inbox, subjects, max_depth=settings.engine.max_depth),
            notices=NatsNotices(connection, subjects, events=settings.events),
            signals=NatsSignals(connection, self._origin, subjects, counters) if settings.signals else None,
            peers=self._peers,
            sources=self._sources,
            values=_values(settings, connection),
        )
        return engine_on(settings.dsns, ports, settings.engine, self._telemetry, name=self._origin)

    async def _start(self, engine: Engine) -> None:
        """Start the engine. Waits for its databases if the settings say so."""
        settings = self._settings
        failures = 0
        logged = ""
        while True:
            try:
                return await engine.startup(migrate=settings.migrate, patient=settings.wait_for_servers)
            except Unavailable as error:
                if not settings.wait_for_servers or isinstance(error, Unusable):
                    raise
                if str(error) != logged or failures % LOG_EVERY_ATTEMPTS == 0:
                    logged = str(error)
                    log.warning("waiting for the database: %s; Ctrl-C stops", error)
                self._health.waits_for = str(error)
            await asyncio.sleep(STARTUP_BACKOFF.delay(failures))
            failures += 1

    @asynccontextmanager
    async def _service(self, connection: Connection, engine: Engine) -> AsyncIterator[None]:
        """The service on a started engine; drains both at the end."""
        settings, counters = self._settings, self._telemetry.counters
        service = Service(
            connection,
            engine,
            self._subjects,
            service_id=self._origin,
            max_request_bytes=settings.max_request_bytes,
            limits=settings.requests,
            counters=counters,
        )
        try:
            if settings.signals:
                listener = PeerListener(
                    connection,
                    self._origin,
                    to=engine.peers,
                    subjects=self._subjects,
                    counters=counters,
                    questions=self._peers,
                )
                await listener.start()
                if self._peers is not None:
                    self._peers.answer_with(engine.facts)
            await service.start()
            if self._sources is not None:
                self._sources.begin(engine, engine.source_register)
            self._health.serving = True
            shards = len(settings.dsns)
            log.info("replica %s is ready: %d shard(s), prefix %s", self._origin, shards, settings.prefix)
            yield
        finally:
            self._health.draining = True
            engine.stop_claiming()
            if self._sources is not None:
                await self._sources.close()
            await service.drain(settings.engine.drain_ms / 1000)
            await engine.shutdown()
            log.info("replica %s has drained", self._origin)


def _values(settings: ServerSettings, connection: Connection) -> NatsValues | None:
    """The bucket of large values that is swept, if the settings name one."""
    if not settings.claim_bucket:
        return None
    return NatsValues(connection, settings.claim_bucket, settings.claim_grace_ms / 1000)


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
            collect_seldom()
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
