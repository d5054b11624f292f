"""Audit records: written for many at once, read newest first by an index for each filter (M3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from dwarf_nats.ports.audit import AuditRow
from dwarf_nats.store.dialect import Statement
from dwarf_nats.workflow.audit import UNKNOWN
from dwarf_nats.workflow.keys import parse_public_id

if TYPE_CHECKING:
    from dwarf_nats.workflow.audit import AuditQuery

_COLUMNS = "at, number, operation, flow_id, name, actor, reason, code, message, details"
# One text holds any number of rows, as JSON lists in the order of an `AuditRow`. A step that is named stands for its flow.
_POSTGRES = (
    "select (r ->> 0)::bigint, (r ->> 1)::bigint, r ->> 2, coalesce((r ->> 3)::bigint, s.flow_id),"
    " r ->> 5, r ->> 6, r ->> 7, (r ->> 8)::int, r ->> 9, r ->> 10"
    " from json_array_elements($1::json) r left join dwarf_steps s on s.step_id = (r ->> 4)::bigint"
)
_SQLITE = (
    "select json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),"
    " coalesce(json_extract(value, '$[3]'),"
    " (select s.flow_id from dwarf_steps s where s.step_id = json_extract(value, '$[4]'))),"
    " json_extract(value, '$[5]'), json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'),"
    " json_extract(value, '$[9]'), json_extract(value, '$[10]') from json_each($1) where true"
)
# Written a second time, because the answer of the first was lost, a record is the same one. One whose outcome is unknown is
# completed; the step that stood for its flow may be gone by then.
_ADD = (
    f"insert into dwarf_audit ({_COLUMNS}) {{}} on conflict (at, number) do update set code = excluded.code,"
    " message = excluded.message, details = excluded.details, flow_id = coalesce(excluded.flow_id, dwarf_audit.flow_id)"
    f" where dwarf_audit.code = {UNKNOWN} and excluded.code <> {UNKNOWN} returning number"
)
ADD = Statement(postgres=_ADD.format(_POSTGRES), sqlite=_ADD.format(_SQLITE))
REMOVE_OLD = """
with old as materialized (
  select at, number from dwarf_audit where at < {now} - $1 order by at, number limit $2 {skip_locked})
delete from dwarf_audit where (at, number) in (select at, number from old) returning number
"""


def encoded(rows: Sequence[AuditRow]) -> str:
    """Rows as `ADD` takes them."""
    return orjson.dumps([tuple(row) for row in rows]).decode()


def found(query: AuditQuery, limit: int, before: tuple[int, int] | None) -> tuple[str, list[Any]]:
    """Make the statement for one page of records, newest first, and its parameters."""
    where: list[str] = []
    args: list[Any] = []

    def add(condition: str, *values: Any) -> None:
        for value in values:
            args.append(value)
            condition = condition.replace("$$", f"${len(args)}", 1)
        where.append(condition)

    if query.flow_id is not None:
        add("flow_id = $$", parse_public_id(query.flow_id)[1])
    if query.actor is not None:
        add("actor = $$", query.actor)
    if query.operation is not None:
        add("operation = $$", query.operation)
    if query.older_than_ms is not None:
        add("at < {now} - $$", query.older_than_ms * 1000)
    if query.newer_than_ms is not None:
        add("at > {now} - $$", query.newer_than_ms * 1000)
    if before is not None:
        add("(at, number) < ($$, $$)", *before)
    args.append(limit)
    columns = _COLUMNS.replace("name", "null as step_id, name", 1)
    return (
        f"select {columns} from dwarf_audit {'where ' if where else ''}{' and '.join(where)}"
        f" order by at desc, number desc limit ${len(args)}",
        args,
    )
