"""Tags of flows: kept with the root flow of each tree, and in a table by which flows are found, newest first (Q1).

The tags of a flow that was called are those of its root. Design note 0033.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson
from msgspec import structs

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.store.commands import PROBLEMS, Cascade, Command, Query, QueryMany, carried_out
from dwarf_nats.store.dialect import SQLITE, Statement
from dwarf_nats.workflow import tags as t

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.store.database import Database, PostgresSession, Row, SqliteSession, Tx
    from dwarf_nats.workflow.tags import TagChanges


class TagRow(NamedTuple):
    """One row of `dwarf_tags`: the text of a tag, and the creation time and id of a flow that has it."""

    tag: str
    created_at: int
    flow_id: int


# One text holds any number of rows, as JSON lists in the order of a `TagRow`.
_ROWS_POSTGRES = (
    "select r ->> 0 as tag, (r ->> 1)::bigint as created_at, (r ->> 2)::bigint as flow_id"
    " from json_array_elements($1::json) r"
)
_ROWS_SQLITE = (
    "select json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') from json_each($1)"
)
_INSERT = "insert into dwarf_tags (tag, created_at, flow_id) {}"
INSERT = Statement(postgres=_INSERT.format(_ROWS_POSTGRES), sqlite=_INSERT.format(_ROWS_SQLITE))
# A join, so that each row is looked up by the primary key: `in` may be planned the other way round.
DELETE = (
    f"delete from dwarf_tags t using ({_ROWS_POSTGRES}) r"
    " where t.tag = r.tag and t.created_at = r.created_at and t.flow_id = r.flow_id"
)
"""Only for PostgreSQL: SQLite might look up a list of rows by the tag alone."""
DELETE_ONE = "delete from dwarf_tags where tag = $1 and created_at = $2 and flow_id = $3"
LOCK = "select tags, created_at from dwarf_flows where flow_id = $1 {for_update}"
SET = "update dwarf_flows set tags = $2 where flow_id = $1"
COMMON_FLOWS = 1_000
"""Flows of one tag that are counted at most to find the rarest of several tags."""


def encoded(rows: Iterable[TagRow]) -> str:
    """Rows as `INSERT` and `DELETE` take them."""
    return orjson.dumps([tuple(row) for row in rows]).decode()


def rows_of(tags: str | None, created_at: int, flow_id: int) -> list[TagRow]:
    """The rows of a flow, from its tags as they are stored."""
    return [TagRow(tag, created_at, flow_id) for tag in t.tag_texts(t.read(tags))]


# -- changes


class _Changed(NamedTuple):
    """The tags of a flow after a change, as they are stored, and the names that found no room."""

    tags: str | None
    left_out: list[str]


def change(flow_id: int, changes: TagChanges) -> Generator[Command, list[Row], _Changed | None]:
    """Set and remove tags of a root flow; nothing if it is gone."""
    for before, created_at in (yield Query(LOCK, (flow_id,))):
        tags, left_out = t.changed(t.read(before), changes)
        after = t.stored(tags)
        if after != before:
            yield Query(SET, (flow_id, after))
            had, has = rows_of(before, created_at, flow_id), rows_of(after, created_at, flow_id)
            if gone := set(had) - set(has):
                yield QueryMany(DELETE_ONE, sorted(gone))
            if new := set(has) - set(had):
                yield Query(INSERT, (encoded(new),))
        return _Changed(after, left_out)
    return None


async def tag(tx: Tx, flow_id: int, changes: TagChanges) -> str | None:
    """Set and remove tags of a root flow; return all it has then. Raises `NotFound`, and `BadRequest` for too many."""
    done = await carried_out(tx, change(flow_id, changes))
    if done is None:
        raise NotFound("no such flow: it was deleted")
    if done.left_out:
        names = ", ".join(done.left_out)
        raise BadRequest(f"{t.TOO_MANY}, and there is no room for {names}: remove others with null")
    return done.tags


def settle(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Set and remove the tags that the replies of settled steps name, and enter them in what is told of their flows.

    Tags beyond the most a flow may have are not set: the step's problems say so.
    """
    for root_id in sorted({one.step.flow.root_id for one in group}):
        mine = [one for one in group if one.step.flow.root_id == root_id]
        tags: str | None = None
        for one in mine:
            assert one.tags is not None
            done = yield from change(root_id, one.tags)
            if done is None:
                break
            tags = done.tags
            if done.left_out:
                problem = f"{t.TOO_MANY}: not set were {', '.join(done.left_out)}"
                problems = structs.replace(one, problems=[*one.problems, problem]).problems_json()
                yield QueryMany(PROBLEMS, [(problems, one.step.step_id)])
        _tell(root_id, tags, mine, settled)


def _tell(root_id: int, tags: str | None, group: Sequence[Settlement], settled: SettleResult) -> None:
    """Let the outcome of a flow that ends with its last step have the tags which that step set."""
    for one in group:
        if one.end is not None and one.step.flow.flow_id == root_id:
            settled.applied[one.step.step_id].tags = tags
    settled.ended = [one._replace(tags=tags) if one.flow.flow_id == root_id else one for one in settled.ended]


# -- with flows that are copied or removed


@dataclass(slots=True)
class _Delete:
    """Remove rows, however many."""

    rows: Sequence[TagRow]

    async def on_postgres(self, session: PostgresSession) -> None:
        await session.fetch(DELETE, encoded(self.rows))

    def on_sqlite(self, session: SqliteSession) -> None:
        session.connection.executemany(SQLITE.text(DELETE_ONE), self.rows)


async def copied(tx: Tx, tags: str | None, created_at: int, flow_id: int) -> None:
    """Have a flow found by its tags that was inserted with them."""
    if tags is not None:
        await tx.fetch(INSERT, encoded(rows_of(tags, created_at, flow_id)))


async def removed(tx: Tx, flows: Sequence[Row]) -> None:
    """Remove the rows of flows that were removed: `(tags, creation time, flow id)` each."""
    rows = [
        row for tags, created_at, flow_id in flows if tags is not None for row in rows_of(tags, created_at, flow_id)
    ]
    if rows:
        await tx.run(_Delete(rows))


# -- finding

_COUNT = f"(select count(*) from (select 1 from dwarf_tags where tag = $$ limit {COMMON_FLOWS}) counted)"


async def rarest_first(database: Database, tags: Sequence[str]) -> list[str]:
    """Return the texts of tags, one that few flows have first: the others are then looked up for these few only."""
    if len(tags) < 2:
        return list(tags)
    counts = (_COUNT.replace("$$", f"${number}") for number in range(1, len(tags) + 1))
    ((*found,),) = await database.fetch(f"select {', '.join(counts)}", *tags)
    return [tag for _, tag in sorted(zip(found, tags, strict=True))]
