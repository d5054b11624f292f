"""`dwarf-nats serve`: a replica of the service in the foreground."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats.cli import logs
from dwarf_nats.cli.bounds import Bounds
from dwarf_nats.cli.command import command, option_group
from dwarf_nats.cli.logs import LogFormat, LogLevel
from dwarf_nats.cli.options import Bus, Deployment
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.settings import ServerSettings

Dsns = Annotated[
    list[str] | None,
    typer.Option(
        "--dsn",
        envvar="DWARF_DSN",
        help="postgresql://… or sqlite:///path; several, in this order, are shards 1, 2, …",
        metavar="DSN",
    ),
]


def given_dsns(dsns: list[str] | None) -> list[str]:
    """The DSNs, or `BadRequest` if there are none."""
    if not dsns:
        raise typer.BadParameter("name a database: postgresql://… or sqlite:///path", param_hint="--dsn")
    return dsns


@option_group("Tuning")
@dataclass(slots=True, frozen=True)
class Tuning:
    """How the replica behaves. Durations in milliseconds."""

    workers: Annotated[
        int, typer.Option(min=1, envvar="DWARF_WORKERS", help="Steps in hand at once; each costs memory.")
    ] = 1024
    time_budget_ms: Annotated[
        int,
        typer.Option(
            min=1, envvar="DWARF_TIME_BUDGET_MS", help="What a task may take, unless its flow says otherwise."
        ),
    ] = 120_000
    replica_timeout_ms: Annotated[
        int,
        typer.Option(min=1, envvar="DWARF_REPLICA_TIMEOUT_MS", help="A replica silent for so long is taken for dead."),
    ] = 10_000
    drain_ms: Annotated[
        int, typer.Option(min=0, envvar="DWARF_DRAIN_MS", help="How long shutdown waits for tasks in hand.")
    ] = 20_000
    default_priority: Annotated[
        int,
        typer.Option(min=1, envvar="DWARF_DEFAULT_PRIORITY", help="Priority of flows that name none; 1 is the best."),
    ] = 100
    pool: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="DWARF_POOL",
            help="PostgreSQL connections per database and replica for operations; settling has one of its own.",
        ),
    ] = 4
    max_requests: Annotated[
        int,
        typer.Option(
            min=1, envvar="DWARF_MAX_REQUESTS", help="Requests carried out at once, waiting ones apart; 429 beyond."
        ),
    ] = 1024
    max_waiting: Annotated[
        int, typer.Option(min=1, envvar="DWARF_MAX_WAITING", help="Requests that wait for a flow at once; 429 beyond.")
    ] = 10_000
    max_queued_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="DWARF_MAX_QUEUED_BYTES",
            help="Requests without a reply subject that wait for their turn, in bytes; more are lost, counted and logged.",
        ),
    ] = 64 * 1024 * 1024
    max_timeout_ms: Annotated[
        int,
        typer.Option(
            min=0,
            envvar="DWARF_MAX_TIMEOUT_MS",
            help="The longest wait a request may ask for; a longer one is cut to it.",
        ),
    ] = 3_600_000
    accept_ms: Annotated[
        int,
        typer.Option(min=1, envvar="DWARF_ACCEPT_MS", help="After how long a task service should say it is at work."),
    ] = 1_000
    roll_call_ms: Annotated[
        int, typer.Option(min=10, envvar="DWARF_ROLL_CALL_MS", help="How often it is asked then what it still runs.")
    ] = 1_000


def register(app: typer.Typer) -> None:
    command(
        app,
        "serve",
        short="One replica of the service; SIGTERM drains it.",
        example="dwarf-nats serve --nats nats://127.0.0.1:4222 --dsn postgresql://dwarf@127.0.0.1/dwarf\n"
        "dwarf-nats serve --dsn sqlite:///dwarf.db --graphs graphs/",
    )(serve)


async def serve(
    bus: Bus,
    deployment: Deployment,
    tuning: Tuning,
    bounds: Bounds,
    dsn: Dsns = None,
    task_prefix: Annotated[str, typer.Option(envvar="DWARF_TASK_PREFIX", help="Prefix of task subjects.")] = "task",
    graph_prefix: Annotated[str, typer.Option(envvar="DWARF_GRAPH_PREFIX", help="Prefix of graph subjects.")] = "graph",
    graphs: Annotated[
        Path | None,
        typer.Option(envvar="DWARF_GRAPHS", help="Folder of graph files, JSON or YAML, read again when they change."),
    ] = None,
    events: Annotated[
        bool,
        typer.Option(
            "--events/--no-events", envvar="DWARF_EVENTS", help="Publish an event for every change of a flow's status."
        ),
    ] = True,
    signals: Annotated[
        bool,
        typer.Option(
            "--signals/--no-signals",
            envvar="DWARF_SIGNALS",
            help="Signal other replicas. Without signals they poll.",
        ),
    ] = True,
    migrate: Annotated[
        bool,
        typer.Option(
            "--migrate/--no-migrate",
            envvar="DWARF_MIGRATE",
            help="Migrate the databases first, if need be; replicas that start together take turns.",
        ),
    ] = True,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            envvar="DWARF_WAIT",
            help="Keep trying while a server is away at start; else say which and exit.",
        ),
    ] = True,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, envvar="DWARF_HEALTH_PORT", help="Answer HTTP probes on /livez and /readyz there."
        ),
    ] = None,
    health_host: Annotated[
        str, typer.Option(envvar="DWARF_HEALTH_HOST", help="Address of the health port; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    replicas: Annotated[
        int, typer.Option(min=1, envvar="DWARF_REPLICAS", help="That many processes, each a replica; not with SQLite.")
    ] = 1,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="DWARF_LOG_FORMAT", help="How lines on stderr look.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="DWARF_LOG_LEVEL", help="What is logged; debug lines hold keys.")
    ] = LogLevel.INFO,
    otlp: Annotated[
        str,
        typer.Option(
            envvar="DWARF_OTLP", metavar="URL", help="A collector for metrics and traces, by OTLP: http://host:4318."
        ),
    ] = "",
    otlp_traces: Annotated[
        bool,
        typer.Option("--otlp-traces/--no-otlp-traces", envvar="DWARF_OTLP_TRACES", help="Send it traces, too."),
    ] = True,
) -> None:
    """Serve: one replica in the foreground. SIGTERM drains, a second one stops at once.

    Durations take units, such as 30s; names that end in -ms also take a number of milliseconds. Every option has a
    variable, and a name in dwarf.toml.
    """
    from dwarf_nats.server import run_server  # the engine is of no use to the other commands, and slow to load

    dsns = given_dsns(dsn)
    logs.set_up(log_format, log_level)
    if replicas > 1:
        if any(one.startswith("sqlite:") for one in dsns):
            raise BadRequest("a SQLite file serves one replica only: use PostgreSQL for --replicas 2 and more")
        raise typer.Exit(await _several(replicas, health_port))
    await run_server(
        ServerSettings(
            dsns=dsns,
            nats_url=bus.nats,
            prefix=deployment.prefix,
            task_prefix=task_prefix,
            graph_prefix=graph_prefix,
            context=bus.context,
            creds=bus.creds,
            nkey=bus.nkey,
            tls_ca=bus.tls_ca,
            tls_cert=bus.tls_cert,
            tls_key=bus.tls_key,
            tls_first=bus.tls_first,
            inbox_prefix=bus.inbox_prefix,
            graphs_dir=graphs,
            workers=tuning.workers,
            time_budget_ms=tuning.time_budget_ms,
            replica_timeout_ms=tuning.replica_timeout_ms,
            drain_ms=tuning.drain_ms,
            default_priority=tuning.default_priority,
            pool=tuning.pool,
            max_requests=tuning.max_requests,
            max_waiting=tuning.max_waiting,
            max_queued_bytes=tuning.max_queued_bytes,
            max_timeout_ms=tuning.max_timeout_ms,
            accept_ms=tuning.accept_ms,
            roll_call_ms=tuning.roll_call_ms,
            **bounds.settings(),
            health_port=health_port,
            health_host=health_host,
            events=events,
            signals=signals,
            migrate=migrate,
            wait_for_servers=wait,
            log_format=log_format.value,
            otlp=otlp,
            otlp_traces=otlp_traces,
        )
    )


def _launch(replicas: int, health_port: int | None) -> list[subprocess.Popen[bytes]]:
    command_line = [sys.executable, "-m", "dwarf_nats.cli.main", *sys.argv[1:], "--replicas", "1"]
    ports = [["--health-port", str(health_port + n)] if health_port else [] for n in range(replicas)]
    return [subprocess.Popen([*command_line, *port]) for port in ports]


async def _several(replicas: int, health_port: int | None = None) -> int:
    """Run the same command line in several processes; signals go to all, and if one ends, all do.

    The health port of each is one above that of the one before.
    """
    children = _launch(replicas, health_port)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell() -> None:
        told.set()
        for child in children:
            if child.poll() is None:
                child.terminate()

    loop.add_signal_handler(signal.SIGTERM, tell)
    # Ctrl-C reaches the children by itself, being of our process group.
    loop.add_signal_handler(signal.SIGINT, told.set)
    ends = [asyncio.ensure_future(asyncio.to_thread(child.wait)) for child in children]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if told.is_set():
        return max(abs(code) for code in await asyncio.gather(*ends))
    # A second signal would end the others without draining, so they are told only now.
    tell()
    await asyncio.gather(*ends)
    raise Unavailable("a replica ended by itself; the others were stopped")
