"""The ports to large values: the bucket that holds them, and the rows that refer to them (B10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

HOLDERS = ("outbox", "schedules", "definitions", "graphs", "events", "flows", "steps")
"""Kinds of rows that may hold a claim. It is copied to the same kind or a later one, or into a flow that changes with that."""


class StoredValue(NamedTuple):
    """A value as it was found in the bucket: written again, it has another `sequence`."""

    digest: str
    sequence: int
    chunks: str
    """The subject of its chunks."""
    size: int = 0
    """Its bytes."""


class BucketContents(NamedTuple):
    """The values older than the grace time, chunks as old that belong to no object, and how many objects there are.

    `bytes`: of all objects.
    """

    old: list[StoredValue]
    leftovers: list[str]
    objects: int
    bytes: int = 0


class ValueBucket(Protocol):
    """The bucket of large values. All methods raise `Unavailable` while it is away."""

    async def look(self) -> BucketContents:
        """Return what is in the bucket; nothing if there is none."""
        ...

    async def remove(self, value: StoredValue) -> bool:
        """Remove a value, unless it was written again meanwhile; tell whether that was done."""
        ...

    async def drop(self, leftover: str) -> None:
        """Remove chunks that belong to no object."""
        ...


Place = tuple[Any, ...]


class ClaimPage(NamedTuple):
    """A page of rows: the digests of the claims in them, and the place of the last; `None` if there are no more."""

    digests: set[str]
    last: Place | None


class RecentFlows(NamedTuple):
    """A page of flows: those of them that changed lately, and the last; `None` if there are no more."""

    flow_ids: list[int]
    last: int | None


class ClaimStore(Protocol):
    """Reads the claims in the rows of one shard, in pages by primary key."""

    async def now(self) -> int:
        """Return the time of the database."""
        ...

    async def page(self, holder: str, after: Place | None, limit: int) -> ClaimPage:
        """Return the claims in the next rows of one of the `HOLDERS`."""
        ...

    async def recent(self, since: int, after: int, limit: int) -> RecentFlows:
        """Return the flows among the next ones that were created, or changed their status, since then."""
        ...

    async def page_of_flows(self, flow_ids: Sequence[int], after: Place | None, limit: int) -> ClaimPage:
        """Return the claims in the next steps of some flows."""
        ...
