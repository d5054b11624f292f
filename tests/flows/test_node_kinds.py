"""Nodes that the engine carries out itself (N1, N2, N5-N8) and policies of nodes (L1-L3), on each database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.rules.leases import LEASE_GRACE_MS
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import AskPerson, Defaults, NodeKind, RetryPolicy, RunWorkflow, SetFields, Sleep
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import quiet, rows
from tests.support.flows import bench, line
from tests.support.nodes import act, acting

# -- set (N1)


async def test_a_set_node_changes_fields_and_removes_those_that_are_null(dsn: str) -> None:
    async with bench(dsn) as it:
        graph = acting("x", calc=SetFields({"sum": "=a + b", "kept": "=big", "gone": None, "text": "==a"}))
        outcome = await it.run(graph, {"a": 1, "b": 2, "gone": 3, "big": 2**63 - 1})
        assert (outcome.status, it.proxy.calls) == (Status.COMPLETED, {})
        assert outcome.state == {"a": 1, "b": 2, "sum": 3, "big": 2**63 - 1, "kept": 2**63 - 1, "text": "=a"}


async def test_a_template_that_cannot_be_evaluated_is_an_error_with_its_place(dsn: str) -> None:
    """N1 (semantics: templates): code 400, with node, field and expression."""
    async with bench(dsn) as it:
        outcome = await it.run(acting("x", calc=SetFields({"sum": "=a + b"})), {"a": 1})
        assert outcome.error is not None
        assert outcome.error.code == 400
        assert "node 'calc'" in outcome.error.message
        assert "set" in outcome.error.message
        assert "a + b" in outcome.error.message


async def test_a_value_that_nests_too_deep_fails_the_step_alone(dsn: str) -> None:
    """S1: a loop that wraps a value in itself."""
    deeper = Graph("deeper")
    act(deeper, "wrap", SetFields({"x": ["=x"]}))
    deeper.add_transition_switch("wrap", "wrap", "true")
    deeper.add_transition_switch("wrap", END, "true")
    async with bench(dsn) as it:
        outcome = await it.run(deeper, {"x": 0})
        assert outcome.error is not None
        assert (outcome.status, outcome.error.code) == (Status.FAILED, 400)
        assert "node 'wrap'" in outcome.error.message


# -- workflow (N2)


async def test_a_workflow_node_brings_back_the_final_state_of_its_child(dsn: str) -> None:
    graph = Graph("parent")
    act(graph, "shipping", RunWorkflow("ship", {"order": "=order"}), into="result")
    graph.add_transition("shipping", END)
    async with bench(dsn, line("ship", "pack")) as it:
        it.tasks(pack=lambda flow: {"packed": flow.get("order")})
        outcome = await it.run(graph, {"order": "o-1", "other": 1})
        assert outcome.state == {"order": "o-1", "other": 1, "result": {"order": "o-1", "packed": "o-1"}}
        assert it.proxy.calls == {"pack": 1}


async def test_a_failed_child_is_an_error_of_the_step_with_its_code(dsn: str) -> None:
    """N2, L2: its policy sees the code, and the child runs again."""
    graph = acting("parent", shipping=RunWorkflow("ship", {}))
    graph.nodes["shipping"].retry = RetryPolicy(initial_delay_ms=0, max_attempts=3, codes=(402,))

    async with bench(dsn, line("ship", "pack")) as it:

        def pack() -> None:
            code = 402 if it.proxy.calls["pack"] < 3 else 404
            raise TaskError("no luck", code, box=7)

        it.tasks(pack=pack)
        outcome = await it.run(graph)
        assert outcome.error == ErrorInfo("no luck (tried 3 times)", 404, {"box": 7})
        assert it.proxy.calls == {"pack": 3}
        (step,) = await it.engine.history(outcome.flow_key)
        assert step.attempt == 2
        assert await rows(it.engine, "select count(*) from dwarf_flows") == [(2,)]


async def test_a_failed_child_takes_the_error_edge(dsn: str) -> None:
    graph = acting("parent", shipping=RunWorkflow("ship", {}), sorry=SetFields({"why": "=onErr['code']"}))
    graph.add_transition("shipping", "sorry", on_error=True)
    async with bench(dsn, line("ship", "pack")) as it:

        def pack() -> None:
            raise TaskError("no luck", 404)

        it.tasks(pack=pack)
        outcome = await it.run(graph)
        assert (outcome.status, outcome.state["why"]) == (Status.COMPLETED, 404)


async def test_a_workflow_that_nobody_knows_is_an_error_of_the_step(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await it.run(acting("parent", shipping=RunWorkflow("nowhere", {})))
        assert outcome.error is not None
        assert outcome.error.code == 404
        assert "sub-workflow 'nowhere'" in outcome.error.message


# -- ask (N6)


async def test_an_ask_pauses_with_its_payload_and_brings_back_the_answer(dsn: str) -> None:
    graph = acting("x", quote=None, approval=AskPerson(payload={"pay": "=total"}))
    async with bench(dsn) as it:
        it.tasks(quote=lambda: {"total": 12})
        outcome = await it.run(graph)
        assert (outcome.status, outcome.interrupt_payload) == (Status.INTERRUPTED, {"pay": 12})
        await it.engine.resume(outcome.flow_key, {"yes": True})
        after = await it.stopped(outcome.flow_key)
        assert (after.status, after.state) == (Status.COMPLETED, {"total": 12, "approval": {"yes": True}})


async def test_an_ask_whose_deadline_passes_is_an_error_408() -> None:
    """N6, P6."""
    graph = acting("x", approval=AskPerson(timeout_ms=60_000))
    clock = ManualClock()
    async with bench("sqlite://", clock=clock) as it:
        outcome = await it.run(graph)
        assert outcome.status is Status.INTERRUPTED
        clock.advance(61)
        after = await it.ended(outcome.flow_key)
        assert after.error is not None
        assert after.error.code == 408
        assert "nobody answered within 60000 ms" in after.error.message


# -- sleep (N7)


async def test_a_sleep_before_the_end_delays_the_end() -> None:
    """N7: the step itself waits."""
    clock = ManualClock()
    async with bench("sqlite://", clock=clock) as it:
        key = await it.engine.create(acting("x", nap=Sleep(ms="=delay * 2")), {"delay": 30_000}, start=True)
        (step,) = await it.until_steps(key, lambda steps: steps[0].status is Status.PENDING)
        assert (step.attempt, step.error) == (0, None)
        clock.advance(59.9)
        await quiet(it.engine)
        assert (await it.engine.snapshot(key)).status is Status.RUNNING
        clock.advance(0.2)
        outcome = await it.stopped(key)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"delay": 30_000})
        (step,) = await it.engine.history(key)
        assert (step.status, step.attempt) == (Status.COMPLETED, 0)


async def test_a_sleep_until_a_time_that_is_past_is_no_wait(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await it.run(acting("x", nap=Sleep(until="=at")), {"at": "2001-02-03T04:05:06Z"})
        assert outcome.status is Status.COMPLETED


async def test_a_sleep_until_a_time_to_come_waits_for_it() -> None:
    clock = ManualClock()
    at = datetime.fromtimestamp(clock.now() / 1e6, UTC) + timedelta(hours=2)
    async with bench("sqlite://", clock=clock) as it:
        key = await it.engine.create(acting("x", nap=Sleep(until="=at")), {"at": at.isoformat()}, start=True)
        await it.until_steps(key, lambda steps: steps[0].status is Status.PENDING)
        clock.advance(7_199)
        await quiet(it.engine)
        assert (await it.engine.snapshot(key)).status is Status.RUNNING
        clock.advance(2)
        assert (await it.stopped(key)).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("nap", "state", "told"),
    [
        (Sleep(ms="=n"), {"n": -1}, "sleep.ms: needs a number of milliseconds from 0, got -1"),
        (Sleep(ms="=n"), {"n": "soon"}, "sleep.ms: needs a number"),
        (Sleep(ms="=n"), {"n": True}, "sleep.ms: needs a number"),
        (Sleep(until="=n"), {"n": "tomorrow"}, "sleep.until: needs a time such as"),
        (Sleep(until="=n"), {"n": "2026-02-30T00:00:00Z"}, "sleep.until: needs a time such as"),
        (Sleep(until="=n"), {"n": "2026-02-03T00:00:00"}, "sleep.until: needs a time such as"),
    ],
)
async def test_a_time_that_is_none_is_an_error_with_its_place(nap: Sleep, state: dict[str, Any], told: str) -> None:
    async with bench("sqlite://") as it:
        outcome = await it.run(acting("x", nap=nap), state)
        assert outcome.error is not None
        assert outcome.error.code == 400
        assert f"node 'nap', {told}" in outcome.error.message


async def test_a_restarted_step_sleeps_again() -> None:
    """N7, O13."""
    clock = ManualClock()
    async with bench("sqlite://", clock=clock) as it:
        key = await it.engine.create(acting("x", nap=Sleep(ms=1000)), start=True)
        await it.until_steps(key, lambda steps: steps[0].status is Status.PENDING)
        clock.advance(2)
        await it.stopped(key)
        await it.engine.restart(key)
        await quiet(it.engine)
        assert (await it.engine.snapshot(key)).status is Status.RUNNING
        clock.advance(2)
        assert (await it.stopped(key)).status is Status.COMPLETED


# -- policies (L1-L3)


async def test_attempts_and_last_error_are_shown_until_the_step_succeeds(dsn: str) -> None:
    """L3: while it waits for the next attempt; then they are history."""
    graph = line("x", "a", "b")
    graph.nodes["a"].retry = RetryPolicy(initial_delay_ms=0)
    async with bench(dsn) as it:
        seen: list[Any] = []

        async def a(flow: Flow) -> None:
            if flow.attempt < 2:
                raise TaskError("busy", 409, try_=flow.attempt)
            (step,) = await it.engine.history(flow.flow_key)
            seen.append((step.attempt, step.error))

        it.tasks(a=a)
        it.idle("b")
        outcome = await it.run(graph)
        assert outcome.status is Status.COMPLETED
        assert seen == [(2, ErrorInfo("busy", 409, {"try_": 1}))]
        first = (await it.engine.history(outcome.flow_key))[0]
        assert (first.attempt, first.error) == (2, None)


async def test_the_defaults_of_a_graph_hold_for_its_nodes(dsn: str) -> None:
    """L1: also for a node that the engine carries out itself."""
    graph = acting("x", calc=SetFields({"sum": "=a + b"}))
    graph.defaults = Defaults(retry=RetryPolicy(initial_delay_ms=0, max_attempts=4))
    async with bench(dsn) as it:
        outcome = await it.run(graph, {"a": 1})
        assert outcome.error is not None
        assert outcome.error.message.endswith("(tried 4 times)")
        (step,) = await it.engine.history(outcome.flow_key)
        assert step.attempt == 3


async def test_an_answer_that_is_late_for_its_node_is_retried() -> None:
    """L1, L2: the budget of a node overrules that of the service; a missed deadline is an error with code 408."""
    graph = line("x", "slow")
    graph.nodes["slow"].timeout_ms = 1
    graph.nodes["slow"].retry = RetryPolicy(initial_delay_ms=0, max_attempts=2, codes=(408,))
    async with bench("sqlite://") as it:
        never = asyncio.Event()
        it.tasks(slow=never.wait)
        outcome = await it.run(graph)
        assert outcome.error is not None
        assert outcome.error.code == 408
        assert "within its time budget of 1 ms (tried 2 times)" in outcome.error.message


async def test_a_lease_outlasts_the_budget_of_its_node(dsn: str) -> None:
    """L1, B2: a node that may take longer than its flow; the flow may be resumed by nobody else meanwhile."""
    graph = line("x", "slow")
    graph.nodes["slow"].timeout_ms = 3_600_000
    async with bench(dsn) as it:
        leases: list[int] = []

        async def slow() -> None:
            ((lease,),) = await rows(it.engine, "select lease_expires - updated_at from dwarf_steps")
            leases.append(lease)

        it.tasks(slow=slow)
        await it.run(graph)
        assert leases[0] >= 3_600_000_000 + LEASE_GRACE_MS * 1000


# -- what is shown (N8, O7)


async def test_a_history_tells_the_kinds_of_nodes_and_when_they_are_due() -> None:
    """N8, O7: in histories, steps and lists; nested ones, too."""
    clock = ManualClock()
    child = acting("child", calc=SetFields({"x": 1}))
    graph = acting("x", a=None, run=RunWorkflow("child", {}), nap=Sleep(ms=60_000))
    async with bench("sqlite://", child, clock=clock) as it:
        it.idle("a")
        key = await it.engine.create(graph, start=True)
        steps = await it.until_steps(key, lambda steps: len(steps) == 3 and steps[2].status is Status.PENDING)
        assert [step.kind for step in steps] == [NodeKind.TASK, NodeKind.WORKFLOW, NodeKind.SLEEP]
        assert [step.kind for step in steps[1].sub_history] == [NodeKind.SET]
        assert [step.due_at is None for step in steps] == [True, True, False]
        due = steps[2].due_at
        assert due == clock.now() + 60_000_000
        paged, _ = await it.engine.history_page(key, 10)
        assert [step.kind for step in paged] == [step.kind for step in steps]
        assert [step.kind for step in paged[1].sub_history] == [NodeKind.SET]
        alone = await it.engine.step(steps[2].step_key)
        assert (alone.kind, alone.due_at) == (NodeKind.SLEEP, due)
        ((summary,), _) = await it.engine.list()
        assert (summary.task, summary.due_at) == ("nap", due)
        clock.advance(61)
        await it.stopped(key)
        assert [step.due_at for step in await it.engine.history(key)] == [None, None, None]
        ((summary,), _) = await it.engine.list()
        assert summary.due_at is None
