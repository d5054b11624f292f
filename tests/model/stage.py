"""Examples on the real engine: its graphs and tasks come from whichever example a flow's baggage names."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.engine import Engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.state import Raw, decode_value
from dwarf_nats.workflow.status import Status
from tests.model.behaviours import play
from tests.model.example import Example, answer_to
from tests.model.values import canonical, normalised

SECONDS = 30.0
"""No example should ever need so long."""


@dataclass
class Observed:
    """What came out."""

    outcome: Outcome
    history: list[Step]
    log: list[str]
    pauses: int
    breaks: int


@dataclass
class Scene:
    """One example on stage, and what its tasks were given."""

    example: Example
    graphs: dict[str, Graph]
    log: list[str] = field(default_factory=list)

    async def perform(self, flow: Flow) -> None:
        """The function behind every task of the example."""
        self.log.append(canonical(["call", flow.workflow, flow.task, flow.attempt, normalised(dict(flow.state))]))

        def note(what: str, value: Any) -> None:
            self.log.append(canonical([what, flow.workflow, flow.task, normalised(value)]))

        act = self.example.behaviours[flow.workflow][flow.task].act(flow)
        for _ in range(act.turns):
            await asyncio.sleep(0)
        play(act, flow, note)


class Stage(TaskProxy):
    """Serves the graphs and tasks of many examples."""

    def __init__(self) -> None:
        super().__init__()
        self._scenes: dict[int, Scene] = {}
        self._numbers = itertools.count(1)

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        return self._scene(baggage).graphs.get(workflow)

    async def execute(self, call: TaskCall) -> Answer:
        return await run_task(self._scene(call.baggage).perform, call)

    def _scene(self, baggage: Raw) -> Scene:
        return self._scenes[decode_value(baggage)["scene"]]

    async def run(self, engine: Engine, example: Example) -> Observed:
        """The example as one flow, from its creation until it is over, whoever it has to be resumed by."""
        number = next(self._numbers)
        root, *children = example.all_graphs()
        scene = self._scenes[number] = Scene(example, {child.name: child for child in children})
        play = _Play(engine, scene, FlowOptions(baggage={"scene": number}))
        try:
            async with asyncio.timeout(SECONDS):
                await play.perform(root)
        except TimeoutError:
            play.outcome = await engine.snapshot(play.key)  # stuck: it shows in the status
        finally:
            del self._scenes[number]
        return Observed(play.outcome, await engine.history(play.key), sorted(scene.log), play.pauses, play.breaks)


class _Play:
    """One flow of an example, and whoever resumes it."""

    outcome: Outcome

    def __init__(self, engine: Engine, scene: Scene, options: FlowOptions) -> None:
        self.key = ""
        self.pauses = self.breaks = 0
        self._engine = engine
        self._example = scene.example
        self._options = options

    async def perform(self, root: Graph) -> None:
        self.key = await self._engine.create(root, self._example.state, self._options)
        for task in self._example.breakpoints:
            await self._engine.break_before(self.key, task)
        await self._engine.start(self.key)
        await self._until_over()

    async def _until_over(self) -> None:
        while True:
            self.outcome = await self._engine.await_(self.key)
            if self.outcome.status is not Status.INTERRUPTED:
                return
            for _ in range(self._example.patience):
                await asyncio.sleep(0)
            await self._resume()

    async def _resume(self) -> None:
        """The oldest pause shows: an interrupt with its payload, a breakpoint without (section 11)."""
        if self.outcome.interrupt_json is not None:
            self.pauses += 1
            await self._engine.resume(self.key, answer_to(self.outcome.interrupt_payload))
        else:
            self.breaks += 1
            await self._engine.resume_break(self.key, self._example.overrides)
