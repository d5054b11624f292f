"""Signal events (E1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwarf_nats.engine.operations.checks import refuse_empty
from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.events import DEFAULT_KEEP_MS, MAX_KEEP_MS, NewEvent, Topic
from dwarf_nats.workflow.names import check_event_key, check_subject_name
from dwarf_nats.workflow.state import Raw, check_json, encode_value

if TYPE_CHECKING:
    from dwarf_nats.engine.events import EventExchange
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.workflow.records import EventReceipt


class EventSignals:
    """Checks what is signalled, and has it handed out. `Engine` documents the method."""

    def __init__(self, replica: Replica) -> None:
        self._exchange: EventExchange = replica.events
        self._limits = replica.settings.limits()
        self._tokens = replica.tokens

    async def signal(
        self, event: str, key: str, data: Any, *, event_id: str | None, keep_ms: int | None
    ) -> EventReceipt:
        check_subject_name(event, "event")
        check_event_key(key, "key")
        refuse_empty(id=event_id)
        check_event_key(event_id or "", "id")
        if keep_ms is not None and not 0 <= keep_ms <= MAX_KEEP_MS:
            raise BadRequest(f"keepMs must be between 0 and {MAX_KEEP_MS}, a year, got {keep_ms}")
        text = bytes(data) if isinstance(data, Raw) else encode_value(data, "event data")
        self._limits.check_bytes(len(text), "the data of the event")
        check_json(text, "event data", self._limits.max_depth)
        new = NewEvent(
            topic=Topic(event, key),
            id=event_id if event_id is not None else self._tokens(),
            repeatable=event_id is not None,
            data=text.decode(),
            keep_ms=DEFAULT_KEEP_MS if keep_ms is None else keep_ms,
        )
        return await self._exchange.signal(new)
