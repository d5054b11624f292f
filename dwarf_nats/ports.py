"""What the engine asks of the world, in words of the domain.

The engine talks to these Protocols only; `bus`, `testing` or an embedding host implement them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.decide import Limits
    from dwarf_nats.rules.settlement import NewFlow, NewIds, Settled, Settlement
    from dwarf_nats.workflow.answer import Answer, TaskCall
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import Outcome
    from dwarf_nats.workflow.rows import FlowRow, StepRow
    from dwarf_nats.workflow.state import Raw
    from dwarf_nats.workflow.status import Status


class BusAway(Exception):
    """The bus is away, or went away before the answer came: the step is given back, neither failed nor tripped (V4, B6)."""


class WorkerLost(Exception):
    """Whoever ran the task is gone before it answered: the step is given back, at once, neither failed nor tripped (X11).

    `pause`: seconds after which it is due again; not 0 if the same step was lost before.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Tasks(Protocol):
    """Runs tasks.

    One that ends every call within its budget by itself may say so with an attribute `keeps_budget = True`; the engine then
    spares a timer per step.
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
        """The graph, or `None` if there is none of that name. Raises `Unavailable` if the source is away."""
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

    def enqueue(self, shard: int, steps: Sequence[tuple[int, int, int]]) -> None:
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


class Store(Protocol):
    """One shard. Each method is one transaction and one true sentence; each raises `Unavailable` while the database is away.

    What was fenced off by its lease generation (X1) is missing from the answer of `settle`; that is no error.
    """

    shard: int

    async def open(self, replica_name: str, *, migrated: bool) -> None: ...
    async def close(self) -> None: ...
    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]: ...
    async def claim(self, limit: int, budget_ms: int) -> list[Sequence[Any]]: ...
    async def settle(
        self, group: Sequence[Settlement], budget_ms: int, new_step: NewIds = ..., limits: Limits = ...
    ) -> Settled: ...
    async def next_ids(self, kind: str) -> tuple[int, int]: ...
    async def save_graph(self, digest: str, body: bytes) -> None: ...
    async def load_graph(self, digest: str) -> bytes | None: ...
    async def register_graph(self, name: str, digest: str) -> int: ...
    async def unregister_graph(self, name: str) -> bool: ...
    async def registered_graphs(self) -> list[tuple[str, str, int]]: ...
    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]: ...
    async def flow(self, key: Key, what: str = "flow") -> FlowRow: ...
    async def flow_by_id(self, flow_id: int) -> FlowRow | None: ...
    async def flow_by_idempotency(self, fairness_key: str, idempotency_key: str) -> FlowRow | None: ...
    async def steps(self, flow_id: int) -> list[StepRow]: ...
    async def step(self, key: Key) -> StepRow: ...
    async def step_by_id(self, step_id: int) -> StepRow | None: ...
    async def fingerprint(self, flow_id: int) -> Sequence[Any]: ...
    async def start(self, flow_id: int, notify: str) -> tuple[int, list[tuple[int, int, int]]]: ...
    async def cancel(
        self, flow_id: int, reason: str, final_state: Callable[[list[StepRow]], bytes]
    ) -> tuple[int, list[tuple[int, str]]]: ...
    async def bury(self, step_ids: Sequence[int]) -> None: ...
    async def delete(self, flow_id: int) -> None: ...
    async def list_flows(self, query: Query, thread_id: int | None, cursor: str) -> tuple[list[Sequence[Any]], str]: ...
    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int: ...
    async def size(self) -> tuple[int, int]: ...
    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]: ...
    async def cancelled_among(self, step_ids: Sequence[int]) -> list[int]: ...
    async def next_due(self) -> int | None: ...
    async def beat(self, name: str) -> None: ...
    async def recover(self, timeout_ms: int) -> int: ...
    async def disown(self, in_hand: Sequence[int]) -> int: ...
    async def leave(self) -> None: ...
    async def remove_completed(self, age_ms: int) -> int: ...
