"""The ASGI application: routes, error pages, live streams, and the guard around all of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dwarf_nats.errors import DwarfError, Internal, NotFound
from dwarf_nats.workflow.keys import without_tokens

from . import actions, api, assets, hooks
from .console import MAX_FORM_BYTES, Connect, Console, wants_json
from .pages import flow, flows, registers, replicas, tasks, workflows
from .security import Guard
from .settings import ConsoleSettings
from .source import Source

log = logging.getLogger("dwarf_nats.console")
PAGES = (flows, flow, workflows, tasks, replicas, registers)
"""The modules of pages: each has `routes(console)`, and registers its live views there."""


def build_app(source: Source, settings: ConsoleSettings, *, connect: Connect | None = None) -> Starlette:
    """The application. It connects when it starts, and closes the source when it ends.

    `connect` makes a client with the credentials file of a user, for `user_credentials`.
    """
    console = Console(source, settings, connect=connect)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await console.hub.start()
        try:
            yield
        finally:
            await console.close()

    app = Starlette(
        routes=_routes(console),
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={DwarfError: _on_error, HTTPException: _on_error, Exception: _on_error},
        lifespan=lifespan,
        max_body_size=MAX_FORM_BYTES,
    )
    app.state.console = console
    return app


def _routes(console: Console) -> list[BaseRoute]:
    found: list[BaseRoute] = [Route("/", _home), assets.route(console.assets), Route("/live/{view:path}", _live)]
    found += [*actions.routes(console), *api.routes(console), *hooks.routes(console)]
    for page in PAGES:
        found += page.routes(console)
    return found


async def _home(_request: Request) -> Response:
    return RedirectResponse("/flows", status_code=307)


async def _live(request: Request) -> Response:
    """The stream of a view for one tab."""
    console: Console = request.app.state.console
    factory = console.views.get(request.path_params["view"])
    if factory is None:
        raise NotFound("there is no such live view")
    view = factory(request, await console.source_of(request))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(console.hub.stream(view), media_type="text/event-stream", headers=headers)


async def _on_error(request: Request, error: Exception) -> Response:
    """A refusal in words, as a page or as JSON."""
    if isinstance(error, HTTPException):
        status, message = (
            error.status_code,
            f"There is nothing at {request.url.path}." if error.status_code == 404 else error.detail,
        )
    elif isinstance(error, DwarfError):
        status, message = error.code, error.message
    else:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        status, message = Internal.code, "The console has a defect here; its log says more."
    message = without_tokens(message)
    if wants_json(request):
        return JSONResponse({"error": {"code": status, "message": message}}, status_code=status)
    console: Console = request.app.state.console
    values = {"code": status, "message": message, "path": request.url.path}
    return console.framed(
        request, "error.html", section="", title=f"Error {status}", source=None, status=status, **values
    )
