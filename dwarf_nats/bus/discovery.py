"""The discovery subjects of the service: PING, INFO and STATS of ADR-32 (wire: section 1)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from nats.aio.subscription import Subscription

from dwarf_nats.ports import BusAway
from dwarf_nats.wire import discovery as wire
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.wire.times import rfc3339, to_micros

from .connection import Connection
from .endpoints import Endpoint
from .engine_api import EngineApi
from .handlers import task_health_message

log = logging.getLogger("dwarf_nats.bus")

NAME = "dwarf"
DESCRIPTION = "Durable workflow orchestration"
MAX_LISTED_TASKS = 500
"""Tasks that are held back, in one STATS reply; of more, the first are listed, lest the reply outgrows a message."""
_encode = msgspec.json.Encoder().encode


class Discovery:
    """Answers who this replica is and what it did since its start."""

    def __init__(
        self,
        connection: Connection,
        engine: EngineApi,
        subjects: Subjects,
        *,
        service_id: str,
        endpoints: Sequence[Endpoint],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._subjects = subjects
        self._id = service_id
        self._endpoints = endpoints
        self._started = ""
        self._stopped = False
        self.subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Subscribe to the discovery subjects."""
        self._started = rfc3339(to_micros(datetime.now(UTC)))
        for verb, reply in (("PING", self.ping), ("INFO", self.info), ("STATS", self.stats)):
            for subject in (wire.subject(verb), wire.subject(verb, NAME), wire.subject(verb, NAME, self._id)):
                handler = partial(self._answer, reply)
                self.subscriptions.append(await self._connection.subscribe_raw(subject, handler))

    def stop(self) -> None:
        """Answer no more."""
        self._stopped = True

    def ping(self) -> dict[str, Any]:
        """The PING reply: name, id and version."""
        return self._identity("ping")

    def info(self) -> dict[str, Any]:
        """The INFO reply: the endpoints and their subjects."""
        return {
            **self._identity("info"),
            "description": DESCRIPTION,
            "endpoints": [endpoint.info() for endpoint in self._endpoints],
        }

    def stats(self) -> dict[str, Any]:
        """The STATS reply: what was done since the start."""
        return {
            **self._identity("stats"),
            "started": self._started,
            "endpoints": [self._statistics(endpoint) for endpoint in self._endpoints],
        }

    def _identity(self, kind: str) -> dict[str, Any]:
        return wire.identity(kind, NAME, self._id, {"prefix": self._subjects.prefix})

    def _statistics(self, endpoint: Endpoint) -> dict[str, Any]:
        found = endpoint.statistics()
        if endpoint.operation.name == "task.breaker":
            tasks = self._engine.task_health()[:MAX_LISTED_TASKS]
            found["data"] = {"tasks": [task_health_message(one) for one in tasks]}
        return found

    def _answer(
        self,
        content: Callable[[], dict[str, Any]],
        _subject: bytes,
        reply: bytes,
        _body: bytes,
        _block: bytes | None,
    ) -> None:
        if not reply or self._stopped or self._subjects.refuses_reply(reply):
            return
        message = content()
        body = _encode(message)
        if not self._connection.fits(b"", body):
            shorter = map(_encode, wire.shortened(message))
            body = next((one for one in shorter if self._connection.fits(b"", one)), body)
        if not self._connection.fits(b"", body):
            log.warning("a discovery reply of %d bytes is over the NATS server's max_payload: not sent", len(body))
            return
        with contextlib.suppress(BusAway):
            self._connection.send(reply.decode(), "", b"", body)
