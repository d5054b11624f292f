"""What the engine asks of the world, in words of the domain.

The engine talks to these Protocols only; `bus`, `testing` or an embedding host implement them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dwarf_nats.errors import BadRequest, NotFound, Unavailable

if TYPE_CHECKING:
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import (
        Called,
        Facts,
        FlowRow,
        HeartbeatReply,
        Paused,
        PriorityBacklog,
        Reservation,
        StepRow,
        TreeChange,
    )
    from dwarf_nats.rules.scheduling.values import Page, PageRequest, Share
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.rules.state_refs import RefSource
    from dwarf_nats.rules.steps import NewFlow, NewIds, ReadyStep
    from dwarf_nats.workflow.answer import Answer, TaskCall
    from dwarf_nats.workflow.cursors import Place
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.limits import Limits
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import Outcome
    from dwarf_nats.workflow.state import Raw, State
    from dwarf_nats.workflow.status import Status


Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"
"""Where the engine says what it does (T3)."""


class BusAway(Exception):
    """The bus is away, or went away before the answer came: the step is given back, neither failed nor tripped (V4, B6)."""


class WorkerLost(Exception):
    """Whoever ran the task is gone before it answered: the step is given back, at once, neither failed nor tripped (X11).

    `pause`: seconds after which it is due again; not 0 if the same step was lost before.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Refused(Unavailable):
    """A graph source answered, with a refusal: asking again does not help."""


class DatabaseAway(Unavailable):
    """A database cannot be reached, or can do nothing at the moment: what it is needed for waits (B6)."""


class StatementRefused(DatabaseAway):
    """A database is there and cannot do this one thing at the moment: a lock, a time-out, a right or a table that is missing.

    Whoever wrote several things at once may find that it does the others.
    """


class Unusable(Unavailable):
    """A database as only a person can mend it: a start ends with it instead of waiting."""


class Unstorable(BadRequest):
    """A database cannot store a value: it is of no use to try again."""


class SourceAway(NotFound):
    """A graph source knew the workflow and is not there at present: a caller is told, a flow that needs it waits (B6)."""


class Tasks(Protocol):
    """Runs tasks.

        One that ends every call within its budget by itself may say so with an attribute `keeps_budget = True`; the engine then
    spares a timer per step. One that refuses by itself what is no JSON, or nested deeper than the engine's `max_depth`, may say
    so with an attribute of that name and value; the engine then does not look again (S1).
    """

    async def execute(self, call: TaskCall) -> Answer:
        """Run one task within `call.budget` seconds and return its answer; every failure is an answer too.

        Raises `BusAway` if it is unknown whether the task ran because the transport is gone, `WorkerLost` because whoever
        ran it is. An exception of any other kind is taken for an ordinary error of the step.
        """
        ...

    async def ready(self) -> None:
        """Wait until the transport is there; returns at once if it is, or if there is none."""
        ...

    def cancel(self, step_key: str) -> None:
        """The flow of a step in hand was cancelled: tell whoever runs it, if there is a way. Never raises."""
        ...


class Graphs(Protocol):
    """Loads a graph by the name of its workflow."""

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        """The graph, or `None` if there is none of that name.

        Raises `Unavailable` if the source is away, `Refused` if it will not say, `SourceAway` if it knew it and is not there.
        """
        ...


class Notices(Protocol):
    """Hears what became of flows. Fire and forget: neither method blocks or raises (B4)."""

    def stopped(self, notify: str, outcome: Outcome) -> None:
        """A flow started with `notify` stopped."""
        ...

    def changed(self, changes: Sequence[StatusChange]) -> None:
        """Flows changed their status, in this order, one group per commit."""
        ...


class Signals(Protocol):
    """Tells the other replicas, never this one (B1). Fire and forget: no method blocks or raises."""

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        """Steps became pending: `(step id, priority, not before in microseconds)` each."""
        ...

    def notify_status_change(self, flows: Sequence[tuple[str, Status]]) -> None:
        """Flows stopped: `(flow key, status)` each."""
        ...

    def sync_valve(self, task: str, w: float, t: int) -> None:
        """The congestion point of a task's valve (V3); `t` in microseconds."""
        ...

    def trip_breaker(self, task: str) -> None:
        """The breaker of a task tripped (V4)."""
        ...


class StatusChange(Protocol):
    """One change of a flow's status."""

    @property
    def flow_id(self) -> str: ...
    @property
    def thread_id(self) -> str: ...
    @property
    def workflow(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def at(self) -> int: ...
    @property
    def sequence(self) -> int: ...


class Clock(Protocol):
    """Time for waiting and for deadlines in this process; due times are the database's affair."""

    def now(self) -> int:
        """Microseconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, at most `seconds`; whether it was set."""
        ...


class Histories(Protocol):
    """Histories of one shard, by index: nothing reads more than it returns (O7)."""

    async def page(self, flow_id: int, after: Place, limit: int) -> list[StepRow]: ...
    async def called(self, root_id: int, step_ids: Sequence[int]) -> dict[int, Called]: ...
    async def first_steps(self, flow_ids: Sequence[int], limit: int) -> dict[int, list[StepRow]]: ...
    async def entry(self, flow_id: int) -> StepRow | None: ...
    async def last(self, flow_id: int) -> StepRow | None: ...
    async def first_branch(self, step_id: int) -> StepRow | None: ...


class Store(Protocol):
    """One shard. Each method is one transaction and one true sentence; each raises `Unavailable` while the database is away.

    What was fenced off by its lease generation (X1) is missing from the answer of `settle`; that is no error. A group settles
    a step once.
    """

    shard: int
    known: int
    """How many shards this replica knows."""

    @property
    def label(self) -> str:
        """The database as it may be named in messages."""
        ...

    @property
    def histories(self) -> Histories: ...
    async def open(self, replica_name: str, *, migrated: bool) -> None: ...
    async def close(self) -> None: ...
    def resize(self, pool: int) -> None: ...
    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]: ...
    async def peek(self, request: PageRequest, blocked_tasks: Collection[str] = ...) -> Page:
        """Read a page of the line of due steps; the lanes of `blocked_tasks` tasks are read past and not counted."""
        ...

    async def bands(self, bands: int, steps: int, keys: int) -> list[PriorityBacklog]:
        """The best `bands` with due steps, of each at most so many steps and fairness keys counted."""
        ...

    async def promote_due(self, limit: int) -> int:
        """Put up to `limit` steps in line whose time has come, those first that came due first; how many."""
        ...

    async def claim(
        self, limit: int, budget_ms: int, shares: Sequence[Share] | None = ..., task_budgets: Mapping[str, int] = ...
    ) -> list[ClaimedRow]:
        """Claim up to `limit` due steps (X1): the shares one after the other, in each what has been due longest (C1, C2).

        A task in `task_budgets` gives no more than its number; with 0 its steps are passed over (C3). Without shares:
        all that is due, key by key.
        """
        ...

    async def settle(
        self, group: Sequence[Settlement], budget_ms: int, new_step: NewIds = ..., limits: Limits = ...
    ) -> SettleResult: ...
    async def next_ids(self, kind: str) -> tuple[int, int]: ...
    async def facts(self) -> Facts | None:
        """What the database says it is; `None` if no deployment has entered it."""
        ...

    async def enter(self, name: str) -> Facts:
        """Make the database a shard of a deployment, unless it is one already; what it is then."""
        ...

    async def raise_shards(self, shards: int) -> None:
        """Agree on at least so many shards."""
        ...

    async def least_known(self, timeout_ms: int) -> int:
        """The number of shards that every living replica knows."""
        ...

    async def key(self, fairness_key: str, idempotency_key: str) -> tuple[int, Reservation | None]:
        """The agreed number of shards, and who has a key whose home this is."""
        ...

    async def reserve(self, new: NewFlow) -> Reservation | None:
        """Take the key of a flow to be made on another shard; nothing if it is taken, or the number of shards has changed."""
        ...

    async def free_key(self, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None: ...
    async def placed(self, flow_id: int) -> bool | None:
        """Whether a flow made under a key from elsewhere is there; `None` if it was never made."""
        ...

    async def fence(self, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
        """Have such a flow not be made any more; whether it was not."""
        ...

    async def gone(self, limit: int) -> list[tuple[int, str, str]]:
        """Such flows that are gone without the homes of their keys knowing: id, fairness key, idempotency key."""
        ...

    async def told(self, flow_ids: Sequence[int]) -> None:
        """Those homes know."""
        ...

    async def save_graph(self, digest: str, body: bytes) -> int:
        """Keep a graph; until when, on the database's clock. After that it is kept while something uses it."""
        ...

    async def prune_graphs(self, after: str, limit: int) -> tuple[int, str]:
        """Remove graphs that nothing uses, and look at `limit` more; how many, and what to pass next time."""
        ...

    async def load_graph(self, digest: str) -> bytes | None: ...
    async def register_graph(self, name: str, digest: str, updated_at: int | None = None) -> int: ...
    async def unregister_graph(self, name: str) -> bool: ...
    async def registered_graphs(self) -> list[tuple[str, str, int]]: ...
    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]: ...
    async def flow(self, key: Key, what: str = "flow") -> FlowRow: ...
    async def thread(self, key: Key) -> FlowRow: ...
    async def flow_by_id(self, flow_id: int) -> FlowRow | None: ...
    async def flow_by_idempotency(self, fairness_key: str, idempotency_key: str) -> FlowRow | None: ...
    async def steps(self, flow_ids: Sequence[int], *, whole: bool = False) -> list[StepRow]: ...
    async def count_steps(self, flow_ids: Sequence[int], most: int) -> int:
        """How many steps flows have; counting ends beyond `most`."""
        ...

    async def tree(self, root_id: int) -> dict[int, FlowRow]: ...
    async def called(self, flow: FlowRow) -> list[FlowRow]: ...
    async def oldest_pause(self, flow: FlowRow) -> Paused | None: ...
    async def latest_of_thread(self, thread_id: int) -> FlowRow | None: ...
    async def step(self, key: Key) -> StepRow: ...
    async def held(self, step_ids: Collection[int]) -> RefSource: ...
    async def whole(self, state: str, borrowed: str | None) -> State: ...
    async def step_by_id(self, step_id: int) -> StepRow | None: ...
    async def fingerprint(self, flow: FlowRow) -> Sequence[Any]: ...
    async def start(self, flow_id: int, notify: str) -> tuple[int, list[ReadyStep]]: ...
    async def cancel(
        self, flow: FlowRow, reason: str, final_state: Callable[[FlowRow, list[StepRow]], bytes]
    ) -> TreeChange: ...
    async def resume(
        self, flow: FlowRow, data: str | None, overrides: State | None, limits: Limits = ...
    ) -> TreeChange: ...
    async def break_before(self, flow: FlowRow, task: str, *, enabled: bool) -> None: ...
    async def restart(self, flow: FlowRow, overrides: State, limits: Limits = ...) -> TreeChange: ...
    async def restart_from(
        self,
        step: StepRow,
        flow: FlowRow,
        overrides: State,
        graph_of: Callable[[FlowRow], Graph],
        limits: Limits = ...,
    ) -> TreeChange: ...
    async def insert_fork(self, root: FlowRow, forked: Forked) -> TreeChange: ...
    async def create_next(self, latest: FlowRow, new: NewFlow) -> int | None: ...
    async def close_stale_steps(self, step_ids: Sequence[int]) -> None: ...
    async def delete(self, flow_id: int) -> None: ...
    async def list_flows(
        self, query: Query, limit: int, thread_id: int | None, cursor: str
    ) -> tuple[list[Sequence[Any]], str]: ...
    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int: ...
    async def size(self) -> tuple[int, int]: ...
    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]: ...
    async def cancelled_among(self, step_ids: Sequence[int]) -> list[int]: ...
    async def trip(self, url: str, cause: str) -> None: ...
    async def untrip(self, url: str) -> None: ...
    async def park(self, url: str) -> None: ...
    async def release(self, url: str, limit: int) -> list[ReadyStep]: ...
    async def claim_probe(self, url: str, budget_ms: int) -> ClaimedRow | None: ...
    async def next_probe(self, url: str) -> int | None: ...
    async def is_tripped(self, url: str) -> bool: ...
    async def tripped_tasks(self) -> dict[str, str]: ...
    async def parked_tasks(self) -> list[str]: ...
    async def is_leader(self) -> bool: ...
    async def resume_orphaned_parents(self) -> TreeChange: ...
    async def cancel_orphaned_children(self, final_state: Callable[[FlowRow, list[StepRow]], bytes]) -> TreeChange: ...
    async def orphaned(self, age_ms: int) -> list[int]: ...
    async def heartbeat(self, name: str) -> HeartbeatReply: ...
    async def reclaim_expired_leases(self, timeout_ms: int) -> int: ...
    async def delete_dead_replicas(self, timeout_ms: int) -> None: ...
    async def release_unowned_leases(self, in_flight: Sequence[int]) -> int: ...
    async def deregister(self) -> None: ...
    async def remove_completed(self, age_ms: int, limit: int) -> bool: ...
