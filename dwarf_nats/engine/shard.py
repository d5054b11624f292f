"""One shard: what belongs to a database, from its opening to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from dwarf_nats.engine.announcer import Announcer
from dwarf_nats.engine.availability import Availability
from dwarf_nats.engine.backpressure.prober import Prober
from dwarf_nats.engine.debug_log import DebugLog
from dwarf_nats.engine.execution.after_commit import AfterCommit
from dwarf_nats.engine.execution.children import ChildPreparer
from dwarf_nats.engine.execution.committer import Committer
from dwarf_nats.engine.execution.executor import Executor
from dwarf_nats.engine.execution.in_flight import InFlight
from dwarf_nats.engine.execution.intake import Intake
from dwarf_nats.engine.execution.progress import ReportedProgress
from dwarf_nats.engine.execution.queued_steps import QueuedSteps
from dwarf_nats.engine.execution.runner import StepRunner
from dwarf_nats.engine.ids import Ids, StepIds
from dwarf_nats.engine.pacing import Pace
from dwarf_nats.engine.scheduling.admission import EagerAdmission
from dwarf_nats.engine.scheduling.deadline_timer import DeadlineTimer
from dwarf_nats.engine.waiters import Waiters
from dwarf_nats.errors import Unavailable

if TYPE_CHECKING:
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.ports import LimitStore, Store
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.steps import ClaimedStep, ReadyStep


STOPPING = "this replica is stopping: ask again"
LAST_COMMIT_SECONDS = 5
"""Time that the committer has at the end to write what is left; a database that is away must not hold up the stop."""


class Duties(Protocol):
    """The background work of a shard while it is open, beside its steps."""

    async def prepare(self) -> None:
        """Do what comes before the first claim. Raises `Unavailable`."""
        ...

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The jobs by their names; none of them ends by itself."""
        ...


class Shard:
    """The engine's share of one database: its parts, and when they work.

    A step goes from `ready_queue` through `intake`, `executor` and `committer` to `after_commit`, which dispatches its
    successor.
    """

    def __init__(self, store: Store, shared: Shared) -> None:
        self._log = shared.logger
        self.counters = shared.counters
        self.store = store
        self.number = store.shard
        self.waiters = Waiters()
        self.availability = Availability()
        self.flow_ids = Ids(store, "flow")
        self.step_ids = StepIds(store, shared.tokens, shared.clock)
        self.outdated = ""
        """The reason why this replica may not work on the database any more, if it is too old for it."""
        self.draining = asyncio.Event()
        """Set while no more steps are taken; successors are pending when they are made."""
        self.backpressure = shared.backpressure.of_shard(store.breakers)
        self.ready_queue = shared.fetcher.add_queue(store.steps, self.backpressure, self.availability)
        self.admission = EagerAdmission(
            shared.slots,
            shared.fetcher,
            self.backpressure,
            draining=self.draining,
            limited=shared.limits.book,
            holds=shared.holds,
        )
        self.in_flight = InFlight(self.number, shared.tasks, shared.logger)
        self.queued_steps = QueuedSteps(store.steps, self.in_flight, shared.settings, shared.clock)
        self.progress = ReportedProgress(store.steps, self.in_flight, shared.clock)
        self.debug_log = DebugLog(self.number, shared.logger)
        self.announcer = Announcer(
            shared,
            self.number,
            waiters=self.waiters,
            ready_queue=self.ready_queue,
            backpressure=self.backpressure,
            executions=self.in_flight,
            debug_log=self.debug_log,
        )
        self.deadlines = DeadlineTimer(
            self.number, store.control, announcer=self.announcer, clock=shared.clock, logger=shared.logger
        )
        self._jobs: list[asyncio.Task[None]] = []
        self.committer = self._new_committer(shared)
        self.pace = Pace(lambda: self.committer.members, self.counters.steps_per_flow)
        self.executor = self._new_executor(shared)
        self.after_commit = self._new_after_commit(shared)
        self.intake = Intake(
            shared,
            store.steps,
            holds=store.holds,
            ready_queue=self.ready_queue,
            backpressure=self.backpressure,
            executor=self.executor,
            committer=self.committer,
        )
        self.prober = self._new_prober(shared)

    # -- lifecycle

    @property
    def opened(self) -> bool:
        """Tell whether its database is open."""
        return bool(self._jobs)

    async def open(
        self,
        name: str,
        *,
        migrated: bool,
        duties: Duties,
        admit: Callable[[Shard], Awaitable[None]] | None = None,
    ) -> None:
        """Open the database and take up work.

        `name`: of this replica. `duties`: what goes on meanwhile. `admit` refuses a database that does not belong here. Raises
        what it raises, and `Unavailable`.
        """
        try:
            await self.store.open(name, migrated=migrated)
            if admit is not None:
                await self._admitted(admit)
            await duties.prepare()
            await self.backpressure.open()
        except BaseException:
            await self.store.close()
            raise
        self.debug_log.refresh()
        # An engine that was stopped may be started again.
        self.draining.clear()
        self.ready_queue.open(self.intake)
        self.committer.reopen()
        self._jobs = [
            self._job(self.committer.run(self.after_commit), "committer"),
            self._job(self.prober.run(), "prober"),
            self._job(self.deadlines.run(), "deadlines"),
            *(self._job(work, job) for job, work in duties.jobs().items()),
        ]

    async def _admitted(self, admit: Callable[[Shard], Awaitable[None]]) -> None:
        try:
            await admit(self)
        except BaseException:
            await self.store.replicas.deregister()  # nobody should wait for a replica that was refused
            raise

    @property
    def limits(self) -> LimitStore:
        """Its part of the limits (K1)."""
        return self.store.limits

    def running_steps(self) -> Sequence[ClaimedStep]:
        """The steps in flight."""
        return self.in_flight.steps

    def found_ready(self, steps: Sequence[ReadyStep]) -> None:
        """Look for steps that are ready, and have the other replicas look."""
        self.announcer.unparked(steps)

    def stop_claiming(self) -> None:
        """Take no step from now on."""
        self.draining.set()
        self.ready_queue.close()

    async def close(self) -> None:
        """Write what is left, deregister from the database, close it. Steps that are not written run again."""
        self.backpressure.close()
        if not self._jobs:  # it was never opened
            self.waiters.refuse(Unavailable(STOPPING))
            return
        self.committer.close()
        committer, *others = self._jobs
        self._jobs = []
        for job in others:
            job.cancel()
        if not (await asyncio.wait({committer}, timeout=LAST_COMMIT_SECONDS))[0]:
            committer.cancel()
            self._log.warning(
                "shard %d: results could not be written before the end; their steps will run again", self.number
            )
        await self.in_flight.release_all()  # what the last commit dispatched: `deregister` frees it
        await asyncio.gather(committer, *others, return_exceptions=True)
        self.waiters.refuse(Unavailable(STOPPING))
        try:
            await self.store.replicas.deregister()
        except Unavailable as error:
            self._log.warning("shard %d: %s", self.number, error, extra={"shard": self.number})
        await self.store.close()

    def _job(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"dwarf-{name}-{self.number}")

    @property
    def jobs(self) -> Sequence[asyncio.Task[None]]:
        """The jobs that run while it is open."""
        return self._jobs

    async def start(self, flow: FlowRow, notify: str = "") -> None:
        """Start a created flow (O2). Raises `Conflict` if it is not created."""
        at, steps = await self.store.control.start(flow.flow_id, notify)
        self.announcer.started(flow, at, steps)

    # -- parts

    def _new_committer(self, shared: Shared) -> Committer:
        instruments, shard = shared.instruments, str(self.number)
        return Committer(
            self.store.steps,
            shared.settings,
            shared.clock,
            step_ids=self.step_ids,
            availability=self.availability,
            on_written=partial(instruments.commit_time, shard) if instruments.listening else None,
            logger=shared.logger,
        )

    def _new_executor(self, shared: Shared) -> Executor:
        return Executor(
            shared,
            runner=StepRunner(
                shared, self.store.steps, ChildPreparer(shared, self.number, self.flow_ids), self.progress
            ),
            in_flight=self.in_flight,
            admission=self.admission,
            backpressure=self.backpressure,
            step_ids=self.step_ids,
            committer=self.committer,
            debug_log=self.debug_log,
        )

    def _new_after_commit(self, shared: Shared) -> AfterCommit:
        return AfterCommit(
            shared,
            in_flight=self.in_flight,
            executor=self.executor,
            announcer=self.announcer,
            ready_queue=self.ready_queue,
            deadlines=self.deadlines,
            backpressure=self.backpressure,
            debug_log=self.debug_log,
        )

    def _new_prober(self, shared: Shared) -> Prober:
        return Prober(
            self.store.breakers,
            self.backpressure.breakers,
            admission=self.admission,
            ready_queue=self.ready_queue,
            probes=self.intake,
            announcer=self.announcer,
            clock=shared.clock,
            logger=shared.logger,
        )
