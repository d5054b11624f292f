"""Blocks of ids: a replica takes many at once, so that no flow and no step waits for its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store.dialect import Statement

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database

BLOCK_IDS = {"flow": 1_000, "step": 5_000, "replica": 1}
"""Ids in a block; on PostgreSQL by how much each sequence is incremented."""
NEXT_IDS = {
    kind: Statement(
        postgres=f"select nextval('dwarf_{kind}_ids')",
        sqlite=f"update dwarf_ids set next = next + {count} where kind = '{kind}' returning next - {count}",
    )
    for kind, count in BLOCK_IDS.items()
}


async def next_ids(database: Database, kind: str) -> tuple[int, int]:
    """A block of ids for `flow`, `step` or `replica`: the first one and how many."""
    ((first,),) = await database.fetch(NEXT_IDS[kind])
    return first, BLOCK_IDS[kind]
