"""The health of a replica: its report, and the answers to requests for it over NATS (wire: health)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Protocol

from msgspec import UnsetType

from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.ports import BusAway
from dwarf_nats.probes import Report
from dwarf_nats.version import __version__
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode, shard_health_message
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.refusals import encode_error
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.records import ShardHealth

from .connection import Connection

MAX_REASON_CHARS = 200
"""Characters of the reason in a reply that would be too large for a message otherwise."""


class HealthApi(Protocol):
    """The parts of an engine that a report reads."""

    @property
    def ready(self) -> bool: ...
    def health(self) -> Sequence[ShardHealth]: ...
    def dead_jobs(self) -> Sequence[str]: ...


class Health:
    """The health of one replica. `connection` and `engine` are set when they are there, `draining` when its end begins."""

    def __init__(self, replica: str, subjects: Subjects | None = None) -> None:
        self.replica = replica
        self.connection: Connection | None = None
        self.engine: HealthApi | None = None
        self.waits_for = ""
        """The reason why its start waits; empty if it does not."""
        self.serving = False
        self.draining = False
        self._subjects = subjects or Subjects()
        self._since = time.monotonic()

    def reply(self) -> m.HealthReply:
        """The report of this moment, made without asking a database or NATS."""
        shards = [] if self.engine is None else list(self.engine.health())
        dead = [] if self.engine is None else [*self.engine.dead_jobs(), *(job for one in shards for job in one.dead)]
        connected = self.connection is not None and self.connection.is_connected
        reasons = [f"the job {name} has ended, which is a defect: restart this replica" for name in dead]
        if self.draining:
            reasons.append("draining: it finishes what it has and takes no more")
        elif not self.serving:
            reasons.append(f"starting: {self.waits_for}" if self.waits_for else "starting")
        if not connected:
            reasons.append("NATS is away")
        if self.serving:
            reasons += [f"shard {one.shard}: {one.reason}" for one in shards if one.reason]
        reply = m.HealthReply(
            replica=self.replica,
            version=__version__,
            live=not dead,
            ready=not reasons,
            bus=connected,
            uptime_ms=int((time.monotonic() - self._since) * 1000),
            shards=[shard_health_message(one) for one in shards],
        )
        if reasons:
            reply.reason = "; ".join(" ".join(one.split()) for one in reasons)
        return reply

    def report(self) -> Report:
        """The report for a probe over HTTP."""
        reply = self.reply()
        return Report(reply.live, reply.ready, encode(reply))

    async def listen(self, connection: Connection) -> None:
        """Answer from now on: every replica to `<prefix>.health`, this one to `<prefix>.health.<replica>`."""
        self.connection = connection
        for subject in (self._subjects.health(), self._subjects.health(self.replica)):
            await connection.subscribe_raw(subject, self._asked)

    def _asked(self, _subject: bytes, reply: bytes, body: bytes, _block: bytes | None) -> None:
        if not reply or self._subjects.refuses_reply(reply) or self.connection is None:
            return
        block, answer = b"", b""
        try:
            if len(body) > 1024:
                raise BadRequest("a request for health has nothing to say: send an empty payload")
            decode(m.EmptyRequest, body)
            answer = encode(self.reply())
        except DwarfError as error:
            block, answer = encode_error(error, self.connection.max_payload)
        if not self.connection.fits(block, answer):
            answer = encode(_shortened(self.reply()))
        if self.connection.fits(block, answer):
            with contextlib.suppress(BusAway):
                self.connection.send(reply.decode(), "", block, answer)


def _shortened(reply: m.HealthReply) -> m.HealthReply:
    """The reply without the reasons of single shards, its own reason cut."""
    reply.shards = [m.ShardHealth(shard=one.shard, ready=one.ready) for one in reply.shards]
    if not isinstance(reply.reason, UnsetType) and len(reply.reason) > MAX_REASON_CHARS:
        reply.reason = reply.reason[:MAX_REASON_CHARS] + "…"
    return reply
