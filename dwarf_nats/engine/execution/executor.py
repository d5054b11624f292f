"""Executes claimed steps: ask the task, decide on its answer, hand over the settlement (design note 0001)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.chains import Chains, goes_on
from dwarf_nats.engine.execution.direct_calls import DirectCalls
from dwarf_nats.engine.execution.invoker import raised
from dwarf_nats.engine.execution.pipeline import Pipeline
from dwarf_nats.engine.ids import NoneLeft
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports import BusAway, QueuedTooLong, WorkerLost
from dwarf_nats.rules import breakpoints, parking
from dwarf_nats.rules.answers import sound
from dwarf_nats.rules.decide import Deciding, decide, fail, release
from dwarf_nats.rules.steps import ClaimedStep, eager_step, first_step
from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.task_exceptions import closes_coroutine, describe_error, ends_process, was_cancelled

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.debug_log import DebugLog
    from dwarf_nats.engine.execution.committer import Committer
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.engine.execution.runner import StepRunner
    from dwarf_nats.engine.ids import StepIds
    from dwarf_nats.engine.scheduling.admission import EagerAdmission
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import FlowContext, NewFlow, NewStep
    from dwarf_nats.telemetry.traces import TaskSpan
    from dwarf_nats.workflow.graph import Graph

COHORT_IDS = 10_000
"""Ids a decision gets if one was not enough: it spawns a cohort of unknown size then. Doubled each time."""
RELEASE_DELAY_US = 250_000
"""The pause of a step that was released because a connection is away: others would find it away as well."""


class Executor:
    """Executes the steps of one shard.

    What has to wait for more than the answer of a task runs in a task of asyncio of its own. All else is done when the answer
    comes.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        runner: StepRunner,
        in_flight: InFlight,
        admission: EagerAdmission,
        backpressure: ShardBackpressure,
        step_ids: StepIds,
        committer: Committer,
        debug_log: DebugLog,
    ) -> None:
        self.runner = runner
        self._clock = shared.clock
        self._tasks = shared.tasks
        self._graphs = shared.graphs
        self._slots = shared.slots
        self._traces = shared.traces
        self._counters = shared.counters
        self._log = shared.logger
        self._limits = shared.settings.limits()
        self._checks_answers = shared.capabilities.max_depth != shared.settings.max_depth
        self._in_flight = in_flight
        self._admission = admission
        self._backpressure = backpressure
        self._step_ids = step_ids
        self._committer = committer
        self._debug_log = debug_log
        self.pipeline = Pipeline(in_flight, committer, shared.settings)
        self._direct = DirectCalls(shared, runner.invoker)
        self._chains = Chains(shared, runner=runner, step_ids=step_ids, debug_log=debug_log)

    # -- dispatch

    def dispatch(self, step: ClaimedStep) -> None:
        """Begin the execution of a step that has a worker slot."""
        step.dispatched_at = self._clock.now()
        if self._debug_log.enabled:
            self._debug_log.dispatched(step)
        if self._direct.possible and not step.probe and self._backpressure.may_ask(step):
            give_up = self._direct.ask(step, partial(self._answered, step))
            if give_up is not None:
                step.begun = True
                self._in_flight.start_directly(step, partial(self._given_up, step, give_up))
                return
        self._in_flight.start(step, self._run(step))

    def dispatch_first(self, new: NewFlow, created_at: int) -> None:
        """Dispatch the entry step of a flow that was created with it running; times in microseconds since the epoch."""
        new.flow.created_at = new.flow.updated_at = created_at
        self.dispatch(first_step(new))

    def dispatch_successor(self, flow: FlowContext, new: NewStep) -> None:
        """Dispatch a step that was created running: it starts eagerly."""
        self.dispatch(eager_step(flow, new))

    # -- execution

    def _answered(self, step: ClaimedStep, got: Answer | Exception) -> None:
        """Settle a step that was started directly, or go on with it in a task of asyncio, if that has to wait for something."""
        if isinstance(got, Answer):
            self._direct.measure(step)
        if isinstance(got, Answer) and got.subgraph is None:
            age_us = step.age_us
            try:
                settlement = self._settled_at_once(step, got)
            except Exception:  # ids are short, or a defect: that is for the other way to find out
                step.age_us = age_us
            else:
                self._finish(step, settlement)
                return
        self._in_flight.executed(step)
        step.begun = False
        self._in_flight.go_on(step, self._run(step, got))

    def _settled_at_once(self, step: ClaimedStep, answer: Answer) -> Settlement:
        """Settle a step by an answer that asks for no sub-workflow. Raises `NoneLeft`, if ids are short."""
        graph = step.flow.graph
        assert graph is not None
        answer = self._sound(step, answer)
        if (early := self._backpressure.release_refused(step, answer)) is not None:
            return early
        self._note_age(step)
        return self._decided(step, graph, answer, None)

    def _given_up(self, step: ClaimedStep, give_up: Callable[[], None]) -> None:
        """Release a step that was started directly: nobody waits for its answer any more."""
        give_up()
        self._end(step, release(step))

    def _finish(self, step: ClaimedStep, settlement: Settlement) -> None:
        """Have a step that was started directly written, and the one that follows started."""
        try:
            self._prepare_next(step, settlement)
        except Exception as error:
            self._log.exception("a defect while executing step %s", step.public_id, extra=step.log_fields)
            settlement = fail(step, ErrorInfo(f"a defect of the engine: {describe_error(error)}", 500))
        self._end(step, settlement)

    async def _run(self, step: ClaimedStep, got: Answer | Exception | None = None) -> None:
        """Execute a step, or go on with what it has got of its task."""
        settlement: Settlement | None = None
        step.begun = True
        try:
            if not step.called_off:
                settlement = await self._execute(step, got)
        except BaseException as error:
            running = asyncio.current_task()
            if ends_process(error) or closes_coroutine(error, running):
                raise
            if not isinstance(error, asyncio.CancelledError) or not was_cancelled(running):
                self._log.exception("a defect while executing step %s", step.public_id, extra=step.log_fields)
                settlement = fail(step, ErrorInfo(f"a defect of the engine: {describe_error(error)}", 500))
        finally:
            self._end(step, settlement)

    def _end(self, step: ClaimedStep, settlement: Settlement | None) -> None:
        """The execution of a step ends: hand its settlement over; without one it is released."""
        try:
            self._executed(step)
        finally:
            if settlement is None:
                settlement = release(step)
            if step.ahead_of is None and step.follower is None:
                self._committer.settle(settlement)
            else:
                self.pipeline.settle(settlement)

    def _executed(self, step: ClaimedStep) -> None:
        self._in_flight.executed(step)
        self._backpressure.finished(step)
        if step.span is not None:
            step.span.done()

    async def _execute(self, step: ClaimedStep, got: Answer | Exception | None) -> Settlement:
        """Settle a step. A database or a bus that is away releases it: the step is not at fault."""
        flow = step.flow
        try:
            graph = flow.graph or await self._graph_of(flow)
            if step.unmerged is not None:
                return await self._decide(step, graph, Answer(error=step.unmerged), None)
            if got is None:
                if (early := self._stopped_before_task(step, graph)) is not None:
                    return early
                answer = await self.runner.run(step, graph)
            else:
                answer = _answer_of(got)
            answer = self._sound(step, answer)
            if (early := self._backpressure.release_refused(step, answer)) is not None:
                return early
            child = None
            if answer.subgraph is not None:
                answer, child = await self.runner.children.prepare(step, answer)
        except (BusAway, WorkerLost, Unavailable) as error:
            return await self._release(step, error)
        self._note_age(step)
        try:
            settlement = self._decided(step, graph, answer, child)
        except NoneLeft:
            settlement = await self._decide(step, graph, answer, child)
        except Exception as error:
            return self._fail_undecided(step, error)
        self._prepare_next(step, settlement)
        return settlement

    def _sound(self, step: ClaimedStep, answer: Answer) -> Answer:
        return sound(answer, step.url, self._limits.max_depth) if self._checks_answers else answer

    def _note_age(self, step: ClaimedStep) -> None:
        step.age_us += max(0, self._clock.now() - step.dispatched_at)

    async def _graph_of(self, flow: FlowContext) -> Graph:
        flow.graph = await self._graphs.frozen(flow.shard, flow.digest)
        return flow.graph

    def _stopped_before_task(self, step: ClaimedStep, graph: Graph) -> Settlement | None:
        """The settlement of a step that stops at a breakpoint (O12), or whose task may not be asked (V4)."""
        if not step.breakpoint_hit and breakpoints.holds(step.flow.breakpoints, graph, step.node):
            return parking.interrupted(step, step.changes, None)
        if not self._backpressure.may_ask(step):
            return release(step)
        return None

    def _decided(self, step: ClaimedStep, graph: Graph, answer: Answer, child: parking.Child | None) -> Settlement:
        """Decide with the ids that are at hand. Raises `NoneLeft`."""
        settlement = decide(Deciding(step, graph, self._step_ids.new, self._limits), answer, child)
        if answer.tags is not None and settlement.error is None:  # kept as its changes are (S6)
            settlement.tags = answer.tags
        return settlement

    async def _decide(self, step: ClaimedStep, graph: Graph, answer: Answer, child: parking.Child | None) -> Settlement:
        """Decide, with as many ids as it turns out to need."""
        wanted = 1
        while True:
            try:
                return self._decided(step, graph, answer, child)
            except NoneLeft:
                await self._step_ids.wait_for(wanted)
                wanted = max(COHORT_IDS, 2 * wanted)
            except Exception as error:
                return self._fail_undecided(step, error)

    # -- what goes wrong

    async def _release(self, step: ClaimedStep, error: BusAway | WorkerLost | Unavailable) -> Settlement:
        """Release a step because something is away: neither failed nor counted as an attempt (B6, X11)."""
        if isinstance(error, BusAway):
            self._in_flight.held.add(step.step_id)
            try:
                await self._until_ready()  # the step is held meanwhile, and nothing is written about it
            finally:
                self._in_flight.held.discard(step.step_id)
            return release(step, 0 if self._admission.draining.is_set() else RELEASE_DELAY_US)
        if isinstance(error, WorkerLost):
            if not isinstance(error, QueuedTooLong):
                self._counters.lost.add(step.url)
            self._log.info("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
            return release(step, round(error.pause * 1_000_000))
        self._log.warning("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
        return release(step, RELEASE_DELAY_US)

    async def _until_ready(self) -> None:
        """Wait until tasks can be asked again, or for the drain: what is held then is released at once (B3)."""
        waits = [asyncio.ensure_future(self._tasks.ready()), asyncio.ensure_future(self._admission.draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _fail_undecided(self, step: ClaimedStep, error: Exception) -> Settlement:
        if isinstance(error, DwarfError):
            return fail(step, ErrorInfo(error.message, error.code))
        self._log.exception("a defect while deciding on step %s", step.public_id, extra=step.log_fields)
        return fail(step, ErrorInfo(f"a defect of the engine: {describe_error(error)}", 500))

    def _warn_of_problems(self, step: ClaimedStep, settlement: Settlement) -> None:
        """Log conditions that could not be evaluated, once for each node of a flow (G9)."""
        if step.node not in step.flow.logged:
            step.flow.logged.add(step.node)
            self._log.warning(
                "step %s: conditions not evaluated, taken as false: %s",
                step.public_id,
                "; ".join(settlement.problems),
                extra=step.log_fields,
            )

    # -- what follows

    def _prepare_next(self, step: ClaimedStep, settlement: Settlement) -> None:
        """Have what follows on a decision ready before it is written."""
        if settlement.problems:
            self._warn_of_problems(step, settlement)
        self._start_eagerly(step, settlement)

    def _start_eagerly(self, step: ClaimedStep, settlement: Settlement) -> None:
        """Have one of the steps that follow start in the worker slot of this one; the others are claimed like any work.

        Those that the engine carries out at once need no slot: they are settled with this one (N8).
        """
        if goes_on(settlement) and step.flow.graph is not None:
            self._chains.extend(settlement, step.flow.graph)
        new = settlement.branches[0] if settlement.branches else settlement.successor
        child = settlement.child
        if settlement.links:
            new = _heir(settlement)
        if new is not None and new.delay_us == 0:
            new.eager = self._hand_slot_over(step, new.url, step.flow.workflow)
            graph = step.flow.graph
            if new.eager and graph is not None and graph.pipelined:
                follower = self.pipeline.go_ahead(settlement, new, graph)
                if follower is not None:
                    self.dispatch(follower)
        elif child is not None and not step.flow.breakpoints:
            child.eager = self._hand_slot_over(step, child.url, child.flow.workflow)
        if child is not None and step.span is not None:
            self._trace_child(step.span, child.flow)

    def _hand_slot_over(self, step: ClaimedStep, url: str, workflow: str) -> bool:
        """Hand the slot of a step that ends over to a new step of the task `url`, if that may start; whether it does."""
        if not self._admission.admits(step.flow.priority, url, workflow, freed=step.url):
            return False
        self._slots.hand_over(step.url, url)
        step.slot = url
        return True

    def _trace_child(self, span: TaskSpan, child: FlowContext) -> None:
        """Make the `workflow` span of a child flow a child of the calling step's (T2)."""
        span.child = self._traces.workflow(child.public_id, child.workflow, parent=span.trace_context)
        if span.child is not None:
            child.trace = span.child.trace_context


def _answer_of(got: Answer | Exception) -> Answer:
    """Return the answer that a direct call got. Raises what `Tasks.execute` would have raised."""
    if isinstance(got, BusAway | WorkerLost | Unavailable):
        raise got
    return raised(got) if isinstance(got, Exception) else got


def _heir(settlement: Settlement) -> NewStep | None:
    """The first step after a chain that is due at once and not part of it."""
    return next((new for one in settlement.chain() for new in one.loose if new.delay_us == 0), None)
