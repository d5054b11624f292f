"""`POST /hooks/<source>`: the body of an HTTP request becomes a message of a source (R1).

Off unless the HTTP way in is asked for.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.wire.openapi import IDEMPOTENCY_KEY
from dwarf_nats.wire.refusals import encode_error

from .console import Console

CARRIED = ("content-type", "user-agent", "traceparent", "tracestate")
"""Headers of a request that the message has, too, beside all that begin with `x-`."""
LEFT_OUT = ("x-forwarded-", "x-csrf", "x-real-ip")
"""Beginnings of headers that are about the way, and not about the message."""
MAX_HEADERS = 64
MAX_HEADER_VALUE = 4_096
"""Bounds on the headers of a message."""


def routes(console: Console) -> list[Route]:
    """The route; none unless the settings ask for the HTTP way in."""
    if not console.settings.api:
        return []

    async def receive(request: Request) -> Response:
        try:
            client = (await console.source_of(request)).client
            found = await client.send_message(
                request.path_params["source"],
                await request.body(),
                subject=request.query_params.get("subject", ""),
                headers=carried(request),
            )
        except DwarfError as error:
            return Response(encode_error(error)[1], status_code=error.code, media_type="application/json")
        reply = {} if found is None else {"stream": found.stream, "sequence": found.sequence}
        if found is not None and found.duplicate:
            reply["duplicate"] = True
        return JSONResponse(reply, status_code=202)

    return [Route("/hooks/{source}", receive, methods=["POST"])]


def carried(request: Request) -> dict[str, str]:
    """The headers of the message. Raises `BadRequest` for too many or too long ones."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        if (name in CARRIED or name.startswith("x-")) and not name.startswith(LEFT_OUT):
            if len(value) > MAX_HEADER_VALUE:
                raise BadRequest(f"the header {name[:80]} is longer than {MAX_HEADER_VALUE} characters")
            found.setdefault(name, value)
    if len(found) > MAX_HEADERS:
        raise BadRequest(f"the request has more than {MAX_HEADERS} headers for the message")
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key:
        found["Nats-Msg-Id"] = key
    return found
