"""The parts that all pages share: sources, live views, templates, forms, and the frame of a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from dwarf_nats.errors import DwarfError, Forbidden
from dwarf_nats.sdk import Client
from dwarf_nats.version import __version__

from . import assets
from .live import Hub, View
from .login import read_credentials
from .registers import REGISTERS
from .rendering import Renderer
from .security import FormTokens
from .settings import ConsoleSettings
from .source import Source

FLASH = "dwarf_done"
"""Cookie with one line that the next page shows."""
THEME = "dwarf_theme"
"""Cookie of the script: `light` or `dark`."""
MAX_FORM_BYTES = 16 * 1024 * 1024
NAV = (
    ("flows", "Flows", "f"),
    ("workflows", "Workflows", "w"),
    ("tasks", "Tasks", "t"),
    ("replicas", "Replicas", "r"),
)
"""The pages of the rail: path and icon, word, key after `g`."""
Connect = Callable[[Path], Client]
"""Makes a client with another credentials file, not connected yet."""
ViewFactory = Callable[[Request, Source], View]


class Console:
    """The parts of the application that its pages use.

    `source` reads for everybody who has no credentials of their own. `connect` makes the clients of those who have.
    """

    def __init__(self, source: Source, settings: ConsoleSettings, *, connect: Connect | None = None) -> None:
        self.source = source
        self.settings = settings
        self.prefix = source.client.subjects.prefix
        self.hub = Hub(source, self.prefix, events=settings.live_events)
        self.tokens = FormTokens()
        self.assets = assets.load()
        self.views: dict[str, ViewFactory] = {}
        """Live views by name, as `/live/<name>` has them."""
        self._renderer = Renderer(
            {"assets": self.assets, "version": __version__, "prefix": self.prefix, "registers": REGISTERS}
        )
        self._connect = connect
        self._credentials = read_credentials(settings.user_credentials) if settings.user_credentials else None
        self._sources: dict[str, Source] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """End all streams and close all connections."""
        await self.hub.close()
        for source in (self.source, *self._sources.values()):
            await source.close()

    # --- who asks ---

    @staticmethod
    def user_of(request: Request) -> str:
        """The user who is logged in; empty without a login."""
        return str(getattr(request.state, "user", ""))

    async def source_of(self, request: Request) -> Source:
        """The source with the rights of whoever asks. Raises `Forbidden` for a user without credentials."""
        if self._credentials is None or self._connect is None:
            return self.source
        user = self.user_of(request)
        path = self._credentials.get(user)
        if path is None:
            raise Forbidden(f"there are no NATS credentials for {user!r}: add a line to --user-credentials")
        async with self._opening:
            if user not in self._sources:
                source = Source(self._connect(path), payloads=self.settings.payloads)
                await source.connect()
                self._sources[user] = source
        return self._sources[user]

    # --- pages ---

    def html(self, template: str, **values: Any) -> str:
        """A piece of a page."""
        return self._renderer.page(template, values)

    async def page(self, request: Request, template: str, *, section: str, title: str, **values: Any) -> Response:
        """A whole page in its frame. `section`: the entry of the rail that is marked."""
        source = await self.source_of(request)
        return self.framed(request, template, section=section, title=title, source=source, **values)

    def framed(
        self,
        request: Request,
        template: str,
        *,
        section: str,
        title: str,
        source: Source | None,
        status: int = 200,
        **values: Any,
    ) -> Response:
        """A whole page with a status. Without a `source` it offers nothing to do."""
        theme = request.cookies.get(THEME, "")
        done = unquote(request.cookies.get(FLASH, ""))
        frame = {
            "section": section,
            "nav": nav(source),
            "title": title,
            "csrf": self.tokens.token(request.state.visitor),
            "theme": theme if theme in ("light", "dark") else "auto",
            "user": self.user_of(request),
            "may": source.may if source is not None else _nothing,
            "connected": self.source.connected,
            "payloads": self.settings.payloads,
            "done": done,
            "here": str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
        }
        response = HTMLResponse(self._renderer.page(template, {**frame, **values}), status_code=status)
        if done:
            response.delete_cookie(FLASH, path="/", httponly=True, samesite="strict")
        return response

    # --- forms ---

    async def form(self, request: Request) -> FormData:
        """The fields of a form of this console. Raises `Forbidden` if it is not one of ours."""
        fields = await request.form(max_files=0, max_part_size=MAX_FORM_BYTES)
        if not self.tokens.is_good(request, fields):
            raise Forbidden("this form is not from this console, or the console was started again: load the page again")
        return fields

    def done(self, request: Request, text: str, *, location: str = "", **values: Any) -> Response:
        """The response to a form that was carried out: back to a page that says so, or JSON for the script."""
        back = location or _own_path(request.query_params.get("back", "")) or "/"
        if wants_json(request):
            return JSONResponse({"done": text, "location": back, **values})
        response = RedirectResponse(back, status_code=303)
        response.set_cookie(FLASH, quote(text), max_age=60, path="/", httponly=True, samesite="strict")
        return response


def nav(source: Source | None) -> list[tuple[str, str, str]]:
    """The entries of the rail: of registers, those that the user of a source may list."""
    found = list(NAV)
    for one in REGISTERS:
        if one.nav and one.has("list") and source is not None and source.may(one.operation("list")):
            found.insert(-1, (one.plural, one.title, one.key))
    return found


def wants_json(request: Request) -> bool:
    """True if the script asks, and not a person who follows a link."""
    return "application/json" in request.headers.get("accept", "")


def _own_path(text: str) -> str:
    """A path of this site; empty for anything that leads elsewhere."""
    split = urlsplit(text)
    own = text.startswith("/") and not text.startswith(("//", "/\\")) and not split.scheme and not split.netloc
    return text if own else ""


def _nothing(_operation: str) -> bool:
    return False


def error_values(error: DwarfError) -> Mapping[str, Any]:
    """The values of an error page."""
    return {"code": error.code, "message": error.message}
