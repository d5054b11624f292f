"""Ports to what a shard remembers of messages that started flows, and to its outbox (R1, R2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.ports.definitions import DefinitionStore
    from dwarf_nats.rules.receiving import OutboxDepth, OutboxEntry, OutboxRow, Receipt, SourceProgress
    from dwarf_nats.rules.steps import NewFlow


class StaleGraph(Exception):
    """The graph of a flow is kept no longer: nothing was written, and it is to be saved again first."""


class StaleCount(Exception):
    """The replicas have agreed on another number of shards: nothing was written."""


class CreatedFlows(NamedTuple):
    """`made`: flow id → creation time. `known`: how many of the others had been there before.

    `elsewhere`: messages that another shard decides, and its number.
    """

    made: Mapping[int, int]
    known: int
    elsewhere: Mapping[Receipt, int] = MappingProxyType({})


class ReceivingStore(Protocol):
    """Creates flows with the receipts of their messages, and keeps the receipts and the progress of sources."""

    async def known(self, receipts: Collection[Receipt]) -> dict[Receipt, int]:
        """Return those of these messages that this shard knows: 0 if it was used here, else the shard that decides."""
        ...

    async def point(self, receipts: Collection[Receipt], *, to: int, shards: int) -> dict[Receipt, int]:
        """Let another shard decide these messages; return the shard that does, or 0 if a message was used here.

        A message that was pointed elsewhere before stays so. Raises `StaleCount` unless `shards` is the number agreed on.
        """
        ...

    async def create(self, group: Sequence[tuple[Receipt, NewFlow]], *, shards: int, budget_ms: int) -> CreatedFlows:
        """Insert flows with their entry steps, each if its message was not used before, in one transaction.

        Raises `StaleCount` unless `shards` is the number agreed on, `StaleGraph`.
        """
        ...

    async def remove_old(self, age_us: int, limit: int) -> int:
        """Forget up to `limit` messages that were used so long ago; return how many."""
        ...

    async def note(self, progress: SourceProgress) -> None:
        """Write how far a source has come. `rejected` is added; the floor only rises; an error stays until the next one."""
        ...

    async def progress(self, sources: Sequence[str]) -> list[SourceProgress]:
        """Return what is kept about these sources, the stream last used first."""
        ...

    async def remove_progress(self, age_us: int, kept: Sequence[str]) -> None:
        """Forget sources that are not among `kept` and were not touched for so long."""
        ...


class OutboxStore(Protocol):
    """The outbox of a shard: rows that callers write in transactions of their own (`dwarf_enqueue`)."""

    def on_enqueued(self, call: Callable[[], None]) -> None:
        """Call `call` when rows were enqueued: a hint, which may be lost."""
        ...

    async def send_away(self, row_ids: Sequence[int]) -> set[int]:
        """Let the flows of rows be made on other shards, for good: `create` makes none of them. Return those still there."""
        ...

    async def take(self, limit: int, lease_ms: int) -> list[OutboxRow]:
        """Take up to `limit` rows that are due; nobody else takes them for `lease_ms`."""
        ...

    async def create(self, group: Sequence[tuple[int, NewFlow]], budget_ms: int) -> CreatedFlows:
        """Remove rows and insert their flows, in one transaction; a row that is gone or sent away makes none.

        Raises `StaleGraph`.
        """
        ...

    async def remove(self, row_id: int) -> bool:
        """Remove a row; return whether it was there."""
        ...

    async def defer(self, row_id: int, delay_ms: int, reason: str) -> None:
        """Let a row wait, since it cannot be used now."""
        ...

    async def reject(self, row_id: int, reason: str) -> None:
        """Put a row aside, since it cannot be used."""
        ...

    async def retry(self, row_id: int) -> bool:
        """Make a row due that waits or is put aside; return whether it was there."""
        ...

    async def entries(self, after: int, limit: int, *, rejected: bool) -> list[OutboxEntry]:
        """Return rows after an id in the order of ids: those put aside, or all."""
        ...

    async def depth(self, most: int) -> OutboxDepth:
        """Count rows, up to `most` of each kind."""
        ...


class ReceivingParts(Protocol):
    """The ports of a shard to what steers a deployment, and to what starts flows by itself."""

    @property
    def definitions(self) -> DefinitionStore:
        """Documents that steer the deployment; used on shard 1."""
        ...

    @property
    def receiving(self) -> ReceivingStore:
        """Messages that started flows."""
        ...

    @property
    def outbox(self) -> OutboxStore | None:
        """Flows that callers want, written in transactions of their own; `None` if the database has no outbox."""
        ...
