"""The web server of the console."""

from __future__ import annotations

from types import TracebackType

from starlette.applications import Starlette

from dwarf_nats.web_server import WebServer

from .console import Console
from .settings import ConsoleSettings


class ConsoleServer(WebServer):
    """Serves a console while entered. Raises `BadRequest` if it cannot have the port."""

    def __init__(self, app: Starlette, settings: ConsoleSettings) -> None:
        self._console: Console = app.state.console
        super().__init__(app, settings.address, what="the console", option="--listen")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._console.hub.close()  # else open streams would hold up the end
        await super().__aexit__(kind, error, trace)
