"""Messages that started flows, the progress of sources, and the outbox of PostgreSQL (R1, R2)."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "create table dwarf_received (scope bigint not null, sequence bigint not null, flow_id bigint not null,"
    " received_at bigint not null, primary key (scope, sequence))",
    "create index dwarf_received_old on dwarf_received (received_at)",
    "create table dwarf_source_progress (source text not null, origin text not null, floor bigint not null,"
    " rejected bigint not null, last_error text, last_error_at bigint, updated_at bigint not null,"
    " primary key (source, origin))",
)
_NOW = "(extract(epoch from now()) * 1000000)::bigint"
POSTGRES = (
    "create sequence dwarf_outbox_ids",
    "create table dwarf_outbox (row_id bigint primary key default nextval('dwarf_outbox_ids'), workflow text not null,"
    " state text not null, options text not null, created_at bigint not null, due_at bigint not null,"
    " attempts int not null default 0, reason text, rejected_at bigint)",
    "create index dwarf_outbox_due on dwarf_outbox (due_at, row_id) where rejected_at is null",
    "create index dwarf_outbox_rejected on dwarf_outbox (row_id) where rejected_at is not null",
    # With the rights of its owner, so that a caller needs this function only; nobody may call it unless it is granted.
    f"""
create function dwarf_enqueue(workflow text, state jsonb default '{{}}', options jsonb default '{{}}') returns bigint
language plpgsql security definer set search_path from current as $$
declare
  made bigint;
begin
  if coalesce(workflow, '') = '' then
    raise exception 'dwarf_enqueue: the workflow is missing' using errcode = '22023';
  end if;
  if jsonb_typeof(coalesce(state, '{{}}')) <> 'object' then
    raise exception 'dwarf_enqueue: the state must be a JSON object, got %', jsonb_typeof(state) using errcode = '22023';
  end if;
  if jsonb_typeof(coalesce(options, '{{}}')) <> 'object' then
    raise exception 'dwarf_enqueue: the options must be a JSON object, got %', jsonb_typeof(options)
      using errcode = '22023';
  end if;
  insert into dwarf_outbox (workflow, state, options, created_at, due_at)
  values (workflow, coalesce(state, '{{}}'), coalesce(options, '{{}}'), {_NOW}, {_NOW})
  returning row_id into made;
  perform pg_notify('dwarf_outbox', '');
  return made;
end $$""",
    "revoke all on function dwarf_enqueue(text, jsonb, jsonb) from public",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS + (POSTGRES if connection.dialect.name == "postgresql" else ()):
        connection.exec_driver_sql(statement)
