"""Rows of outboxes, for people: listed, taken up again, removed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import OutboxStore
    from dwarf_nats.rules.receiving import OutboxEntry

MAX_LIMIT = 1_000
"""Most rows of one page."""
_PLACE = re.compile(r"([1-9][0-9]{0,8})-([0-9]{1,18})", re.ASCII)


class OutboxListing(NamedTuple):
    """A page of rows, each with its shard, and the cursor of the next page, empty on the last."""

    rows: list[tuple[int, OutboxEntry]]
    cursor: str


class OutboxControl:
    """Reads and changes the outboxes of all shards. `Engine` documents the methods."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards

    async def list_page(self, limit: int, cursor: str, *, rejected: bool) -> OutboxListing:
        if not 1 <= limit <= MAX_LIMIT:
            raise BadRequest(f"limit must be from 1 to {MAX_LIMIT}, got {limit}")
        number, after = _place(cursor, "cursor") if cursor else (1, 0)
        rows: list[tuple[int, OutboxEntry]] = []
        while number <= max(self._shards):
            outbox = self._shards[number].store.outbox if number in self._shards else None
            if outbox is not None:
                page = await outbox.entries(after, limit - len(rows), rejected=rejected)
                rows += [(number, one) for one in page]
                if len(rows) == limit:
                    last = page[-1] if page else None
                    return OutboxListing(rows, f"{number}-{last.row_id if last is not None else after}")
            number, after = number + 1, 0
        return OutboxListing(rows, "")

    async def retry(self, row: str) -> None:
        outbox, row_id = self._outbox(row)
        if not await outbox.retry(row_id):
            raise _missing(row)

    async def delete(self, row: str) -> None:
        outbox, row_id = self._outbox(row)
        if not await outbox.remove(row_id):
            raise _missing(row)

    def _outbox(self, row: str) -> tuple[OutboxStore, int]:
        number, row_id = _place(row, "row")
        outbox = self._shards[number].store.outbox if number in self._shards else None
        if outbox is None:
            raise _missing(row)
        return outbox, row_id


def _place(text: str, what: str) -> tuple[int, int]:
    found = _PLACE.fullmatch(text)
    if found is None:
        raise BadRequest(f"{what} must be shard and number of a row, such as 1-42, got {text[:80]!r}")
    return int(found[1]), int(found[2])


def _missing(row: str) -> NotFound:
    return NotFound(
        f"no row {row} in an outbox: it became a flow, or was removed; list what there is with dwarf.outbox.list"
    )
