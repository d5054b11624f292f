"""The port to what receives messages (R1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.workflow.sources import Source, SourceState


class Sources(Protocol):
    """Receives the messages of sources on this replica, and hands them to the engine."""

    def check(self, source: Source) -> None:
        """Raise `BadRequest` for a source that this deployment cannot have."""
        ...

    def follow(self, sources: Mapping[str, Source]) -> None:
        """Receive the messages of exactly these sources from now on. Must not block."""
        ...

    def drop(self, stream: str, names: Sequence[str], done: Callable[[str], Awaitable[None]]) -> None:
        """Remove what these sources left behind at a stream, and await `done` with the name of each. Must not block."""
        ...

    def pending(self) -> Mapping[str, int]:
        """Return how many messages wait in the streams of the sources received here, by source, as it was last read."""
        ...

    async def state(self, source: Source) -> SourceState:
        """Return how a source stands on this replica and in its stream. Never raises."""
        ...
