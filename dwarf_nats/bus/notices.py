"""Announcements: `ports.Notices` as plain publishes (wire: section 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dwarf_nats.ports import BusAway, StatusChange
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import peers, truncation
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.records import Outcome

from .connection import Connection

log = logging.getLogger("dwarf_nats.bus")


class NatsNotices:
    """Announces outcomes on `dwarf.stopped.<notify>` and, unless `events` is off, changes on `dwarf.event.…`.

    Fire and forget (B4): an announcement that cannot be sent (no connection, too large even when shortened) is counted in
    `dropped`.
    """

    def __init__(self, connection: Connection, subjects: Subjects | None = None, *, events: bool = True) -> None:
        self._connection = connection
        self._subjects = subjects or Subjects()
        self._events = events
        self.dropped = 0

    def stopped(self, notify: str, outcome: Outcome) -> None:
        """Announce the outcome of a flow that stopped, shortened if it does not fit."""
        body = truncation.outcome(outcome, self._connection.max_payload)
        self._send(self._subjects.stopped(notify), b"", body)

    def changed(self, changes: Sequence[StatusChange]) -> None:
        """Publish changes of status, in order; `Nats-Msg-Id` lets a stream record each once."""
        if not self._events:
            return
        prefix = self._subjects.prefix
        for change in changes:
            block = f"NATS/1.0\r\n{h.MSG_ID}: {prefix}.{change.flow_id}.{change.sequence}\r\n\r\n".encode("ascii")
            self._send(self._subjects.event(change.status.value, change.workflow), block, peers.encode_event(change))

    def _send(self, subject: str, block: bytes, body: bytes) -> None:
        if not self._connection.fits(block, body):
            self.dropped += 1
            log.warning(
                "announcement on %s dropped: %d bytes are more than NATS takes", subject, len(block) + len(body)
            )
            return
        try:
            self._connection.send(subject, "", block, body)
        except BusAway:
            self.dropped += 1
