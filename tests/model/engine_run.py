"""Examples on the real engine: its graphs and tasks come from whichever example a flow's baggage names."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.engine import Engine
from dwarf_nats.errors import Conflict
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.state import Raw, decode_value
from dwarf_nats.workflow.status import Status
from tests.model.behaviours import SIGNALLED, play
from tests.model.crowds import Tally
from tests.model.example import Example, event_for
from tests.model.records import Effects
from tests.model.values import State, canonical, normalised

SECONDS = 30.0
"""No example should ever need so long."""


@dataclass
class Observed:
    """What came out."""

    outcome: Outcome
    history: list[Step]
    effects: Effects


@dataclass
class Scene:
    """One example under way, and what its tasks were given."""

    example: Example
    graphs: dict[str, Graph]
    log: list[str] = field(default_factory=list)
    executions: int = 0
    tally: Tally | None = None
    member: int = 0
    """Which flow of a crowd it is."""

    async def perform(self, flow: Flow) -> None:
        """The function behind every task of the example."""
        self.executions += 1
        self.log.append(canonical(["call", flow.workflow, flow.task, flow.attempt, normalised(dict(flow.state))]))

        def note(what: str, value: Any) -> None:
            self.log.append(canonical([what, flow.workflow, flow.task, normalised(value)]))

        if flow.compensating is not None:
            note("undo", dict(flow.compensating.changes))
        act = self.example.behaviours[flow.workflow][flow.task].act(flow)
        for _ in range(act.turns):
            await asyncio.sleep(0)
        play(act, flow, note)


class StagedTasks(TaskProxy):
    """Serves the graphs and tasks of many examples."""

    def __init__(self) -> None:
        super().__init__()
        self._scenes: dict[int, Scene] = {}
        self._numbers = itertools.count(1)

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        return self._scene(baggage).graphs.get(workflow)

    async def execute(self, call: TaskCall) -> Answer:
        scene = self._scene(call.baggage)
        if scene.tally is None:
            return await run_task(scene.perform, call)
        with scene.tally.during(call, scene.member):
            return await run_task(scene.perform, call)

    def _scene(self, baggage: Raw) -> Scene:
        return self._scenes[decode_value(baggage)["scene"]]

    @asynccontextmanager
    async def play(
        self, engines: Sequence[Engine], example: Example, tally: Tally | None = None, member: int = 0
    ) -> AsyncIterator[EngineRun]:
        """The example as one flow, not created yet; of a crowd, as this member of it."""
        number = next(self._numbers)
        root, *children = example.all_graphs()
        scene = Scene(example, {child.name: child for child in children}, tally=tally, member=member)
        self._scenes[number] = scene
        key = "" if tally is None else tally.crowd.keys[member]
        tags = {**example.tags, **({"key": key} if key else {})}
        options = FlowOptions(baggage={"scene": number}, fairness_key=key, tags=tags or None)
        try:
            yield EngineRun(engines, scene, root, options)
        finally:
            del self._scenes[number]


class EngineRun:
    """One flow of an example, and whoever resumes it."""

    def __init__(self, engines: Sequence[Engine], scene: Scene, root: Graph, options: FlowOptions) -> None:
        self._engines = itertools.cycle(engines)
        self._scene = scene
        self._example = scene.example
        self._root = root
        self._options = options
        self._key = ""
        self._pauses = self._breaks = 0
        self._waits = any(word in self._example.to_json() for word in (f'"{SIGNALLED}"', '"await"'))

    @property
    def _engine(self) -> Engine:
        """The next one: any of them will do."""
        return next(self._engines)

    async def perform(self) -> Observed:
        """From its creation until it is over."""
        for key in self._example.early:
            await self._engine.signal(SIGNALLED, key, event_for(key))
        self._key = await self._engine.create(self._root, self._example.state, self._options)
        for task in self._example.breakpoints:
            await self._engine.break_before(self._key, task)
        await self._engine.start(self._key)
        return await self._observed()

    async def perform_until_cut(self, executions: int, *, paused: bool) -> Observed:
        """From its creation until so many executions have begun, and then it is cancelled; or until it is over.

        `paused`: it is cancelled the next time it is paused.
        """
        self._key = await self._engine.create(self._root, self._example.state, self._options, start=True)
        try:
            async with asyncio.timeout(SECONDS), self._signalling():
                while paused or self._scene.executions < executions:
                    outcome = await self._engine.snapshot(self._key)
                    if outcome.status is Status.INTERRUPTED:
                        if self._scene.executions >= executions:
                            break
                        await self._resume(outcome)
                    elif outcome.status.terminal:
                        break
        except TimeoutError:
            pass
        with contextlib.suppress(Conflict):
            await self._engine.cancel(self._key)
        return await self._observed()

    async def restart(self, overrides: State) -> Observed:
        await self._engine.restart(self._key, overrides)
        return await self._observed()

    async def restart_from(self, step: str, overrides: State) -> Observed:
        await self._engine.restart_from(step, overrides)
        return await self._observed()

    async def fork(self, step: str, overrides: State) -> Observed:
        self._key = await self._engine.fork(step, overrides)
        return await self._observed()

    async def continue_(self, state: State) -> Observed:
        self._key = await self._engine.continue_(self._key, state, start=True)
        return await self._observed()

    async def whole(self, step: Step) -> Step:
        """With its state and changes."""
        return await self._engine.step(step.step_key)

    async def input_of(self, step: Step) -> State:
        text = (await self._engine.step(step.step_key)).state_json
        assert text is not None
        state: State = json.loads(text)
        return state

    async def _observed(self) -> Observed:
        """Once it is over; what was noted before is cleared away."""
        try:
            async with asyncio.timeout(SECONDS), self._signalling():
                outcome = await self._until_over()
        except TimeoutError:
            outcome = await self._engine.snapshot(self._key)  # stuck: the status tells
        history = await self._engine.history(self._key)
        effects = Effects(sorted(self._scene.log), self._pauses, self._breaks)
        self._scene.log.clear()
        self._pauses = self._breaks = 0
        return Observed(outcome, history, effects)

    @contextlib.asynccontextmanager
    async def _signalling(self) -> AsyncIterator[None]:
        """Signal the event for whoever waits for it meanwhile."""
        task = asyncio.create_task(self._signal()) if self._waits else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _signal(self) -> None:
        query = f"select distinct wait_key from dwarf_steps where parked = 3 and wait_event = '{SIGNALLED}'"
        while True:
            store: Any = self._engine.shards[1].store
            for (key,) in await store.database.fetch(query):
                await self._engine.signal(SIGNALLED, key, event_for(key))
            await asyncio.sleep(0.002)

    async def _until_over(self) -> Outcome:
        while True:
            outcome = await self._engine.await_(self._key)
            if outcome.status is not Status.INTERRUPTED:
                return outcome
            for _ in range(self._example.patience):
                await asyncio.sleep(0)
            await self._resume(outcome)

    async def _resume(self, outcome: Outcome) -> None:
        """The oldest pause shows: an interrupt with its payload, a breakpoint without (O5)."""
        if outcome.interrupt_json is not None:
            self._pauses += 1
            await self._engine.resume(self._key, self._example.answer_to(outcome.interrupt_payload))
        else:
            self._breaks += 1
            await self._engine.resume_break(self._key, self._example.overrides)
