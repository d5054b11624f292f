"""Replicas of a shard: their rows, the leases of those that are dead, and the leader (B2, B3)."""

from __future__ import annotations

from dwarf_nats.store.dialect import LIVE, PARKED, Statement
from dwarf_nats.store.statements.breakers import ANY_HELD
from dwarf_nats.store.statements.deadlines import NEXT_DEADLINE
from dwarf_nats.store.statements.ready import FIRST_READY, NEXT_SCHEDULED
from dwarf_nats.store.statements.schedules import NEXT_WAKE
from dwarf_nats.workflow.status import Parked

# The facts that a lost signal would have carried come along: held tasks, due steps, the next deadline, the next due time of a
# schedule, the shards (B1).
HEARTBEAT = (
    "insert into dwarf_replicas (replica_id, name, seen_at, shards, bus_away_since)"
    " values ($1, $2, {now}, $3, case when $4 = 1 then {now} end)"
    " on conflict (replica_id) do update set seen_at = excluded.seen_at, shards = excluded.shards,"
    " bus_away_since = case when $4 = 1 then coalesce(dwarf_replicas.bus_away_since, {now}) end"
    f" returning {ANY_HELD}, ({FIRST_READY}), ({NEXT_SCHEDULED}), ({NEXT_DEADLINE}), ({NEXT_WAKE}), seen_at,"
    " (select d.shards from dwarf_deployment d where d.one = 1), (select d.counts from dwarf_deployment d where d.one = 1),"
    " (select d.definitions from dwarf_deployment d where d.one = 1), (select s.version_num from dwarf_schema s)"
)
LONGEST_KNOWN = "select min(replica_id) from dwarf_replicas"
_LEASED = f"status = 'running' and parked = {Parked.NO:d}"
"""As the partial index has it: a step that waits for a child or an event has no lease."""
_RELEASE = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null,"
    " updated_at = {now}"
)


# Rows that a replica has locked which stands still in the middle of a transaction are passed over. Flows are looked up one by
# one, so that no flow is read whose steps all wait.
def _reclaim(steps: str) -> str:
    return (
        f"{_RELEASE} where step_id in (select s.step_id from {steps} where {_LEASED} and (lease_expires < {{now}}"
        " or claimed_by not in (select replica_id from dwarf_replicas where seen_at > {now} - $1))"
        f" and exists (select 1 from dwarf_flows f where f.flow_id = s.flow_id and f.status in {LIVE})"
        " order by s.step_id {skip_locked}) returning step_id"
    )


RECLAIM_EXPIRED = Statement(
    postgres=_reclaim("dwarf_steps s"), sqlite=_reclaim("dwarf_steps s indexed by dwarf_steps_held")
)
RELEASE_UNOWNED = f"{_RELEASE} where {_LEASED} and claimed_by = $1 and not (step_id {{in:$2}}) returning step_id"
DELETE_DEAD = (
    "delete from dwarf_replicas where seen_at < {now} - $1 and replica_id not in"
    f" (select claimed_by from dwarf_steps where {_LEASED} and claimed_by is not null)"
)
DELETE_OTHERS = "delete from dwarf_replicas"
DELETE = "delete from dwarf_replicas where replica_id = $1"
