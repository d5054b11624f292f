"""Pauses, and flows that call flows.

A flow knows the root of its tree, so that an operation finds all of it by one index; flows without sub-workflows are not in
that index. A step keeps what it was resumed with and what its child came to until it is done.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

CHANGES = """
alter table dwarf_flows add column root_id bigint not null default 0;
alter table dwarf_flows add column breakpoints text;
update dwarf_flows set root_id = flow_id;
create index dwarf_flows_tree on dwarf_flows (root_id, surgraph_step_id) where surgraph_flow_id is not null;
alter table dwarf_steps add column interrupt_payload text;
alter table dwarf_steps add column resumed text;
alter table dwarf_steps add column subgraph_result text;
alter table dwarf_steps add column subgraph_error text;
alter table dwarf_steps add column parked_changes text;
alter table dwarf_steps add column breakpoint_hit int not null default 0
"""


def upgrade() -> None:
    for statement in CHANGES.split(";"):
        op.get_bind().exec_driver_sql(statement)
