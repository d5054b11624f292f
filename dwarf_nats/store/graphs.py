"""Graphs as they are kept: once each, and for as long as a flow or the registry uses them (G10).

A replica saves a graph before it creates a flow of it, and remembers for some seconds that it did. So a graph is kept for
some seconds after each save (`kept_until`), and a flow is created only while its graph is kept. The removal takes two sweeps:
the first marks what is unused and kept no more, the second removes it if it still is, once every transaction has ended that ran
at the time of the first. A save takes the mark away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Tx

KEPT_US = 6_000_000
"""How long a graph is kept after a save."""
SPARE_US = 1_000_000
"""How much of that must be left when a flow is created."""
_USED = (
    "(select 1 from dwarf_flows f where f.graph_digest = dwarf_graphs.digest limit 1) is not null"
    " or (select 1 from dwarf_registry r where r.digest = dwarf_graphs.digest limit 1) is not null"
)
AGAIN = (
    f"update dwarf_graphs set kept_until = {{greatest}}(kept_until, {{now}} + {KEPT_US}), doomed = null"
    " where digest = $1 returning kept_until"
)
SAVE = (
    f"insert into dwarf_graphs (digest, body, kept_until) values ($1, $2, {{now}} + {KEPT_US})"
    " on conflict (digest) do update set doomed = null,"
    " kept_until = {greatest}(dwarf_graphs.kept_until, excluded.kept_until) returning kept_until"
)
LEFT = f"select 1 from dwarf_graphs where digest = $1 and kept_until > {{now}} + {SPARE_US}"
REMOVE = (
    "delete from dwarf_graphs where digest in (select d.digest from dwarf_graphs d where d.doomed is not null limit $1)"
    f" and doomed < {{oldest_transaction}} and kept_until < {{now}} and not ({_USED}) returning digest"
)
SPARE = (
    "update dwarf_graphs set doomed = null"
    f" where digest in (select d.digest from dwarf_graphs d where d.doomed is not null limit $1) and ({_USED})"
)
PAGE = "select max(digest) from (select digest from dwarf_graphs where digest > $1 order by digest limit $2) page"
MARK = (
    "update dwarf_graphs set doomed = {this_transaction} where digest > $1 and digest <= $2 and doomed is null"
    f" and kept_until < {{now}} and not ({_USED})"
)


async def save(database: Database, digest: str, body: bytes) -> int:
    """Have a graph kept; until when, on the database's clock."""
    rows = await database.fetch(AGAIN, digest)
    if not rows:
        rows = await database.fetch(SAVE, digest, body.decode())
    return int(rows[0][0])


async def prune(database: Database, after: str, limit: int) -> tuple[int, str]:
    """Remove graphs that were found unused, and look at the next `limit`; how many were removed, and where to go on."""

    async def remove(tx: Tx) -> int:
        await tx.fetch(SPARE, limit)
        return len(await tx.fetch(REMOVE, limit))

    removed = await database.transact_by_index(remove)

    async def mark(tx: Tx) -> str:
        last = (await tx.fetch(PAGE, after, limit))[0][0]
        if last is None:
            return ""
        await tx.fetch(MARK, after, last)
        return str(last)

    return removed, await database.transact_by_index(mark)
