"""Replicas whose connection to the task services is away: explanations tell it of the steps that they hold (Q2)."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
old_replicas_may_stay = True


def upgrade() -> None:
    op.get_bind().exec_driver_sql("alter table dwarf_replicas add column bus_away_since bigint")
