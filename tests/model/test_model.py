"""Random graphs with random tasks, on the real engine and in the model: the same has to come out (sections 2 to 7)."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, event, given, settings

from dwarf_nats.embedded import PostgresServer
from dwarf_nats.embedding import open_engine
from dwarf_nats.errors import BadRequest, Conflict
from dwarf_nats.settings import EngineSettings
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import Step
from tests.model.example import Encore, Example
from tests.model.graphs import graphs
from tests.model.interpreter import Expected, Model, TooLong, shown_history
from tests.model.stage import Observed, Play, Stage
from tests.model.tasks import examples
from tests.model.values import CannotMerge, Error, canonical, merged, normalised, reduced

RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class House:
    """An engine that lives longer than an example, on an event loop that runs while one is performed."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner()
        self._stage = Stage()
        self._engine = open_engine(dsn, tasks=self._stage, graphs=self._stage, settings=EngineSettings(drain_ms=0))
        self._runner.run(self._engine.startup())

    def check(self, example: Example) -> None:
        """Run the example in the model and on the engine; fail with all that is needed to see and repeat the difference."""
        expected = predicted(example)
        event(expected.status)
        self._runner.run(self._checked(example, expected))

    async def _checked(self, example: Example, expected: Expected) -> None:
        async with self._stage.play(self._engine, example) as play:
            observed = await play.perform()
            compare(example, "", expected, observed)
            encore = example.encore
            if encore is None:
                return
            match encore.kind:
                case "restart" | "continue":
                    await again(play, example, encore, expected)
                case "restart_from" | "fork":
                    await from_a_step(play, example, encore, expected, observed)

    def close(self) -> None:
        self._runner.run(self._engine.shutdown())
        self._runner.close()


def predicted(example: Example) -> Expected:
    """What the model says; examples that are too long or whose outcome is open do not count."""
    try:
        expected = Model(example).run()
    except TooLong:
        assume(False)
    assume(not expected.ambiguous)
    return expected


async def again(play: Play, example: Example, encore: Encore, before: Expected) -> None:
    """Restart (O13) or continue (O15): the whole flow once more, from a state made of the first one or the last one."""
    if encore.kind == "restart":
        second = msgspec.structs.replace(example, state=merged(example.state, encore.state))
    else:
        if before.status != "completed":
            with pytest.raises(Conflict):
                await play.encore(encore, [])
            return
        try:
            state = reduced(example.root.get("reducers", {}), before.state, [encore.state])
        except CannotMerge:
            with pytest.raises(BadRequest):
                await play.encore(encore, [])
            return
        second = msgspec.structs.replace(example, state=state, breakpoints=[])
    compare(example, f" after {encore.kind}", predicted(second), await play.encore(encore, []))


async def from_a_step(play: Play, example: Example, encore: Encore, expected: Expected, before: Observed) -> None:
    """restart_from (O13) or fork (O14): nothing else was asked for, so the same comes out."""
    steps = [
        step
        for workflow, step in every_step(example.root["name"], before.history)
        if (workflow, step.task) not in expected.unrun
    ]
    if encore.kind == "fork" and example.breakpoints:
        return  # they are not inherited
    observed = await play.encore(encore, steps)
    observed.log, observed.pauses, observed.breaks = expected.log, expected.pauses, expected.breaks
    compare(example, f" after {encore.kind} at {steps[encore.step % len(steps)].task}", expected, observed)


def every_step(workflow: str, steps: list[Step]) -> list[tuple[str, Step]]:
    """The steps of a history and of those nested in it, each with its workflow."""
    found = []
    for step in steps:
        found.append((workflow, step))
        if step.sub_workflow is not None:
            found += every_step(step.sub_workflow, step.sub_history)
    return found


@pytest.fixture(scope="module")
def memory() -> Iterator[House]:
    """An engine on SQLite in memory."""
    house = House("sqlite://")
    yield house
    house.close()


@pytest.fixture(scope="module")
def on_postgres(postgres: PostgresServer) -> Iterator[House]:
    """An engine on PostgreSQL."""
    house = House(asyncio.run(postgres.create_database("model")))
    yield house
    house.close()
    asyncio.run(postgres.drop_database("model"))


# -- comparing


def compare(example: Example, when: str, expected: Expected, observed: Observed) -> None:
    wanted, got = _expected(expected), _observed(observed, expected.errors)
    if wanted != got:
        difference = "\n".join(difflib.unified_diff(wanted, got, "model", "engine", n=100, lineterm=""))
        raise AssertionError(
            f"the model and the engine differ{when}\n{difference}\n"
            f"the example, for `Example.from_json`:\n{example.to_json()}"
        )


def _expected(expected: Expected) -> list[str]:
    error = "one of those expected" if expected.errors else "none"
    return _lines(expected.status, expected.state, error, expected, shown_history(expected.history))


def _observed(observed: Observed, errors: list[Error]) -> list[str]:
    outcome = observed.outcome
    error = "none"
    if outcome.error is not None:
        error = Error(outcome.error.message, outcome.error.code, outcome.error.extra).shown()
        possible = {one.shown() for one in errors}
        error = "one of those expected" if error in possible else f"{error}, and not one of {sorted(possible)}"
    return _lines(outcome.status.value, outcome.state, error, observed, _shown_history(observed.history))


def _lines(status: str, state: dict[str, Any], error: str, rest: Expected | Observed, history: list[Any]) -> list[str]:
    return [
        f"status: {status}",
        f"state: {canonical(normalised(state))}",
        f"error: {error}",
        f"interrupts: {rest.pauses}, breakpoints: {rest.breaks}",
        *(f"step {canonical(step)}" for step in history),
        *rest.log,
    ]


def _shown_history(steps: list[Step]) -> list[Any]:
    by_id = {step.step_id: step for step in steps}
    return sorted((_shown(step, _origins(step, by_id)) for step in steps), key=canonical)


def _shown(step: Step, origins: list[str]) -> list[Any]:
    child = [step.sub_workflow, _shown_history(step.sub_history)] if step.subgraph else None
    return [step.task, step.status.value, step.attempt, origins, child]


def _origins(step: Step, by_id: dict[int, Step]) -> list[str]:
    """The nodes a step follows, as its own row and theirs have it (F7)."""
    if step.predecessor_id is None:
        return []
    led_here = [other for other in by_id.values() if other.successor_id == step.step_id]
    if not led_here:  # a branch: the step that fanned out has many
        return [by_id[step.predecessor_id].task]
    if by_id[step.predecessor_id] not in led_here:
        return [f"{by_id[step.predecessor_id].task}, which leads elsewhere"]
    return sorted(other.task for other in led_here)


# -- tests


@settings(max_examples=300, parent=RANDOM)
@given(graphs())
def test_g6_graphs_are_valid_by_construction(graph: Graph) -> None:
    graph.validate()
    assert Graph.from_json(graph.to_json()) == graph


@settings(max_examples=50, parent=RANDOM, derandomize=True)
@given(examples())
def test_the_engine_does_what_the_model_says(memory: House, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=600, parent=RANDOM)
@given(examples())
def test_the_engine_does_what_the_model_says_many_times(memory: House, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=100, parent=RANDOM)
@given(examples())
def test_on_postgresql_the_engine_does_what_the_model_says(on_postgres: House, example: Example) -> None:
    on_postgres.check(example)
