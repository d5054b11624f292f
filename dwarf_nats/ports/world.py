"""Ports to the world outside the databases: tasks, services, graphs, notices, signals and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from dwarf_nats.rules.replica_facts import Question, ReplicaFacts
    from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
    from dwarf_nats.workflow.answer import Answer, TaskCall
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.records import Outcome
    from dwarf_nats.workflow.services import ServiceCall, ServiceReply
    from dwarf_nats.workflow.state import Raw
    from dwarf_nats.workflow.status import Status


class BusAway(Exception):
    """The transport was lost before an answer came: the step is released, and neither fails nor trips a breaker (V4, B6)."""


class WorkerLost(Exception):
    """The worker that ran a task is gone and gave no answer: the step is released, and neither fails nor trips a breaker (X11).

    `pause`: seconds until the step is due again; above 0 if the same step lost a worker before.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class QueuedTooLong(WorkerLost):
    """The step has waited too long in the queue of its worker: it is released, to run elsewhere (K3)."""


class Refused(Unavailable):
    """A graph source answered with a refusal: asking again does not help."""


class SourceAway(NotFound):
    """A graph source that knew the workflow is away: a caller gets the error, a flow that needs the graph waits (B6)."""


class QueueListener(Protocol):
    """Hears which steps wait in the queues of workers (K3)."""

    def queued(self, step_key: str, service_timeout_ms: int | None) -> int | None:
        """Note that a step waits there; the milliseconds that it may, `None` if it is not in flight.

        `service_timeout_ms`: what the service says, if it does.
        """
        ...

    def started(self, step_key: str) -> None:
        """Note that its worker has begun a step: its time budget counts from now on."""
        ...


@dataclass(slots=True, frozen=True, kw_only=True)
class TaskCapabilities:
    """Checks that an implementation of `Tasks` makes by itself, so that the engine need not repeat them, and what it can tell.

    The defaults are safe for any implementation.
    """

    keeps_budget: bool = False
    """Every call of `execute` ends within its budget, so the engine sets no timer of its own (X3)."""
    max_depth: int | None = None
    """Answers that are not JSON, or are nested deeper than this many levels, are refused before they are returned (S1).

    The engine skips its own check if this equals its setting of the same name. `None`: nothing is checked.
    """
    worker_of: Callable[[str], str] | None = None
    """Names the worker that runs the step of a key, for an explanation (Q2); empty if it has not named itself."""
    listen: Callable[[QueueListener], None] | None = None
    """Has a listener told which steps wait in the queues of workers (K3); `None` if no worker has a queue."""
    begin: Callable[[TaskCall, Callable[[Answer | Exception], None]], Callable[[], None]] | None = None
    """As `execute`, without a coroutine that waits. `None`: it is not possible.

    The second parameter is called once, with the answer or what `execute` would raise, within `call.budget` seconds, and not
    before `begin` has returned. Call what `begin` returns to wait no longer. Raises `BusAway`.
    """


class Tasks(Protocol):
    """Runs tasks.

    An implementation that keeps budgets or checks answers by itself is given to the engine with its `TaskCapabilities`.
    """

    async def execute(self, call: TaskCall) -> Answer:
        """Run one task within `call.budget` seconds and return its answer; a failure of the task is an answer too.

        Raises `BusAway` if the transport was lost, so that nobody knows whether the task ran, and `WorkerLost` if the worker
        that ran it is gone. Any other exception counts as an ordinary error of the step.
        """
        ...

    async def ready(self) -> None:
        """Wait until the transport is there; return at once if it is, or if there is none."""
        ...

    def cancel(self, step_key: str) -> None:
        """Tell the worker that runs this step that its flow was cancelled, if there is a way. Never blocks or raises."""
        ...


class Services(Protocol):
    """Sends the requests and messages of graphs to services that know nothing of the engine (N3, N4)."""

    async def request(self, call: ServiceCall) -> ServiceReply:
        """Send one request and wait for its reply, `call.budget` seconds at most.

        Every failure is a reply with an error. Raises `BusAway` if the transport was lost, so that nobody knows whether the
        service was asked.
        """
        ...

    async def publish(self, call: ServiceCall, *, stream: bool) -> ServiceReply:
        """Publish one message; with `stream` wait until a stream has stored it, `call.budget` seconds at most.

        Raises as `request`.
        """
        ...

    def refuses(self, subject: str) -> str:
        """Return the reason why no graph may send anything to a subject; empty if it may."""
        ...


class Graphs(Protocol):
    """Loads a graph by the name of its workflow."""

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        """Return the graph, or `None` if there is none of that name. `baggage`: the caller's, as JSON text.

        Raises `Unavailable` if the source is away, `Refused` if it refuses to answer, `SourceAway` if it knew the workflow and
        is away.
        """
        ...


class Notices(Protocol):
    """Hears of flows that stop or change their status. Fire and forget: neither method blocks or raises (B4)."""

    def stopped(self, notify: str, outcome: Outcome) -> None:
        """Hear that a flow stopped which was started with `notify`."""
        ...

    def changed(self, changes: Sequence[StatusChange]) -> None:
        """Hear of changes of status, in this order; one group per commit."""
        ...


class StatusChange(Protocol):
    """One change of a flow's status. Ids are token-free (`1-42`), `at` is in microseconds since the epoch."""

    @property
    def flow_id(self) -> str:
        """The flow."""
        ...

    @property
    def thread_id(self) -> str:
        """The flow that its thread began with."""
        ...

    @property
    def workflow(self) -> str:
        """Its workflow."""
        ...

    @property
    def status(self) -> Status:
        """The new status."""
        ...

    @property
    def at(self) -> int:
        """The time of the change."""
        ...

    @property
    def sequence(self) -> int:
        """A number that grows from change to change of one flow."""
        ...


class Signals(Protocol):
    """Tells the other replicas, never this one (B1). Fire and forget: no method blocks or raises.

    A signal may be lost or come twice; what it tells is found in the database as well, only later.
    """

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        """Tell that steps of a shard became pending."""
        ...

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        """Tell that flows stopped: `(flow key, status)` each."""
        ...

    def sync_valve(self, task: str, w: float, t: int) -> None:
        """Tell the congestion point of a task's rate limiter (V3): `w` operations per second at `t`, in microseconds."""
        ...

    def trip_breaker(self, task: str) -> None:
        """Tell that the circuit breaker of a task tripped (V4)."""
        ...

    def change_definitions(self) -> None:
        """Tell that a definition was put or deleted."""
        ...


class Peers(Protocol):
    """Asks the other replicas what only they know, for explanations (Q2)."""

    async def facts(self, question: Question, replicas: Collection[str]) -> list[ReplicaFacts]:
        """Return what these replicas, by name, answer in a short time; those that do not are missing. Never raises."""
        ...


class Clock(Protocol):
    """Time for waits and deadlines in this process; due times of steps follow the database's clock.

    `wait` is for something that is due at a time, `sleep` for pauses of upkeep and before another attempt: a test that moves
    its clock to the next due time passes over those.
    """

    def now(self) -> int:
        """Return microseconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, at most `seconds` (`None`: without end); return whether it was set."""
        ...
