"""Definitions: small named documents that steer the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.ports import Definition

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

REVISION = "select definitions from dwarf_deployment where one = 1"
# The row is locked until the commit: revisions become visible in their order.
COUNT_CHANGE = "update dwarf_deployment set definitions = definitions + 1 where one = 1"
PUT = (
    "insert into dwarf_definitions (kind, name, body, updated_at) values ($1, $2, $3, {now})"
    " on conflict (kind, name) do update set body = excluded.body, updated_at = excluded.updated_at"
    " returning kind, name, body, updated_at"
)
DELETE = "delete from dwarf_definitions where kind = $1 and name = $2 returning name"
ALL = "select kind, name, body, updated_at from dwarf_definitions order by kind, name"


async def put(tx: Tx, kind: str, name: str, body: str) -> Definition:
    """Keep a document under its name."""
    await tx.fetch(COUNT_CHANGE)
    (row,) = await tx.fetch(PUT, kind, name, body)
    return Definition(*row)


async def delete(tx: Tx, kind: str, name: str) -> bool:
    """Forget a document; return whether there was one."""
    await tx.fetch(COUNT_CHANGE)
    return bool(await tx.fetch(DELETE, kind, name))
