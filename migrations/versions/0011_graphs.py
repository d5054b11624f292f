"""Graphs that nothing uses are removed: which those are is found by index, and a graph is kept while it may yet be used.

`kept_until`: until then a replica may create flows of the graph without saving it again. `doomed`: the transaction that found
it unused; once all transactions that ran then have ended, it is removed if it still is.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

STATEMENTS = """
alter table dwarf_graphs add column kept_until bigint not null default 0;
alter table dwarf_graphs add column doomed bigint;
create index dwarf_graphs_doomed on dwarf_graphs (digest) where doomed is not null;
create index dwarf_flows_graph on dwarf_flows (graph_digest);
create index dwarf_registry_digest on dwarf_registry (digest)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.get_bind().exec_driver_sql(statement)
