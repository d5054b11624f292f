"""Conditions that cannot be evaluated are told: in the history of the step, and once per flow and node in the log (G9)."""

from __future__ import annotations

import logging

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON

pytestmark = pytest.mark.slow


def _choice(*conditions: str) -> Graph:
    graph = Graph("choice")
    for condition in conditions:
        graph.add_transition_switch("add", "double", condition)
    graph.add_transition_switch("add", END, "true")
    graph.add_transition("double", END)
    return graph


async def test_g9_history_and_step_tell_what_could_not_be_evaluated(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.put_graph(_choice("total > 3", "n.x == 1", "n > 100"))
    with caplog.at_level(logging.WARNING):
        flow = (await engine.run("choice", {"n": 1}, timeout=SOON)).flow_key
    (add,) = await engine.history(flow)
    assert [one.split(":")[0] for one in add.problems] == ["add -> double, 'total > 3'", "add -> double, 'n.x == 1'"]
    assert "`>` does not take (null, int)" in add.problems[0]
    assert (await engine.step(add.step_key)).problems == add.problems
    warnings = [one for one in caplog.records if "not evaluated" in one.getMessage()]
    assert [one.levelname for one in warnings] == ["WARNING"]
    assert flow not in warnings[0].getMessage()


async def test_g9_a_step_without_problems_has_none_and_a_restart_forgets_them(engine: Engine) -> None:
    await engine.put_graph(_choice("total > 3"))
    flow = (await engine.run("choice", {"n": 1}, timeout=SOON)).flow_key
    (add,) = await engine.history(flow)
    assert add.problems
    copy = await engine.fork(add.step_key, {"total": 5})
    await engine.await_(copy, SOON)
    assert [(one.task, one.problems) for one in await engine.history(copy)] == [("add", []), ("double", [])]
    await engine.restart(flow, {"total": 1})
    await engine.await_(flow, SOON)
    assert [(one.task, one.problems) for one in await engine.history(flow)] == [("add", [])]
    await engine.restart(flow, {"total": "x"})
    await engine.await_(flow, SOON)
    (add,) = await engine.history(flow)
    assert "string" in add.problems[0]
    await engine.restart_from(add.step_key, {"total": 1})
    await engine.await_(flow, SOON)
    (add,) = await engine.history(flow)
    assert add.problems == []


async def test_g9_a_fork_keeps_the_problems_of_the_steps_it_copies(engine: Engine) -> None:
    graph = Graph("kept")
    graph.add_transition_switch("add", END, "total > 3")
    graph.add_transition_switch("add", "double", "true")
    graph.add_transition("double", END)
    await engine.put_graph(graph)
    flow = (await engine.run("kept", {"n": 1}, timeout=SOON)).flow_key
    first, second = await engine.history(flow)
    copy = await engine.fork(second.step_key)
    await engine.await_(copy, SOON)
    assert [one.problems for one in await engine.history(copy)] == [first.problems, []]
    assert first.problems


async def test_g9_conditions_of_error_edges_are_told_too(engine: Engine, proxy: TaskProxy) -> None:
    def fails() -> None:
        raise TaskError("no", 404)

    proxy.handle_task("fails", fails)
    graph = Graph("broken")
    graph.add_transition("fails", END)
    graph.add_transition_on_error("fails", "add", "onErr.reason == 'x'")
    graph.add_transition_on_error("fails", "double", "onErr.code == 500")
    graph.add_transition("add", END)
    graph.add_transition("double", END)
    await engine.put_graph(graph)
    outcome = await engine.run("broken", {"n": 1}, timeout=SOON)
    assert outcome.status is Status.FAILED
    (step,) = await engine.history(outcome.flow_key)
    assert step.problems == ["fails -> add, \"onErr.reason == 'x'\": no such field 'reason'"]


async def test_g9_many_problems_are_cut(engine: Engine) -> None:
    """Nobody reads more, and a history has to fit the bus."""
    await engine.put_graph(_choice(*(f"state['{'x' * 600}{n}'] == 1" for n in range(50))))
    flow = (await engine.run("choice", {"n": 1}, timeout=SOON)).flow_key
    (add,) = await engine.history(flow)
    assert len(add.problems) == 21
    assert add.problems[-1] == "and 30 more"
    assert max(map(len, add.problems)) <= 501
