"""SQLite: one connection in one thread, and the hot statements in its own words.

A group is one call into that thread, so a settlement of 500 steps costs one hop and one commit. `dwarf_now()` reads the
engine's clock, which a test moves by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import orjson

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway, Unusable
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.breakpoints import stored
from dwarf_nats.rules.claims import ClaimedRow
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.rows import PriorityBacklog
from dwarf_nats.rules.scheduling.values import Page, PageRequest, Share
from dwarf_nats.rules.settlement import Applied, Settlement, SettleResult
from dwarf_nats.rules.steps import NewFlow, NewIds
from dwarf_nats.store import dialect, graphs, line
from dwarf_nats.store.commands import InsertFlows, Query, QueryMany, StepInsert
from dwarf_nats.store.database import Row, Tx
from dwarf_nats.store.dialect import SQLITE
from dwarf_nats.store.effects import effects, hold
from dwarf_nats.store.faults import Outages, needs_a_person, of_sqlite, primary_code
from dwarf_nats.store.statements import claim

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock
    from dwarf_nats.rules.decide import Limits

T = TypeVar("T")
MINIMUM = (3, 38, 0)
PATIENT_MS, HASTY_MS = 5_000, 10
"""So long a statement waits for a lock of another process; and after one has waited in vain, until
something is written again."""
OPENING_SECONDS = 1.0
"""So long a start waits for a lock in one go, so that it can be stopped."""

_FLOW = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, start_at, time_budget_ms, baggage, notify, idempotency_key, request_digest, delete_on_completion,
  root_id, surgraph_flow_id, surgraph_step_id, breakpoints, trace, created_at, started_at, updated_at)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict do nothing
"""
_STEP = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, lease_seq, claimed_by, lease_expires,
  not_before, predecessor_id, spawn_id, ordinal, priority, fairness_key, fairness_weight, created_at, started_at,
  updated_at, changes, error, successor_id, borrowed, parked)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25,
  case when ?8 = 'pending' and ?6 in (select url from dwarf_tripped) then 2 else 0 end)
"""
_COUNT = "select shards from dwarf_deployment where one = 1"
_KEEP = """
insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
values (?, ?, 0, ?, ?, ?, ?) on conflict do nothing
"""
_FREE = "delete from dwarf_keys where fairness_key = ? and idempotency_key = ? and flow_id = ?"
_DONE = """
update dwarf_steps set status = ?, changes = ?, error = ?, attempt = ?, claimed_by = null, lease_expires = null,
  successor_id = ?, not_before = coalesce(?, not_before), arrived = ?, cohort_size = ?, updated_at = ?,
  parked = case when ?1 = 'pending' and url in (select t.url from dwarf_tripped t) then 2 else 0 end
where step_id = ? and lease_seq = ? and status = 'running'
"""
_ENDED = "update dwarf_flows set status = ?, final_state = ?, final_borrowed = ?, error = ?, updated_at = ? where flow_id = ?"


class Sqlite:
    """One SQLite file, or a database in memory (`path` empty)."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self.label = f"the SQLite file {path}" if path else "the SQLite database in memory"
        self._clock = clock
        self._thread: ThreadPoolExecutor | None = None
        self._turn = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._lock_file: IO[str] | None = None
        self._open_for_work = self._hasty = False
        self._instant = 0
        self.outages = Outages()
        self.why = "the engine is not running: its database is closed"

    async def open(self) -> None:
        """Open the file. Raises `Unusable` if it cannot be used or another replica holds it, `Unavailable` if it is locked."""
        if sqlite3.sqlite_version_info < MINIMUM:
            raise Unusable(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or later is needed")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dwarf-sqlite")
        try:
            await self._call(self._open)
        except BaseException:
            await self.close()
            raise

    def _open(self) -> None:
        try:
            if self.path:
                self._check_path()
                self._claim_file()
            connection = sqlite3.connect(
                self.path or ":memory:",
                isolation_level=None,
                check_same_thread=False,
                cached_statements=512,
                timeout=OPENING_SECONDS,
            )
            self._connection = connection
            connection.create_function("dwarf_now", 0, lambda: self._instant)
            if self.path:
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = full")
                connection.execute("begin immediate")  # whether it can be written
                connection.execute("commit")
        except (sqlite3.Error, OSError) as error:
            words = (
                f"cannot open the SQLite file {self.path}: {error.strerror if isinstance(error, OSError) else error}"
            )
            raise (Unusable if needs_a_person(error) else DatabaseAway)(words) from error

    @property
    def is_missing(self) -> bool:
        """Whether there is no such file, in a folder that is there."""
        return bool(self.path) and not Path(self.path).exists() and Path(self.path).parent.is_dir()

    async def opened(self) -> None:
        """The start is over: statements may wait longer for another process than one that somebody wants to stop."""
        await self.fetch(f"pragma busy_timeout = {PATIENT_MS}")
        self._open_for_work = True

    def _check_path(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise Unusable(f"cannot open the SQLite file {path}: it is a folder; name a file in it")
        if not path.parent.is_dir():
            raise Unusable(f"cannot open the SQLite file {path}: there is no folder {path.parent}; make it first")

    def _claim_file(self) -> None:
        lock_file = open(self.path + ".lock", "a+")  # noqa: SIM115 - held as long as the database is open
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock_file.seek(0)
            holder = lock_file.read(20).strip()
            lock_file.close()
            raise Unusable(
                f"the SQLite file {self.path} is in use by another replica{f' (process {holder})' if holder.isdigit() else ''}:"
                " SQLite serves one replica per file; stop the other one, or use PostgreSQL for several"
            ) from None
        except OSError:
            lock_file.close()
            raise
        lock_file.truncate(0)
        lock_file.write(str(os.getpid()))
        lock_file.flush()
        self._lock_file = lock_file

    def resize(self, size: int) -> None:
        """There is one connection, whatever is asked."""

    async def close(self) -> None:
        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._open_for_work = self._hasty = False
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None

        if self._thread is not None:
            await self._call(close)
            self._thread.shutdown(wait=False)
            self._thread = None

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the database's thread, outside any transaction."""
        async with self._turn:
            return await self._call(lambda: work(self._opened()))

    async def fetch(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        async with self._turn:
            return await self._call(lambda: self._fetch(sql, args))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        async with self._turn:
            try:
                await self._call(self._begin)
                yield _Tx(self)
            except BaseException:
                await self._call(self._roll_back)
                raise
            await self._call(lambda: self._opened().execute("commit"))

    async def transact(self, work: Callable[[Tx], Awaitable[T]], *, by_index: bool = False) -> T:  # noqa: ARG002
        """Do `work` in a transaction; nobody else writes meanwhile."""
        async with self.transaction() as tx:
            return await work(tx)

    async def next_ids(self, kind: str) -> tuple[int, int]:
        count = {"flow": 1000, "step": 5000, "replica": 1}[kind]
        rows = await self.fetch(
            "update dwarf_ids set next = next + $1 where kind = $2 returning next - $1", count, kind
        )
        return int(rows[0][0]), count

    async def create(self, group: Sequence[NewFlow], replica_id: int, budget_ms: int) -> dict[int, int]:
        """Insert flows with their entry steps; flow id → creation time of those whose idempotency key was new."""

        def work(connection: sqlite3.Connection) -> dict[int, int]:
            now = self._instant
            return {
                new.facts.flow_id: now
                for new in group
                if self._create(connection, new, now, replica_id, lease_us(new.facts.time_budget_ms, budget_ms))
            }

        return await self._group(work)

    @staticmethod
    def _create(connection: sqlite3.Connection, new: NewFlow, now: int, replica_id: int, lease: int) -> bool:
        f = new.facts
        if new.kept_until <= now + graphs.SPARE_US:  # its graph may be gone by now
            return False
        if new.reserves and not _keep(connection, new, now):
            return False
        made = connection.execute(
            _FLOW,
            (f.flow_id, f.token, f.workflow, f.digest, "running" if new.start else "created", f.thread_id,
             new.thread_token, f.priority, f.fairness_key, f.fairness_weight, new.start_at, f.time_budget_ms,
             bytes(f.baggage).decode(), f.notify, new.idempotency_key, new.request_digest,
             int(new.delete_on_completion), f.root_id or f.flow_id, f.surgraph_flow_id, f.surgraph_step_id,
             stored(f.breakpoints), f.trace, now, now if new.start else None, now),
        )  # fmt: skip
        if made.rowcount == 0:
            if new.reserves:
                connection.execute(_FREE, (f.fairness_key, new.idempotency_key, f.flow_id))
            return False
        status = "created" if not new.start else "running" if new.running else "pending"
        connection.execute(
            _STEP,
            (new.step_id, f.flow_id, 1, new.step_token, new.node, new.url, new.state_json.decode(), status,
             int(new.running), replica_id if new.running else None, now + lease if new.running else None,
             max(new.start_at or 0, now), None, 0, 0, f.priority, f.fairness_key, f.fairness_weight, now,
             now if new.running else None, now, "{}", None, None, None),
        )  # fmt: skip
        return True

    async def peek(self, request: PageRequest, blocked_tasks: Collection[str]) -> Page:
        """Read a page of the line, `blocked_tasks` tasks not counted (C4)."""
        return await self.call(lambda connection: line.peek(connection, self._clock.now(), request, blocked_tasks))

    async def bands(self, bands: int, steps: int, keys: int) -> list[PriorityBacklog]:
        """See `SqlStore.bands`."""
        return await self.call(lambda connection: line.depths(connection, self._clock.now(), bands, steps, keys))

    async def promote_due(self, limit: int) -> int:
        """Put up to `limit` steps in line whose time has come; how many."""
        return await self._group(
            lambda connection: connection.execute(line.RIPEN_SQLITE, (self._instant, limit)).rowcount
        )

    async def claim(
        self, limit: int, replica_id: int, budget_ms: int, shares: Sequence[Share], task_budgets: Mapping[str, int]
    ) -> list[ClaimedRow]:
        """Claim up to `limit` due steps of these shares, best first (X1)."""

        def work(connection: sqlite3.Connection) -> list[ClaimedRow]:
            picked = line.pick(connection, self._instant, limit, shares, task_budgets)
            return claim.take_sqlite(connection, self._instant, picked, replica_id, budget_ms)

        return await self._group(work)

    async def claim_probe(self, url: str, replica_id: int, budget_ms: int) -> ClaimedRow | None:
        """Claim the parked step of a task that has been due longest (V4)."""

        def work(connection: sqlite3.Connection) -> list[ClaimedRow]:
            picked = claim.pick_parked_sqlite(connection, self._instant, url)
            return claim.take_sqlite(connection, self._instant, picked, replica_id, budget_ms)

        rows = await self._group(work)
        return rows[0] if rows else None

    async def fetch_by_index(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        """As `fetch`; here there is nothing else to read by."""
        return await self.fetch(sql, *args)

    async def settle(
        self, group: Sequence[Settlement], replica_id: int, budget_ms: int, new_step: NewIds, limits: Limits
    ) -> SettleResult:
        """Write settlements and what follows from them (see `SettleResult`), in one transaction."""

        def work(connection: sqlite3.Connection) -> SettleResult:
            now = self._instant
            settled = SettleResult()
            held = set()
            for one in group:
                done = self._settle(connection, one, now, replica_id, lease_us(one.step.flow.time_budget_ms, budget_ms))
                if done is not None:
                    settled.applied[one.step.step_id] = Applied(*done[:2])
                    if done[2]:
                        held.add(one.step.step_id)
            settled.with_breakpoints = frozenset(held)
            hold(group, settled)
            steps = effects(group, settled, new_step, limits)
            rows: list[Row] | None = None
            with contextlib.suppress(StopIteration):
                while True:
                    command = next(steps) if rows is None else steps.send(rows)
                    if isinstance(command, Query):
                        rows = self._fetch(command.text, command.args)
                        continue
                    if isinstance(command, QueryMany):
                        rows = [row for args in command.rows for row in self._fetch(command.text, args)]
                        continue
                    rows = []
                    if isinstance(command, InsertFlows):
                        for new in command.flows:
                            self._create(
                                connection, new, now, replica_id, lease_us(new.facts.time_budget_ms, budget_ms)
                            )
                    else:
                        connection.executemany(_STEP, [_row(one, now, replica_id, budget_ms) for one in command.steps])
            return settled

        return await self._group(work)

    @staticmethod
    def _settle(
        connection: sqlite3.Connection, one: Settlement, now: int, replica_id: int, lease: int
    ) -> tuple[bool, int, bool] | None:
        """Whether its flow lives, since when the change holds, whether the flow has breakpoints; nothing if fenced off."""
        flow = one.step.flow
        row = connection.execute(
            "select status, updated_at, breakpoints is not null from dwarf_flows where flow_id = ?", (flow.flow_id,)
        ).fetchone()
        if row is None:
            return None
        alive = row[0] in ("running", "interrupted")
        new, end = one.successor, one.end
        done = connection.execute(
            _DONE,
            (one.status.value if alive else row[0], one.changes_json().decode(), one.error_json, one.attempt,
             new.step_id if new and alive else None,
             now + one.delay_us if one.status == "pending" or one.arrives else None, int(one.arrives),
             len(one.branches) or None, now, one.step.step_id, one.step.lease_seq),
        )  # fmt: skip
        if done.rowcount == 0:
            return None
        if alive and new is not None:
            running = new.running and not row[2]
            connection.execute(
                _STEP,
                (new.step_id, flow.flow_id, new.depth, new.token, new.node, new.url, new.state_json.decode(),
                 "running" if running else "pending", int(running), replica_id if running else None,
                 now + lease if running else None, now + new.delay_us, one.step.step_id, new.spawn_id, new.ordinal,
                 flow.priority, flow.fairness_key, flow.fairness_weight, now, now if running else None, now, "{}", None,
                 None, state_refs.stored(new.refs)),
            )  # fmt: skip
        if alive and end is not None:
            flow_error = one.error_json if end.status == "failed" else None
            now = max(now, row[1] + 1)
            connection.execute(
                _ENDED,
                (
                    end.status.value,
                    end.stored_json.decode(),
                    state_refs.stored(end.refs),
                    flow_error,
                    now,
                    flow.flow_id,
                ),
            )
        return alive, now, bool(row[2])

    async def _group(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            connection = self._begin()
            try:
                result = work(connection)
                connection.execute("commit")
            except BaseException:
                self._roll_back()
                raise
            return result

        async with self._turn:
            return await self._call(transaction)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable(self.why)
        return self._connection

    def _begin(self) -> sqlite3.Connection:
        """Begin a transaction; `dwarf_now()` is the same moment all through it, as `now()` is in PostgreSQL."""
        connection = self._opened()
        connection.execute("begin immediate")
        self._instant = self._clock.now()
        return connection

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("rollback")

    def _fetch(self, sql: dialect.Sql, args: Sequence[Any]) -> list[Row]:
        connection = self._opened()
        if not connection.in_transaction:
            self._instant = self._clock.now()
        plain = [orjson.dumps(arg).decode() if isinstance(arg, list) else arg for arg in args]
        return connection.execute(SQLITE.text(sql), plain).fetchall()

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do `work`. While another process has the file locked, one statement waits for it at length and those after it hardly:
        they stand in one line, and their callers are to be answered (B6)."""
        changes = self._connection.total_changes if self._hasty and self._connection is not None else 0
        try:
            done = work()
        except sqlite3.OperationalError as error:
            if self._open_for_work and not self._hasty and primary_code(error) == sqlite3.SQLITE_BUSY:
                self._wait_for_locks(HASTY_MS)
                self._hasty = True
            raise
        if self._hasty and self._connection is not None and self._connection.total_changes != changes:
            self._wait_for_locks(PATIENT_MS)
            self._hasty = False
        return done

    def _wait_for_locks(self, milliseconds: int) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._opened().execute(f"pragma busy_timeout = {milliseconds}")

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise Unavailable(self.why)
        try:
            # Shielded: a caller that is cancelled must not leave the thread in the middle of a transaction.
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._patiently, work))
        except Exception as error:
            known = of_sqlite(error, self.path or "in memory")
            if known is None:
                raise
            self.outages.heard(known)
            raise known from error


def _keep(connection: sqlite3.Connection, new: NewFlow, now: int) -> bool:
    """Take the key of a flow, if so many shards are agreed on as its home was worked out with; whether it was free."""
    if connection.execute(_COUNT).fetchone() != (new.shards,):
        return False
    f = new.facts
    key = (f.fairness_key, new.idempotency_key, f.flow_id, f.token, new.request_digest, now)
    return connection.execute(_KEEP, key).rowcount == 1


def _row(one: StepInsert, now: int, replica_id: int, budget_ms: int) -> tuple[Any, ...]:
    step, flow = one.step, one.flow
    running = one.status == "running"
    return (
        step.step_id, flow.flow_id, step.depth, step.token, step.node, step.url, step.state_json.decode(),
        one.status.value, int(running), replica_id if running else None,
        now + lease_us(flow.time_budget_ms, budget_ms) if running else None, max(one.not_before, now + step.delay_us),
        one.predecessor_id, step.spawn_id, step.ordinal, flow.priority, flow.fairness_key, flow.fairness_weight, now,
        None if one.status == "pending" else now, now, one.changes, one.error, one.successor_id,
        state_refs.stored(step.refs),
    )  # fmt: skip


class _Tx:
    def __init__(self, database: Sqlite) -> None:
        self._database = database

    async def fetch(self, sql: dialect.Sql, *args: Any) -> list[Row]:
        return await self._database._call(lambda: self._database._fetch(sql, args))

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        sql = f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"
        await self._database._call(lambda: self._database._opened().executemany(sql, rows))

    async def create(self, new: NewFlow) -> int | None:
        database = self._database
        made = await database._call(lambda: database._create(database._opened(), new, database._instant, 0, 0))
        return database._instant if made else None
