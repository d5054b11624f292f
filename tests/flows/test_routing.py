"""Routing through the real engine, on both databases (X4, X6, X7, X9, G9)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError


def visits(*names: str) -> TaskProxy:
    """Tasks that write down that they ran."""
    proxy = TaskProxy()
    for name in names:
        proxy.handle_task(name, lambda flow: {"path": [*flow.get("path", []), flow.task]})
    return proxy


async def run(dsn: str, graph: Graph, proxy: TaskProxy, state: dict[str, Any]) -> tuple[Outcome, list[str]]:
    """The outcome and the nodes of the history."""
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        outcome = await engine.run(graph, state, timeout=20)
        return outcome, [step.task for step in await engine.history(outcome.flow_key)]


def switching() -> Graph:
    graph = Graph("switching")
    graph.add_task("a")
    graph.add_switch("a", "high", "total > 100")
    graph.add_switch("a", "some", "total > 10")
    graph.add_switch("a", "low", "true")
    for name in ("high", "some", "low"):
        graph.add_transition(name, END)
    return graph


@pytest.mark.parametrize(("total", "taken"), [(101, "high"), (100, "some"), (11, "some"), (1, "low")])
async def test_x7_the_first_switch_branch_that_holds_is_taken(dsn: str, total: int, taken: str) -> None:
    outcome, path = await run(dsn, switching(), visits("a", "high", "some", "low"), {"total": total})
    assert outcome.status is Status.COMPLETED
    assert path == ["a", taken]
    assert outcome.state["path"] == path


@pytest.mark.parametrize(("state", "path"), [({"go": True}, ["a", "b"]), ({"go": False}, ["a"]), ({}, ["a"])])
async def test_x7_a_single_condition_gates_and_with_nothing_next_the_flow_completes(
    dsn: str, state: dict[str, Any], path: list[str]
) -> None:
    graph = Graph("gated")
    graph.add_task("a")
    graph.add_when("a", "b", "go == true")
    graph.add_transition("b", END)
    outcome, walked = await run(dsn, graph, visits("a", "b"), state)
    assert outcome.status is Status.COMPLETED
    assert walked == path


async def test_g9_conditions_see_the_merged_state(dsn: str) -> None:
    """G9, S2: what the task has just changed decides."""
    proxy = visits("high", "some", "low")
    proxy.handle_task("a", lambda: {"total": 500})
    outcome, path = await run(dsn, switching(), proxy, {"total": 1})
    assert path == ["a", "high"]
    assert outcome.state["total"] == 500


async def test_g9_what_cannot_be_evaluated_is_not_taken_and_logged_once(
    sqlite_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph("loop")
    graph.add_task("a")
    graph.add_switch("a", "b", "total.sum > 3")
    graph.add_switch("a", "c", "true")
    graph.add_transition("b", END)
    graph.add_transition("c", END)
    graph.add_goto("c", "a")
    proxy = visits("b")
    proxy.handle_task("a", lambda flow: {"n": flow.get("n", 0) + 1})

    def again(flow: Flow) -> None:
        if flow.get("n") < 3:
            flow.goto("a")

    proxy.handle_task("c", again)
    with caplog.at_level(logging.DEBUG, logger="dwarf_nats.engine"):
        outcome, path = await run(sqlite_dsn, graph, proxy, {"total": "text"})
    assert outcome.status is Status.COMPLETED
    assert path == ["a", "c"] * 3
    assert len([one for one in caplog.records if "conditions not evaluated" in one.getMessage()]) == 1


def looping() -> Graph:
    graph = Graph("looping")
    graph.add_task("count", "tasks.count")
    graph.add_transition("count", "done")
    graph.add_goto("count", "count")
    graph.add_transition("done", END)
    return graph


@pytest.mark.parametrize("name", ["count", "tasks.count"])
async def test_x6_a_loop_by_goto_by_name_or_url(dsn: str, name: str) -> None:
    proxy = visits("done")

    def count(flow: Flow) -> None:
        flow.set("n", flow.get("n", 0) + 1)
        if flow.get("n") < 5:
            flow.goto(name)

    proxy.handle_task("tasks.count", count)
    outcome, path = await run(dsn, looping(), proxy, {})
    assert path == ["count"] * 5 + ["done"]
    assert outcome.state["n"] == 5


@pytest.mark.parametrize(("goto", "words"), [("done", "no goto edge"), ("nowhere", "no goto edge")])
async def test_x6_a_goto_without_its_edge_fails_the_step(dsn: str, goto: str, words: str) -> None:
    proxy = visits("done")

    def away(flow: Flow) -> None:
        flow.set("lost", True)
        flow.goto(goto)

    proxy.handle_task("tasks.count", away)
    outcome, path = await run(dsn, looping(), proxy, {"kept": 1})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert words in outcome.error.message
    assert "'count'" in outcome.error.message
    assert path == ["count"]
    assert outcome.state == {"kept": 1}  # S6: nothing of the failed answer


async def test_x6_a_condition_gates_a_goto(dsn: str) -> None:
    graph = Graph("gated")
    graph.add_task("a")
    graph.add_goto("a", "b", "ready == true")
    graph.add_transition("a", END)
    graph.add_transition("b", END)
    proxy = visits("b")
    proxy.handle_task("a", lambda flow: flow.goto("b"))
    shut, _ = await run(dsn, graph, proxy, {"ready": False})
    opened, path = await run("sqlite://", graph, proxy, {"ready": True})
    assert shut.error is not None
    assert "does not hold" in shut.error.message
    assert path == ["a", "b"]
    assert opened.status is Status.COMPLETED


def handled() -> Graph:
    graph = Graph("handled")
    graph.add_task("charge")
    graph.add_transition("charge", "ship")
    graph.add_on_error("charge", "later", "onErr.code == 402")
    graph.add_on_error("charge", "refund", "attempts == null")
    graph.add_on_error("charge", "never")
    for name in ("ship", "later", "refund", "never"):
        graph.add_transition(name, END)
    return graph


@pytest.mark.parametrize(
    ("code", "state", "taken"),
    [(402, {}, "later"), (500, {}, "refund"), (500, {"attempts": 1}, "never")],
)
async def test_x4_the_first_on_error_edge_that_holds_is_taken_with_the_error_as_an_object(
    dsn: str, code: int, state: dict[str, Any], taken: str
) -> None:
    proxy = visits("ship", "later", "refund", "never")

    def charge(flow: Flow) -> None:
        flow.set("half", "done")
        raise TaskError("no funds", code=code, account="a-1")

    proxy.handle_task("charge", charge)
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        outcome = await engine.run(handled(), state, timeout=20)
        steps = await engine.history(outcome.flow_key)
    assert outcome.status is Status.COMPLETED
    assert [(step.task, step.status) for step in steps] == [
        ("charge", Status.COMPLETED),
        (taken, Status.COMPLETED),
    ]
    assert outcome.state["onErr"] == {"message": "no funds", "code": code, "task": "charge", "account": "a-1"}
    assert "half" not in outcome.state  # S6


async def test_x4_errors_the_engine_finds_follow_the_error_edge_too(dsn: str) -> None:
    """A bad goto, competing signals and an exhausted retry are errors of the step like any other."""
    graph = Graph("found")
    graph.add_task("a")
    graph.add_transition("a", END)
    graph.add_on_error("a", "b")
    graph.add_transition("b", END)
    proxy = visits("b")
    proxy.handle_task("a", lambda flow: flow.goto("b"))
    outcome, path = await run(dsn, graph, proxy, {})
    assert path == ["a", "b"]
    assert "no goto edge" in outcome.state["onErr"]["message"]


async def test_x4_an_error_comes_down_the_edge_only_once_its_retries_are_exhausted(dsn: str) -> None:
    """X5: three executions, then the handler."""
    proxy = visits("ship", "later", "refund", "never")

    def charge(flow: Flow) -> None:
        flow.retry(max_attempts=3, initial_delay=0)
        raise TaskError("no funds", code=402)

    proxy.handle_task("charge", charge)
    outcome, path = await run(dsn, handled(), proxy, {})
    assert proxy.calls["charge"] == 3
    assert path == ["charge", "later"]
    assert outcome.state["onErr"]["code"] == 402


async def test_x8_without_an_edge_that_holds_the_flow_fails_with_the_tasks_error(dsn: str) -> None:
    graph = Graph("unhandled")
    graph.add_task("a")
    graph.add_transition("a", END)
    graph.add_on_error("a", "b", "onErr.code == 402")
    graph.add_transition("b", END)
    proxy = visits("b")

    def a() -> None:
        raise TaskError("broken", code=500)

    proxy.handle_task("a", a)
    outcome, path = await run(dsn, graph, proxy, {"x": 1})
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert outcome.error.message == "broken"
    assert path == ["a"]
    assert outcome.state == {"x": 1}
