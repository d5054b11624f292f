"""Idempotency keys, kept at their home shard (O1).

The home of a key is a shard that follows from the key and the agreed number of shards. A row of `dwarf_keys` there is the one
truth about the key. If the flow lies on the same shard, both are written in one transaction. If it lies elsewhere, the key is
reserved first, and any request that repeats the first one finishes it: the flow has the reserved id, and `dwarf_placed` on its
shard lets that id be used once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import Reservation

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Tx

REMEMBERED_US = 24 * 3_600_000_000
"""Microseconds for which the id of a deleted flow cannot be used for its key again: longer than any request is repeated."""
COUNT = "select shards from dwarf_deployment where one = 1 {for_share}"
LOOK_UP = (
    "select d.shards, d.counts, k.shard, k.flow_id, k.token, k.request_digest, {now} - k.created_at from dwarf_deployment d"
    " left join dwarf_keys k on k.fairness_key = $1 and k.idempotency_key = $2 where d.one = 1"
)
RESERVE = (
    "insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)"
    " values ($1, $2, $3, $4, $5, $6, {now}) on conflict do nothing returning flow_id"
)
FREE = "delete from dwarf_keys where fairness_key = $1 and idempotency_key = $2 and shard = $3 and flow_id = $4"
# $4: 1 for a flow that must not be made any more.
USE_ID = (
    "insert into dwarf_placed (flow_id, fairness_key, idempotency_key, gone, updated_at)"
    " values ($1, $2, $3, $4, {now}) on conflict do nothing returning flow_id"
)
IS_PLACED = (
    "select p.gone = 0 and f.flow_id is not null from dwarf_placed p left join dwarf_flows f on f.flow_id = p.flow_id"
    " where p.flow_id = $1"
)
# By the ids: `coalesce` hides the index of all flows that have a key from the planner.
FORGET_HERE = (
    "delete from dwarf_keys where shard = 0 and (fairness_key, idempotency_key) in"
    " (select fairness_key, idempotency_key from dwarf_flows where flow_id {in:$1} and coalesce(idempotency_key, '') <> '')"
)
FORGET_ELSEWHERE = "update dwarf_placed set gone = 1, updated_at = {now} where flow_id {in:$1}"
DELETED = (
    "select flow_id, fairness_key, idempotency_key from dwarf_placed where gone = 1 and gone > 0"
    " order by updated_at limit $1"
)
CONFIRM_DELETED = "update dwarf_placed set gone = 2 where flow_id {in:$1}"
REMOVE_OLD = "delete from dwarf_placed where gone = 2 and gone > 0 and updated_at < {now} - $1"


class OtherCount(Exception):
    """The replicas have agreed on another number of shards than the one a home was worked out with."""


async def check_count(tx: Tx, shards: int) -> None:
    """Raise `OtherCount` unless this number of shards is agreed on; it stays so until the transaction ends."""
    if [count for (count,) in await tx.fetch(COUNT)] != [shards]:
        raise OtherCount


async def reserve(tx: Tx, new: NewFlow) -> Reservation | None:
    """Take the key of a flow that is to be made on another shard; `None` if it is taken. Raises `OtherCount`."""
    await check_count(tx, new.shards)
    flow = new.flow
    key = (flow.fairness_key, new.idempotency_key, flow.shard, flow.flow_id, flow.token, new.request_digest)
    if not await tx.fetch(RESERVE, *key):
        return None
    return Reservation(flow.shard, flow.flow_id, flow.token, new.request_digest, age_us=0)


async def place(tx: Tx, new: NewFlow) -> bool:
    """Use the id that was reserved for a flow elsewhere; return whether it was still free. Raises `OtherCount`."""
    await check_count(tx, new.shards)
    return bool(await tx.fetch(USE_ID, new.flow.flow_id, new.flow.fairness_key, new.idempotency_key, 0))


async def forget(tx: Tx, flow_ids: Sequence[int]) -> None:
    """Free the keys of root flows that are about to be removed; those with a home elsewhere are freed later."""
    await tx.fetch(FORGET_HERE, list(flow_ids))
    await tx.fetch(FORGET_ELSEWHERE, list(flow_ids))
