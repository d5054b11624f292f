"""The HTTP way in, for those without NATS: `POST /api/flow.run` with the JSON of the wire, and its OpenAPI document.

Off unless asked for. It sends what it gets, as the NATS user of whoever asks, and answers what the service answers. The replies
hold keys: who may ask here may steer what the NATS user may steer.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.wire.openapi import IDEMPOTENCY_KEY
from dwarf_nats.wire.operations import OPERATIONS, Operation
from dwarf_nats.wire.refusals import encode_error
from dwarf_nats.wire.schema import openapi_document

from .console import Console

DEFAULT_WAIT_SECONDS = 30.0
"""Wait of an operation that names none, as in the wire."""
LONGEST_WAIT_SECONDS = 3600.0
_JSON = "application/json"


class _Timeout(msgspec.Struct, rename="camel"):
    """The one field of a waiting request that matters here."""

    timeout_ms: float = DEFAULT_WAIT_SECONDS * 1000


def routes(console: Console) -> list[Route]:
    """One route for each operation, and that of the document; none unless the settings ask for them."""
    if not console.settings.api:
        return []
    document = msgspec.json.encode(openapi_document())

    async def describe(_request: Request) -> Response:
        return Response(document, media_type=_JSON)

    return [
        Route("/api/openapi.json", describe),
        *(Route(f"/api/{one.name}", _Endpoint(console, one).answer, methods=["POST"]) for one in OPERATIONS),
    ]


class _Endpoint:
    """One operation over HTTP."""

    def __init__(self, console: Console, operation: Operation) -> None:
        self._console = console
        self._operation = operation

    async def answer(self, request: Request) -> Response:
        """Carry out the request; a refusal has the status of its code."""
        # A page of another site cannot send this type without asking first, so it cannot act for whoever is logged in.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            error = {"code": 415, "message": f"send JSON: Content-Type: {_JSON}"}
            return JSONResponse({"error": error}, status_code=415)
        try:
            return Response(await self._carried_out(request), media_type=_JSON)
        except DwarfError as error:
            return Response(encode_error(error)[1], status_code=error.code, media_type=_JSON)

    async def _carried_out(self, request: Request) -> bytes:
        body = await request.body()
        source = await self._console.source_of(request)
        return await source.client.request(
            self._operation.name,
            body or b"{}",
            actor=self._console.user_of(request),
            idempotency_key=self._key(request),
            wait_seconds=_wait_seconds(body) if self._operation.waits else 0.0,
        )

    def _key(self, request: Request) -> str:
        key = request.headers.get(IDEMPOTENCY_KEY, "")
        if key and not self._operation.keyed:
            raise BadRequest(f"{self._operation.name} takes no {IDEMPOTENCY_KEY}: leave it out")
        return key


def _wait_seconds(body: bytes) -> float:
    """The time that the service may take on purpose. What is wrong with the request, the service says."""
    try:
        asked = msgspec.json.decode(body or b"{}", type=_Timeout).timeout_ms / 1000
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return DEFAULT_WAIT_SECONDS
    return min(max(0.0, asked), LONGEST_WAIT_SECONDS)
