"""Interrupts with a deadline, as tasks and callers see them (P6), on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import Conflict
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import WaitTimeout
from tests.support.flows import bench, call, each, line


async def test_p6_the_task_is_asked_again_when_the_deadline_passes(dsn: str) -> None:
    """P6: with the changes it made before; nobody can resume the step any more."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            flow.set("seen", flow.get("seen", 0) + 1)
            try:
                flow.set("got", flow.interrupt("go on?", timeout=0.01))
            except WaitTimeout as error:
                flow.set("got", [error.code, str(error)])

        it.tasks(a=a)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        outcome = await it.ended(key)
        assert outcome.status is Status.COMPLETED
        assert outcome.state["seen"] == 2
        assert outcome.state["got"] == [408, "nobody resumed the step before the deadline of its interrupt"]
        with pytest.raises(Conflict):
            await it.engine.resume(key, "too late")


async def test_p6_a_resume_before_the_deadline_counts(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=lambda flow: {"got": flow.interrupt("go on?", timeout=3600)})
        outcome = await it.run(line("x", "a"))
        assert outcome.status is Status.INTERRUPTED
        await it.engine.resume(outcome.flow_key, "yes")
        assert (await it.stopped(outcome.flow_key)).state == {"got": "yes"}


async def test_p6_a_timeout_that_the_task_does_not_catch_is_an_error_of_the_step(dsn: str) -> None:
    """X4: with the code 408, for its error edge."""
    graph = Graph("x")
    graph.add_chain("a", END)
    graph.add_transition("a", "late", on_error=True)
    graph.add_transition("late", END)
    async with bench(dsn) as it:
        it.tasks(a=lambda flow: {"got": flow.interrupt("?", timeout=0)})
        it.tasks(late=lambda onErr: {"code": onErr["code"]})  # noqa: N803
        outcome = await it.ended(await it.engine.create(graph, {}, start=True))
        assert outcome.status is Status.COMPLETED
        assert outcome.state["code"] == 408


async def test_p6_a_retry_forgets_that_the_deadline_passed(dsn: str) -> None:
    """X5: the next attempt asks again."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> Any:
            try:
                return {"got": flow.interrupt(flow.attempt, timeout=0.01 if flow.attempt == 0 else None)}
            except WaitTimeout:
                flow.retry(max_attempts=2, initial_delay=0)

        it.tasks(a=a)
        key = await it.engine.create(line("x", "a"), {}, start=True)
        steps = await it.until_steps(key, lambda steps: steps[0].attempt == 1 and steps[0].status is Status.INTERRUPTED)
        outcome = await it.engine.snapshot(key)
        assert (outcome.status, outcome.interrupt_payload) == (Status.INTERRUPTED, 1)
        await it.engine.resume(key, "yes")
        assert (await it.ended(key)).state == {"got": "yes"}
        assert len(steps) == 1


async def test_p6_a_second_wait_after_the_deadline_is_an_error(dsn: str) -> None:
    """X4: a step waits once."""
    async with bench(dsn) as it:

        def a(flow: Flow) -> None:
            try:
                flow.interrupt(1, timeout=0)
            except WaitTimeout:
                flow.interrupt(2)

        it.tasks(a=a)
        outcome = await it.ended(await it.engine.create(line("x", "a"), {}, start=True))
        assert outcome.error is not None
        assert "asked for interrupt after it was told that its interrupt timed out" in outcome.error.message


async def test_p6_a_deadline_in_a_sub_workflow_sets_every_flow_running(dsn: str) -> None:
    """P2: up to the root, which is not interrupted any more."""
    async with bench(dsn, line("inner", "ask")) as it:
        it.tasks(outer=call("inner"))

        def ask(flow: Flow) -> dict[str, Any]:
            try:
                flow.interrupt("?", timeout=0.01)
            except WaitTimeout:
                return {"late": True}
            return {}

        it.tasks(ask=ask)
        key = await it.engine.create(line("x", "outer"), {}, start=True)
        assert (await it.ended(key)).state == {"child": {"late": True}}
        flow = key.rsplit("-", 1)[0]
        await it.heard.until(lambda: it.heard.of(flow)[-1] is Status.COMPLETED)
        assert [one.value for one in it.heard.of(flow)] == ["created", "running", "interrupted", "running", "completed"]


async def test_p6_another_pause_keeps_the_flow_interrupted(dsn: str) -> None:
    """P3: of two branches one has a deadline."""
    async with bench(dsn) as it:
        it.idle("split", "join")

        def work(flow: Flow) -> dict[str, Any]:
            try:
                return {"done": [flow.interrupt("?", timeout=0.01 if flow.get("item") == 0 else None)]}
            except WaitTimeout:
                return {"done": ["late"]}

        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": [0, 1]}, start=True)
        await it.until_steps(
            key, lambda steps: sorted(one.status.value for one in steps) == ["completed", "completed", "interrupted"]
        )
        assert (await it.engine.snapshot(key)).status is Status.INTERRUPTED
        await it.engine.resume(key, "on")
        assert (await it.ended(key)).state["done"] == ["late", "on"]
