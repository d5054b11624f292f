"""The forms of all actions: `POST /act/flow.cancel` carries out the operation of that name.

The fields of a form have the names of the wire. Fields that are JSON there are JSON text in the form. Keys are ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dwarf_nats.errors import BadRequest, NotFound

from .console import Console
from .security import TOKEN_FIELD
from .source import STEERING

JSON_FIELDS = frozenset({"data", "overrides", "state", "options", "tags", "query", "limit"})
"""Fields whose text is JSON; an empty one is left out."""
FLAGS = frozenset({"start", "enabled", "dryRun"})
_DONE = {
    "flow.create": "Created.",
    "flow.start": "Started.",
    "flow.cancel": "Cancelled.",
    "flow.resume": "Answered: it goes on.",
    "flow.resume_break": "It goes on.",
    "flow.break_before": "Breakpoint changed.",
    "flow.restart": "Restarted.",
    "flow.restart_from": "Restarted from there.",
    "flow.fork": "Forked: this is the copy.",
    "flow.continue": "Continued: this is the next flow.",
    "flow.signal": "Event signalled.",
    "flow.tag": "Tags changed.",
    "flow.delete": "Deleted.",
}


def routes(console: Console) -> list[Route]:
    """The route of all actions."""

    async def act(request: Request) -> Response:
        operation = request.path_params["operation"]
        if operation not in STEERING:
            raise NotFound(f"there is no action {operation[:80]}")
        form = await console.form(request)
        fields = fields_of({name: str(value) for name, value in form.multi_items() if name != TOKEN_FIELD})
        source = await console.source_of(request)
        found = await source.act(operation, fields, actor=console.user_of(request))
        flow = found.get("flow") if isinstance(found, dict) else None
        if flow or "flowKey" in fields:
            console.hub.touch(flow or fields["flowKey"])
        location = f"/flow/{quote(flow)}" if flow else "/flows" if operation == "flow.delete" else ""
        return console.done(request, _DONE.get(operation, "Done."), location=location, reply=found)

    return [Route("/act/{operation}", act, methods=["POST"])]


def fields_of(form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a request from those of a form. Raises `BadRequest` for text that should be JSON and is not."""
    found: dict[str, Any] = {}
    for name, text in form.items():
        if name in JSON_FIELDS:
            if text.strip():
                found[name] = json_value(name, text)
        elif name in FLAGS:
            found[name] = text in ("true", "on", "1")
        elif text:
            found[name] = text
    return found


def json_value(name: str, text: str) -> Any:
    """The value of JSON text in a form. Raises `BadRequest` that names the field."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{name} is not JSON: {error}. Text goes in quotes, an object in braces.") from None
