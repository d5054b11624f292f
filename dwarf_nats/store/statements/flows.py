"""Read flows and their steps."""

from __future__ import annotations

from dwarf_nats.rules.rows import FlowRow, StepRow
from dwarf_nats.store.dialect import UNSTOPPED

_FLOW = f"select {FlowRow.columns()} from dwarf_flows where"
BY_ID = f"{_FLOW} flow_id = $1"
BY_IDEMPOTENCY_KEY = f"{_FLOW} fairness_key = $1 and idempotency_key = $2 and idempotency_key <> ''"
OF_THREAD = f"{_FLOW} thread_id = $1 and thread_token = $2 and surgraph_flow_id is null limit 1"
UNSTOPPED_AMONG = f"select flow_id from dwarf_flows where flow_id {{in:$1}} and status in {UNSTOPPED}"
SIZE = "select (select count(*) from dwarf_flows), (select count(*) from dwarf_steps)"
STEP_BY_ID = f"select {StepRow.columns()} from dwarf_steps where step_id = $1"
_STEPS = "from dwarf_steps where flow_id {in:$1} order by depth, step_id"
STEPS = f"select {StepRow.columns_without_texts()} {_STEPS}"
COMPLETE_STEPS = f"select {StepRow.columns()} {_STEPS}"
COUNT_STEPS = "select count(*) from (select 1 from dwarf_steps where flow_id {in:$1} limit $2) counted"
# The primes make sums differ if two changes would otherwise add up to the same.
_FINGERPRINT = """
with mine as (select * from dwarf_flows where {which})
select f.status, f.updated_at, f.notify, f.breakpoints,
  (select r.tags from dwarf_flows r where r.flow_id = f.root_id), t.*, s.* from dwarf_flows f,
  (select count(*), coalesce(max(updated_at), 0), coalesce(sum(updated_at % 1000000007), 0),
    coalesce(sum(length(coalesce(breakpoints, ''))), 0) from mine) t,
  (select count(*), coalesce(max(updated_at), 0), coalesce(sum(lease_seq), 0), coalesce(sum(attempt), 0),
    coalesce(max(progress_at), 0),
    coalesce(sum(case when status = 'completed' then 1 when status = 'running' then 1000003
      when status = 'pending' then 2000003 when status = 'interrupted' then 3000017 else 4000037 end), 0)
    from dwarf_steps where flow_id in (select flow_id from mine)) s
where f.flow_id = $1
"""
TREE_FINGERPRINT = _FINGERPRINT.format(which="flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)")
FLOWS_FINGERPRINT = _FINGERPRINT.format(which="flow_id {in:$2}")
