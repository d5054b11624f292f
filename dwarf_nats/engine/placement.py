"""Several databases as one engine: where a flow goes, and what all of them are asked at once (O1, O9, O17)."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.projections import summary_of
from dwarf_nats.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import FlowSummary


PURGED = 1_000
"""Flows removed in one transaction of a purge."""


def of_key(shards: Mapping[int, Shard], key: Key, what: str = "flow") -> Shard:
    """The shard of a key; `NotFound` if there is none of that number."""
    shard = shards.get(key.shard)
    if shard is None:
        raise NotFound(f"no {what} {key.public_id}: there is no shard {key.shard}")
    return shard


def chosen(shards: Mapping[int, Shard], query: Query) -> list[Shard]:
    """The shards a query is about. Raises `BadRequest` for one that is not there."""
    if query.shard is None:
        return [shards[number] for number in sorted(shards)]
    if query.shard not in shards:
        raise BadRequest(f"there is no shard {query.shard}: this deployment has {', '.join(map(str, sorted(shards)))}")
    return [shards[query.shard]]


async def page(
    shards: list[Shard], query: Query, limit: int, thread_id: int | None, cursor: str
) -> tuple[list[FlowSummary], str]:
    """One page over several shards: the limit divided among them, grouped by shard; and the cursor of the next (O9)."""
    at = _read_cursor(cursor) if cursor else {shard.number: "" for shard in shards}
    going = [shard for shard in shards if shard.number in at]
    share, more = divmod(limit, max(1, len(going)))
    limits = {shard.number: share + (place < more) for place, shard in enumerate(going)}
    asked = [shard for shard in going if limits[shard.number]]
    pages = await asyncio.gather(
        *(shard.store.list_flows(query, limits[shard.number], thread_id, at[shard.number]) for shard in asked)
    )
    following = {shard.number: at[shard.number] for shard in going if not limits[shard.number]}
    found: list[FlowSummary] = []
    for shard, (rows, after) in zip(asked, pages, strict=True):
        found += [summary_of(shard.number, row) for row in rows]
        if after:
            following[shard.number] = after
    return found, _write_cursor(following) if following else ""


async def purge(shards: list[Shard], query: Query, limit: int, thread_id: int | None) -> int:
    """Remove what matches and is not running, at most `limit` over all shards, so many in one transaction; how many (O9)."""
    removed = 0
    for shard in shards:
        while removed < limit:
            wanted = min(PURGED, limit - removed)
            done = await shard.store.purge(query, thread_id, wanted)
            removed += done
            if done < wanted:
                break
    return removed


def _write_cursor(following: Mapping[int, str]) -> str:
    plain = " ".join(f"{number}:{cursor}" for number, cursor in sorted(following.items()))
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> dict[int, str]:
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        parts = [part.split(":") for part in plain.split(" ")]
        return {int(number): inner for number, inner in parts}
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise BadRequest("malformed cursor: pass back the one of the previous page, unchanged") from None
