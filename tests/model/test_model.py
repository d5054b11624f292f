"""Random graphs with random tasks, on the real engine and in the model: the same has to come out (sections 2 to 7)."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings

from dwarf_nats.embedded import PostgresServer
from dwarf_nats.embedding import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import Step
from tests.model.example import Example
from tests.model.graphs import graphs
from tests.model.interpreter import Expected, Model, TooLong, shown_history
from tests.model.stage import Observed, Stage
from tests.model.tasks import examples
from tests.model.values import Error, canonical, normalised

RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class House:
    """An engine that lives longer than an example, on an event loop that runs while one is performed."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner()
        self._stage = Stage()
        self._engine = open_engine(dsn, tasks=self._stage, graphs=self._stage, settings=EngineSettings(drain_ms=0))
        self._runner.run(self._engine.startup())

    def run(self, example: Example) -> Observed:
        return self._runner.run(self._stage.run(self._engine, example))

    def close(self) -> None:
        self._runner.run(self._engine.shutdown())
        self._runner.close()


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


def check(house: House, example: Example) -> None:
    """Run the example in the model and on the engine; fail with everything needed to see and repeat the difference."""
    try:
        expected = Model(example).run()
    except TooLong:
        assume(False)
    assume(not expected.ambiguous)
    event(expected.status)
    wanted = _expected(expected)
    observed = _observed(house.run(example), expected.errors)
    if wanted != observed:
        raise AssertionError(_report(example, wanted, observed))


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


def _report(example: Example, wanted: list[str], observed: list[str]) -> str:
    difference = "\n".join(difflib.unified_diff(wanted, observed, "model", "engine", n=100, lineterm=""))
    return f"the model and the engine differ\n{difference}\nthe example, for `Example.from_json`:\n{example.to_json()}"


# -- tests


@settings(max_examples=300, parent=RANDOM)
@given(graphs())
def test_g6_graphs_are_valid_by_construction(graph: Graph) -> None:
    graph.validate()
    assert Graph.from_json(graph.to_json()) == graph


@settings(max_examples=50, parent=RANDOM, derandomize=True)
@given(examples())
def test_the_engine_does_what_the_model_says(memory: House, example: Example) -> None:
    check(memory, example)


@pytest.mark.slow
@settings(max_examples=600, parent=RANDOM)
@given(examples())
def test_the_engine_does_what_the_model_says_many_times(memory: House, example: Example) -> None:
    check(memory, example)


@pytest.mark.slow
@settings(max_examples=100, parent=RANDOM)
@given(examples())
def test_on_postgresql_the_engine_does_what_the_model_says(on_postgres: House, example: Example) -> None:
    check(on_postgres, example)
