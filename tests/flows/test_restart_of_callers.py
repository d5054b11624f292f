"""restart_from of steps whose child is paused: they are at rest (O13), on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dwarf_nats.errors import Conflict
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from tests.support.flows import SOON, Bench, ask, bench, call, count_rows, line

pytestmark = pytest.mark.slow


def deep(flow: Flow) -> None:
    """Calls the child `flow` says, once it is told which."""
    flow.set("child", flow.subgraph(f"level{flow.get('level', 1)}", {"level": flow.get("level", 1) + 1}))


def levels() -> list[Graph]:
    """top → level1 → level2 → level3, which asks; each calls after a first step."""
    return [
        *(line(f"level{at}", "first", "calls", "last") for at in (1, 2)),
        line("level3", "first", "asks", "last"),
    ]


def found(steps: list[Step], *path: str) -> Step:
    """The step of that name, in the child of the one before."""
    for at, name in enumerate(path):
        (one,) = [step for step in steps if step.task == name]
        if at == len(path) - 1:
            return one
        steps = one.sub_history
    raise AssertionError(path)


async def paused(it: Bench, key: str, asked: int) -> None:
    """Until the task has asked so often, and waits."""
    async with asyncio.timeout(SOON):
        while it.proxy.calls.get("asks", 0) < asked or (await it.engine.snapshot(key)).status is not Status.INTERRUPTED:
            await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["interrupt", "breakpoint"])
@pytest.mark.parametrize(
    "path", [("calls",), ("first",), ("calls", "calls"), ("calls", "first"), ("calls", "calls", "calls")]
)
async def test_a_step_whose_child_is_paused_is_at_rest_at_any_depth(dsn: str, path: tuple[str, ...], how: str) -> None:
    """The child and all below it go, every level runs on, and it pauses once more."""
    async with bench(dsn, *levels()) as it:
        it.tasks(calls=deep, asks=ask("?", "answer"))
        it.idle("first", "last")
        key = await it.engine.create(line("top", "first", "calls", "last"), {"level": 1})
        if how == "breakpoint":
            await it.engine.break_before(key, "asks")
            it.idle("asks")
        await it.engine.start(key)
        await it.until_steps(key, lambda _: True)
        await it.until(key, Status.INTERRUPTED)
        rows = await count_rows(it.engine)
        before = await it.engine.history(key)
        step = found(before, *path)
        firsts = it.proxy.calls["first"]
        await it.engine.restart_from(step.step_key, {"mark": "again"})
        await it.until_steps(key, lambda _: it.proxy.calls["first"] > firsts)
        await it.until(key, Status.INTERRUPTED)
        assert await count_rows(it.engine) == rows
        after = await it.engine.history(key)
        again = found(after, *path)
        assert again.step_key == step.step_key
        if path[-1] == "calls":
            assert found(after, *path, "first").step_key != found(before, *path, "first").step_key
        if how == "breakpoint":
            await it.engine.resume_break(key)
        else:
            await it.engine.resume(key, "yes")
        outcome = await it.ended(key)
        assert outcome.status is Status.COMPLETED
        assert await count_rows(it.engine) == (4, 12)
        state = (await it.engine.step(step.step_key)).state_json
        assert json.loads(state or b"{}")["mark"] == "again"


async def test_what_still_runs_below_a_paused_child_is_told_and_dropped(dsn: str) -> None:
    """P3: a branch of the child pauses while another one runs; what it answers has no effect."""
    child = Graph("child")
    child.add_fan_out("split", "asks", "works")
    for name in ("asks", "works"):
        child.add_transition(name, "join")
    child.set_fan_in("join")
    child.add_transition("join", END)
    async with bench(dsn, child) as it:
        gate, began = asyncio.Event(), asyncio.Event()
        told: list[bool] = []

        async def works() -> dict[str, Any]:
            if it.proxy.calls["works"] > 1:
                return {}
            began.set()
            try:
                await gate.wait()
            except asyncio.CancelledError:
                told.append(True)
                raise
            return {"late": True}

        it.tasks(calls=call("child"), asks=ask("?", "answer"), works=works)
        it.idle("split", "join")
        key = await it.engine.create(line("top", "calls"), start=True)
        await began.wait()
        await paused(it, key, 1)
        (step,) = await it.engine.history(key)
        await it.engine.restart_from(step.step_key)
        async with asyncio.timeout(SOON):
            while not told:
                await asyncio.sleep(0)
        await paused(it, key, 2)
        gate.set()
        await it.engine.resume(key, "yes")
        outcome = await it.ended(key)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"child": {"answer": "yes"}})
        assert await count_rows(it.engine) == (2, 5)


async def test_another_paused_branch_keeps_the_flow_interrupted(dsn: str) -> None:
    """P3: two branches whose children are paused; one of them is restarted, and does not call again."""
    graph = Graph("top")
    graph.add_fan_out("split", "one", "two")
    for name in ("one", "two"):
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    async with bench(dsn, line("child", "asks")) as it:

        def one(flow: Flow) -> None:
            if not flow.get("enough"):
                flow.set("one", flow.subgraph("child", {"of": "one"}))

        it.tasks(one=one, two=call("child"), asks=ask("?", "answer"))
        it.idle("split", "join")
        key = await it.engine.create(graph, start=True)
        await it.until_steps(
            key, lambda steps: [below.status for step in steps for below in step.sub_history]
            == [Status.INTERRUPTED] * 2
        )  # fmt: skip
        steps = await it.steps(key)
        await it.engine.restart_from(steps["one"].step_key, {"enough": True})
        await it.until_steps(
            key, lambda steps: [step.status for step in steps if step.task == "one"] == [Status.COMPLETED]
        )
        assert (await it.engine.snapshot(key)).status is Status.INTERRUPTED
        await it.engine.resume(key, "yes")
        outcome = await it.ended(key)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"child": {"answer": "yes"}})


async def test_a_step_whose_child_runs_is_refused(dsn: str) -> None:
    async with bench(dsn, line("child", "c")) as it:
        began = asyncio.Event()

        async def c() -> None:
            began.set()
            await asyncio.Event().wait()

        it.tasks(a=call("child"), c=c)
        key = await it.engine.create(line("top", "a"), start=True)
        await began.wait()
        (step,) = await it.engine.history(key)
        with pytest.raises(
            Conflict, match="'a' waits for a sub-workflow that runs: wait until that has ended or is paused"
        ):
            await it.engine.restart_from(step.step_key)
        await it.engine.cancel(key)


async def test_a_resume_and_a_restart_at_once_leave_nothing_behind(dsn: str) -> None:
    """X10: whichever comes first, the flow goes on; nothing waits for a child that is gone."""
    async with bench(dsn, line("child", "asks")) as it:
        it.tasks(calls=call("child"), asks=ask("?", "answer"))
        for _ in range(10):
            asked = it.proxy.calls.get("asks", 0)
            key = await it.engine.create(line("top", "calls"), start=True)
            await paused(it, key, asked + 1)
            (step,) = await it.engine.history(key)
            await asyncio.gather(
                it.engine.resume(key, "yes"), it.engine.restart_from(step.step_key), return_exceptions=True
            )
            async with asyncio.timeout(SOON):
                while not (outcome := await it.engine.snapshot(key)).status.terminal:
                    if outcome.status is Status.INTERRUPTED:
                        await it.engine.resume(key, "yes")
                    await asyncio.sleep(0)
            assert (outcome.status, outcome.state) == (Status.COMPLETED, {"child": {"answer": "yes"}})
        assert await count_rows(it.engine) == (20, 20)
