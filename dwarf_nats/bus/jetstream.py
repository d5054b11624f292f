"""Requests to the JetStream API of the server, with refusals in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import nats.errors

from dwarf_nats.errors import BadRequest, DwarfError, Forbidden, NotFound, Unavailable
from dwarf_nats.jetstream_request import request_jetstream

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats

API = "$JS.API"
ACK = "$JS.ACK"
TIMEOUT_SECONDS = 5.0
REMEDY = "grant a replica what the permission template replica.conf has for JetStream"
NO_STREAM, NO_CONSUMER, NO_MESSAGE = 10059, 10014, 10037
"""Codes of the server for a stream, consumer or message that is not there."""


class ApiError(msgspec.Struct):
    """The error in a reply of the API."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    error: ApiError | None = None


class Missing(NotFound):
    """The stream, the consumer or the message is not there."""


class JetStreamApi:
    """Asks the JetStream API over a connection."""

    def __init__(self, connection: Nats) -> None:
        self._connection = connection

    async def ask(self, subject: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something below `$JS.API`; return the reply.

        Raises `Missing` for a stream, consumer or message that is not there, `Forbidden`, `Unavailable` for what may pass,
        `BadRequest` for what the server refuses.
        """
        full = f"{API}.{subject}"
        body = msgspec.json.encode(request) if request else b""
        data = await self._reply(full, body)
        try:
            error = msgspec.json.decode(data, type=_Reply).error
            found: dict[str, Any] = msgspec.json.decode(data)
        except msgspec.MsgspecError as malformed:
            raise Unavailable(f"JetStream answered {full} with what is no reply: {malformed}") from None
        if error is not None:
            raise _refusal(error)
        return found

    async def _reply(self, subject: str, body: bytes) -> bytes:
        try:
            message = await request_jetstream(self._connection, subject, body, timeout=TIMEOUT_SECONDS, remedy=REMEDY)
        except nats.errors.NoRespondersError:
            raise Unavailable(
                "JetStream does not answer: it is not enabled for this account, or has no leader now"
            ) from None
        return bytes(message.data)


def _refusal(error: ApiError) -> DwarfError:
    words = error.description or f"error {error.err_code}"
    if error.err_code in (NO_STREAM, NO_CONSUMER, NO_MESSAGE):
        return Missing(words)
    if error.code == 403:
        return Forbidden(f"JetStream refuses that: {words}")
    if error.code in (400, 404, 409):
        return BadRequest(f"JetStream refuses that: {words}")
    return Unavailable(f"JetStream cannot do that now: {words}")
