"""Graphs, kept once each, and for as long as a flow or the registry uses them (G10).

A replica saves a graph before it creates a flow of it, and remembers for some seconds that it did. So a graph is kept for
some seconds after each save (`kept_until`), and a flow is created only while its graph is kept. The removal takes two sweeps:
the first marks what is unused and kept no more, the second removes it if it still is, once every transaction has ended that ran
at the time of the first. A save takes the mark away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import SqliteSession, Tx

KEPT_US = 6_000_000
"""Microseconds for which a graph is kept after a save: longer than a replica remembers that it saved it."""
MIN_LEFT_US = 1_000_000
"""Microseconds of that which must be left when a flow is created, so that its graph cannot be removed meanwhile."""
_USED = (
    "(select 1 from dwarf_flows f where f.graph_digest = dwarf_graphs.digest limit 1) is not null"
    " or (select 1 from dwarf_registry r where r.digest = dwarf_graphs.digest limit 1) is not null"
)
KEEP_LONGER = (
    f"update dwarf_graphs set kept_until = {{greatest}}(kept_until, {{now}} + {KEPT_US}), doomed = null"
    " where digest = $1 returning kept_until"
)
SAVE = (
    f"insert into dwarf_graphs (digest, body, kept_until) values ($1, $2, {{now}} + {KEPT_US})"
    " on conflict (digest) do update set doomed = null,"
    " kept_until = {greatest}(dwarf_graphs.kept_until, excluded.kept_until) returning kept_until"
)
IS_KEPT = f"select 1 from dwarf_graphs where digest = $1 and kept_until > {{now}} + {MIN_LEFT_US}"
REMOVE_MARKED = (
    "delete from dwarf_graphs where digest in (select d.digest from dwarf_graphs d where d.doomed is not null limit $1)"
    f" and doomed < {{oldest_transaction}} and kept_until < {{now}} and not ({_USED}) returning digest"
)
UNMARK_USED = (
    "update dwarf_graphs set doomed = null"
    f" where digest in (select d.digest from dwarf_graphs d where d.doomed is not null limit $1) and ({_USED})"
)
LAST_OF_PAGE = (
    "select max(digest) from (select digest from dwarf_graphs where digest > $1 order by digest limit $2) page"
)
MARK_UNUSED = (
    "update dwarf_graphs set doomed = {this_transaction} where digest > $1 and digest <= $2 and doomed is null"
    f" and kept_until < {{now}} and not ({_USED})"
)
LOAD = "select body from dwarf_graphs where digest = $1"
# $3: the time the name was given on the shard it is copied from; null for a new one.
REGISTER = (
    "insert into dwarf_registry (name, digest, updated_at) values ($1, $2, coalesce($3, {now}))"
    " on conflict (name) do update set digest = excluded.digest, updated_at = excluded.updated_at"
    " where $3 is null or dwarf_registry.updated_at < excluded.updated_at"
    " returning updated_at"
)
UNREGISTER = "delete from dwarf_registry where name = $1 returning name"
REGISTERED = "select name, digest, updated_at from dwarf_registry order by name"
_IS_REGISTERED = "select 1 from dwarf_registry where name = ? and digest = ?"
REGISTERED_DIGESTS = "select name, digest from dwarf_registry where name {in_text:$1}"


def of_certain_graphs(session: SqliteSession, flows: Sequence[NewFlow]) -> list[NewFlow]:
    """Return the flows whose graphs are kept long enough, and if assumed are those that are registered."""
    assumed = {(new.flow.workflow, new.flow.digest) for new in flows if new.assumed}
    gone = {pair for pair in assumed if session.connection.execute(_IS_REGISTERED, pair).fetchone() is None}
    return [
        new
        for new in flows
        if new.kept_until > session.now + MIN_LEFT_US
        and not (new.assumed and (new.flow.workflow, new.flow.digest) in gone)
    ]


async def remove_marked(tx: Tx, limit: int) -> int:
    """Remove graphs that were found unused and are unused still; return how many."""
    await tx.fetch(UNMARK_USED, limit)
    return len(await tx.fetch(REMOVE_MARKED, limit))


async def mark_unused(tx: Tx, after: str, limit: int) -> str:
    """Mark the unused among the `limit` graphs behind `after`; return the last of them, an empty text at the end."""
    ((last,),) = await tx.fetch(LAST_OF_PAGE, after, limit)
    if last is None:
        return ""
    await tx.fetch(MARK_UNUSED, after, last)
    return str(last)
