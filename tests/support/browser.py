"""A browser without eyes, at a console."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from dwarf_nats.console.app import build_app
from dwarf_nats.console.console import Connect, Console
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import Source
from dwarf_nats.sdk import Client

WAIT = 60.0
"""Seconds after which a test that waits gives up."""


class Browser:
    """Keeps cookies, sends forms with the token of the last page, and keeps everything that it was sent."""

    def __init__(self, app: Starlette, **more: Any) -> None:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 4711))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", **more)
        self.console: Console = app.state.console
        self.seen: list[str] = []
        self.token = ""

    async def get(self, path: str, **more: Any) -> httpx.Response:
        response = await self.http.get(path, **more)
        self._note(response)
        return response

    async def page(self, path: str) -> str:
        """The text of a page that must be there."""
        response = await self.get(path)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.text

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        """Send a form of a page. The token is that of the last page, unless `csrf` is given."""
        if not self.token:
            await self.page("/flows")
        data = {"csrf": self.token, **fields}
        response = await self.http.post(path, data=data, headers={"Origin": "http://localhost:8080", **(headers or {})})
        self._note(response)
        return response

    def _note(self, response: httpx.Response) -> None:
        self.seen += [str(response.url), str(response.headers), response.text]
        found = re.search(r'<meta name="csrf" content="(\w+)">', response.text)
        if found:
            self.token = found[1]


@asynccontextmanager
async def opened(
    client: Client,
    settings: ConsoleSettings | None = None,
    *,
    connect: Connect | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Browser]:
    """A browser at a console that has connected. `headers`: those of every request."""
    settings = settings or ConsoleSettings()
    app = build_app(Source(client, payloads=settings.payloads), settings, connect=connect)
    async with app.router.lifespan_context(app):
        browser = Browser(app, headers=headers)
        await asyncio.wait_for(browser.console.hub.ready.wait(), WAIT)
        yield browser
        await browser.http.aclose()
