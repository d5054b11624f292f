"""Read what pauses a flow and those it called, as its outcome shows it (O5, P5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.rules.pauses import MAX_LISTED_PAUSES, with_payload
from dwarf_nats.rules.rows import FlowRow, PausedFlow
from dwarf_nats.store.statements.state_refs import resolve
from dwarf_nats.store.statements.trees import descendants, tree
from dwarf_nats.workflow.records import Pause
from dwarf_nats.workflow.state import decode_state, encode_state, merge

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx


class _Listed(NamedTuple):
    """One pause, in the order of `LISTED`. `size` of its payload, absent at a breakpoint."""

    step_id: int
    token: str
    node: str
    updated_at: int
    wait_until: int | None
    size: int | None


# Payloads and states may be large: only those that are shown are read.
LISTED = """
select step_id, token, node, updated_at, wait_until, {size:interrupt_payload} from dwarf_steps
where flow_id {in:$1} and status = 'interrupted' order by updated_at, step_id limit $2
"""
PAYLOADS = "select step_id, interrupt_payload from dwarf_steps where step_id {in:$1} and status = 'interrupted'"
STATE = "select state, borrowed, changes from dwarf_steps where step_id = $1 and status = 'interrupted'"


async def paused_by(tx: Tx, shard: int, flow: FlowRow) -> PausedFlow | None:
    """Return what pauses a flow and those it called, the oldest pause first and with its state complete.

    `None` if nothing does, or if the oldest pause was continued while this was read.
    """
    flow_ids = descendants(await tree(tx, flow.root_id), flow.flow_id)
    found = [_Listed(*row) for row in await tx.fetch(LISTED, flow_ids, MAX_LISTED_PAUSES + 1)]
    listed = found[:MAX_LISTED_PAUSES]
    shown = [one for one, whole in zip(listed, with_payload(one.size or 0 for one in listed), strict=True) if whole]
    rows = await tx.fetch(PAYLOADS, [one.step_id for one in shown])
    payloads: dict[int, str] = {step_id: text for step_id, text in rows if text is not None}
    gone = {one.step_id for one in shown if one.size is not None} - payloads.keys()  # continued meanwhile
    states = await tx.fetch(STATE, found[0].step_id) if found else []
    if not states or found[0].step_id in gone:
        return None
    ((state, borrowed, changes),) = states
    return PausedFlow(
        state_json=encode_state(merge(await resolve(tx.fetch, state, borrowed), decode_state(changes))),
        pauses=[_pause(shard, one, payloads.get(one.step_id)) for one in listed if one.step_id not in gone],
        truncated=len(found) > len(listed) or len(shown) < len(listed),
    )


def _pause(shard: int, one: _Listed, payload: str | None) -> Pause:
    return Pause(
        step_key=f"{shard}-{one.step_id}-{one.token}",
        task=one.node,
        kind="breakpoint" if one.size is None else "interrupt",
        since=one.updated_at,
        until=one.wait_until,
        payload_json=None if payload is None else payload.encode(),
    )
