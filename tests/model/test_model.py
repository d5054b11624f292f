"""Random graphs with random tasks, on the real engine and in the model: equal results (semantics: sections 2 to 7; O11-O15)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.rules import state_refs
from dwarf_nats.workflow.graph import Graph
from tests.model.comparison import EngineGroup
from tests.model.example import Example
from tests.model.graphs import graphs
from tests.model.tasks import examples

KEPT = Path(__file__).parent / "kept"
EXAMPLES = int(os.environ.get("DWARF_EXAMPLES", "0") or 0)
"""Examples of each random test, others in every run; 0 for as many as `make test` takes, the same ones in every run."""
RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])


@pytest.fixture(scope="module")
def memory() -> Iterator[EngineGroup]:
    """An engine on SQLite in memory."""
    engines = EngineGroup("sqlite://", direct=True)
    yield engines
    engines.close()


@pytest.fixture(scope="module", params=[1, 2], ids=["one replica", "two replicas"])
def on_postgres(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[EngineGroup]:
    """Engines that share a PostgreSQL database."""
    name = f"model_{request.param}"
    dsn = asyncio.run(postgres.create_database(name))
    engines = EngineGroup(dsn, replicas=request.param, direct=request.param == 2)
    yield engines
    engines.close()
    asyncio.run(postgres.drop_database(name))


@settings(max_examples=200, parent=RANDOM)
@given(graphs())
def test_g6_graphs_are_valid_by_construction(graph: Graph) -> None:
    graph.validate()
    assert Graph.from_json(graph.to_json()) == graph


@settings(max_examples=20, parent=RANDOM)
@given(examples())
def test_examples_go_through_json_unchanged(example: Example) -> None:
    assert Example.from_json(example.to_json()) == example


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_went_wrong(memory: EngineGroup, path: Path) -> None:
    """Examples as a failure prints them."""
    memory.check(Example.from_json(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_went_wrong_on_postgresql(on_postgres: EngineGroup, path: Path) -> None:
    on_postgres.check(Example.from_json(path.read_text()))


@settings(max_examples=50, parent=RANDOM, derandomize=True)
@given(examples())
def test_the_engine_does_what_the_model_says(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 200, parent=RANDOM)
@given(examples())
def test_the_engine_does_what_the_model_says_many_times(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 100, parent=RANDOM)
@given(examples(fragile=6))
def test_a_flow_taken_up_again_from_a_step_goes_as_the_model_says(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@settings(max_examples=25, parent=RANDOM, derandomize=True)
@given(examples(fragile=3, cut=True))
def test_a_cancelled_flow_that_is_forked_goes_as_if_it_had_not_been(memory: EngineGroup, example: Example) -> None:
    """O14."""
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 100, parent=RANDOM)
@given(examples(fragile=3, cut=True))
def test_a_cancelled_flow_that_is_forked_goes_as_if_it_had_not_been_many_times(
    memory: EngineGroup, example: Example
) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples(fragile=3, cut=True))
def test_on_postgresql_a_cancelled_flow_that_is_forked_goes_as_if_it_had_not_been(
    on_postgres: EngineGroup, example: Example
) -> None:
    on_postgres.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples())
def test_on_postgresql_the_engine_does_what_the_model_says(on_postgres: EngineGroup, example: Example) -> None:
    on_postgres.check(example)


@settings(max_examples=60, parent=RANDOM, derandomize=True)
@given(examples(acting=40))
def test_nodes_without_a_service_do_what_the_model_says(memory: EngineGroup, example: Example) -> None:
    """N1, N2, N5-N7, L1-L3: also in chains, branches, loops and sub-workflows."""
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 100, parent=RANDOM)
@given(examples(acting=60))
def test_nodes_without_a_service_do_what_the_model_says_many_times(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples(fragile=4, acting=40))
def test_on_postgresql_nodes_without_a_service_do_what_the_model_says(
    on_postgres: EngineGroup, example: Example
) -> None:
    on_postgres.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 50, parent=RANDOM)
@given(examples(fragile=4, cut=True, acting=40))
def test_a_cancelled_flow_with_nodes_without_a_service_is_forked_as_the_model_says(
    memory: EngineGroup, example: Example
) -> None:
    memory.check(example)


@settings(max_examples=80, parent=RANDOM, derandomize=True)
@given(examples(acting=20, undoing=50))
def test_completed_steps_are_compensated_as_the_model_says(memory: EngineGroup, example: Example) -> None:
    """N9: in loops, branches, sub-workflows, after retries. E1, E2: waits that an event ends, signalled before or meanwhile."""
    memory.check(example)


@settings(max_examples=40, parent=RANDOM, derandomize=True)
@given(examples(fragile=3, cut=True, acting=20, undoing=50))
def test_completed_steps_of_a_cancelled_flow_are_compensated(memory: EngineGroup, example: Example) -> None:
    """N9, O10, O14."""
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 100, parent=RANDOM)
@given(examples(acting=20, undoing=50))
def test_completed_steps_are_compensated_as_the_model_says_many_times(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 60, parent=RANDOM)
@given(examples(fragile=4, acting=20, undoing=50))
def test_a_compensated_flow_is_taken_up_again_as_the_model_says(memory: EngineGroup, example: Example) -> None:
    """O13, O14."""
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples(acting=20, undoing=50))
def test_on_postgresql_completed_steps_are_compensated_as_the_model_says(
    on_postgres: EngineGroup, example: Example
) -> None:
    on_postgres.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples(fragile=3, cut=True, acting=20, undoing=50))
def test_on_postgresql_completed_steps_of_a_cancelled_flow_are_compensated(
    on_postgres: EngineGroup, example: Example
) -> None:
    on_postgres.check(example)


@settings(max_examples=25, parent=RANDOM, derandomize=True)
@given(examples(acting=10, undoing=15, crowded=True))
def test_flows_at_once_end_under_limits_as_without_and_no_limit_is_exceeded(
    memory: EngineGroup, example: Example
) -> None:
    """K1: concurrency and rates, for each fairness key and tag, changed meanwhile. K2: holds. Q1: tags that tasks set."""
    memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 40, parent=RANDOM)
@given(examples(acting=20, undoing=20, crowded=True))
def test_flows_at_once_end_under_limits_as_without_many_times(memory: EngineGroup, example: Example) -> None:
    memory.check(example)


@pytest.mark.slow
@pytest.mark.parametrize("on_postgres", [1], indirect=True, ids=["one replica"])
@settings(max_examples=EXAMPLES or 10, parent=RANDOM)
@given(examples(acting=10, undoing=10, crowded=True))
def test_on_postgresql_flows_at_once_end_under_limits_as_without(on_postgres: EngineGroup, example: Example) -> None:
    on_postgres.check(example)


@contextmanager
def everything_lent() -> Iterator[None]:
    """Every field, however small, is stored once and borrowed."""
    before, state_refs.LARGE_FIELD_BYTES = state_refs.LARGE_FIELD_BYTES, 1
    try:
        yield
    finally:
        state_refs.LARGE_FIELD_BYTES = before


@settings(max_examples=25, parent=RANDOM, derandomize=True)
@given(examples())
def test_where_every_field_is_borrowed_nothing_differs(memory: EngineGroup, example: Example) -> None:
    """S2, O11-O15."""
    with everything_lent():
        memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 100, parent=RANDOM)
@given(examples())
def test_where_every_field_is_borrowed_nothing_differs_many_times(memory: EngineGroup, example: Example) -> None:
    with everything_lent():
        memory.check(example)


@pytest.mark.slow
@settings(max_examples=EXAMPLES or 25, parent=RANDOM)
@given(examples())
def test_on_postgresql_where_every_field_is_borrowed_nothing_differs(
    on_postgres: EngineGroup, example: Example
) -> None:
    with everything_lent():
        on_postgres.check(example)
