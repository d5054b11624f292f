"""PostgreSQL: connections, and the three hot statements in its own words.

The hot statements run on a connection of their own, without the pool's reset round trip. That connection is told to use
nested loops over indexes only, and to sort nothing an index has in order: a group is joined to the tables by primary key,
and a plan cached while a table was empty must not become a scan of it when it has grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.breakpoints import stored
from dwarf_nats.rules.claims import ClaimedRow
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.rows import PriorityBacklog
from dwarf_nats.rules.scheduling.values import Page, PageRequest, Share
from dwarf_nats.rules.settlement import Applied, Settlement, SettleResult
from dwarf_nats.rules.steps import NewFlow, NewIds
from dwarf_nats.store import dialect, graphs, line
from dwarf_nats.store.commands import Command, InsertFlows, InsertSteps, Query, QueryMany
from dwarf_nats.store.database import Row, Tx
from dwarf_nats.store.dialect import LIVE, NOW, PARKED, POSTGRES, parked_if_tripped
from dwarf_nats.store.dsn import CONNECT_SECONDS, read
from dwarf_nats.store.effects import effects, has_effects, hold
from dwarf_nats.store.faults import CONFLICTS, CONNECTION, Outages, of_postgres, one_line
from dwarf_nats.store.statements import claim

if TYPE_CHECKING:
    from dwarf_nats.rules.decide import Limits

T = TypeVar("T")
log = logging.getLogger("dwarf_nats.store")
_SESSION = {
    "application_name": "dwarf-nats",
    "jit": "off",
    # A replica that stands still in the middle of a transaction must not hold its locks for ever: it reads that the
    # connection is gone once it goes on, and others do not wait for it any longer.
    "idle_in_transaction_session_timeout": "10000",
}
_HOT = {
    **_SESSION,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
}

# A flow is created only while its graph is certain to be there (`store.graphs`).
_KEPT_YET = f"kept_until > {NOW} + {graphs.SPARE_US}"
_NEW = """
with r as (
  select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::int[], $8::text[],
    $9::float8[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::int[],
    $17::bool[], $18::bool[], $19::bigint[], $20::text[], $21::text[], $22::text[], $23::text[], $24::bigint[],
    $26::bigint[], $27::bigint[], $28::bigint[], $29::text[], $30::text[], $31::bigint[]{types})
  as r(flow_id, token, workflow, digest, thread_id, thread_token, priority, fairness_key, fairness_weight, start_at,
    time_budget_ms, baggage, notify, idempotency_key, request_digest, leaves, start, running, step_id, step_token, node,
    url, state, lease, root_id, surgraph_flow_id, surgraph_step_id, breakpoints, trace, kept_until{columns})),
"""
_MADE = f"""
made as (
  insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority,
    fairness_key, fairness_weight, start_at, time_budget_ms, baggage, notify, idempotency_key, request_digest,
    delete_on_completion, root_id, surgraph_flow_id, surgraph_step_id, breakpoints, trace, created_at, started_at,
    updated_at)
  select flow_id, token, workflow, digest, case when start then 'running' else 'created' end, thread_id, thread_token,
    priority, fairness_key, fairness_weight, start_at, time_budget_ms, baggage, notify, idempotency_key,
    request_digest, leaves, root_id, surgraph_flow_id, surgraph_step_id, breakpoints, trace, {NOW},
    case when start then {NOW} end, {NOW}
  from r
"""
# The home of a key is worked out with the number of shards agreed on, which stays as it is until the transaction ends. A key is
# taken with its flow; one that was taken before, on another shard, brings an id that may have been used meanwhile.
_KEPT = f"""
agreed as materialized (select shards from dwarf_deployment where one = 1 for share),
kept as (
  insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
  select r.fairness_key, r.idempotency_key, 0, r.flow_id, r.token, r.request_digest, {NOW}
  from r where r.reserves and r.shards = (select shards from agreed) and {_KEPT_YET}
  on conflict do nothing
  returning flow_id),
"""

_ENTRY = f"""
entry as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, priority, fairness_key, fairness_weight, created_at, started_at, updated_at, parked)
  select step_id, flow_id, 1, step_token, node, url, state,
    case when not start then 'created' when running then 'running' else 'pending' end,
    case when running then 1 else 0 end, case when running then $25::bigint end,
    case when running then {NOW} + lease end, greatest(coalesce(start_at, 0), {NOW}), priority, fairness_key,
    fairness_weight, {NOW}, case when running then {NOW} end, {NOW},
    case when start and not running then {PARKED} else 0 end
"""
# Without idempotency keys nothing can conflict, and the entry steps need no join with what was made.
CREATE = (
    _NEW.format(types="", columns="")
    + _MADE
    + f"where {_KEPT_YET}"
    + " on conflict (fairness_key, idempotency_key) where idempotency_key <> '' do nothing returning flow_id),"
    + _ENTRY
    + f"from r where {_KEPT_YET}) select flow_id, {NOW} from made"
)
# `is true` keeps the subquery a hashed one; as a join it would compare each with each.
CREATE_KEYED = (
    _NEW.format(types=", $32::int[], $33::bool[]", columns=", shards, reserves")
    + _KEPT
    + _MADE
    + f"where {_KEPT_YET} and (not reserves or (flow_id in (select flow_id from kept)) is true)"
    + " on conflict do nothing returning flow_id),"
    + _ENTRY
    + f"from r where (flow_id in (select flow_id from made)) is true) select flow_id, {NOW} from made"
)

SETTLE = f"""
with r as (
  select * from unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bool[], $15::bigint[], $16::bigint[],
    $17::text[], $18::text[], $20::bool[], $21::int[], $22::text[], $23::text[])
  as r(step_id, lease_seq, status, changes, error, attempt, delay, flow_id, next_id, next_token, next_node, next_url,
    next_state, next_running, next_delay, lease, end_status, final_state, arrives,
    cohort_size, next_borrowed, final_borrowed)),
-- Fenced by the lease generation (X1). The group's own columns come back through `returning`, so nothing is joined twice.
done as (
  update dwarf_steps s set
    status = case when f.status in {LIVE} then r.status else f.status end,
    changes = r.changes, error = r.error, attempt = r.attempt, claimed_by = null, lease_expires = null,
    successor_id = case when f.status in {LIVE} then r.next_id end,
    not_before = case when r.status = 'pending' or r.arrives then {NOW} + r.delay else s.not_before end,
    arrived = r.arrives::int, cohort_size = r.cohort_size, updated_at = {NOW},
    parked = case when r.status = 'pending' and f.status in {LIVE} then {PARKED} else 0 end
  from r join dwarf_flows f on f.flow_id = r.flow_id
  -- `|| ''` hides the status from the partial indexes: a plan made while the table was empty would read all that runs.
  where s.step_id = r.step_id and s.lease_seq = r.lease_seq and s.status || '' = 'running'
  returning s.step_id, s.flow_id, s.depth, s.priority, s.fairness_key, s.fairness_weight, s.spawn_id, s.ordinal,
    r.error, r.next_id,
    r.next_token, r.next_node, r.next_url, r.next_state, r.next_borrowed, r.next_running, r.next_delay, r.lease, r.end_status,
    r.final_state, r.final_borrowed, f.status in {LIVE} as alive, f.breakpoints is not null as held,
    f.updated_at as flow_updated_at),
born as (
  insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
    not_before, predecessor_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, created_at, started_at,
    updated_at, borrowed, parked)
  select next_id, flow_id, depth + 1, next_token, next_node, next_url, next_state,
    case when next_running then 'running' else 'pending' end, case when next_running then 1 else 0 end,
    case when next_running then $19::bigint end, case when next_running then {NOW} + lease end, {NOW} + next_delay,
    step_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, {NOW},
    case when next_running then {NOW} end, {NOW}, next_borrowed,
    case when next_running then 0 else {parked_if_tripped("next_url")} end
  from (
    -- A flow with breakpoints has its steps born pending: their claim looks at the breakpoints (O12).
    select step_id, flow_id, depth, priority, fairness_key, fairness_weight, spawn_id, ordinal, next_id, next_token,
      next_node, next_url, next_state, next_borrowed, next_running and not held as next_running, next_delay, lease
    from done where next_id is not null and alive) d),
ended as (
  update dwarf_flows f set status = d.end_status, final_state = d.final_state, final_borrowed = d.final_borrowed,
    updated_at = greatest({NOW}, f.updated_at + 1), error = case when d.end_status = 'failed' then d.error end
  from done d
  where d.end_status is not null and d.alive and f.flow_id = d.flow_id and f.status in {LIVE}
  returning f.flow_id)
select d.step_id, d.alive and (d.end_status is null or d.flow_id in (select flow_id from ended)),
  case when d.end_status is null then {NOW} else greatest({NOW}, d.flow_updated_at + 1) end, d.held
from done d
"""

BEAR = f"""
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, predecessor_id, spawn_id,
  ordinal, changes, error, successor_id, priority, fairness_key, fairness_weight, lease_seq, claimed_by, lease_expires,
  created_at, started_at, updated_at, borrowed, parked)
select step_id, flow_id, depth, token, node, url, state, status, greatest(not_before, {NOW} + delay), predecessor_id,
  spawn_id, ordinal, changes, error, successor_id, priority, fairness_key, fairness_weight,
  case when status = 'running' then 1 else 0 end, case when status = 'running' then $21::bigint end,
  case when status = 'running' then {NOW} + lease end, {NOW}, case when status <> 'pending' then {NOW} end, {NOW},
  borrowed, case when status = 'pending' then {PARKED} else 0 end
from unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::int[], $14::text[], $15::text[], $16::bigint[],
  $17::int[], $18::text[], $19::float8[], $20::bigint[], $22::text[])
as r(step_id, flow_id, depth, token, node, url, state, status, not_before, delay, predecessor_id, spawn_id, ordinal,
  changes, error, successor_id, priority, fairness_key, fairness_weight, lease, borrowed)
"""
IDLE_SECONDS = 15.0
"""A connection that nobody has used for so long is closed: behind a pooler in session mode it is one that others wait for."""
CHUNK = 2_000
"""Rows of one such statement."""
FIRST_PLANS, LAST_PLANS = 8, 4_096
"""So many runs of hot statements until their plans are made anew: the first time, twice as many each time, and the most."""


class Postgres:
    """One PostgreSQL database."""

    def __init__(self, dsn: str, pool: int) -> None:
        self.target = read(dsn)
        self.label = f"PostgreSQL at {self.target.label}"
        self._size = pool
        self._pool: asyncpg.Pool | None = None
        self._hot: asyncpg.Connection | None = None
        self._hot_lock = asyncio.Lock()
        self._runs = 0
        self._plans_last = FIRST_PLANS
        self.transactions = 0
        self.round_trips = 0
        """What this process asked of the database so far, connecting and migrating apart."""
        self.why = "the engine is not running: its database is closed"
        self._resizing: set[asyncio.Future[None]] = set()
        self.outages = Outages()

    async def open(self) -> None:
        """Connect. Raises `Unavailable` that names the host if the database does not answer."""
        try:
            self._pool = await self._new_pool()
        except (*CONNECTION, asyncpg.PostgresError) as error:
            raise DatabaseAway(f"PostgreSQL at {self.target.label} does not answer: {one_line(error)}") from error

    def _new_pool(self) -> asyncpg.Pool:
        async def connect(*_: Any, **__: Any) -> Any:
            return await self.target.connect(_SESSION)

        return asyncpg.create_pool(
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=IDLE_SECONDS,
            connect=connect,
            reset=_as_it_is,
        )

    def resize(self, size: int) -> None:
        """Have another number of connections from now on; those in use are given back as they are done."""
        if size == self._size:
            return
        self._size = size
        if self._pool is not None:
            resizing = asyncio.ensure_future(_quietly(self._replace_pool()))
            self._resizing.add(resizing)
            resizing.add_done_callback(self._resizing.discard)

    async def _replace_pool(self) -> None:
        made = await self._new_pool()
        old, self._pool = self._pool, made
        if old is None:  # closed meanwhile
            self._pool = None
            old = made
        await old.close()

    async def close(self) -> None:
        hot, self._hot = self._hot, None
        if hot is not None:
            await _quietly(hot.close(timeout=1))
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(1):
                    await pool.close()
            except (*CONNECTION, asyncpg.PostgresError):
                pool.terminate()

    async def fetch(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        with self._translated():
            async with self._acquired() as connection:
                for _ in range(3):
                    self._counted()
                    try:
                        return list(await connection.fetch(POSTGRES.text(sql), *args))
                    except CONFLICTS as error:
                        log.debug("once more: %s", one_line(error))
                self._counted()
                return list(await connection.fetch(POSTGRES.text(sql), *args))

    def _counted(self, trips: int = 1, transactions: int = 1) -> None:
        self.round_trips += trips
        self.transactions += transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        with self._translated():
            async with self._acquired() as connection, connection.transaction():
                tx = _Tx(connection)
                yield tx
                self._counted(2 + tx.trips)

    async def transact(self, work: Callable[[Tx], Awaitable[T]], *, by_index: bool = False) -> T:
        """Do `work` in a transaction, once more where it met a lock conflict (X10).

        `by_index`: no table is read from end to end, whatever the planner knows of it.
        """
        for attempt in range(4):
            with self._translated():
                try:
                    async with self._acquired() as connection, connection.transaction():
                        if by_index:
                            await connection.execute("set local enable_seqscan = off")
                        tx = _Tx(connection)
                        result = await work(tx)
                        self._counted(2 + by_index + tx.trips)
                        return result
                except CONFLICTS as error:
                    if attempt == 3:
                        raise
                    log.debug("once more: %s", one_line(error))
        raise AssertionError("unreachable")

    async def next_ids(self, kind: str) -> tuple[int, int]:
        sql, count = {
            "flow": ("select nextval('dwarf_flow_ids')", 1000),
            "step": ("select nextval('dwarf_step_ids')", 5000),
            "replica": ("select nextval('dwarf_replica_ids')", 1),
        }[kind]
        rows = await self.fetch(sql)
        return int(rows[0][0]), count

    async def create(self, group: Sequence[NewFlow], replica_id: int, budget_ms: int) -> dict[int, int]:
        """Insert flows with their entry steps; flow id → creation time of those whose idempotency key was new."""
        keyed = any(new.idempotency_key for new in group)
        args = _create_args(group, replica_id, budget_ms)
        rows = await self._run_hot(*((CREATE_KEYED, *args, *_key_args(group)) if keyed else (CREATE, *args)))
        return {int(row[0]): int(row[1]) for row in rows}

    async def peek(self, request: PageRequest, blocked_tasks: Collection[str]) -> Page:
        """Read a page of the line, `blocked_tasks` tasks not counted (C4)."""
        sql, args = line.survey_args(request, blocked_tasks)
        return line.page_of(await self._run_hot(sql, *args), request, blocked_tasks)

    async def bands(self, bands: int, steps: int, keys: int) -> list[PriorityBacklog]:
        """See `SqlStore.bands`. On a connection of the pool, so that no settlement waits for it."""

        async def work(tx: Tx) -> list[Row]:
            for other in ("bitmapscan", "sort", "hashjoin", "mergejoin"):
                await tx.fetch(f"set local enable_{other} = off")
            return await tx.fetch(line.DEPTHS, bands, steps, keys)

        return [PriorityBacklog(*row) for row in await self.transact(work, by_index=True)]

    async def promote_due(self, limit: int) -> int:
        """Put up to `limit` steps in line whose time has come; how many."""
        return len(await self._run_hot(line.RIPEN, limit))

    async def claim(
        self, limit: int, replica_id: int, budget_ms: int, shares: Sequence[Share], task_budgets: Mapping[str, int]
    ) -> list[ClaimedRow]:
        """Claim up to `limit` due steps of these shares, best first (X1)."""
        args = (limit, replica_id, budget_ms, *line.columns(shares))
        if task_budgets:
            rows = await self._run_hot(claim.CLAIM_PAST, *args, list(task_budgets), list(task_budgets.values()))
        else:
            rows = await self._run_hot(claim.CLAIM, *args)
        return [ClaimedRow(*row) for row in rows]

    async def claim_probe(self, url: str, replica_id: int, budget_ms: int) -> ClaimedRow | None:
        """Claim the parked step of a task that has been due longest (V4)."""
        rows = await self._run_hot(claim.PROBE, 1, replica_id, budget_ms, url)
        return ClaimedRow(*rows[0]) if rows else None

    async def settle(
        self, group: Sequence[Settlement], replica_id: int, budget_ms: int, new_step: NewIds, limits: Limits
    ) -> SettleResult:
        """Write settlements and what follows from them (see `SettleResult`), in one transaction."""
        args = _settle_args(group, replica_id, budget_ms)
        if not has_effects(group):
            settled = _settled(await self._run_hot(SETTLE, *args))
            hold(group, settled)
            return settled

        async def work(connection: Any) -> SettleResult:
            trips = 3
            async with connection.transaction():
                settled = _settled(await connection.fetch(SETTLE, *args))
                hold(group, settled)
                steps = effects(group, settled, new_step, limits)
                rows: list[Row] | None = None
                with contextlib.suppress(StopIteration):
                    while True:
                        command = next(steps) if rows is None else steps.send(rows)
                        rows = await _grant(connection, command, replica_id, budget_ms)
                        trips += 1 + (len(command.steps) - 1) // CHUNK if isinstance(command, InsertSteps) else 1
            self._counted(trips)
            return settled

        return await self._hotly(work)

    async def fetch_by_index(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        """As `fetch`, on the connection whose plans read through indexes only; for what is short."""
        return await self._run_hot(POSTGRES.text(sql), *args)

    async def _run_hot(self, sql: str, *args: Any) -> list[Row]:
        async def work(connection: Any) -> list[Row]:
            self._counted()
            return list(await connection.fetch(sql, *args))

        return await self._hotly(work)

    async def _hotly(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async with self._hot_lock:
            for attempt in range(4):
                sent = False
                with self._translated():
                    try:
                        if self._hot is None or self._hot.is_closed():
                            with self._entering():
                                self._hot = await self.target.connect(_HOT)
                            self._runs, self._plans_last = 0, FIRST_PLANS
                        await self._replan(self._hot)
                        sent = True
                        return await work(self._hot)
                    except CONFLICTS:
                        if attempt == 3:  # it is not what was to be written that is at fault
                            raise
                    except Exception as error:
                        if sent and not _not_done(error):
                            vars(error)["undecided"] = True
                        if _ends_session(error):
                            self._drop_hot()
                        raise
            raise AssertionError("unreachable")

    def _drop_hot(self) -> None:
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.terminate()

    async def _replan(self, hot: Any) -> None:
        """Forget the plans now and then. A plan made while a table was empty, and known to be, may read an index from end to
        end; nothing tells the connection when the table has grown, until it is analysed again."""
        self._runs += 1
        if self._runs >= self._plans_last:
            self._runs = 0
            self._plans_last = min(self._plans_last * 2, LAST_PLANS)
            self._counted()
            await hot.execute("discard plans")

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise Unavailable(self.why)
        pool = self._pool
        with self._entering():
            connection = await pool.acquire(timeout=max(CONNECT_SECONDS, self.target.timeout))
        try:
            yield connection
        except Exception as error:
            if _ends_session(error):
                with contextlib.suppress(asyncpg.InterfaceError):  # it has left the pool by itself
                    connection.terminate()  # the pool makes another
            raise
        finally:
            await pool.release(connection)

    @contextmanager
    def _entering(self) -> Iterator[None]:
        """Whatever PostgreSQL says to somebody who wants in: it is away for us, as while it is closed for maintenance."""
        try:
            yield
        except asyncpg.PostgresError as error:
            raise DatabaseAway(f"PostgreSQL at {self.target.label} is away, try again: {one_line(error)}") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the driver raises becomes what the engine knows; what is about the database and the moment is told, once."""
        try:
            yield
        except DatabaseAway as error:
            self.outages.heard(error)
            raise
        except Exception as error:
            known = of_postgres(error, self.target.label)
            if known is None:
                raise
            self.outages.heard(known)
            if isinstance(known, Unavailable):
                known.undecided = getattr(error, "undecided", False)
            raise known from error


def _ends_session(error: Exception) -> bool:
    """Whether the next try needs a session of its own: the role's settings may be others then, the server another one."""
    return isinstance(of_postgres(error, ""), Unavailable) and not isinstance(error, CONFLICTS)


def _not_done(error: Exception) -> bool:
    """Whether the statement was certainly not carried out: the server says so, or the driver never sent it.

    Otherwise the connection may have been lost when only the answer was missing.
    """
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True
    lost = asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError | asyncpg.CrashShutdownError
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, lost)


def _create_args(group: Sequence[NewFlow], replica_id: int, budget_ms: int) -> tuple[Any, ...]:
    facts = [new.facts for new in group]
    return (
        [f.flow_id for f in facts], [f.token for f in facts], [f.workflow for f in facts],
        [f.digest for f in facts], [f.thread_id for f in facts], [new.thread_token for new in group],
        [f.priority for f in facts], [f.fairness_key for f in facts], [f.fairness_weight for f in facts],
        [new.start_at for new in group], [f.time_budget_ms for f in facts],
        [bytes(f.baggage).decode() for f in facts], [f.notify for f in facts],
        [new.idempotency_key for new in group], [new.request_digest for new in group],
        [int(new.delete_on_completion) for new in group], [new.start for new in group],
        [new.running for new in group], [new.step_id for new in group], [new.step_token for new in group],
        [new.node for new in group], [new.url for new in group], [new.state_json.decode() for new in group],
        [lease_us(f.time_budget_ms, budget_ms) for f in facts], replica_id,
        [f.root_id or f.flow_id for f in facts], [f.surgraph_flow_id for f in facts],
        [f.surgraph_step_id for f in facts], [stored(f.breakpoints) for f in facts], [f.trace for f in facts],
        [new.kept_until for new in group],
    )  # fmt: skip


def _key_args(group: Sequence[NewFlow]) -> tuple[Any, ...]:
    return [new.shards for new in group], [new.reserves for new in group]


def _settle_args(group: Sequence[Settlement], replica_id: int, budget_ms: int) -> tuple[Any, ...]:
    nexts = [one.successor for one in group]
    ends = [one.end for one in group]
    return (
        [one.step.step_id for one in group], [one.step.lease_seq for one in group],
        [one.status.value for one in group], [one.changes_json().decode() for one in group],
        [one.error_json for one in group], [one.attempt for one in group], [one.delay_us for one in group],
        [one.step.flow.flow_id for one in group], [n and n.step_id for n in nexts], [n and n.token for n in nexts],
        [n and n.node for n in nexts], [n and n.url for n in nexts],
        [n and n.state_json.decode() for n in nexts], [n is not None and n.running for n in nexts],
        [n.delay_us if n else 0 for n in nexts], [lease_us(one.step.flow.time_budget_ms, budget_ms) for one in group],
        [end and end.status.value for end in ends], [end and end.stored_json.decode() for end in ends],
        replica_id, [one.arrives for one in group], [len(one.branches) or None for one in group],
        [n and state_refs.stored(n.refs) for n in nexts], [end and state_refs.stored(end.refs) for end in ends],
    )  # fmt: skip


def _settled(rows: Sequence[Row]) -> SettleResult:
    return SettleResult(
        {int(row[0]): Applied(bool(row[1]), int(row[2])) for row in rows},
        frozenset(int(row[0]) for row in rows if row[3]),
    )


async def _grant(connection: Any, command: Command, replica_id: int, budget_ms: int) -> list[Row]:
    if isinstance(command, Query):
        return list(await connection.fetch(POSTGRES.text(command.text), *command.args))
    if isinstance(command, QueryMany):
        return list(await connection.fetchmany(POSTGRES.text(command.text), command.rows))
    if isinstance(command, InsertFlows):
        await connection.fetch(CREATE, *_create_args(command.flows, replica_id, budget_ms))
        return []
    for start in range(0, len(command.steps), CHUNK):
        rows = command.steps[start : start + CHUNK]
        await connection.fetch(
            BEAR,
            [r.step.step_id for r in rows], [r.flow.flow_id for r in rows], [r.step.depth for r in rows],
            [r.step.token for r in rows], [r.step.node for r in rows], [r.step.url for r in rows],
            [r.step.state_json.decode() for r in rows], [r.status.value for r in rows], [r.not_before for r in rows],
            [r.step.delay_us for r in rows], [r.predecessor_id for r in rows], [r.step.spawn_id for r in rows],
            [r.step.ordinal for r in rows], [r.changes for r in rows], [r.error for r in rows],
            [r.successor_id for r in rows], [r.flow.priority for r in rows], [r.flow.fairness_key for r in rows],
            [r.flow.fairness_weight for r in rows], [lease_us(r.flow.time_budget_ms, budget_ms) for r in rows], replica_id,
            [state_refs.stored(r.step.refs) for r in rows],
        )  # fmt: skip
    return []


class _Tx:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.trips = 0

    async def fetch(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        self.trips += 1
        return list(await self._connection.fetch(POSTGRES.text(sql), *args))

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.trips += 1
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)

    async def create(self, new: NewFlow) -> int | None:
        self.trips += 1
        rows = await self._connection.fetch(CREATE_KEYED, *_create_args([new], 0, 0), *_key_args([new]))
        return int(rows[0][1]) if rows else None


async def _as_it_is(_connection: asyncpg.Connection) -> None:
    """No statement here leaves anything in its session, so giving a connection back to the pool costs no round trip.

    asyncpg itself rolls back a transaction left open.
    """


async def _quietly(closing: Any) -> None:
    try:
        await closing
    except (*CONNECTION, asyncpg.PostgresError) as error:
        log.debug("closing a connection: %s", one_line(error))
