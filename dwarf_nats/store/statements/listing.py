"""List and purge flows: the filters as SQL (O9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dwarf_nats.ports import Member
from dwarf_nats.rules.rows import SummaryRow
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.dialect import UNBEGUN
from dwarf_nats.store.search import pattern
from dwarf_nats.store.statements import listing_window
from dwarf_nats.store.statements.listing_window import Driver, of_status
from dwarf_nats.store.statements.tags import rarest_first
from dwarf_nats.workflow import list_cursors
from dwarf_nats.workflow.keys import parse_public_id
from dwarf_nats.workflow.list_cursors import Place
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import tag_texts

if TYPE_CHECKING:
    from dwarf_nats.ports import Progress
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
_AGES_MS = {"older_than_ms": "f.updated_at < {now} - $$", "newer_than_ms": "f.updated_at > {now} - $$"}
"""Age of a `Query` → condition; `$$` stands for its value in microseconds."""
_MEMBER = ", ".join(f"f.{name}" for name in Member._fields)


async def page(
    database: Database, shard: int, query: Query, *, limit: int, thread_id: int | None, cursor: str
) -> tuple[list[SummaryRow], str]:
    """Return one page of flows, newest first, and the cursor of the next, empty on the last page.

    A page for which too many flows would have to be looked through is short, or empty, with a cursor that goes on. A restart
    does not change the place of a flow, so that no page misses one.
    """
    chosen = await listing_window.driver(database, query, await tag_texts_of(database, query))
    after = list_cursors.place(cursor) if cursor else None
    select = _Select(database=database, shard=shard, query=query, thread_id=thread_id, driver=chosen)
    sizes = await listing_window.sizes(database, query, chosen) if thread_id is None else ()
    found: list[SummaryRow] = []
    for size in sizes:
        end = await listing_window.end(database, chosen, after, size)
        found += await select.rows(after, end, limit + 1 - len(found))
        if len(found) > limit or end is None:
            break
        after = end
    else:
        if sizes:
            return found, "" if after is None else list_cursors.of_place(after)
        found = await select.rows(after, None, limit + 1)
    if len(found) <= limit:
        return found, ""
    last = found[limit - 1]
    return found[:limit], list_cursors.of_place(Place(last.created_at, last.flow_id))


@dataclass(frozen=True, slots=True)
class _Select:
    """The statement of a page."""

    database: Database
    shard: int
    query: Query
    thread_id: int | None
    driver: Driver

    async def rows(self, after: Place | None, end: Place | None, limit: int) -> list[SummaryRow]:
        """The flows that match after a place, down to another, newest first."""
        where, args = conditions(
            self.shard, self.query, self.thread_id, self.driver, roots_only=self.query.flow_id is None
        )
        place = f"({self.driver.alias}.created_at, {self.driver.alias}.flow_id)"
        for one, compared in ((after, "<"), (end, ">=")):
            if one is not None:
                args += one
                where.append(f"{place} {compared} (${len(args) - 1}, ${len(args)})")
        args.append(limit)
        rows = await self.database.fetch(
            f"select {_COLUMNS} from {flows_of(self.driver)} where {' and '.join(where)}"
            f" order by {self.driver.alias}.created_at desc, {self.driver.alias}.flow_id desc limit ${len(args)}",
            *args,
        )
        return [_summary_row(row) for row in rows]


def _summary_row(row: Row) -> SummaryRow:
    summary = SummaryRow(*row)
    summary.status = Status(summary.status)
    return summary


async def purgeable(
    database: Database, shard: int, query: Query, *, thread_id: int | None, limit: int
) -> tuple[str, list[Any]]:
    """Make the statement for flows that match and do not run, oldest first, and its parameters."""
    tags = await tag_texts_of(database, query)
    where, args = conditions(shard, query, thread_id, Driver(tags, by_tag=bool(tags)), roots_only=True)
    args.append(limit)
    return (
        f"select f.flow_id from {_TAGGED_FLOWS if tags else _FLOWS} where {' and '.join(where)} and f.status <> 'running'"
        f" order by {'t.created_at, t.flow_id' if tags else 'f.flow_id'} limit ${len(args)}",
        args,
    )


async def members(
    database: Database,
    shard: int,
    query: Query,
    *,
    thread_id: int | None,
    after: Progress,
    undone: str,
    limit: int,
) -> list[Member]:
    """Return at most `limit` flows that match and come after a place, newest first; ages count from its moment.

    `undone`: a condition on `f`; `$$` in it stands for that moment.
    """
    tags = await tag_texts_of(database, query)
    where, args = conditions(shard, query, thread_id, Driver(tags, by_tag=bool(tags)), roots_only=query.flow_id is None)
    args += [after.moment, after.created_at, after.flow_id, limit]
    moment, created_at, flow_id, most = (f"${number}" for number in range(len(args) - 3, len(args) + 1))
    alias = "t" if tags else "f"
    moment = f"cast({moment} as bigint)"
    where += [f"({alias}.created_at, {alias}.flow_id) < ({created_at}, {flow_id})", undone.replace("$$", moment)]
    rows = await database.fetch(
        f"select {_MEMBER} from {_TAGGED_FLOWS if tags else _FLOWS} where {' and '.join(where)}"
        f" order by {alias}.created_at desc, {alias}.flow_id desc limit {most}".replace("{now}", moment),
        *args,
    )
    return [one._replace(status=Status(one.status)) for one in (Member(*row) for row in rows)]


async def tag_texts_of(database: Database, query: Query) -> list[str]:
    """Return the tags of a query as texts, the one to look up first as the first."""
    return await rarest_first(database, tag_texts(query.tags)) if query.tags else []


def flows_of(chosen: Driver) -> str:
    """Return the source that a statement selects from, for a driver."""
    return _TAGGED_FLOWS if chosen.by_tag else _FLOWS


def conditions(
    shard: int, query: Query, thread_id: int | None, chosen: Driver, *, roots_only: bool
) -> tuple[list[str], list[Any]]:
    """The filters of a query as conditions, and their values."""
    where = ["f.surgraph_step_id is null"] if roots_only else []
    where += of_status(Status(query.status)) if query.status is not None else []
    args: list[Any] = []

    def add(condition: str, value: Any) -> None:
        args.append(value)
        where.append(condition.replace("$$", f"${len(args)}"))

    for number, tag in enumerate(chosen.tags):
        add("t.tag = $$" if chosen.by_tag and not number else _HAS_TAG.replace("t.", f"{chosen.alias}."), tag)
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
