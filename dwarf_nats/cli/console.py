"""`dwarf-nats console`: the web console, a NATS client that serves pages."""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dwarf_nats.actor import system_actor
from dwarf_nats.cli import logs
from dwarf_nats.cli.command import command, register_group
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.setting_options import parameters
from dwarf_nats.collector import collect_seldom
from dwarf_nats.console.settings import CONSOLE_SETTINGS, ConsoleSettings
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client
from dwarf_nats.settings import CONNECTION_SETTINGS, LogFormat
from dwarf_nats.wire.connect_options import ConnectOptions

if TYPE_CHECKING:
    from dwarf_nats.console.server import ConsoleServer

_INSTALL = 'pip install "dwarf-nats[console]"'
_NEEDED = ("jinja2", "python_multipart", "starlette", "uvicorn")
NAME = "dwarf-console"
"""The name of its connections, as NATS reports them."""


def _settings(given: Mapping[str, Any]) -> ConsoleSettings:
    names = {row.key: row.name for row in CONSOLE_SETTINGS}
    return ConsoleSettings(**{names[key]: value for key, value in given.items() if value is not None})


register_group(ConsoleSettings, parameters(CONSOLE_SETTINGS), _settings)


def register(app: typer.Typer) -> None:
    command(
        app,
        "console",
        short="The web console.",
        example="dwarf-nats console --nats nats://127.0.0.1:4222\n"
        "dwarf-nats console --creds viewer.creds --inbox-prefix _INBOX.viewer --listen :8080 --passwords users.txt",
    )(console)


async def console(
    bus: Bus,
    service: Service,
    settings: ConsoleSettings,
    hash_password: Annotated[
        str, typer.Option("--hash-password", metavar="USER", help="Print a line for --passwords, and end.")
    ] = "",
) -> None:
    """Serve the web console: flows, why they stand still, and what to do about it.

    It is a NATS client with its own credentials: what its user may not publish, it does not offer. Ctrl-C ends it.
    """
    check_installed()
    if hash_password:
        print(_password_line(hash_password))
        return
    logs.set_up(LogFormat.TEXT)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    how = {row.attribute: getattr(bus, row.attribute) for row in CONNECTION_SETTINGS}
    connection = ConnectOptions(**how, connect_seconds=service.connect_timeout_ms / 1000)
    async with served(connection, service.prefix, settings, actor=service.who) as server:
        collect_seldom()
        print(f"console   {server.url}", flush=True)
        await stop.wait()


def is_installed() -> bool:
    """True if the extra for it is installed."""
    return not _missing()


def check_installed() -> None:
    """Raise `BadRequest` if the extra is not installed."""
    if missing := _missing():
        raise BadRequest(f"the console needs {', '.join(missing)}: {_INSTALL}")


def _missing() -> list[str]:
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


@asynccontextmanager
async def served(
    connection: ConnectOptions, prefix: str, settings: ConsoleSettings, *, actor: str = ""
) -> AsyncIterator[ConsoleServer]:
    """A console that serves while entered. Raises `BadRequest` for settings that do not fit together.

    `actor` acts where nobody is logged in: by default the operating system's user.
    """
    from dwarf_nats.console.app import build_app  # slow to load, and of an extra
    from dwarf_nats.console.server import ConsoleServer
    from dwarf_nats.console.source import Source

    settings.check()

    def client(how: ConnectOptions) -> Client:
        fields = {name: getattr(how, name) for name in how.__slots__ if name != "url" and not name.startswith("user_")}
        return Client(how.url, prefix=prefix, name=NAME, actor=actor or system_actor(), **fields)

    def client_of(creds: Path) -> Client:
        return client(replace(connection, creds=creds, nkey="", user="", password="", token=""))

    source = Source(client(connection), payloads=settings.payloads)
    async with ConsoleServer(build_app(source, settings, connect=client_of), settings) as server:
        yield server


def _password_line(user: str) -> str:
    from dwarf_nats.console.login import hash_password

    password = getpass.getpass(f"Password of {user}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password or ":" in user:
        raise BadRequest("give a user without a colon, and a password that is not empty")
    return f"{user}:{hash_password(password)}"
