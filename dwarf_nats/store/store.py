"""One shard: what the engine asks of a database, one true sentence a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest, Conflict, NotFound, Unavailable
from dwarf_nats.rules.decide import UNLIMITED, Limits
from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.settlement import NewIds, Settled
from dwarf_nats.store import listing, migrate
from dwarf_nats.store.cohorts import no_ids
from dwarf_nats.store.postgres import Postgres, shown_dsn
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.rows import FlowRow, StepRow, flow_row, step_row
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock
    from dwarf_nats.rules.settlement import NewFlow, NewIds, Settled, Settlement
    from dwarf_nats.store.database import Row, Tx
    from dwarf_nats.workflow.options import Query


def open_database(dsn: str, pool: int, clock: Clock) -> Postgres | Sqlite:
    """The database of a DSN: `postgresql://…`, `sqlite:///path`, or `sqlite://` for one in memory."""
    scheme = dsn.split("://", 1)[0]
    if scheme in ("postgresql", "postgres"):
        return Postgres(dsn, pool)
    if scheme == "sqlite" and "://" in dsn:
        path = dsn.split("://", 1)[1]
        return Sqlite(path[1:] if path.startswith("/") else path, clock)
    raise BadRequest(f"DSN {dsn.split('@')[-1]!r} is not understood: use postgresql://user@host/name or sqlite:///path")


class SqlStore:
    """One shard on PostgreSQL or SQLite. Every method raises `Unavailable` while the database is away."""

    def __init__(self, shard: int, dsn: str, *, pool: int, clock: Clock) -> None:
        self.shard = shard
        self.dsn = dsn
        self.database = open_database(dsn, pool, clock)
        self.replica_id = 0

    async def open(self, replica_name: str, *, migrated: bool) -> None:
        """Connect, bring the schema up to date if `migrated`, and enter this replica."""
        if isinstance(self.database, Postgres):
            if migrated:
                await migrate.migrate_postgres(self.dsn)
            else:
                self._check_revision(await migrate.revision_postgres(self.dsn))
            await self.database.open()
        else:
            await self.database.open()
            if migrated:
                await migrate.migrate_sqlite(self.database)
            else:
                self._check_revision(await migrate.revision_sqlite(self.database))
        self.replica_id = (await self.database.next_ids("replica"))[0]
        if isinstance(self.database, Sqlite):  # the only replica there can be: the others are dead
            await self.database.fetch("delete from dwarf_replicas")
        await self.beat(replica_name)

    def _check_revision(self, revision: str | None) -> None:
        if revision != migrate.head():
            raise Unavailable(
                f"the schema of {shown_dsn(self.dsn)} is at revision {revision}, this version needs {migrate.head()}:"
                " run dwarf-nats migrate"
            )

    async def close(self) -> None:
        await self.database.close()

    # -- the hot ones

    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]:
        return await self.database.create(group, self.replica_id, budget_ms)

    async def claim(self, limit: int, budget_ms: int) -> list[Row]:
        return await self.database.claim(limit, self.replica_id, budget_ms)

    async def settle(
        self,
        group: Sequence[Settlement],
        budget_ms: int,
        new_step: NewIds = no_ids,
        limits: Limits = UNLIMITED,
    ) -> Settled:
        return await self.database.settle(group, self.replica_id, budget_ms, new_step, limits)

    async def next_ids(self, kind: str) -> tuple[int, int]:
        return await self.database.next_ids(kind)

    # -- graphs

    async def save_graph(self, digest: str, body: bytes) -> None:
        """Identical graphs are stored once (G10)."""
        await self.database.fetch(
            "insert into dwarf_graphs (digest, body) values ($1, $2) on conflict (digest) do nothing",
            digest,
            body.decode(),
        )

    async def load_graph(self, digest: str) -> bytes | None:
        rows = await self.database.fetch("select body from dwarf_graphs where digest = $1", digest)
        return rows[0][0].encode() if rows else None

    async def register_graph(self, name: str, digest: str) -> int:
        rows = await self.database.fetch(
            "insert into dwarf_registry (name, digest, updated_at) values ($1, $2, {now})"
            " on conflict (name) do update set digest = excluded.digest, updated_at = excluded.updated_at"
            " returning updated_at",
            name,
            digest,
        )
        return int(rows[0][0])

    async def unregister_graph(self, name: str) -> bool:
        return bool(await self.database.fetch("delete from dwarf_registry where name = $1 returning name", name))

    async def registered_graphs(self) -> list[tuple[str, str, int]]:
        rows = await self.database.fetch("select name, digest, updated_at from dwarf_registry order by name")
        return [(row[0], row[1], int(row[2])) for row in rows]

    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]:
        """Digests of those of `names` that are registered."""
        rows = await self.database.fetch(
            "select name, digest from dwarf_registry where name in (select value from json_each($1))"
            if isinstance(self.database, Sqlite)
            else "select name, digest from dwarf_registry where name = any($1::text[])",
            list(names),
        )
        return {row[0]: row[1] for row in rows}

    # -- one flow

    async def flow(self, key: Key, what: str = "flow") -> FlowRow:
        """The flow of a key; `NotFound` if there is none or the token is wrong."""
        row = await self.flow_by_id(key.id)
        if row is None or row.token != key.token:
            raise no_such(what, key)
        return row

    async def flow_by_id(self, flow_id: int) -> FlowRow | None:
        rows = await self.database.fetch(f"select {FlowRow.columns()} from dwarf_flows where flow_id = $1", flow_id)
        return flow_row(rows[0]) if rows else None

    async def flow_by_idempotency(self, fairness_key: str, idempotency_key: str) -> FlowRow | None:
        """The flow made before with this idempotency key (O1)."""
        rows = await self.database.fetch(
            f"select {FlowRow.columns()} from dwarf_flows"
            " where fairness_key = $1 and idempotency_key = $2 and idempotency_key <> ''",
            fairness_key,
            idempotency_key,
        )
        return flow_row(rows[0]) if rows else None

    async def steps(self, flow_id: int) -> list[StepRow]:
        """The steps of a flow by depth and id (O7)."""
        rows = await self.database.fetch(
            f"select {StepRow.columns()} from dwarf_steps where flow_id = $1 order by depth, step_id", flow_id
        )
        return [step_row(row) for row in rows]

    async def step(self, key: Key) -> StepRow:
        """The step of a key; `NotFound` if there is none or the token is wrong."""
        row = await self.step_by_id(key.id)
        if row is None or row.token != key.token:
            raise no_such("step", key)
        return row

    async def step_by_id(self, step_id: int) -> StepRow | None:
        rows = await self.database.fetch(f"select {StepRow.columns()} from dwarf_steps where step_id = $1", step_id)
        return step_row(rows[0]) if rows else None

    async def fingerprint(self, flow_id: int) -> Sequence[Any]:
        """Numbers that change whenever the flow or one of its steps does (O6)."""
        rows = await self.database.fetch(
            "select f.status, f.updated_at, f.notify, s.* from dwarf_flows f, ("
            " select count(*), coalesce(max(updated_at), 0), coalesce(sum(lease_seq), 0), coalesce(sum(attempt), 0),"
            " coalesce(sum(case when status = 'completed' then 1 when status = 'running' then 1000003"
            " when status = 'pending' then 2000003 else 3000017 end), 0)"
            " from dwarf_steps where flow_id = $1) s where f.flow_id = $1",
            flow_id,
        )
        return tuple(str(value) for value in rows[0]) if rows else ()

    async def start(self, flow_id: int, notify: str) -> tuple[int, list[tuple[int, int, int]]]:
        """Created → running, its steps → pending; the time and `(step id, priority, not before)` of each (O2).

        Raises `Conflict` unless the flow is created.
        """
        async with self.database.transaction() as tx:
            steps = await tx.fetch(
                "update dwarf_steps set status = 'pending', updated_at = {now}, not_before = {greatest}(not_before, {now})"
                " where flow_id = $1 and status = 'created' returning step_id, priority, not_before",
                flow_id,
            )
            started = await tx.fetch(
                "update dwarf_flows set status = 'running', started_at = {now}, updated_at = {now},"
                " notify = case when $2 = '' then notify else $2 end"
                " where flow_id = $1 and status = 'created' returning updated_at",
                flow_id,
                notify,
            )
            if not started:
                raise await _conflict(tx, flow_id, "started", [Status.CREATED])
        return int(started[0][0]), [(int(s[0]), int(s[1]), int(s[2])) for s in steps]

    async def cancel(
        self, flow_id: int, reason: str, final_state: Callable[[list[StepRow]], bytes]
    ) -> tuple[int, list[tuple[int, str]]]:
        """→ cancelled, its live steps with it; the time, and id and token of the steps that were running (O10).

        `final_state` makes the final state from the steps. Raises `Conflict` if the flow is terminal.
        """
        async with self.database.transaction() as tx:
            live = await tx.fetch(
                "select step_id, token, status from dwarf_steps where flow_id = $1"
                " and status in ('created', 'pending', 'running', 'interrupted') order by step_id {for_update}",
                flow_id,
            )
            await tx.fetch(_CANCEL_STEPS, flow_id)
            cancelled = await tx.fetch(
                "update dwarf_flows set status = 'cancelled', cancel_reason = $2, updated_at = {now}"
                " where flow_id = $1 and status in ('created', 'running', 'interrupted') returning updated_at",
                flow_id,
                reason,
            )
            if not cancelled:
                raise await _conflict(tx, flow_id, "cancelled", flow_sources(Status.CANCELLED))
            # A settlement that committed in between may have left a successor.
            await tx.fetch(_CANCEL_STEPS, flow_id)
            rows = await tx.fetch(
                f"select {StepRow.columns()} from dwarf_steps where flow_id = $1 order by depth, step_id", flow_id
            )
            await tx.fetch(
                "update dwarf_flows set final_state = $2 where flow_id = $1",
                flow_id,
                final_state([step_row(row) for row in rows]).decode(),
            )
        return int(cancelled[0][0]), [(int(row[0]), row[1]) for row in live if row[2] == "running"]

    async def bury(self, step_ids: Sequence[int]) -> None:
        """Steps of terminal flows take their flow's status (X2)."""
        await self.database.fetch(
            "update dwarf_steps set status = (select f.status from dwarf_flows f where f.flow_id = dwarf_steps.flow_id),"
            " claimed_by = null, lease_expires = null, updated_at = {now} where step_id {in:$1}",
            list(step_ids),
        )

    async def delete(self, flow_id: int) -> None:
        """Remove a flow and its steps; `Conflict` while it runs (O9)."""
        async with self.database.transaction() as tx:
            if await _remove(tx, [flow_id]) == 0 and await tx.fetch(
                "select 1 from dwarf_flows where flow_id = $1", flow_id
            ):
                raise Conflict("the flow is running: cancel it first, then delete it")

    # -- many flows

    async def list_flows(self, query: Query, thread_id: int | None, cursor: str) -> tuple[list[Row], str]:
        return await listing.page(self.database, self.shard, query, thread_id, cursor)

    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int:
        """Remove what matches and is not running, at most `limit`; how many (O9)."""
        sql, args = listing.purgeable(self.shard, query, thread_id, limit)
        async with self.database.transaction() as tx:
            rows = await tx.fetch(sql, *args)
            return await _remove(tx, [int(row[0]) for row in rows])

    async def size(self) -> tuple[int, int]:
        """How many flows and steps."""
        rows = await self.database.fetch(
            "select (select count(*) from dwarf_flows), (select count(*) from dwarf_steps)"
        )
        return int(rows[0][0]), int(rows[0][1])

    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]:
        """Which of these flows are stopped, or gone."""
        rows = await self.database.fetch(
            "select flow_id from dwarf_flows where flow_id {in:$1} and status in ('created', 'running')", list(flow_ids)
        )
        going = {int(row[0]) for row in rows}
        return [flow_id for flow_id in flow_ids if flow_id not in going]

    async def cancelled_among(self, step_ids: Sequence[int]) -> list[int]:
        """Which of these steps are cancelled, or gone with their flow."""
        rows = await self.database.fetch(
            "select step_id from dwarf_steps where step_id {in:$1} and status <> 'cancelled'", list(step_ids)
        )
        others = {int(row[0]) for row in rows}
        return [step_id for step_id in step_ids if step_id not in others]

    # -- upkeep

    async def next_due(self) -> int | None:
        """Microseconds until the next pending step is due; `None` if there is none."""
        rows = await self.database.fetch(
            "select min(not_before) - {now} from dwarf_steps where status = 'pending' and parked = 0"
        )
        return None if rows[0][0] is None else int(rows[0][0])

    async def beat(self, name: str) -> None:
        """Renew this replica's row (B2)."""
        await self.database.fetch(
            "insert into dwarf_replicas (replica_id, name, seen_at) values ($1, $2, {now})"
            " on conflict (replica_id) do update set seen_at = excluded.seen_at",
            self.replica_id,
            name,
        )

    async def recover(self, timeout_ms: int) -> int:
        """Give back the steps of replicas that went silent, and those past their lease; how many (B2)."""
        rows = await self.database.fetch(
            "update dwarf_steps set status = 'pending', claimed_by = null, lease_expires = null, updated_at = {now}"
            " where status = 'running' and parked = 0 and (lease_expires < {now} or claimed_by not in"
            " (select replica_id from dwarf_replicas where seen_at > {now} - $1))"
            " and flow_id in (select flow_id from dwarf_flows where status in ('running', 'interrupted'))"
            " returning step_id",
            timeout_ms * 1000,
        )
        await self.database.fetch(
            "delete from dwarf_replicas where seen_at < {now} - $1 and replica_id not in"
            " (select claimed_by from dwarf_steps where status = 'running' and claimed_by is not null)",
            timeout_ms * 10_000,
        )
        return len(rows)

    async def disown(self, in_hand: Sequence[int]) -> int:
        """Give back what this replica holds in the database but not in its hands, after an outage (B6); how many."""
        rows = await self.database.fetch(
            "update dwarf_steps set status = 'pending', claimed_by = null, lease_expires = null, updated_at = {now}"
            " where status = 'running' and claimed_by = $1 and not (step_id {in:$2}) returning step_id",
            self.replica_id,
            list(in_hand),
        )
        return len(rows)

    async def leave(self) -> None:
        """Give back all this replica holds, and its row (B3)."""
        await self.disown([])
        await self.database.fetch("delete from dwarf_replicas where replica_id = $1", self.replica_id)

    async def remove_completed(self, age_ms: int) -> int:
        """Remove completed flows marked delete_on_completion, `age_ms` after they ended; how many (O1)."""
        async with self.database.transaction() as tx:
            rows = await tx.fetch(
                "select flow_id from dwarf_flows where delete_on_completion = 1 and status = 'completed'"
                " and updated_at < {now} - $1 order by flow_id limit 1000",
                age_ms * 1000,
            )
            return await _remove(tx, [int(row[0]) for row in rows])


_CANCEL_STEPS = (
    "update dwarf_steps set status = 'cancelled', claimed_by = null, lease_expires = null, updated_at = {now}"
    " where flow_id = $1 and status in ('created', 'pending', 'running', 'interrupted')"
)


async def _remove(tx: Tx, flow_ids: list[int]) -> int:
    """Remove those that do not run, with their steps; how many. Steps are locked before flows (X10)."""
    if not flow_ids:
        return 0
    await tx.fetch("select 1 from dwarf_steps where flow_id {in:$1} order by step_id {for_update}", flow_ids)
    rows = await tx.fetch(
        "select flow_id from dwarf_flows where flow_id {in:$1} and status <> 'running' order by flow_id {for_update}",
        flow_ids,
    )
    still = [int(row[0]) for row in rows]
    await tx.fetch("delete from dwarf_steps where flow_id {in:$1}", still)
    await tx.fetch("delete from dwarf_flows where flow_id {in:$1}", still)
    return len(still)


async def _conflict(tx: Tx, flow_id: int, verb: str, wanted: Sequence[Status]) -> Conflict | NotFound:
    rows = await tx.fetch("select status from dwarf_flows where flow_id = $1", flow_id)
    if not rows:
        return NotFound("no such flow")
    return Conflict(f"the flow is {rows[0][0]}: only a {' or '.join(wanted)} one can be {verb}")


def no_such(what: str, key: Key) -> NotFound:
    """A wrong token looks exactly like an id that does not exist."""
    return NotFound(f"no {what} {key.shown}: check the key, or it was deleted")
