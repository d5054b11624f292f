"""One shard at work: dispatch, decide, settle, and what follows a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.engine.announcer import Announcer
from dwarf_nats.engine.availability import Availability
from dwarf_nats.engine.committer import Committer
from dwarf_nats.engine.debug_log import DebugLog
from dwarf_nats.engine.execution.in_flight import InFlight
from dwarf_nats.engine.ids import Ids, NoneLeft
from dwarf_nats.engine.projections import outcome_at
from dwarf_nats.engine.scheduling.admission import EagerAdmission
from dwarf_nats.engine.upkeep import Upkeep
from dwarf_nats.engine.waiters import Waiters
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports import BusAway, DatabaseAway, Refused, SourceAway, WorkerLost
from dwarf_nats.rules import breakpoints, parking, state_refs
from dwarf_nats.rules.answers import sound
from dwarf_nats.rules.claims import ClaimedRow, claimed_step
from dwarf_nats.rules.decide import decide, fail, release
from dwarf_nats.rules.lifecycle import FLOW_LIVE
from dwarf_nats.rules.settlement import Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewFlow, NewStep, ReadyStep, StepRef
from dwarf_nats.telemetry.traces import headers_of
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.raised import called_off, closes_coroutine, ends_process, named, text_of
from dwarf_nats.workflow.records import StatusChanged
from dwarf_nats.workflow.state import merge
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import error_info

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.ports import Store
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.telemetry.traces import Dispatch
    from dwarf_nats.workflow.graph import Graph

T = TypeVar("T")
ID_BLOCK = 5_000
BUS_AWAY_DELAY_US = 250_000


class Shard:
    """The engine's share of one database."""

    def __init__(
        self,
        store: Store,
        replica: Replica,
        *,
        heal: Callable[[Shard], Awaitable[None]],
        agree: Callable[[int, int], Awaitable[None]],
    ) -> None:
        tasks = replica.tasks
        instruments = replica.instruments
        self.log = replica.logger
        self.counters = replica.counters
        self.traces = replica.traces
        self._instruments = instruments
        self.store = store
        self.number = store.shard
        self.settings = replica.settings
        self.limits = replica.settings.limits()
        self.waiters = Waiters()
        self.availability = Availability()
        self.flow_ids = Ids(store, "flow")
        self.step_ids = Ids(store, "step")
        self.draining = asyncio.Event()
        """Set while no more steps are taken; successors are pending when they are made."""
        self.orphaned = 0
        """Running flows without a live step, as last counted; for a person to look at (B5)."""
        self._clock = replica.clock
        self._tasks = tasks
        self._keeps_budget: bool = getattr(tasks, "keeps_budget", False)  # then a second timer per step is spared
        self._looks = getattr(tasks, "max_depth", None) != replica.settings.max_depth
        self._graphs = replica.graphs
        self._slots = replica.slots
        self._tokens = replica.tokens
        self.gate = replica.backpressure.gate(self)
        self.ready_queue = replica.fetcher.add_queue(store, self.gate, self.availability)
        self.admission = EagerAdmission(replica.slots, replica.fetcher, self.gate, self.draining)
        self.in_flight = InFlight(self.number, tasks, replica.logger)
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
        self._watched = instruments.listening or replica.traces.listening
        self.upkeep = Upkeep(self, self._clock, heal, agree)
        self._jobs: list[asyncio.Task[None]] = []
        self.committer = Committer(
            store,
            replica.settings,
            replica.clock,
            on_settled=self._settled,
            on_fenced=self._fenced,
            on_grown=self._grown,
            step_ids=self.step_ids,
            new_step=self._new_step,
            on_written=(lambda us: instruments.commit_time(str(self.number), us)) if instruments.listening else None,
            logger=replica.logger,
        )

    # -- lifecycle

    @property
    def opened(self) -> bool:
        return bool(self._jobs)

    async def open(self, name: str, *, migrated: bool, admit: Callable[[Shard], Awaitable[None]] | None = None) -> None:
        """Open the database and take up work; `admit` refuses one that does not belong here."""
        try:
            await self.store.open(name, migrated=migrated)
            if admit is not None:
                await self._admitted(admit)
            self.upkeep.recovered(await self.store.reclaim_expired_leases(self.settings.replica_timeout_ms))
            await self.gate.open()
        except BaseException:
            await self.store.close()
            raise
        self.debug_log.refresh()
        # An engine that was stopped may be started again.
        self.draining.clear()
        self.ready_queue.open(self)
        self.committer.reopen()
        self._jobs = [
            self._job(self.committer.run(), "committer"),
            self._job(self.gate.run(), "prober"),
            *(self._job(work, job) for job, work in self.upkeep.jobs(name).items()),
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

    # -- taking steps

    def wake(self, delay_us: int = 0) -> None:
        """A step is due `delay_us` from now."""
        self.ready_queue.wake(delay_us)

    @property
    def jobs(self) -> Sequence[asyncio.Task[None]]:
        """What goes on while it is open."""
        return self._jobs

    @property
    def outages(self) -> int:
        """How often the database was found to be away."""
        return self.committer.outages + self.availability.outages

    @property
    def room(self) -> int:
        return self._slots.available

    @property
    def free(self) -> asyncio.Event:
        return self._slots.has_available

    async def let_through(self, url: str) -> bool:
        """Claim the parked step of the task that is due longest and dispatch it as a probe; whether there was one."""
        self._slots.acquire(url)
        try:
            row = await self.store.claim_probe(url, self.settings.time_budget_ms)
        finally:
            self._slots.release(url)
        if row is not None:
            await self.take([row], probe=True)
        return row is not None

    def released(self, steps: Sequence[ReadyStep]) -> None:
        self.announcer.unparked(steps)

    async def take(self, rows: Sequence[ClaimedRow], *, probe: bool = False) -> None:
        """Dispatch what was claimed."""
        dead = []
        refs = {ref for row in rows if row.borrowed is not None for ref in state_refs.read(row.borrowed).values()}
        held = await self.store.held(refs)
        now = self._clock.now() if self._instruments.listening else 0
        for row in rows:
            if row.flow_status not in FLOW_LIVE:
                dead.append(row.step_id)  # X2
                continue
            if now:
                waited = -self.ready_queue.view.delay_of(row.not_before, now)
                self._instruments.queue_wait(row.url, max(0, waited), now)
            try:
                step = claimed_step(row, self.number, held)
            except state_refs.DanglingRef as gone:
                self.log.warning(
                    "step %d-%d was removed while it was claimed: %s",
                    self.number,
                    row.step_id,
                    gone,
                    extra={"step_id": f"{self.number}-{row.step_id}"},
                )
                continue
            except Exception:  # the others are dispatched all the same
                self.log.exception("step %d-%d cannot be read: it is left to its lease", self.number, row.step_id)
                continue
            self._slots.acquire(step.url)
            if probe:
                self.gate.probes(step)
            if probe or self.gate.admits(step):
                self._dispatch(step)
            else:
                self.committer.settle(release(step))
        if dead:
            await self.store.close_stale_steps(dead)

    async def start(self, flow: FlowRow, notify: str = "") -> None:
        """Start a created flow (O2). Raises `Conflict` if it is not created."""
        at, steps = await self.store.start(flow.flow_id, notify)
        self.announcer.started(flow, at, steps)

    # -- one step

    def first_step(self, new: NewFlow, created_at: int) -> None:
        """A flow was created with its entry step born running: dispatch it."""
        new.facts.created_at = new.facts.updated_at = created_at
        self._dispatch(ClaimedStep(new.facts, new.step_id, new.step_token, new.node, new.url, 1, 0, 1, new.state, {}))

    def _dispatch(self, step: ClaimedStep) -> None:
        step.dispatched_at = self._clock.now()
        if self.debug_log.enabled:
            self.debug_log.dispatched(step)
        self.in_flight.start(step, self._run(step))

    async def _run(self, step: ClaimedStep) -> None:
        settlement: Settlement | None = None
        step.begun = True
        try:
            if not step.called_off:
                settlement = await self._execute(step)
        except BaseException as error:
            running = asyncio.current_task()
            if ends_process(error) or closes_coroutine(error, running):
                raise
            if not isinstance(error, asyncio.CancelledError) or not called_off(running):
                self.log.exception("a defect while executing step %s", step.public_id, extra=step.log_fields)
                settlement = fail(step, ErrorInfo(f"a defect of the engine: {named(error)}", 500))
        finally:
            try:
                self._executed(step)
            finally:
                self.committer.settle(release(step) if settlement is None else settlement)

    def _executed(self, step: ClaimedStep) -> None:
        self.in_flight.executed(step)
        self.gate.finished(step)
        if step.span is not None:
            step.span.done()

    async def _execute(self, step: ClaimedStep) -> Settlement:
        flow = step.flow
        try:
            if flow.graph is None:
                flow.graph = await self._graphs.frozen(self.number, flow.digest)
            if step.unmerged is not None:
                await self._have_step_ids(1)
                return await self._decided(step, flow.graph, Answer(error=step.unmerged), None)
            if not step.breakpoint_hit and breakpoints.holds(flow.breakpoints, flow.graph, step.node):
                return parking.interrupted(step, step.changes, None)
            if not self.gate.may_ask(step):
                return release(step)
            watched = self._watched or flow.trace
            answer = await (self._ask_watched(step) if watched else self._ask(step, self._call(step)))
        except BusAway:
            await self._until_ready()  # the step is held meanwhile: neither failed nor written about
            return release(step, 0 if self.draining.is_set() else BUS_AWAY_DELAY_US)
        except WorkerLost as error:
            self.counters.lost.add(step.url)
            self.log.info("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
            return release(step, round(error.pause * 1_000_000))
        except Unavailable as error:
            self.log.warning("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
            return release(step, BUS_AWAY_DELAY_US)
        if self._looks:
            answer = sound(answer, step.url, self.limits.max_depth)
        held = self.gate.judged(step, answer)
        if held is not None:
            return held
        await self._have_step_ids(1)
        try:
            answer, child = await self._with_child(step, answer)
        except DatabaseAway as error:  # it is not the step that is at fault
            self.log.warning("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
            return release(step, BUS_AWAY_DELAY_US)
        step.age_us += max(0, self._clock.now() - step.dispatched_at)
        try:
            settlement = await self._decided(step, flow.graph, answer, child)
        except DwarfError as error:
            return fail(step, ErrorInfo(error.message, error.code))
        except Exception as error:
            self.log.exception("a defect while deciding on step %s", step.public_id, extra=step.log_fields)
            return fail(step, ErrorInfo(f"a defect of the engine: {named(error)}", 500))
        if settlement.problems and step.node not in flow.logged:
            flow.logged.add(step.node)
            self.log.warning(
                "step %s: conditions not evaluated, taken as false: %s", step.public_id, "; ".join(settlement.problems),
                extra=step.log_fields,
            )  # fmt: skip
        # The finishing step's hand is free for one of those that follow; the other branches are claimed like any work.
        new = settlement.branches[0] if settlement.branches else settlement.successor
        if new is not None and new.delay_us == 0:
            new.running = self._hands_on(step, new.url)
        elif settlement.child is not None and not flow.breakpoints:
            settlement.child.running = self._hands_on(step, settlement.child.url)
        if settlement.child is not None and step.span is not None:
            self._trace_child(step.span, settlement.child.facts)
        return settlement

    def _hands_on(self, step: ClaimedStep, url: str) -> bool:
        """Whether the hand of a step that ends goes to a new step of the task `url`; it counts for that from now on."""
        if not self.admission.admits(step.flow.priority, url, freed=step.url):
            return False
        self._slots.hand_over(step.url, url)
        step.slot = url
        return True

    def _trace_child(self, span: Dispatch, child: FlowContext) -> None:
        """The `workflow` span of a child flow is a child of the calling step's (T2)."""
        span.child = self.traces.workflow(child.public_id, child.workflow, parent=span.carried)
        if span.child is not None:
            child.trace = span.child.carried

    async def _until_ready(self) -> None:
        """Wait until tasks can be asked again, or for the drain: what is held then is given back at once (B3)."""
        waits = [asyncio.ensure_future(self._tasks.ready()), asyncio.ensure_future(self.draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _with_child(self, step: ClaimedStep, answer: Answer) -> tuple[Answer, parking.Child | None]:
        """What a child flow needs, if the answer asks for one that can be had; else the answer is an error (X4, P1)."""
        wanted = parking.wanted_child(step, answer)
        if wanted is None:
            return answer, None
        name = wanted.workflow
        try:
            check_subject_name(name, "workflow")
            graph = await self._patiently(step, lambda: self._graphs.find(name, step.flow.baggage))
            digest = await self._patiently(step, lambda: self._graphs.save(self.number, graph))
            await self._patiently(step, self.flow_ids.ensure)
        except DatabaseAway:
            raise
        except DwarfError as error:
            return Answer(error=ErrorInfo(f"sub-workflow {name[:80]!r} cannot be started: {error}", error.code)), None
        return answer, parking.Child(graph, digest, self.flow_ids.take(), self._tokens())

    async def _patiently(self, step: ClaimedStep, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, again and again for as long as the step's time budget if what it needs is away (B6)."""
        until = self._clock.now() + self._budget_ms(step.flow) * 1000
        failures = 0
        while True:
            try:
                return await work()
            except Refused:
                raise
            except (Unavailable, SourceAway):
                pause = DATABASE_BACKOFF.delay(failures)
                if self._clock.now() + pause * 1_000_000 > until:
                    raise
                await self._clock.sleep(pause)
                failures += 1

    async def _decided(
        self, step: ClaimedStep, graph: Graph, answer: Answer, child: parking.Child | None
    ) -> Settlement:
        """Decide, with as many ids as it turns out to need."""
        wanted = ID_BLOCK
        while True:
            try:
                return decide(step, graph, answer, self._new_step, self.limits, child)
            except NoneLeft:
                wanted *= 2
                await self._have_step_ids(wanted)

    def _call(self, step: ClaimedStep) -> TaskCall:
        flow = step.flow
        budget_ms = self._budget_ms(flow)
        return TaskCall(
            flow.key, step.key, flow.workflow, step.node, step.url, step.attempt, merge(step.state, step.changes),
            flow.baggage, flow.created_at, flow.updated_at, self._clock.now() + budget_ms * 1000, budget_ms / 1000,
            step.resumed, step.subgraph_result, step.subgraph_error,
        )  # fmt: skip

    async def _ask_watched(self, step: ClaimedStep) -> Answer:
        """As `_ask`, within a span and by the clock, if anybody wants to know (T1, T2)."""
        flow, call = step.flow, self._call(step)
        span = step.span = self.traces.dispatch(
            flow.trace, flow.public_id, step.public_id, flow.workflow, step.node, step.url, step.attempt
        )
        if span is not None:
            span.enter()
        call.traceparent, call.tracestate = headers_of(flow.trace if span is None else span.carried)
        began = self._clock.now()
        answer = await self._ask(step, call)
        now = self._clock.now()
        self._instruments.task_time(step.url, max(0, now - began), now)
        if span is not None and answer.error is not None:
            span.failed(answer.error.message)
        return answer

    async def _ask(self, step: ClaimedStep, call: TaskCall) -> Answer:
        deadline: asyncio.Timeout | None = None
        running = asyncio.current_task()
        try:
            if self._keeps_budget:
                return await self._tasks.execute(call)
            async with asyncio.timeout(call.budget) as deadline:
                return await self._tasks.execute(call)
        except TimeoutError as error:
            if deadline is None or not deadline.expired():  # the task's own
                return Answer(error=ErrorInfo(text_of(error) or "TimeoutError", 500))
            budget_ms = self._budget_ms(step.flow)
            return Answer(
                error=ErrorInfo(f"task {call.url} did not answer within its time budget of {budget_ms} ms", 408),
                cause="timeout",
            )
        except (BusAway, WorkerLost, Unavailable):
            raise
        except asyncio.CancelledError:
            if called_off(running):
                raise
            return Answer(error=ErrorInfo("the task was cancelled from inside", 500))
        except BaseException as error:
            if ends_process(error) or closes_coroutine(error, running):
                raise
            info = error_info(error)
            return Answer(error=ErrorInfo(text_of(error) or info.message, info.code))

    def _budget_ms(self, flow: FlowContext) -> int:
        return flow.time_budget_ms if flow.time_budget_ms is not None else self.settings.time_budget_ms

    async def _have_step_ids(self, wanted: int) -> None:
        """An answer in hand outlives an outage of the database (B6)."""
        failures = 0
        while True:
            try:
                return await self.step_ids.ensure(wanted)
            except Unavailable:
                await self._clock.sleep(DATABASE_BACKOFF.delay(failures))
                failures += 1

    def _new_step(self) -> StepRef:
        return StepRef(self.step_ids.take(), self._tokens())

    # -- after the commit

    def _settled(self, effects: Sequence[tuple[Settlement, bool, int]]) -> None:
        changed: list[StatusChanged] = []
        pending: list[ReadyStep] = []
        ended: list[tuple[str, Status]] = []
        completed: dict[str, int] = {}
        for settlement, alive, at in effects:
            step = settlement.step
            self.in_flight.drop(step)
            born = settlement.branches or ([settlement.successor] if settlement.successor is not None else [])
            if alive and born and born[0].running:
                self._dispatch(_eager_step(step.flow, born[0]))
                born = born[1:]
            elif alive and settlement.child is not None and settlement.child.running:
                self.first_step(settlement.child, at)
            else:
                self._slots.release(step.slot or step.url)
            try:
                if settlement.status is Status.COMPLETED and alive:  # nearly all of them
                    completed[step.url] = completed.get(step.url, 0) + 1
                else:
                    self._count(step, settlement.outcome if alive else "cancelled")
                if self.debug_log.enabled or step.span is not None:
                    self._tell(step, settlement, settlement.outcome if alive else "cancelled")
                if alive:
                    self._follow_up(settlement, born, at, changed, pending, ended)
            except Exception:  # it is written, and the other members of the group have their turn
                self.log.exception("a defect after the commit of step %s", step.public_id, extra=step.log_fields)
        for url, number in completed.items():
            self.counters.executed.add(url, "completed", n=number)
        self.announcer.announce(changed, pending, ended)

    def _follow_up(
        self,
        settlement: Settlement,
        born: Sequence[NewStep],
        at: int,
        changed: list[StatusChanged],
        pending: list[ReadyStep],
        ended: list[tuple[str, Status]],
    ) -> None:
        """What there is to look for, and to tell, of a settlement; `born`: its successors that stand in line."""
        step = settlement.step
        if settlement.child is not None:
            self._child_born(settlement.child, at, changed, pending)
        if settlement.branches or settlement.successor is not None:
            if born:
                self.ready_queue.hint_flow(step.flow, born[0].delay_us, len(born))
            for new in born:
                pending.append(ReadyStep(new.step_id, step.flow.priority, at + new.delay_us))
        elif settlement.status is Status.PENDING and self.gate.holds(step.url):
            self.gate.work_came()
        elif settlement.status is Status.PENDING:
            self.ready_queue.hint_flow(step.flow, settlement.delay_us)
            pending.append(ReadyStep(step.step_id, step.flow.priority, at + settlement.delay_us))
        elif settlement.end is not None:
            end = settlement.end
            changed.append(self.announcer.stopped(step.flow, outcome_at(step.flow, end), at))
            ended.append((step.flow.key, end.status))

    def _count(self, step: ClaimedStep, outcome: str) -> None:
        """Count what became of a dispatch."""
        if outcome == "given_back":
            self.counters.given_back.add(step.url)
        elif outcome != "held":
            self.counters.executed.add(step.url, outcome)

    def _tell(self, step: ClaimedStep, settlement: Settlement, outcome: str) -> None:
        """End the span of a dispatch, and log what became of it."""
        if step.span is not None:
            if settlement.error is not None:
                step.span.failed(settlement.error.message)
            if step.span.child is not None and outcome == "waiting":
                step.span.child.end()
            step.span.end(outcome)
        if self.debug_log.enabled:
            self.debug_log.settled(step, outcome)

    def _child_born(self, new: NewFlow, at: int, changed: list[StatusChanged], pending: list[ReadyStep]) -> None:
        facts = new.facts
        self.counters.flows_started.add(facts.workflow)
        changed += [self.announcer.change(facts, status, at) for status in (Status.CREATED, Status.RUNNING)]
        if not new.running:
            self.ready_queue.hint_flow(facts)
            pending.append(ReadyStep(new.step_id, facts.priority, at))

    def _grown(self, settled: SettleResult) -> None:
        """What a group brought about together: fan-ins born, callers woken, flows ended by their cohorts or paused."""
        now = self._clock.now()
        for flow, _ in settled.born:
            self.ready_queue.hint_flow(flow)
        for woken in settled.woken:
            self.ready_queue.hint(woken.priority)
        changed = [self.announcer.stopped(flow, outcome_at(flow, end), at) for flow, end, at in settled.ended]
        pending = [ReadyStep(step.step_id, flow.priority, now) for flow, step in settled.born]
        pending += [ReadyStep(woken.step_id, woken.priority, now) for woken in settled.woken]
        self.announcer.announce(changed, pending, [(flow.key, end.status) for flow, end, _ in settled.ended])

    def _fenced(self, settlement: Settlement) -> None:
        """The step was taken away meanwhile: its result is dropped without harm (X1)."""
        self.in_flight.drop(settlement.step)
        self._slots.release(settlement.step.slot or settlement.step.url)
        if settlement.step.cancelled:
            self._count(settlement.step, "cancelled")
            self._tell(settlement.step, settlement, "cancelled")
        else:
            self.counters.fenced.add()
            self._tell(settlement.step, settlement, "fenced")
        if settlement.end is not None or settlement.pause is not None:
            # Written by a commit whose answer was lost, perhaps: let waiters look.
            self.waiters.wake(settlement.step.flow.flow_id, None)


def _eager_step(flow: FlowContext, new: NewStep) -> ClaimedStep:
    """A step that was born running, in the hands of this replica."""
    return ClaimedStep(
        flow, new.step_id, new.token, new.node, new.url, new.depth, 0, 1, new.state, {},
        spawn_id=new.spawn_id, ordinal=new.ordinal, refs=new.refs,
    )  # fmt: skip
