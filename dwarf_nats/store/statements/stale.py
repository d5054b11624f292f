"""Steps that outlived their flow: closed when they are claimed, found when their replica still runs them (X2, O10)."""

from __future__ import annotations

from dwarf_nats.workflow.status import Parked

CLOSE_STALE = (
    "update dwarf_steps set status = (select f.status from dwarf_flows f where f.flow_id = dwarf_steps.flow_id),"
    f" parked = {Parked.NO:d}, claimed_by = null, lease_expires = null, updated_at = {{now}} where step_id {{in:$1}}"
)
NOT_CANCELLED = "select step_id from dwarf_steps where step_id {in:$1} and status <> 'cancelled'"
