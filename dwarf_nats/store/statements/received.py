"""Create flows together with the receipts of the messages that start them; keep receipts and the progress of sources (R1).

A receipt is written in the transaction of its flow. Whoever finds it there, or waits for it and then finds it, makes none. If
the flow is to lie on another shard than the home of its receipt, the home has a pointer instead, which never changes, and the
receipt on that shard decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dwarf_nats.ports.receiving import CreatedFlows, StaleCount, StaleGraph
from dwarf_nats.rules.receiving import Receipt, SourceProgress
from dwarf_nats.store.columns import columns, scalars, select_list, unnest
from dwarf_nats.store.dialect import NOW, SQLITE
from dwarf_nats.store.statements.create import CreateFlows
from dwarf_nats.store.statements.keys import COUNT

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import PostgresSession, SqliteSession


class _ReceiptRow(NamedTuple):
    """A message that is about to be used."""

    scope: Annotated[int, "bigint"]
    sequence: Annotated[int, "bigint"]
    flow_id: Annotated[int, "bigint"]


class _PlaceRow(NamedTuple):
    """A message that is looked for."""

    scope: Annotated[int, "bigint"]
    sequence: Annotated[int, "bigint"]


# In one order, so that two replicas with the same messages wait for each other instead of deadlocking.
TAKE = f"""
insert into dwarf_received (scope, sequence, flow_id, received_at)
select scope, sequence, flow_id, {NOW} from {unnest(_ReceiptRow)} order by scope, sequence
on conflict do nothing returning flow_id
"""
_TAKE_SQLITE = (
    "insert into dwarf_received (scope, sequence, flow_id, received_at) values (?, ?, ?, ?) on conflict do nothing"
)
KNOWN = f"""
select d.scope, d.sequence, d.shard from {unnest(_PlaceRow)} join dwarf_received d using (scope, sequence)
"""
_KNOWN_SQLITE = "select shard from dwarf_received where scope = ? and sequence = ?"
POINT = f"""
insert into dwarf_received (scope, sequence, flow_id, received_at, shard)
select scope, sequence, 0, {NOW}, {scalars(1, _PlaceRow)[0]} from {unnest(_PlaceRow)} order by scope, sequence
on conflict do nothing returning 1
"""
_POINT_SQLITE = (
    "insert into dwarf_received (scope, sequence, flow_id, received_at, shard) values (?, ?, 0, ?, ?)"
    " on conflict do nothing"
)
REMOVE_OLD = """
with old as materialized (
  select scope, sequence from dwarf_received where received_at < {now} - $1 order by received_at limit $2 {skip_locked})
delete from dwarf_received where (scope, sequence) in (select scope, sequence from old) returning sequence
"""
NOTE = """
insert into dwarf_source_progress as p (source, origin, floor, rejected, last_error, last_error_at, updated_at)
values ($1, $2, $3, $4, $5, $6, {now})
on conflict (source, origin) do update set floor = {greatest}(p.floor, excluded.floor),
  rejected = p.rejected + excluded.rejected, last_error = coalesce(excluded.last_error, p.last_error),
  last_error_at = coalesce(excluded.last_error_at, p.last_error_at), updated_at = {now}
returning source
"""
PROGRESS = f"""
select {select_list(SourceProgress)} from dwarf_source_progress where source {{in_text:$1}} order by updated_at desc
"""
REMOVE_PROGRESS = """
delete from dwarf_source_progress where updated_at < {now} - $1 and not (source {in_text:$2}) returning source
"""


@dataclass(slots=True, kw_only=True)
class CreateReceived:
    """Insert flows whose messages were not used before. Raises `StaleCount`, `StaleGraph`; then nothing was written."""

    group: Sequence[tuple[Receipt, NewFlow]]
    shards: int
    replica_id: int
    budget_ms: int

    async def on_postgres(self, session: PostgresSession) -> CreatedFlows:
        if [count for (count,) in await session.fetch(COUNT)] != [self.shards]:
            raise StaleCount
        rows = [(*receipt, new.flow.flow_id) for receipt, new in self.group]
        taken = {flow_id for (flow_id,) in await session.fetch(TAKE, *columns(rows))}
        left = self._left(taken)
        known = await KnownReceipts(left).on_postgres(session) if left else {}
        create = self._fresh(taken)
        return self._checked(create, await create.on_postgres(session) if taken else {}, known)

    def on_sqlite(self, session: SqliteSession) -> CreatedFlows:
        connection = session.connection
        if connection.execute(SQLITE.text(COUNT)).fetchone() != (self.shards,):
            raise StaleCount
        taken = {
            new.flow.flow_id
            for receipt, new in self.group
            if connection.execute(_TAKE_SQLITE, (*receipt, new.flow.flow_id, session.now)).rowcount
        }
        left = self._left(taken)
        known = KnownReceipts(left).on_sqlite(session) if left else {}
        create = self._fresh(taken)
        return self._checked(create, create.on_sqlite(session) if taken else {}, known)

    def _fresh(self, taken: Collection[int]) -> CreateFlows:
        flows = [new for _, new in self.group if new.flow.flow_id in taken]
        return CreateFlows(flows=flows, replica_id=self.replica_id, budget_ms=self.budget_ms)

    def _left(self, taken: Collection[int]) -> list[Receipt]:
        return [receipt for receipt, new in self.group if new.flow.flow_id not in taken]

    def _checked(self, create: CreateFlows, made: dict[int, int], known: Mapping[Receipt, int]) -> CreatedFlows:
        if len(made) != len(create.flows):
            raise StaleGraph
        elsewhere = {receipt: shard for receipt, shard in known.items() if shard}
        return CreatedFlows(made, len(self.group) - len(made) - len(elsewhere), elsewhere)


@dataclass(slots=True, kw_only=True)
class PointReceipts:
    """Let another shard decide messages that are not known here. Raises `StaleCount`."""

    receipts: Collection[Receipt]
    to: int
    shards: int

    async def on_postgres(self, session: PostgresSession) -> dict[Receipt, int]:
        if [count for (count,) in await session.fetch(COUNT)] != [self.shards]:
            raise StaleCount
        await session.fetch(POINT, *columns(list(self.receipts)), self.to)
        return await KnownReceipts(self.receipts).on_postgres(session)

    def on_sqlite(self, session: SqliteSession) -> dict[Receipt, int]:
        connection = session.connection
        if connection.execute(SQLITE.text(COUNT)).fetchone() != (self.shards,):
            raise StaleCount
        connection.executemany(_POINT_SQLITE, [(*receipt, session.now, self.to) for receipt in self.receipts])
        return KnownReceipts(self.receipts).on_sqlite(session)


@dataclass(slots=True)
class KnownReceipts:
    """Find messages that are known, each with the shard that decides it; 0: it was used here."""

    receipts: Collection[Receipt]

    async def on_postgres(self, session: PostgresSession) -> dict[Receipt, int]:
        rows = await session.fetch(KNOWN, *columns(list(self.receipts)))
        return {Receipt(scope, sequence): shard for scope, sequence, shard in rows}

    def on_sqlite(self, session: SqliteSession) -> dict[Receipt, int]:
        find = session.connection.execute
        return {one: shard for one in self.receipts for (shard,) in find(_KNOWN_SQLITE, one)}
