"""List and purge flows: the filters as SQL (O9)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.rows import SummaryRow
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.dialect import UNBEGUN
from dwarf_nats.store.search import pattern
from dwarf_nats.store.statements.tags import rarest_first
from dwarf_nats.workflow.keys import parse_public_id
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import tag_texts

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Row
    from dwarf_nats.workflow.options import Query

# Compensations count while they are under way; then it is the last task again that the flow came to.
_YOUNGEST = (
    "from dwarf_steps s where s.flow_id = f.flow_id"
    " and (s.compensates is null or (f.compensating is not null and s.status <> 'created'))"
    " order by s.depth desc, s.step_id desc limit 1)"
)
_TASK = f"(select s.node {_YOUNGEST}"
_DUE = f"(select case when s.status in {UNBEGUN} and s.not_before > s.updated_at then s.not_before end {_YOUNGEST}"
_COLUMNS = select_list(
    SummaryRow, "f", task=_TASK, due_at=_DUE, shown_created_at="coalesce(f.restarted_at, f.created_at)"
)
_FLOWS = "dwarf_flows f"
# In this order: the entries of a tag, newest first, and the flow of each.
_TAGGED_FLOWS = "dwarf_tags t {flow_of:t}"
# Looked up for each flow: as a join, the entries of a tag that very many flows have might be read from end to end.
_HAS_TAG = "(select 1 from dwarf_tags o where o.tag = $$ and o.created_at = t.created_at and o.flow_id = t.flow_id) is not null"
_FILTERS = {
    "workflow": "f.workflow = $$",
    "task": f"{_TASK} = $$",
    "fairness_key": "f.fairness_key = $$",
    "priority": "f.priority = $$",
}
"""Filter of a `Query` → condition; `$$` stands for its value."""
_STOPPED = (Status.INTERRUPTED, Status.FAILED, Status.CANCELLED)
"""The statuses in `dwarf_flows_stopped`, in the order of its condition."""
_AGES_MS = {"older_than_ms": "f.updated_at < {now} - $$", "newer_than_ms": "f.updated_at > {now} - $$"}
"""Age of a `Query` → condition; `$$` stands for its value in microseconds."""


async def page(
    database: Database, shard: int, query: Query, *, limit: int, thread_id: int | None, cursor: str
) -> tuple[list[SummaryRow], str]:
    """Return one page of flows, newest first, and the cursor of the next, empty on the last page.

    A restart does not change the place of a flow, so that no page misses one.
    """
    tags = await _tag_texts(database, query)
    where, args = _conditions(shard, query, thread_id, tags, roots_only=query.flow_id is None)
    alias = "t" if tags else "f"
    if cursor:
        args += _read_cursor(cursor)
        where.append(f"({alias}.created_at, {alias}.flow_id) < (${len(args) - 1}, ${len(args)})")
    args.append(limit + 1)
    rows = await database.fetch(
        f"select {_COLUMNS} from {_TAGGED_FLOWS if tags else _FLOWS} where {' and '.join(where)}"
        f" order by {alias}.created_at desc, {alias}.flow_id desc limit ${len(args)}",
        *args,
    )
    found = [_summary_row(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return found, ""
    return found, _write_cursor(found[-1].created_at, found[-1].flow_id)


def _summary_row(row: Row) -> SummaryRow:
    summary = SummaryRow(*row)
    summary.status = Status(summary.status)
    return summary


async def purgeable(
    database: Database, shard: int, query: Query, *, thread_id: int | None, limit: int
) -> tuple[str, list[Any]]:
    """Make the statement for flows that match and do not run, oldest first, and its parameters."""
    tags = await _tag_texts(database, query)
    where, args = _conditions(shard, query, thread_id, tags, roots_only=True)
    args.append(limit)
    return (
        f"select f.flow_id from {_TAGGED_FLOWS if tags else _FLOWS} where {' and '.join(where)} and f.status <> 'running'"
        f" order by {'t.created_at, t.flow_id' if tags else 'f.flow_id'} limit ${len(args)}",
        args,
    )


async def _tag_texts(database: Database, query: Query) -> list[str]:
    """Return the tags of a query as texts, the one to look up first as the first."""
    return await rarest_first(database, tag_texts(query.tags)) if query.tags else []


def _of_status(status: Status) -> list[str]:
    """The conditions for a status, written out: only so can the planners use the index of the flows that stopped.

    SQLite uses a partial index only if the condition of the index stands in the statement, word for word.
    """
    found = [f"f.status = '{status}'"]
    return [*found, f"f.status in ({', '.join(map(repr, map(str, _STOPPED)))})"] if status in _STOPPED else found


def _conditions(
    shard: int, query: Query, thread_id: int | None, tags: Sequence[str], *, roots_only: bool
) -> tuple[list[str], list[Any]]:
    where = ["f.surgraph_step_id is null"] if roots_only else []
    where += _of_status(Status(query.status)) if query.status is not None else []
    args: list[Any] = []

    def add(condition: str, value: Any) -> None:
        args.append(value)
        where.append(condition.replace("$$", f"${len(args)}"))

    for tag in tags:
        add("t.tag = $$" if tag == tags[0] else _HAS_TAG, tag)
    for name, condition in _FILTERS.items():
        value = getattr(query, name)
        if value is not None:
            add(condition, value)
    for name, condition in _AGES_MS.items():
        age_ms = getattr(query, name)
        if age_ms is not None:
            add(condition, age_ms * 1000)
    if query.flow_id is not None:
        add("f.flow_id = $$", parse_public_id(query.flow_id)[1])
    if thread_id is not None:
        add("f.thread_id = $$", thread_id)
    if query.search is not None:
        places = (
            f"'{shard}-' || cast(f.flow_id as text) || '-' || f.token",
            "f.workflow",
            _TASK,
            "{message:f.error}",
            "f.cancel_reason",
        )
        matches = " or ".join(f"({place}) {{regexp}} $$" for place in places)
        add(f"({matches})", pattern(query.search))
    return where, args


def _write_cursor(created_at: int, flow_id: int) -> str:
    return base64.urlsafe_b64encode(f"{created_at}.{flow_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, int]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, flow_id = text.split(".")
        numbers = int(created_at), int(flow_id)
        if all(0 <= number < 2**63 for number in numbers):
            return numbers
    except (ValueError, binascii.Error, UnicodeDecodeError):
        pass
    raise BadRequest("malformed cursor: pass back the one of the previous page, unchanged")
