"""What the replicas of a deployment agree on, and which idempotency keys are taken: kept in the databases themselves (O1, O17).

The home of a key is a shard that follows from the key and the agreed number of shards. A row of `dwarf_keys` there is the one
truth about the key. If the flow lies on the same shard, both are written in one transaction. If it lies elsewhere, the key is
reserved first, and whoever repeats the request finishes it: the flow has the reserved id, and `dwarf_placed` on its shard lets
that id be used once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import Reservation, ShardIdentity

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database, Tx

REMEMBERED_US = 24 * 3_600_000_000
"""How long a flow that is gone keeps its id from being used for its key again."""
_COUNT = "select shards from dwarf_deployment where one = 1"
_ID_USED = (
    "insert into dwarf_placed (flow_id, fairness_key, idempotency_key, gone, updated_at)"
    " values ($1, $2, $3, $4, {now}) on conflict do nothing returning flow_id"
)
"""`$4`: 1 for a flow that is not to be made any more."""


class OtherCount(Exception):
    """The replicas have agreed on another number of shards than the one a home was worked out with."""


async def identity(database: Database) -> ShardIdentity | None:
    """`None` for a database that no deployment has entered."""
    rows = await database.fetch("select deployment, shard, shards from dwarf_deployment where one = 1")
    return ShardIdentity(rows[0][0], int(rows[0][1]), int(rows[0][2])) if rows else None


async def enter(database: Database, deployment: str, shard: int) -> ShardIdentity:
    """Make the database a shard of a deployment, unless it is one already; what it is then."""
    await database.fetch(
        "insert into dwarf_deployment (one, deployment, shard, shards) values (1, $1, $2, 0) on conflict (one) do nothing",
        deployment,
        shard,
    )
    found = await identity(database)
    assert found is not None
    return found


async def raise_shards(database: Database, shards: int) -> None:
    """Agree on at least so many shards."""
    await database.fetch("update dwarf_deployment set shards = $1 where one = 1 and shards < $1", shards)


async def least_known(database: Database, timeout_ms: int) -> int:
    """The number of shards that every replica knows which renewed its row within `timeout_ms`."""
    rows = await database.fetch(
        "select coalesce(min(shards), 0) from dwarf_replicas where seen_at > {now} - $1", timeout_ms * 1000
    )
    return int(rows[0][0])


async def key(database: Database, fairness_key: str, idempotency_key: str) -> tuple[int, Reservation | None]:
    """The agreed number of shards, and who has the key here."""
    rows = await database.fetch(
        "select d.shards, k.shard, k.flow_id, k.token, k.request_digest, {now} - k.created_at from dwarf_deployment d"
        " left join dwarf_keys k on k.fairness_key = $1 and k.idempotency_key = $2 where d.one = 1",
        fairness_key,
        idempotency_key,
    )
    if not rows:
        return 0, None
    shards, *held = rows[0]
    return int(shards), None if held[0] is None else Reservation(*held)


async def reserve(tx: Tx, new: NewFlow) -> Reservation | None:
    """Take the key of a flow that is to be made on another shard; nothing if it is taken.

    Raises `OtherCount`.
    """
    await check_count(tx, new.shards)
    flow = new.flow
    rows = await tx.fetch(
        "insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)"
        " values ($1, $2, $3, $4, $5, $6, {now}) on conflict do nothing returning flow_id",
        flow.fairness_key, new.idempotency_key, flow.shard, flow.flow_id, flow.token, new.request_digest,
    )  # fmt: skip
    return Reservation(flow.shard, flow.flow_id, flow.token, new.request_digest, 0) if rows else None


async def check_count(tx: Tx, shards: int) -> None:
    """Raise `OtherCount` unless so many shards are agreed on; they are until the transaction ends."""
    rows = await tx.fetch(f"{_COUNT} {{for_share}}")
    if not rows or int(rows[0][0]) != shards:
        raise OtherCount


async def free_key(database: Database, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None:
    """Forget a key that a flow had which is gone; `shard` as in a `Reservation`."""
    await database.fetch(
        "delete from dwarf_keys where fairness_key = $1 and idempotency_key = $2 and shard = $3 and flow_id = $4",
        fairness_key,
        idempotency_key,
        shard,
        flow_id,
    )


async def place(tx: Tx, new: NewFlow) -> bool:
    """Use the id that was reserved for a flow elsewhere; whether it was still free. Raises `OtherCount`."""
    await check_count(tx, new.shards)
    flow = new.flow
    return bool(await tx.fetch(_ID_USED, flow.flow_id, flow.fairness_key, new.idempotency_key, 0))


async def placed(database: Database, flow_id: int) -> bool | None:
    """Whether a flow was made under a key from elsewhere and is there; `None` if it was never made."""
    rows = await database.fetch(
        "select p.gone = 0 and f.flow_id is not null from dwarf_placed p left join dwarf_flows f on f.flow_id = p.flow_id"
        " where p.flow_id = $1",
        flow_id,
    )
    return bool(rows[0][0]) if rows else None


async def fence(database: Database, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
    """Have a flow that was never made under a key from elsewhere not be made any more; whether it was not."""
    return bool(await database.fetch(_ID_USED, flow_id, fairness_key, idempotency_key, 1))


async def forget(tx: Tx, flow_ids: Sequence[int]) -> None:
    """The keys of root flows about to be removed are free; those from elsewhere will be."""
    await tx.fetch(
        "delete from dwarf_keys where shard = 0 and (fairness_key, idempotency_key) in"
        " (select fairness_key, idempotency_key from dwarf_flows where flow_id {in:$1} and idempotency_key <> '')",
        list(flow_ids),
    )
    await tx.fetch("update dwarf_placed set gone = 1, updated_at = {now} where flow_id {in:$1}", list(flow_ids))


async def gone(database: Database, limit: int) -> list[tuple[int, str, str]]:
    """Flows made under a key from elsewhere whose home has not been told that they are gone: id, fairness key, key."""
    rows = await database.fetch(
        "select flow_id, fairness_key, idempotency_key from dwarf_placed where gone = 1 and gone > 0"
        " order by updated_at limit $1",
        limit,
    )
    return [(int(row[0]), row[1], row[2]) for row in rows]


async def told(database: Database, flow_ids: Sequence[int]) -> None:
    """The homes of the keys know that these flows are gone; what was told long ago is forgotten."""
    await database.fetch("update dwarf_placed set gone = 2 where flow_id {in:$1}", list(flow_ids))
    await database.fetch(
        "delete from dwarf_placed where gone = 2 and gone > 0 and updated_at < {now} - $1", REMEMBERED_US
    )
