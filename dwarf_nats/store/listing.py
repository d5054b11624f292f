"""List and purge: the filters as SQL (O9)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.store.search import pattern

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Row
    from dwarf_nats.workflow.options import Query

# The current task of a flow is the node of its youngest step.
_TASK = "(select s.node from dwarf_steps s where s.flow_id = f.flow_id order by s.depth desc, s.step_id desc limit 1)"
_COLUMNS = (
    "f.flow_id, f.token, f.thread_id, f.thread_token, f.workflow, f.status, f.error, f.cancel_reason,"
    " coalesce(f.restarted_at, f.created_at), f.started_at, f.updated_at, f.priority, f.fairness_key,"
    f" {_TASK} as task, f.created_at"
)


async def page(
    database: Database, shard: int, query: Query, limit: int, thread_id: int | None, cursor: str
) -> tuple[list[Row], str]:
    """One page of summaries, newest first, and the cursor of the next (empty on the last page).

    A restart does not change the place of a flow, so that no page misses one.
    """
    where, args = _conditions(shard, query, thread_id)
    if cursor:
        created_at, flow_id = _read_cursor(cursor)
        args += [created_at, flow_id]
        where.append(f"(f.created_at, f.flow_id) < (${len(args) - 1}, ${len(args)})")
    args.append(limit + 1)
    rows = await database.fetch(
        f"select {_COLUMNS} from dwarf_flows f where {' and '.join(where)}"
        f" order by f.created_at desc, f.flow_id desc limit ${len(args)}",
        *args,
    )
    summaries = [row[:-1] for row in rows[:limit]]
    if len(rows) <= limit:
        return summaries, ""
    last = rows[limit - 1]
    return summaries, _write_cursor(int(last[-1]), int(last[0]))


def purgeable(shard: int, query: Query, thread_id: int | None, limit: int) -> tuple[str, list[Any]]:
    """Flows that match and do not run, oldest first."""
    where, args = _conditions(shard, query, thread_id)
    args.append(limit)
    return (
        f"select f.flow_id from dwarf_flows f where {' and '.join(where)} and f.status <> 'running'"
        f" order by f.flow_id limit ${len(args)}",
        args,
    )


def _conditions(shard: int, query: Query, thread_id: int | None) -> tuple[list[str], list[Any]]:
    where = ["f.surgraph_step_id is null"]
    args: list[Any] = []
    wanted = (
        ("f.status = $$", query.status and str(query.status)),
        ("f.workflow = $$", query.workflow),
        ("f.thread_id = $$", thread_id),
        (f"{_TASK} = $$", query.task),
        ("f.fairness_key = $$", query.fairness_key),
        ("f.priority = $$", query.priority),
        ("f.updated_at < {now} - $$", _microseconds(query.older_than_ms)),
        ("f.updated_at > {now} - $$", _microseconds(query.newer_than_ms)),
    )
    for condition, value in wanted:
        if value is not None:
            args.append(value)
            where.append(condition.replace("$$", f"${len(args)}"))
    if query.search is not None:
        places = (
            f"'{shard}-' || cast(f.flow_id as text) || '-' || f.token",
            "f.workflow",
            _TASK,
            "{message:f.error}",
            "f.cancel_reason",
        )
        args.append(pattern(query.search))
        match = " or ".join(f"({place}) {{regexp}} ${len(args)}" for place in places)
        where.append(f"({match})")
    return where, args


def _microseconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds * 1000


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
