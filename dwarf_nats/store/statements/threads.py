"""Threads: the flows that continue each other (O15)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import FlowRow, flow_row
from dwarf_nats.store.statements import keys
from dwarf_nats.store.statements.create import create_one

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Tx

LOCK_FLOW = "select 1 from dwarf_flows where flow_id = $1 {for_update}"
LATEST = (
    f"select {FlowRow.columns()} from dwarf_flows where thread_id = $1 and surgraph_flow_id is null"
    " order by created_at desc, flow_id desc limit 1"
)


class NotCreated(Exception):
    """The graph of a flow is not kept any more: it must be saved again first."""


class ThreadMovedOn(Exception):
    """Another flow of the thread was created: read its latest flow again."""


async def latest_of_thread(tx: Tx, thread_id: int) -> FlowRow | None:
    """Return the flow of a thread that was created last."""
    rows = await tx.fetch(LATEST, thread_id)
    return flow_row(rows[0]) if rows else None


async def create_placed(tx: Tx, new: NewFlow) -> int | None:
    """Insert a flow whose key is reserved on another shard; return its creation time, `None` if its id was used, or its
    graph is not kept any more.

    Raises `keys.OtherCount`.
    """
    if not await keys.place(tx, new):
        return None
    created_at = await create_one(tx, new)
    if created_at is None:
        raise NotCreated  # the id must not count as used
    return created_at


async def create_next(tx: Tx, latest: FlowRow, new: NewFlow) -> int | None:
    """Insert the next flow of a thread; return its creation time, `None` if its idempotency key or reserved id was used.

    Raises `ThreadMovedOn` if `latest` is not the latest flow of its thread any more, or has changed; `keys.OtherCount`.
    """
    await tx.fetch(LOCK_FLOW, latest.flow_id)
    now = await latest_of_thread(tx, latest.thread_id)
    if now is None or (now.flow_id, now.updated_at) != (latest.flow_id, latest.updated_at):
        raise ThreadMovedOn
    if new.idempotency_key and not new.reserves and not await keys.place(tx, new):
        return None
    return await create_one(tx, new)
