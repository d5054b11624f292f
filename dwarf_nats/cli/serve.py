"""`dwarf-nats serve`: a replica of the service in the foreground."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import typer

from dwarf_nats import event_loop
from dwarf_nats.cli import console, logs
from dwarf_nats.cli.command import command, register_group
from dwarf_nats.cli.options import given_dsns
from dwarf_nats.cli.setting_options import parameters, server_settings
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.settings import SERVER_SETTINGS, ServerSettings

register_group(ServerSettings, parameters(SERVER_SETTINGS.values()), server_settings)


def register(app: typer.Typer) -> None:
    command(
        app,
        "serve",
        short="One replica of the service; SIGTERM drains it.",
        example="dwarf-nats serve --nats nats://127.0.0.1:4222 --dsn postgresql://dwarf@127.0.0.1/dwarf\n"
        "dwarf-nats serve --dsn sqlite:///dwarf.db --graphs graphs/",
    )(serve)


def serve(settings: ServerSettings) -> None:
    """Serve: one replica in the foreground. SIGTERM drains, a second one stops at once.

    Durations take units, such as 30s; names that end in -ms also take a number of milliseconds. Every option has a
    variable, and a name in dwarf.toml.
    """
    event_loop.run(_serve(settings))


async def _serve(settings: ServerSettings) -> None:
    """Serve the replicas, and the console beside them."""
    from dwarf_nats.server import run_server  # slow to load, and the other commands need no engine

    given_dsns(settings.dsns)
    logs.set_up(settings.log_format, settings.log_level)
    async with _console(settings):
        await _replicas(settings, run_server)


@asynccontextmanager
async def _console(settings: ServerSettings) -> AsyncIterator[None]:
    """The console beside the replicas, if the settings ask for one."""
    if not settings.console:
        yield
        return
    console.check_installed()
    wanted = ConsoleSettings(listen=settings.console, passwords=settings.console_passwords)
    async with console.served(settings.connection, settings.prefix, wanted):
        yield


async def _replicas(settings: ServerSettings, run_server: Callable[[ServerSettings], Awaitable[None]]) -> None:
    if settings.replicas > 1:
        if any(one.startswith("sqlite:") for one in settings.dsns):
            raise BadRequest("a SQLite file serves one replica only: use PostgreSQL for --replicas 2 and more")
        raise typer.Exit(await _run_several(settings.replicas, settings.health_port))
    await run_server(settings)


def _launch(replicas: int, health_port: int | None) -> list[subprocess.Popen[bytes]]:
    command_line = [sys.executable, "-m", "dwarf_nats.cli.main", *sys.argv[1:], "--replicas", "1", "--console", ""]
    ports = [["--health-port", str(health_port + n)] if health_port else [] for n in range(replicas)]
    return [subprocess.Popen([*command_line, *port]) for port in ports]


async def _run_several(replicas: int, health_port: int | None = None) -> int:
    """Run the same command line in several processes. Signals go to all of them; if one ends, the others are ended.

    The first has the health port given, each further one the next port.
    """
    children = _launch(replicas, health_port)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop_all() -> None:
        stopping.set()
        for child in children:
            if child.poll() is None:
                child.terminate()

    loop.add_signal_handler(signal.SIGTERM, stop_all)
    # Ctrl-C reaches the children by itself: they are in the same process group.
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    ends = [asyncio.ensure_future(asyncio.to_thread(child.wait)) for child in children]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        return max(abs(code) for code in await asyncio.gather(*ends))
    # A second signal would end the others without draining, so they get theirs only now.
    stop_all()
    await asyncio.gather(*ends)
    raise Unavailable("a replica ended by itself; the others were stopped")
