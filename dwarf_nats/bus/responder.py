"""Replies and refusals of the service: sent, counted, and logged if there is no reply subject (wire: section 1)."""

from __future__ import annotations

import logging

from dwarf_nats.errors import BadRequest, DwarfError, TooLarge
from dwarf_nats.ports import BusAway
from dwarf_nats.summed import Summed
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire.refusals import encode_error

from .connection import Connection
from .endpoints import Endpoint

log = logging.getLogger("dwarf_nats.bus")


class Responder:
    """Sends the replies of one replica. Refusals without a reply subject are logged, many alike as one line."""

    def __init__(self, connection: Connection, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters
        self._summed = Summed(log)

    def max_reply_bytes(self) -> int:
        """Bytes that a reply may have at this moment."""
        return self._connection.max_payload

    def reply(self, endpoint: Endpoint, reply: bytes, body: bytes) -> None:
        """Send a reply. Raises `TooLarge` if the NATS server would not take it."""
        if not self._connection.fits(b"", body):
            limit = self._connection.max_payload
            raise TooLarge(
                f"the reply is {len(body)} bytes, over the NATS server's max_payload of {limit}: ask for less, or raise it"
            )
        self._send(endpoint, reply, b"", body)

    def refuse(self, endpoint: Endpoint, reply: bytes, error: DwarfError) -> None:
        """Count a refusal and send it, or log it if `reply` is empty."""
        self._count(endpoint, error)
        if reply:
            block, body = encode_error(error, self._connection.max_payload)
            self._send(endpoint, reply, block, body)
            return
        name = endpoint.operation.name
        self._summed.warning(
            (name, error.code),
            "%s without a reply subject: %s",
            name,
            endpoint.stats.last_error,
            extra=_log_fields(endpoint),
        )

    def refuse_reply_subject(self, endpoint: Endpoint, reason: str) -> None:
        """Count and log a request whose reply subject must not be used."""
        self._count(endpoint, BadRequest(reason))
        name = endpoint.operation.name
        self._summed.warning(
            (name, "reply"), "%s: not carried out, %s", name, endpoint.stats.last_error, extra=_log_fields(endpoint)
        )

    def lose(self, endpoint: Endpoint, error: DwarfError) -> None:
        """Count and log a request without a reply subject that is not carried out."""
        self._counters.lost_requests.add(endpoint.operation.name)
        self.refuse(endpoint, b"", error)

    def flush_log(self) -> None:
        """Log now what was held back to be logged as one line."""
        self._summed.flush()

    def _count(self, endpoint: Endpoint, error: DwarfError) -> None:
        endpoint.stats.failed(error)
        self._counters.refused.add(endpoint.operation.name, str(error.code))

    def _send(self, endpoint: Endpoint, reply: bytes, block: bytes, body: bytes) -> None:
        try:
            self._connection.send(reply.decode(), "", block, body)
        except BusAway:
            log.debug("%s: the connection was gone when the reply was ready", endpoint.operation.name)


def _log_fields(endpoint: Endpoint) -> dict[str, object]:
    """Fields of a log line (T3)."""
    return {"operation": endpoint.operation.name}
