"""From messages to flows and events, and what is done about those that cannot be used (R1, R2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports import BusAway
from dwarf_nats.rules.receiving import MAX_REASON, MessageFlow, Receipt, SourceProgress, may_pass, refused
from dwarf_nats.summed import Summed
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.codec import encode, options_of_json
from dwarf_nats.wire.source_messages import rejected_message
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.wire.times import rfc3339
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.records import EventReceipt
from dwarf_nats.workflow.source_templates import SourceMessage, SourceTemplates
from dwarf_nats.workflow.sources import Source

from .connection import Connection

log = logging.getLogger("dwarf_nats.bus")
SIGNALS_AT_ONCE = 64
"""Events of one source that are signalled at once."""
NOTE_SECONDS = 1.0
"""Pause between two notes of what was rejected, so that a flood of messages is no flood of writes."""


class ReceivedFlows(Protocol):
    """The outcome of messages: an error for each that failed, in their order, and the number of flows that were started."""

    @property
    def errors(self) -> list[DwarfError | None]: ...
    @property
    def started(self) -> int: ...


class SourceEngine(Protocol):
    """The engine, as sources see it."""

    async def receive(self, messages: Sequence[MessageFlow], /) -> ReceivedFlows: ...
    async def signal(
        self, event: str, key: str = "", data: Any = None, /, *, event_id: str | None = None, keep_ms: int | None = None
    ) -> EventReceipt: ...


class Incoming(NamedTuple):
    """A message to be used. `scope` and `sequence` are 0 for one of no stream. `at`: microseconds since the epoch."""

    subject: bytes
    body: bytes
    block: bytes | None
    scope: int
    sequence: int
    at: int


class Outcome(NamedTuple):
    """The outcome of a message: done, to come again (`again`), or rejected for a reason."""

    error: DwarfError | None = None
    again: bool = False


DONE = Outcome()


class MessageUse:
    """Uses the messages of one source."""

    def __init__(self, source: Source, engine: SourceEngine, counters: Counters, max_depth: int) -> None:
        self._source = source
        self._engine = engine
        self._counters = counters
        self._templates = SourceTemplates(source, max_depth)

    async def use(self, messages: Sequence[Incoming]) -> list[Outcome]:
        """Start flows, or signal events; return what became of each message."""
        if self._source.signal is not None:
            return await self._signal_all(messages)
        return await self._start_all(messages)

    async def _start_all(self, messages: Sequence[Incoming]) -> list[Outcome]:
        outcomes = [DONE] * len(messages)
        flows: list[MessageFlow] = []
        places: list[int] = []
        for place, message in enumerate(messages):
            try:
                flows.append(self._flow(message))
                places.append(place)
            except Exception as error:
                outcomes[place] = self._failed(error)
        if flows:
            received = await self._engine.receive(flows)
            self._counters.source_started.add(self._source.name, n=received.started)
            for place, failure in zip(places, received.errors, strict=True):
                if failure is not None:
                    outcomes[place] = self._failed(failure)
        return outcomes

    def _flow(self, message: Incoming) -> MessageFlow:
        rendered = self._templates.start(_as_seen(message))
        options = None
        if rendered.options is not None:
            options = options_of_json(rendered.options, "start.options")
        return MessageFlow(
            receipt=Receipt(message.scope, message.sequence) if message.scope else None,
            workflow=rendered.workflow,
            state=rendered.state,
            options=options,
            named_by_message=self._templates.workflow_varies,
        )

    async def _signal_all(self, messages: Sequence[Incoming]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(messages), SIGNALS_AT_ONCE):
            outcomes += await asyncio.gather(*map(self._signal, messages[start : start + SIGNALS_AT_ONCE]))
        return outcomes

    async def _signal(self, message: Incoming) -> Outcome:
        try:
            rendered = self._templates.signal(_as_seen(message))
            event_id = f"source:{message.scope:x}:{message.sequence}" if message.scope else None
            await self._engine.signal(rendered.event, rendered.key, rendered.data, event_id=event_id)
        except Exception as error:
            return self._failed(error)
        self._counters.source_started.add(self._source.name)
        return DONE

    def _failed(self, error: Exception) -> Outcome:
        if not isinstance(error, DwarfError):
            log.error("a defect while a message of source %s was used", self._source.name, exc_info=error)
        again = may_pass(error, named_by_message=self._templates.workflow_varies)
        return Outcome(refused(error), again)


def _as_seen(message: Incoming) -> SourceMessage:
    headers = {name: h.percent_decode(value) for name, value in h.read_headers(message.block).items()}
    return SourceMessage(
        subject=message.subject.decode("utf-8", "replace"),
        body=message.body,
        headers=headers,
        sequence=message.sequence,
        at=rfc3339(message.at),
    )


class Rejections:
    """Tells of the messages of one source that could not be used: counted, logged, published, kept with the source."""

    def __init__(
        self,
        source: Source,
        connection: Connection,
        subjects: Subjects,
        counters: Counters,
        note: Callable[[SourceProgress], Awaitable[None]],
    ) -> None:
        self._source = source
        self._connection = connection
        self._subject = subjects.rejected(source.name)
        self._counters = counters
        self._note = note
        self._summed = Summed(log)
        self._rejected = 0
        self._reason = ""
        self._reason_at = 0
        self._noting: asyncio.Task[None] | None = None

    def reject(self, message: Incoming, error: DwarfError, at: int) -> None:
        """Tell of a message that cannot be used. `at`: microseconds since the epoch."""
        reason = without_tokens(error.message)[:MAX_REASON]
        source = self._source
        self._counters.source_rejected.add(source.name)
        self._summed.warning(
            (source.name, error.code),
            "source %s: message %s on %s cannot be used: %s",
            source.name,
            message.sequence or "",
            message.subject.decode("utf-8", "replace"),
            reason,
        )
        body = encode(rejected_message(source, message.sequence, message.subject, reason=reason, at=at))
        with contextlib.suppress(BusAway):
            if self._connection.fits(b"", body):
                self._connection.send(self._subject, "", b"", body)
        self._rejected += 1
        self._keep(reason, at)

    def postpone(self, error: DwarfError, at: int) -> None:
        """Tell of messages that cannot be used now."""
        reason = without_tokens(error.message)[:MAX_REASON]
        self._summed.warning(
            (self._source.name, "later"), "source %s: messages come again later: %s", self._source.name, reason
        )
        self._keep(reason, at)

    def _keep(self, reason: str, at: int) -> None:
        self._reason, self._reason_at = reason, at
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note_soon(), name=f"dwarf-source-{self._source.name}-notes")

    async def _note_soon(self) -> None:
        while self._reason:
            await self.flush()
            await asyncio.sleep(NOTE_SECONDS)

    async def flush(self) -> None:
        """Keep what was not kept yet."""
        if not self._reason:
            return
        rejected, reason, at = self._rejected, self._reason, self._reason_at
        self._rejected, self._reason = 0, ""
        try:
            await self._note(
                SourceProgress(
                    source=self._source.name, origin="", rejected=rejected, last_error=reason, last_error_at=at
                )
            )
        except Unavailable as error:
            log.debug("source %s: what was rejected is not kept: %s", self._source.name, error)

    async def close(self) -> None:
        """Log and keep what is left."""
        self._summed.flush()
        if self._noting is not None:
            self._noting.cancel()
            await asyncio.gather(self._noting, return_exceptions=True)
        await self.flush()
