"""The operations on what starts flows by itself: sources and outboxes. A base of `Engine` (R1, R2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.all import Operations
    from dwarf_nats.engine.operations.outbox import OutboxListing
    from dwarf_nats.engine.operations.receive import Received
    from dwarf_nats.engine.operations.sources import SourceRegister
    from dwarf_nats.rules.receiving import MessageFlow
    from dwarf_nats.workflow.sources import Source, SourceInfo


class MessageSources:
    """The operations of an engine on sources and outboxes."""

    _operations: Operations

    @property
    def source_register(self) -> SourceRegister:
        """The register of sources: for what receives their messages."""
        return self._operations.sources

    async def receive(self, messages: Sequence[MessageFlow]) -> Received:
        """Start a flow for each message that was not used before, in groups; one that failed has an error in the result."""
        return await self._operations.receiver.receive(messages)

    async def put_source(self, source: Source) -> SourceInfo:
        """Turn messages into flows or events; replaces the source of this name. `BadRequest` says what is wrong with it."""
        return await self._operations.sources.put(source)

    async def get_source(self, name: str) -> SourceInfo:
        """Return a source and how it stands; `NotFound`."""
        return await self._operations.sources.get(name)

    async def list_sources(self) -> list[SourceInfo]:
        """Return all sources, by name."""
        return list(await self._operations.sources.all())

    async def pause_source(self, name: str) -> SourceInfo:
        """Leave the messages of a source in their stream until it is resumed; `NotFound`."""
        return await self._operations.sources.pause(name, paused=True)

    async def resume_source(self, name: str) -> SourceInfo:
        """Go on with the messages of a source that was paused; `NotFound`."""
        return await self._operations.sources.pause(name, paused=False)

    async def delete_source(self, name: str) -> None:
        """Forget a source; its consumer is removed from the stream. Flows go on. `NotFound`."""
        await self._operations.sources.delete(name)

    async def list_outbox(self, limit: int = 100, cursor: str = "", *, rejected: bool = False) -> OutboxListing:
        """Return rows that are still in the outboxes, or those put aside, shard by shard; and the cursor of the next page."""
        return await self._operations.outbox.list_page(limit, cursor, rejected=rejected)

    async def retry_outbox(self, row: str) -> None:
        """Take up a row of an outbox now, also one that was put aside. `row`: shard and number, `1-42`. `NotFound`."""
        await self._operations.outbox.retry(row)

    async def delete_outbox(self, row: str) -> None:
        """Remove a row from an outbox: no flow comes of it. `row`: shard and number, `1-42`. `NotFound`."""
        await self._operations.outbox.delete(row)
