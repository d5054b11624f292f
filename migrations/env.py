"""Alembic's entry: upgrades the connection that the store hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="dwarf_schema", transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
