"""The public test harness: one line, as a context manager and as a fixture."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.status import Status

pytest_plugins = ["pytester"]


def greeting() -> Graph:
    graph = Graph("greeting")
    graph.add_chain("greet", "shout", "END")
    return graph


async def test_a_workflow_is_tested_in_a_few_lines() -> None:
    async with workflow_engine() as (engine, proxy):
        proxy.handle_graph(greeting())
        proxy.handle_task("greet", lambda name: {"greeting": f"hello {name}"})

        @proxy.task("shout")
        async def shout(flow: Flow) -> None:
            flow.transform("greeting", str.upper)

        outcome = await engine.run("greeting", {"name": "ada"})
        assert outcome.state == {"name": "ada", "greeting": "HELLO ADA"}
        assert proxy.calls == {"greet": 1, "shout": 1}
    assert not engine.ready


async def test_engines_of_two_tests_share_nothing() -> None:
    async with workflow_engine() as (one, proxy), workflow_engine() as (two, other):
        proxy.handle_graph(greeting())
        proxy.handle_task("greet", lambda: None)
        await one.create("greeting")
        assert len((await one.list())[0]) == 1
        assert (await two.list())[0] == []
        assert other.calls == {}


async def test_the_harness_runs_on_a_file_and_with_a_clock(sqlite_dsn: str) -> None:
    clock = ManualClock()
    async with workflow_engine(sqlite_dsn, clock=clock) as (engine, proxy):
        proxy.handle_task("work", lambda: {"done": True})
        key = await engine.create_task("work", start=True)
        outcome = await engine.await_(key, 20)
        ((summary,), _) = await engine.list()
        assert (outcome.status, summary.created_at) == (Status.COMPLETED, clock.now())
    async with workflow_engine(sqlite_dsn) as (engine, _):
        assert (await engine.snapshot(key)).state == {"done": True}


async def test_an_unregistered_task_says_what_to_do() -> None:
    async with workflow_engine() as (engine, _):
        outcome = await engine.await_(await engine.create_task("nobody", start=True), 20)
        assert outcome.error is not None
        assert "proxy.handle_task" in outcome.error.message


async def test_a_failing_test_body_still_closes_its_engine() -> None:
    with pytest.raises(ZeroDivisionError):
        async with workflow_engine() as (engine, _):
            _ = 1 / 0
    assert not engine.ready


async def test_the_fixture_gives_the_same_pair(dwarf_engine: tuple[Engine, TaskProxy]) -> None:
    engine, proxy = dwarf_engine
    proxy.handle_graph(greeting())
    proxy.handle_task("greet", lambda: {"greeting": "hi"})
    proxy.handle_task("shout", lambda greeting: {"greeting": greeting.upper()})
    assert (await engine.run("greeting")).state == {"greeting": "HI"}


@pytest.mark.slow
@pytest.mark.skipif(not entry_points(group="pytest11", name="dwarf_nats"), reason="the package is not installed")
def test_the_fixture_comes_with_the_package(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        """
        async def test_mine(dwarf_engine):
            engine, proxy = dwarf_engine
            proxy.handle_task("add", lambda n: {"n": n + 1})
            key = await engine.create_task("add", {"n": 1}, start=True)
            assert (await engine.await_(key)).state == {"n": 2}
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
