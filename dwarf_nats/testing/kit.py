"""An environment for the tests of workflows: the real engine on SQLite in memory, and a clock that moves by itself."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from dwarf_nats.errors import Conflict
from dwarf_nats.local.states import Values, given
from dwarf_nats.testing.histories import assert_history
from dwarf_nats.testing.replica import Replica
from dwarf_nats.testing.setup import Setup
from dwarf_nats.workflow.records import Outcome

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.records import EventReceipt, Pause, Step

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which an environment begins: the same in every run."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_JUMPS = 5_000
"""Due times passed in one wait, after which it is given up: a flow that is retried for ever, for example."""
UPKEEP_ROUNDS = 25
"""Rounds of upkeep without any due time, after which nothing more will happen."""
Condition: TypeAlias = Callable[[], Any]


class FlowStuck(AssertionError):
    """A flow does not get where the test waits for it: nothing is due any more, or there is no end to it."""


class FlowEnv(Setup):
    """Runs workflows in a test. Nothing happens by itself: time passes while one of its methods waits.

    `run`, `finish`, `until`, `answer` move the clock from one due time to the next until they have what they wait for; `settle`
    does what is due now; `skip` lets a certain time pass. Tasks run really, so a task that sleeps takes its time.
    """

    def __init__(self, settings: EngineSettings | None = None, start: datetime = START) -> None:
        super().__init__((start - EPOCH) // timedelta(microseconds=1))
        self._replica = Replica(
            self.clock,
            self.activity,
            settings,
            tasks=self.tasks,
            services=self.services,
            graphs=self.book,
            waiting=lambda: self.around.waiting,
        )

    # -- the parts

    @property
    def engine(self) -> Engine:
        """The engine, with all operations, such as schedules; another one after a crash."""
        return self._replica.engine

    @property
    def now(self) -> datetime:
        """The time in the environment, in UTC."""
        return EPOCH + timedelta(microseconds=self.clock.now())

    # -- flows

    async def start(self, workflow: str | Graph, state: Values = None, options: FlowOptions | None = None) -> str:
        """Create a flow and start it; return its key. It runs as soon as something is awaited."""
        return await self.engine.create(workflow, given(state), options, start=True)

    async def run(self, workflow: str | Graph, state: Values = None, options: FlowOptions | None = None) -> Outcome:
        """Create a flow, start it, and return its outcome as soon as it is stopped: ended, or paused.

        Raises `FlowStuck` if it never is.
        """
        return await self.stopped(await self.start(workflow, state, options))

    async def stopped(self, flow: str) -> Outcome:
        """Return the outcome as soon as the flow is stopped: ended, or paused. Raises `FlowStuck`."""
        return await self._outcome_when(flow, lambda outcome: outcome.status.stopped, "to stop")

    async def finish(self, flow: str) -> Outcome:
        """Return the outcome as soon as the flow has ended; deadlines of its pauses pass. Raises `FlowStuck`."""
        return await self._outcome_when(flow, lambda outcome: outcome.status.terminal, "to end")

    async def outcome(self, flow: str) -> Outcome:
        """Return where the flow stands."""
        return await self.engine.snapshot(flow)

    async def answer(self, flow: str, data: Any = None, task: str = "") -> None:
        """Wait until the flow is paused by `ask` or `interrupt`, at the node `task` if given, and resume it with data.

        Raises `FlowStuck` if it is not, `Conflict` if it ends before.
        """
        pause = await self._pause(flow, task)
        await self.engine.resume(data=data, step=pause.step_key)

    async def signal(self, event: str, key: str = "", data: Any = None) -> EventReceipt:
        """Hand an event to every step that waits for it; it is kept for a day if none does."""
        await self.settle()
        return await self.engine.signal(event, key, data)

    # -- time

    async def settle(self) -> None:
        """Let everything happen that is due now. The clock stands still."""
        await self.activity.rest()
        while self.around.crash_wanted:
            self.around.crash_wanted = False
            await self._replica.crash()
            await self.activity.rest()

    async def skip(self, time: timedelta | float | None = None, **units: float) -> None:
        """Let time pass, seconds or a `timedelta` or `days=2, hours=1`; what is due meanwhile happens in its turn."""
        delta = time if isinstance(time, timedelta) else timedelta(seconds=time or 0, **units)
        end = self.clock.now() + delta // timedelta(microseconds=1)
        await self.settle()
        jumps = 0
        while (due := self.clock.next_due_at) is not None and due <= end:
            jumps += 1
            self._check_jumps(jumps, f"the {delta} to pass")
            self.clock.move_to(due)
            await self.settle()
        if end > self.clock.now():
            self.clock.move_to(end)
            await self.settle()

    async def until(self, condition: Condition, what: str = "the condition") -> Any:
        """Move on until `condition`, plain or async, gives something true; return that. Raises `FlowStuck`."""
        jumps = rounds = 0
        while True:
            await self.settle()
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            jumps += 1
            self._check_jumps(jumps, what)
            due = self.clock.next_due_at
            rounds = 0 if due is not None else rounds + 1
            if due is None and rounds > UPKEEP_ROUNDS:
                raise FlowStuck(f"nothing is due any more, and the test waits for {what}")
            self.clock.move_to(due if due is not None else self.clock.next_pause_ends_at or self.clock.now())

    # -- crashes

    async def crash(self) -> None:
        """Kill the replica, and start another one on its database. Steps that were running run again."""
        await self.settle()
        await self._replica.crash()
        await self.settle()

    # -- what happened

    async def history(self, flow: str) -> list[Step]:
        """Return the steps of the flow, those of called workflows nested."""
        return await self.engine.history(flow)

    async def assert_history(self, flow: str | Outcome, expected: str | Iterable[str]) -> None:
        """Compare the history of a flow, line by line, with what is expected; `history_lines` says how a line reads."""
        key = flow.flow_key if isinstance(flow, Outcome) else flow
        outcome = await self.engine.snapshot(key)
        assert_history(await self.engine.history(key), expected, f"{outcome.workflow} is {outcome.status}, and ")

    # -- inside

    async def open(self) -> None:
        """Start the engine."""
        await self._replica.start()

    async def close(self) -> None:
        """Stop the engine."""
        await self._replica.stop()

    async def _outcome_when(self, flow: str, wanted: Callable[[Outcome], bool], what: str) -> Outcome:
        async def reached() -> Outcome | None:
            outcome = await self.engine.snapshot(flow)
            return outcome if wanted(outcome) else None

        try:
            found: Outcome = await self.until(reached, f"the flow {what}")
        except FlowStuck as stuck:
            explained = await self.engine.explain(flow)
            raise FlowStuck(f"{stuck}: {explained.text}") from None
        return found

    async def _pause(self, flow: str, task: str) -> Pause:
        async def paused() -> Pause | None:
            outcome = await self.engine.snapshot(flow)
            for pause in outcome.pauses:
                if pause.kind == "interrupt" and task in ("", pause.task):
                    return pause
            if outcome.status.terminal:
                where = f" at {task}" if task else ""
                raise Conflict(f"the flow is {outcome.status}, and nothing asks a question{where}")
            return None

        found: Pause = await self.until(paused, f"the flow to ask a question{f' at {task}' if task else ''}")
        return found

    @staticmethod
    def _check_jumps(jumps: int, what: str) -> None:
        if jumps > MAX_JUMPS:
            raise FlowStuck(f"{MAX_JUMPS:,} due times have passed, and the test still waits for {what}")


@asynccontextmanager
async def flow_env(*, settings: EngineSettings | None = None, start: datetime = START) -> AsyncIterator[FlowEnv]:
    """Open an environment for one test. `start`: its time at the beginning.

    Raises `AssertionError` at the end if a failure that was asked for has not happened.
    """
    env = FlowEnv(settings, start)
    await env.open()
    try:
        yield env
    finally:
        await env.close()
    env.around.faults.check_all_happened()
