"""Insert the copy of a tree of flows (O14)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import Conflict
from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements import tags
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.store.database import Tx

LOCK_ROOT = "select status, updated_at, {now} from dwarf_flows where flow_id = $1 {for_update}"
PARK_IF_TRIPPED = f"update dwarf_steps set parked = {PARKED} where step_id {{in:$1}}"
_FLOW_COLUMNS = [field.name for field in fields(FlowRow)]
_STEP_COLUMNS = [field.name for field in fields(StepRow)]


async def insert_fork(tx: Tx, root: FlowRow, forked: Forked) -> TreeChange:
    """Insert the copy of a tree that has ended (O14). Raises `Conflict` if the original changed meanwhile."""
    unchanged = [
        now
        for status, updated_at, now in await tx.fetch(LOCK_ROOT, root.flow_id)
        if Status(status).terminal and updated_at == root.updated_at
    ]
    if not unchanged:
        raise Conflict("the flow was changed while it was being copied: ask again")
    forked.stamp(unchanged[0])
    await tx.insert(
        "dwarf_flows",
        [*_FLOW_COLUMNS, "idempotency_key", "delete_on_completion"],
        [[*_values(flow, _FLOW_COLUMNS), "", 0] for flow in forked.flows],
    )
    await tags.copied(tx, forked.root.tags, forked.root.created_at, forked.root.flow_id)
    await tx.insert("dwarf_steps", _STEP_COLUMNS, [_values(step, _STEP_COLUMNS) for step in forked.steps])
    pending = [forked.target, *forked.others]
    await tx.fetch(
        PARK_IF_TRIPPED,
        [step.step_id for step in pending if step.cohort_error is None],  # the others ask no task
    )
    return TreeChange(
        [flow for flow in forked.flows if flow.status is Status.RUNNING],
        [ReadyStep(step.step_id, step.priority, step.not_before) for step in pending],
    )


def _values(row: FlowRow | StepRow, columns: Sequence[str]) -> list[Any]:
    values = (getattr(row, name) for name in columns)
    return [value.value if isinstance(value, Status) else value for value in values]
