"""One shard: what the engine asks of a database, one true sentence a method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest, Conflict, NotFound, Unavailable
from dwarf_nats.ports import Unusable
from dwarf_nats.redact import redacted_url
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.rows import (
    Facts,
    FlowRow,
    HeartbeatReply,
    Paused,
    PriorityBacklog,
    Reservation,
    StepRow,
    TreeChange,
    flow_row,
    step_row,
)
from dwarf_nats.rules.scheduling.values import NO_BUDGETS, Page, PageRequest, Share
from dwarf_nats.rules.settlement import SettleResult
from dwarf_nats.rules.steps import NewIds, ReadyStep
from dwarf_nats.store import breakers, deployment, graphs, lent, listing, rewinding, steering, sweeping
from dwarf_nats.store.cohorts import no_ids
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.dsn import is_postgres
from dwarf_nats.store.faults import needs_a_person, one_line, root_of
from dwarf_nats.store.histories import Histories
from dwarf_nats.store.postgres import Postgres
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.store.statements.backlog import Backlog
from dwarf_nats.store.statements.claim import Claim, ClaimProbe
from dwarf_nats.store.statements.create import CreateFlows
from dwarf_nats.store.statements.ids import next_ids
from dwarf_nats.store.statements.peek import Peek
from dwarf_nats.store.statements.ready import FIRST_READY, NEXT_SCHEDULED, PromoteDue
from dwarf_nats.store.statements.settle import Settle
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.rules.steps import NewFlow, NewIds
    from dwarf_nats.store.database import Row, Tx
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.state import State


def open_database(dsn: str, pool: int, clock: Clock) -> Postgres | Sqlite:
    """The database of a DSN: `postgresql://…`, `sqlite:///path`, or `sqlite://` for one in memory."""
    scheme = dsn.split("://", 1)[0]
    if is_postgres(dsn):
        return Postgres(dsn, pool)
    if scheme == "sqlite" and "://" in dsn:
        path = dsn.split("://", 1)[1]
        if "?" in path:
            raise BadRequest(f"the DSN {redacted_url(dsn)} is not understood: one of SQLite has no parameters")
        return Sqlite(path[1:] if path.startswith("/") else path, clock)
    raise BadRequest(f"DSN {redacted_url(dsn)!r} is not understood: use postgresql://user@host/name or sqlite:///path")


class SqlStore:
    """One shard on PostgreSQL or SQLite. Every method raises `Unavailable` while the database is away."""

    def __init__(self, shard: int, dsn: str, *, pool: int, clock: Clock) -> None:
        self.shard = shard
        self.dsn = dsn
        self.database = open_database(dsn, pool, clock)
        self.histories = Histories(self.database)
        self.label = self.database.label
        """Which database this is, for messages."""
        self.replica_id = 0
        self.known = shard
        """How many shards this replica knows; the others are told with its next beat."""

    async def open(self, replica_name: str, *, migrated: bool) -> None:
        """Connect, bring the schema up to date if `migrated`, and enter this replica."""
        self.database.outages.quiet = True
        try:
            await self._open(replica_name, migrated=migrated)
            self.database.outages.quiet = False
        except Unavailable as error:
            self.database.unavailable_reason = str(error)  # for whoever asks meanwhile
            if not isinstance(error, Unusable) and needs_a_person(error):
                raise Unusable(f"{self.label} cannot be used: {one_line(root_of(error))}") from error
            raise

    async def _open(self, replica_name: str, *, migrated: bool) -> None:
        await self.database.open_shard(migrated=migrated)
        self.replica_id = (await next_ids(self.database, "replica"))[0]
        if self.database.is_exclusive:  # the only replica there can be: the others are dead
            await self.database.fetch("delete from dwarf_replicas")
        await self.heartbeat(replica_name)
        await self.database.startup_done()

    async def close(self) -> None:
        await self.database.close()

    def resize(self, pool: int) -> None:
        """Have another number of connections for operations."""
        self.database.resize(pool)

    # -- the hot ones

    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]:
        operation = CreateFlows(flows=group, replica_id=self.replica_id, budget_ms=budget_ms)
        return await self.database.run(operation)

    async def peek(self, request: PageRequest, blocked_tasks: Collection[str] = ()) -> Page:
        return await self.database.read(Peek(request, blocked_tasks))

    async def promote_due(self, limit: int) -> int:
        return await self.database.run(PromoteDue(limit))

    async def claim(
        self,
        limit: int,
        budget_ms: int,
        shares: Sequence[Share] | None = None,
        task_budgets: Mapping[str, int] = NO_BUDGETS,
    ) -> list[ClaimedRow]:
        if shares is None:
            await self.promote_due(limit)
            page = await self.peek(PageRequest(limit=limit))
            shares = [Share(head.priority, head.fairness_key, limit) for head in page.heads]
        if not shares:
            return []
        return await self.database.run(
            Claim(
                limit=limit,
                replica_id=self.replica_id,
                budget_ms=budget_ms,
                shares=shares,
                task_budgets=task_budgets,
            )
        )

    async def settle(
        self,
        group: Sequence[Settlement],
        budget_ms: int,
        new_step: NewIds = no_ids,
        limits: Limits = UNLIMITED,
    ) -> SettleResult:
        return await self.database.run(
            Settle(group=group, replica_id=self.replica_id, budget_ms=budget_ms, new_step=new_step, limits=limits)
        )

    # -- what replicas agree on, and idempotency keys

    async def facts(self) -> Facts | None:
        return await deployment.facts(self.database)

    async def enter(self, name: str) -> Facts:
        return await deployment.enter(self.database, name, self.shard)

    async def raise_shards(self, shards: int) -> None:
        await deployment.raise_shards(self.database, shards)

    async def least_known(self, timeout_ms: int) -> int:
        return await deployment.least_known(self.database, timeout_ms)

    async def key(self, fairness_key: str, idempotency_key: str) -> tuple[int, Reservation | None]:
        return await deployment.key(self.database, fairness_key, idempotency_key)

    async def reserve(self, new: NewFlow) -> Reservation | None:
        try:
            return await self.database.transact(lambda tx: deployment.reserve(tx, new))
        except deployment.OtherCount:
            return None

    async def free_key(self, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None:
        await deployment.free_key(self.database, fairness_key, idempotency_key, shard, flow_id)

    async def placed(self, flow_id: int) -> bool | None:
        return await deployment.placed(self.database, flow_id)

    async def fence(self, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
        return await deployment.fence(self.database, fairness_key, idempotency_key, flow_id)

    async def gone(self, limit: int) -> list[tuple[int, str, str]]:
        return await deployment.gone(self.database, limit)

    async def told(self, flow_ids: Sequence[int]) -> None:
        await deployment.told(self.database, flow_ids)

    async def next_ids(self, kind: str) -> tuple[int, int]:
        return await next_ids(self.database, kind)

    # -- graphs

    async def save_graph(self, digest: str, body: bytes) -> int:
        """Identical graphs are stored once (G10); until when this one is kept."""
        return await graphs.save(self.database, digest, body)

    async def prune_graphs(self, after: str, limit: int) -> tuple[int, str]:
        return await graphs.prune(self.database, after, limit)

    async def load_graph(self, digest: str) -> bytes | None:
        rows = await self.database.fetch("select body from dwarf_graphs where digest = $1", digest)
        return rows[0][0].encode() if rows else None

    async def register_graph(self, name: str, digest: str, updated_at: int | None = None) -> int:
        """Name a graph; when. With `updated_at`, copied from another shard: a younger name here stays."""
        rows = await self.database.fetch(
            "insert into dwarf_registry (name, digest, updated_at) values ($1, $2, coalesce($3, {now}))"
            " on conflict (name) do update set digest = excluded.digest, updated_at = excluded.updated_at"
            " where $3 is null or dwarf_registry.updated_at < excluded.updated_at"
            " returning updated_at",
            name,
            digest,
            updated_at,
        )
        return int(rows[0][0]) if rows else 0

    async def unregister_graph(self, name: str) -> bool:
        return bool(await self.database.fetch("delete from dwarf_registry where name = $1 returning name", name))

    async def registered_graphs(self) -> list[tuple[str, str, int]]:
        rows = await self.database.fetch("select name, digest, updated_at from dwarf_registry order by name")
        return [(row[0], row[1], int(row[2])) for row in rows]

    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]:
        """Digests of those of `names` that are registered."""
        rows = await self.database.fetch(
            "select name, digest from dwarf_registry where name {in_text:$1}",
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

    async def thread(self, key: Key) -> FlowRow:
        """The flow of a key, or another flow of the thread that it names if that flow is gone (O15).

        Raises `NotFound`.
        """
        row = await self.flow_by_id(key.id)
        if row is not None and row.token == key.token:
            return row
        rows = await self.database.fetch(
            f"select {FlowRow.columns()} from dwarf_flows"
            " where thread_id = $1 and thread_token = $2 and surgraph_flow_id is null limit 1",
            key.id,
            key.token,
        )
        if not rows:
            raise no_such("thread", key)
        return flow_row(rows[0])

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

    async def steps(self, flow_ids: Sequence[int], *, whole: bool = False) -> list[StepRow]:
        """The steps of flows by depth and id; with state and changes if `whole` (O7)."""
        rows = await self.database.fetch(
            f"select {StepRow.columns(whole=whole)} from dwarf_steps where flow_id {{in:$1}} order by depth, step_id",
            list(flow_ids),
        )
        return [step_row(row) for row in rows]

    async def count_steps(self, flow_ids: Sequence[int], most: int) -> int:
        rows = await self.database.fetch(
            "select count(*) from (select 1 from dwarf_steps where flow_id {in:$1} limit $2) counted",
            list(flow_ids),
            most + 1,
        )
        return int(rows[0][0])

    async def tree(self, root_id: int) -> dict[int, FlowRow]:
        """The flows of a tree by their ids: a root flow and those it called, directly or not."""
        return await self.database.transact(lambda tx: steering.tree(tx, root_id))

    async def called(self, flow: FlowRow) -> list[FlowRow]:
        """The flow, and those it called, directly or not."""
        flows = await self.tree(flow.root_id)
        return [flows[one] for one in steering.descendants(flows, flow.flow_id) if one in flows]

    async def oldest_pause(self, flow: FlowRow) -> Paused | None:
        """The pause that the flow's outcome shows (O5)."""

        async def work(tx: Tx) -> Paused | None:
            flows = await steering.tree(tx, flow.root_id)
            found = await steering.pauses(tx, steering.descendants(flows, flow.flow_id))
            if not found:
                return None
            found[0].state = encode_state(await lent.whole(tx.fetch, found[0].state, found[0].borrowed)).decode()
            return found[0]

        return await self.database.transact(work)

    async def step(self, key: Key) -> StepRow:
        """The step of a key, its state whole; `NotFound` if there is none or the token is wrong."""
        row = await self.step_by_id(key.id)
        if row is None or row.token != key.token:
            raise no_such("step", key)
        try:
            row.state = encode_state(await self.whole(row.state, row.borrowed)).decode()
        except state_refs.DanglingRef:
            raise no_such("step", key) from None
        return row

    async def held(self, step_ids: Collection[int]) -> state_refs.RefSource:
        """What these steps hold, for those who borrow from them."""
        return state_refs.RefSource(await self.database.fetch(lent.HELD, sorted(step_ids)) if step_ids else ())

    async def whole(self, state: str, borrowed: str | None) -> State:
        """A stored state with what it borrows. Raises `state_refs.DanglingRef`."""
        return await lent.whole(self.database.fetch, state, borrowed)

    async def step_by_id(self, step_id: int) -> StepRow | None:
        rows = await self.database.fetch(f"select {StepRow.columns()} from dwarf_steps where step_id = $1", step_id)
        return step_row(rows[0]) if rows else None

    async def fingerprint(self, flow: FlowRow) -> Sequence[Any]:
        """Numbers that change whenever the flow, one it called, or a step of theirs does (O6)."""
        called = [one.flow_id for one in await self.called(flow)] if flow.surgraph_flow_id is not None else []
        which = "flow_id {in:$2}" if called else "flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
        rows = await self.database.fetch(
            f"with mine as (select * from dwarf_flows where {which})"
            " select f.status, f.updated_at, f.notify, f.breakpoints, t.*, s.* from dwarf_flows f,"
            " (select count(*), coalesce(max(updated_at), 0), coalesce(sum(updated_at % 1000000007), 0),"
            "  coalesce(sum(length(coalesce(breakpoints, ''))), 0) from mine) t,"
            " (select count(*), coalesce(max(updated_at), 0), coalesce(sum(lease_seq), 0), coalesce(sum(attempt), 0),"
            "  coalesce(sum(case when status = 'completed' then 1 when status = 'running' then 1000003"
            "  when status = 'pending' then 2000003 when status = 'interrupted' then 3000017 else 4000037 end), 0)"
            "  from dwarf_steps where flow_id in (select flow_id from mine)) s where f.flow_id = $1",
            flow.flow_id,
            *([called] if called else []),
        )
        return tuple(str(value) for value in rows[0]) if rows else ()

    async def start(self, flow_id: int, notify: str) -> tuple[int, list[ReadyStep]]:
        """Created → running, its steps → pending; the time, and the steps (O2).

        Raises `Conflict` unless the flow is created.
        """

        async def work(tx: Tx) -> tuple[int, list[ReadyStep]]:
            steps = await tx.fetch(
                f"update dwarf_steps set status = 'pending', parked = {PARKED}, updated_at = {{now}},"
                " not_before = {greatest}(not_before, {now})"
                " where flow_id = $1 and status = 'created' returning step_id, priority, not_before",
                flow_id,
            )
            started = await tx.fetch(
                "update dwarf_flows set status = 'running', started_at = {now}, updated_at = {greatest}({now}, updated_at + 1),"
                " notify = case when $2 = '' then notify else $2 end"
                " where flow_id = $1 and status = 'created' returning updated_at",
                flow_id,
                notify,
            )
            if not started:
                raise await steering.conflict(tx, flow_id, "started", [Status.CREATED])
            return int(started[0][0]), [ReadyStep(int(s[0]), int(s[1]), int(s[2])) for s in steps]

        return await self.database.transact(work)

    async def cancel(self, flow: FlowRow, reason: str, final_state: steering.FinalState) -> TreeChange:
        return await self.database.transact(
            lambda tx: steering.cancel(tx, flow.flow_id, flow.root_id, reason, final_state)
        )

    async def resume(
        self, flow: FlowRow, data: str | None, overrides: State | None, limits: Limits = UNLIMITED
    ) -> TreeChange:
        return await self.database.transact(
            lambda tx: steering.resume(tx, flow.flow_id, flow.root_id, data, overrides, limits)
        )

    async def break_before(self, flow: FlowRow, task: str, *, enabled: bool) -> None:
        await self.database.transact(
            lambda tx: steering.break_before(tx, flow.flow_id, flow.root_id, task, enabled=enabled)
        )

    async def restart(self, flow: FlowRow, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
        return await self.database.transact(lambda tx: steering.restart(tx, flow.flow_id, overrides, limits))

    async def restart_from(
        self,
        step: StepRow,
        flow: FlowRow,
        overrides: State,
        graph_of: Callable[[FlowRow], Graph],
        limits: Limits = UNLIMITED,
    ) -> TreeChange:
        return await self.database.transact(
            lambda tx: rewinding.restart_from(tx, step.step_id, flow.flow_id, flow.root_id, overrides, graph_of, limits)
        )

    async def insert_fork(self, root: FlowRow, forked: Forked) -> TreeChange:
        return await self.database.transact(lambda tx: steering.insert_fork(tx, root, forked))

    async def latest_of_thread(self, thread_id: int) -> FlowRow | None:
        return await self.database.transact(lambda tx: steering.latest_of_thread(tx, thread_id))

    async def create_next(self, latest: FlowRow, new: NewFlow) -> int | None:
        """As `steering.create_next`; `None` as well if the thread has moved on, or a shard was added meanwhile."""
        try:
            return await self.database.transact(lambda tx: steering.create_next(tx, latest, new))
        except (steering.Moved, deployment.OtherCount):
            return None

    async def close_stale_steps(self, step_ids: Sequence[int]) -> None:
        """Steps of terminal flows take their flow's status (X2)."""
        await self.database.fetch(
            "update dwarf_steps set status = (select f.status from dwarf_flows f where f.flow_id = dwarf_steps.flow_id),"
            " parked = 0, claimed_by = null, lease_expires = null, updated_at = {now} where step_id {in:$1}",
            list(step_ids),
        )

    async def delete(self, flow_id: int) -> None:
        """Remove a root flow with its tree; `Conflict` while it runs (O9)."""

        async def work(tx: Tx) -> None:
            if await steering.remove(tx, [flow_id]) == 0 and await tx.fetch(
                "select 1 from dwarf_flows where flow_id = $1", flow_id
            ):
                raise Conflict("the flow is running: cancel it first, then delete it")

        await self.database.transact(work)

    # -- many flows

    async def list_flows(self, query: Query, limit: int, thread_id: int | None, cursor: str) -> tuple[list[Row], str]:
        """At most `limit` summaries that match, newest first, and the cursor of the next page (O9)."""
        return await listing.page(self.database, self.shard, query, limit, thread_id, cursor)

    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int:
        """Remove what matches and is not running, at most `limit`; how many (O9)."""
        sql, args = listing.purgeable(self.shard, query, thread_id, limit)

        async def work(tx: Tx) -> int:
            rows = await tx.fetch(sql, *args)
            return await steering.remove(tx, [int(row[0]) for row in rows])

        return await self.database.transact(work)

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

    async def bands(self, bands: int, steps: int, keys: int) -> list[PriorityBacklog]:
        """The best `bands` with due steps; of each at most so many steps and fairness keys are counted.

        It reads by index, so the cost is bounded by what it counts, however long the line is (C4).
        """
        return await self.database.read_aside(Backlog(bands, steps, keys))

    # -- tasks that cannot serve

    async def trip(self, url: str, cause: str) -> None:
        await breakers.trip(self.database, url, cause)

    async def untrip(self, url: str) -> None:
        await breakers.untrip(self.database, url)

    async def park(self, url: str) -> None:
        await self.database.transact_by_index(lambda tx: breakers.park(tx, url))

    async def release(self, url: str, limit: int) -> list[ReadyStep]:
        return await self.database.transact_by_index(lambda tx: breakers.release(tx, url, limit))

    async def claim_probe(self, url: str, budget_ms: int) -> ClaimedRow | None:
        return await self.database.run(ClaimProbe(url=url, replica_id=self.replica_id, budget_ms=budget_ms))

    async def next_probe(self, url: str) -> int | None:
        return await breakers.next_probe(self.database, url)

    async def is_tripped(self, url: str) -> bool:
        return await breakers.is_tripped(self.database, url)

    async def tripped_tasks(self) -> dict[str, str]:
        return await breakers.tripped_tasks(self.database)

    async def parked_tasks(self) -> list[str]:
        return await breakers.parked_tasks(self.database)

    # -- upkeep

    async def is_leader(self) -> bool:
        """Whether this replica is the one that sweeps: the longest known of those that live."""
        if self.database.is_exclusive:
            return True
        rows = await self.database.fetch("select min(replica_id) from dwarf_replicas")
        return rows[0][0] is None or int(rows[0][0]) >= self.replica_id

    async def resume_orphaned_parents(self) -> TreeChange:
        return await self.database.transact(sweeping.resume_orphaned_parents)

    async def cancel_orphaned_children(self, final_state: steering.FinalState) -> TreeChange:
        return await self.database.transact(lambda tx: sweeping.cancel_orphaned_children(tx, final_state))

    async def orphaned(self, age_ms: int) -> list[int]:
        return await self.database.transact(lambda tx: sweeping.orphaned(tx, age_ms))

    async def heartbeat(self, name: str) -> HeartbeatReply:
        """Renew this replica's row (B2), and look in passing whether there is work nobody told of (B1)."""
        rows = await self.database.fetch(
            "insert into dwarf_replicas (replica_id, name, seen_at, shards) values ($1, $2, {now}, $3)"
            " on conflict (replica_id) do update set seen_at = excluded.seen_at, shards = excluded.shards"
            f" returning {breakers.ANY_HELD}, ({FIRST_READY}), ({NEXT_SCHEDULED}), seen_at,"
            " (select d.shards from dwarf_deployment d where d.one = 1)",
            self.replica_id,
            name,
            self.known,
        )
        held, ripe, next_due_at, now, shards = rows[0]
        due = ripe if ripe is not None else next_due_at
        return HeartbeatReply(bool(held), None if due is None else max(0, int(due) - int(now)), int(shards or 0))

    async def reclaim_expired_leases(self, timeout_ms: int) -> int:
        """Give back the steps of replicas that went silent, and those past their lease; how many (B2).

        A replica that stands still in the middle of a transaction holds rows: they are left for the next time.
        """
        rows = await self.database.fetch(
            f"update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null,"
            " updated_at = {now} where step_id in (select step_id from dwarf_steps"
            " where status = 'running' and parked = 0 and (lease_expires < {now} or claimed_by not in"
            " (select replica_id from dwarf_replicas where seen_at > {now} - $1))"
            " and flow_id in (select flow_id from dwarf_flows where status in ('running', 'interrupted'))"
            " order by step_id {skip_locked}) returning step_id",
            timeout_ms * 1000,
        )
        return len(rows)

    async def delete_dead_replicas(self, timeout_ms: int) -> None:
        """Remove the rows of replicas that have been silent for ten times as long and hold nothing."""
        await self.database.fetch(
            "delete from dwarf_replicas where seen_at < {now} - $1 and replica_id not in"
            " (select claimed_by from dwarf_steps where status = 'running' and claimed_by is not null)",
            timeout_ms * 10_000,
        )

    async def release_unowned_leases(self, in_flight: Sequence[int]) -> int:
        """Give back what this replica holds in the database but not in its hands, after an outage (B6); how many."""
        rows = await self.database.fetch(
            f"update dwarf_steps set status = 'pending', parked = {PARKED}, claimed_by = null, lease_expires = null,"
            " updated_at = {now} where status = 'running' and claimed_by = $1 and not (step_id {in:$2}) returning step_id",
            self.replica_id,
            list(in_flight),
        )
        return len(rows)

    async def deregister(self) -> None:
        """Give back all this replica holds, and its row (B3)."""
        await self.release_unowned_leases([])
        await self.database.fetch("delete from dwarf_replicas where replica_id = $1", self.replica_id)

    async def remove_completed(self, age_ms: int, limit: int) -> bool:
        """Remove up to `limit` completed flows marked delete_on_completion, `age_ms` after they ended; whether there may be
        more (O1)."""

        async def work(tx: Tx) -> bool:
            rows = await tx.fetch(
                "select flow_id from dwarf_flows where delete_on_completion = 1 and status = 'completed'"
                " and updated_at < {now} - $1 order by updated_at limit $2",
                age_ms * 1000,
                limit,
            )
            return await steering.remove(tx, sorted(int(row[0]) for row in rows)) == limit

        return await self.database.transact(work)


def no_such(what: str, key: Key) -> NotFound:
    """A wrong token looks exactly like an id that does not exist."""
    return NotFound(f"no {what} {key.public_id}: check the key, or it was deleted")
