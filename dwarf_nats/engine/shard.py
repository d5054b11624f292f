"""One shard: what belongs to a database, from its opening to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
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
from dwarf_nats.engine.ids import Ids, StepIds
from dwarf_nats.engine.scheduling.admission import EagerAdmission
from dwarf_nats.engine.waiters import Waiters
from dwarf_nats.errors import Unavailable

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.ports import Store
    from dwarf_nats.rules.rows import FlowRow


class Duties(Protocol):
    """What goes on for a shard while it is open, beside its steps."""

    async def prepare(self) -> None:
        """Do what comes before the first claim. Raises `Unavailable`."""
        ...

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """The jobs by their names; none of them ends by itself."""
        ...


class Shard:
    """The engine's share of one database."""

    def __init__(
        self,
        store: Store,
        replica: Replica,
    ) -> None:
        self.log = replica.logger
        self.counters = replica.counters
        self.traces = replica.traces
        self.store = store
        self.number = store.shard
        self.settings = replica.settings
        self.limits = replica.settings.limits()
        self.waiters = Waiters()
        self.availability = Availability()
        self.flow_ids = Ids(store, "flow")
        self.step_ids = StepIds(store, replica.tokens, replica.clock)
        self.draining = asyncio.Event()
        """Set while no more steps are taken; successors are pending when they are made."""
        self.gate = replica.backpressure.gate(store)
        self.ready_queue = replica.fetcher.add_queue(store, self.gate, self.availability)
        self.admission = EagerAdmission(replica.slots, replica.fetcher, self.gate, self.draining)
        self.in_flight = InFlight(self.number, replica.tasks, replica.logger)
        self.debug_log = DebugLog(self.number, replica.logger)
        self.announcer = Announcer(
            replica,
            self.number,
            waiters=self.waiters,
            ready_queue=self.ready_queue,
            gate=self.gate,
            executions=self.in_flight,
            debug_log=self.debug_log,
        )
        self._jobs: list[asyncio.Task[None]] = []
        instruments = replica.instruments
        self.committer = Committer(
            store,
            replica.settings,
            replica.clock,
            self.step_ids,
            self.availability,
            on_written=(lambda us: instruments.commit_time(str(self.number), us)) if instruments.listening else None,
            logger=replica.logger,
        )
        self.executor = Executor(
            replica,
            children=ChildPreparer(replica, self.number, self.flow_ids),
            in_flight=self.in_flight,
            admission=self.admission,
            gate=self.gate,
            step_ids=self.step_ids,
            committer=self.committer,
            debug_log=self.debug_log,
        )
        self.after_commit = AfterCommit(
            replica,
            in_flight=self.in_flight,
            executor=self.executor,
            announcer=self.announcer,
            ready_queue=self.ready_queue,
            gate=self.gate,
            waiters=self.waiters,
            debug_log=self.debug_log,
        )
        self.intake = Intake(
            replica,
            store,
            ready_queue=self.ready_queue,
            gate=self.gate,
            executor=self.executor,
            committer=self.committer,
        )
        self.prober = Prober(
            store,
            self.gate.breakers,
            admission=self.admission,
            ready_queue=self.ready_queue,
            probes=self.intake,
            announcer=self.announcer,
            clock=replica.clock,
            logger=replica.logger,
        )

    # -- lifecycle

    @property
    def opened(self) -> bool:
        return bool(self._jobs)

    async def open(
        self,
        name: str,
        *,
        migrated: bool,
        duties: Duties,
        admit: Callable[[Shard], Awaitable[None]] | None = None,
    ) -> None:
        """Open the database and take up work; `admit` refuses one that does not belong here."""
        try:
            await self.store.open(name, migrated=migrated)
            if admit is not None:
                await self._admitted(admit)
            await duties.prepare()
            await self.gate.open()
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
            *(self._job(work, job) for job, work in duties.jobs().items()),
        ]

    async def _admitted(self, admit: Callable[[Shard], Awaitable[None]]) -> None:
        try:
            await admit(self)
        except BaseException:
            await self.store.deregister()  # nobody should wait for a replica that was refused
            raise

    def stop_claiming(self) -> None:
        """Take no step from now on."""
        self.draining.set()
        self.ready_queue.close()

    async def close(self) -> None:
        """Write what is left, leave the database as a replica that has gone, close."""
        self.gate.close()
        if not self._jobs:  # it was never opened
            self.waiters.refuse(Unavailable("this replica is stopping: ask again"))
            return
        self.committer.close()
        committer, *others = self._jobs
        self._jobs = []
        for job in others:
            job.cancel()
        if not (await asyncio.wait({committer}, timeout=5))[0]:
            committer.cancel()
            self.log.warning(
                "shard %d: results could not be written before the end; their steps will run again", self.number
            )
        await self.in_flight.release_all()  # what the last commit left born running: `deregister` frees it
        await asyncio.gather(committer, *others, return_exceptions=True)
        self.waiters.refuse(Unavailable("this replica is stopping: ask again"))
        try:
            await self.store.deregister()
        except Unavailable as error:
            self.log.warning("shard %d: %s", self.number, error, extra={"shard": self.number})
        await self.store.close()

    def _job(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"dwarf-{name}-{self.number}")

    @property
    def jobs(self) -> Sequence[asyncio.Task[None]]:
        """What goes on while it is open."""
        return self._jobs

    @property
    def outages(self) -> int:
        """How often the database was found to be away."""
        return self.availability.outages

    async def start(self, flow: FlowRow, notify: str = "") -> None:
        """Start a created flow (O2). Raises `Conflict` if it is not created."""
        at, steps = await self.store.start(flow.flow_id, notify)
        self.announcer.started(flow, at, steps)
