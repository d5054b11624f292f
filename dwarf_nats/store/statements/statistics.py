"""Count flows by workflow, for people: as many as an index gives in its order, up to a bound (T1)."""

from __future__ import annotations

from dwarf_nats.store.dialect import listed
from dwarf_nats.workflow.status import Status

# SQLite uses a partial index only if its condition stands in the statement, word for word.
_WAITING = listed((Status.INTERRUPTED, Status.FAILED, Status.CANCELLED))
_STOPPED = f"status = '{{}}' and status in {_WAITING} and surgraph_step_id is null"
_FOUND = {
    # All running flows are in this index, those that were called are left out afterwards.
    Status.RUNNING: "status = 'running' order by updated_at",
    Status.CREATED: "status = 'created' and surgraph_step_id is null order by created_at, flow_id",
    Status.INTERRUPTED: f"{_STOPPED.format(Status.INTERRUPTED)} order by created_at, flow_id",
    Status.FAILED: f"{_STOPPED.format(Status.FAILED)} order by created_at desc, flow_id desc",
    Status.CANCELLED: f"{_STOPPED.format(Status.CANCELLED)} order by created_at desc, flow_id desc",
}
COUNTED = tuple(_FOUND)
"""The statuses that can be counted."""
MOST_WORKFLOWS = 1_000
"""Workflows that one count returns, those with the most flows: callers can make up names without end."""


def count_flows(status: Status) -> str:
    """Make the statement that counts the first `$1` flows of a status by workflow."""
    return (
        "select workflow, count(*), {now} - min(updated_at) from"
        f" (select workflow, updated_at, surgraph_step_id from dwarf_flows where {_FOUND[status]} limit $1) found"
        f" where surgraph_step_id is null group by workflow order by count(*) desc, workflow limit {MOST_WORKFLOWS}"
    )
