"""A console over a real service, in a real browser."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from dwarf_nats.console.app import build_app
from dwarf_nats.console.server import ConsoleServer
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import Source
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from tests.browser import chromium
from tests.support.caller import Caller, deployment

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def executable() -> str:
    """The path of a Chromium; without one, the tests are skipped with a loud word."""
    found = chromium.find_chromium()
    if found is None:
        warnings.warn(chromium.MISSING, stacklevel=1)
        pytest.skip(chromium.MISSING)
    return found


@pytest.fixture
async def browser(executable: str, tmp_path: Path) -> AsyncIterator[Browser]:
    """A browser of its own for each test."""
    async with chromium.launched(executable, tmp_path) as one:
        yield one


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str) -> AsyncIterator[Caller]:
    """A caller of a service on SQLite."""
    async with deployment(nats_server.url, sqlite_dsn, f"web{next(_numbers)}") as one:
        yield one


@pytest.fixture
async def address(caller: Caller, nats_server: NatsServer) -> AsyncIterator[str]:
    """The address of a console of that service, on a free port."""
    settings = ConsoleSettings(listen="127.0.0.1:0")
    source = Source(Client(nats_server.url, prefix=caller.prefix, name="console"))
    async with ConsoleServer(build_app(source, settings), settings) as server:
        yield server.url


@pytest.fixture
async def page(browser: Browser, address: str) -> AsyncIterator[Page]:
    """A tab of that browser at that console."""
    async with chromium.tab(browser, address) as one:
        yield one
