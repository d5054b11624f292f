"""Fork of a cancelled flow (O14): what the cancel cut off runs on in the copy, on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import Remembered
from tests.support.flows import SOON, Bench, ask, bench, call, each, line

pytestmark = pytest.mark.slow


def fan(*branches: str) -> Graph:
    """split → the branches → join → END; `done` is appended."""
    graph = Graph("fan")
    graph.add_fan_out("split", *branches)
    for name in branches:
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("done", "append")
    return graph


class Gate:
    """A task that hangs until it is opened; then it tells what it was given."""

    def __init__(self) -> None:
        self.open = False
        self.waiting = 0

    async def __call__(self, flow: Flow) -> dict[str, Any]:
        if not self.open:
            self.waiting += 1
            await asyncio.Event().wait()
        return {"done": [flow.task]}


async def cut(it: Bench, key: str, condition: Any) -> dict[str, Step]:
    """Cancel the flow once its steps are so; its steps by task."""
    await it.until_steps(key, condition)
    await it.engine.cancel(key)
    return await it.steps(key)


def shape(steps: list[Step]) -> list[Any]:
    return sorted((one.task, one.status.value, shape(one.sub_history)) for one in steps)


@pytest.mark.parametrize("at", ["split", "quick", "slow"])
async def test_o14_a_branch_beside_the_forked_step_runs_on_and_reaches_the_fan_in(dsn: str, at: str) -> None:
    """Whichever step is forked: the source of the fan-out, a finished branch, the branch that was cut off."""
    async with bench(dsn) as it:
        slow = Gate()
        it.tasks(slow=slow, quick=lambda: {"done": ["quick"]})
        it.idle("split", "join")
        key = await it.engine.create(fan("slow", "quick"), start=True)
        steps = await cut(
            it, key, lambda found: slow.waiting and [one.status for one in found].count(Status.COMPLETED) == 2
        )
        slow.open = True
        forked = await it.stopped(await it.engine.fork(steps[at].step_key))
        assert (forked.status, forked.state) == (Status.COMPLETED, {"done": ["slow", "quick"]})
        assert shape(await it.engine.history(forked.flow_key)) == [
            (task, "completed", []) for task in ("join", "quick", "slow", "split")
        ]
        assert (await it.steps(key))["slow"].status is Status.CANCELLED


async def test_o14_branches_that_never_began_begin_in_the_copy(dsn: str) -> None:
    """One worker, and it hangs: the other branches were pending when the flow was cancelled."""
    hung = Gate()

    async def work(flow: Flow) -> dict[str, Any]:
        await hung(flow)
        return {"done": [flow.get("item")], "total": 1}

    proxy = TaskProxy()
    proxy.handle_task("split", lambda: None)
    proxy.handle_task("join", lambda: None)
    proxy.handle_task("work", work)
    async with workflow_engine(dsn, proxy=proxy, settings=EngineSettings(workers=1)) as (engine, _):
        it = Bench(engine, proxy, Remembered())
        key = await engine.create(each(), {"items": list(range(50))}, start=True)
        steps = await cut(it, key, lambda _: hung.waiting)
        hung.open = True
        forked = await it.stopped(await engine.fork(steps["work"].step_key, {"item": "own"}))
        assert forked.status is Status.COMPLETED
        done = forked.state["done"]
        assert (forked.state["total"], len(done), done.count("own")) == (50, 50, 1)
        assert [one for at, one in enumerate(done) if one != at] == ["own"]


async def test_o14_what_a_cut_off_step_had_done_so_far_stays(dsn: str) -> None:
    """S2: its attempts, its changes, and what it was resumed with."""
    async with bench(dsn) as it:
        gate = Gate()
        answers: list[Any] = []

        async def tries(flow: Flow) -> None:
            if flow.attempt == 0:
                flow.set("kept", "by the first attempt")
                flow.retry(initial_delay=0)
                return
            await gate(flow)
            flow.set("done", [f"attempt {flow.attempt}, {flow.get('kept')}"])

        async def asks(flow: Flow) -> None:
            answers.append(flow.interrupt("?"))
            await gate(flow)
            flow.set("done", answers[-1:])

        it.tasks(tries=tries, asks=asks)
        it.idle("split", "join", "quick")
        key = await it.engine.create(fan("tries", "asks", "quick"), start=True)
        await it.until(key, Status.INTERRUPTED)
        await it.engine.resume(key, "yes")
        steps = await cut(
            it, key, lambda found: gate.waiting == 2 and [one.status for one in found].count(Status.COMPLETED) == 2
        )
        gate.open = True
        forked = await it.stopped(await it.engine.fork(steps["quick"].step_key))
        assert forked.status is Status.COMPLETED
        assert forked.state == {"done": ["attempt 1, by the first attempt", "yes"], "kept": "by the first attempt"}
        assert answers == ["yes", "yes"]
        assert {one.task: one.attempt for one in await it.engine.history(forked.flow_key)}["tries"] == 1


async def test_o14_a_step_that_was_paused_asks_again_in_the_copy(dsn: str) -> None:
    """P2, O11: an interrupt and a breakpoint."""
    async with bench(dsn) as it:
        it.tasks(asks=ask("?", "answer"))
        it.idle("split", "join", "quick", "held")
        key = await it.engine.create(fan("asks", "quick", "held"))
        await it.engine.break_before(key, "held")
        await it.engine.start(key)
        steps = await cut(
            it, key, lambda found: [one.status for one in found].count(Status.INTERRUPTED) == 2
            and [one.status for one in found].count(Status.COMPLETED) == 2
        )  # fmt: skip
        copy = await it.engine.fork(steps["quick"].step_key)
        await it.until_steps(copy, lambda found: [one.status for one in found].count(Status.INTERRUPTED) == 2)
        await it.engine.resume_break(copy)
        await it.engine.resume(copy, "yes")
        forked = await it.ended(copy)
        assert (forked.status, forked.state) == (Status.COMPLETED, {"answer": "yes"})


async def test_o14_a_step_that_was_paused_makes_no_change_twice(dsn: str) -> None:
    """S2: it asks again in the copy, so it begins as it had begun at first."""
    async with bench(dsn) as it:

        def counts(flow: Flow) -> None:
            flow.set("asked", [*flow.get("asked", []), flow.attempt])
            if flow.attempt == 0:
                flow.retry(initial_delay=0)
                return
            flow.interrupt("?")

        it.tasks(counts=counts)
        it.idle("split", "join", "quick")
        key = await it.engine.create(fan("counts", "quick"), start=True)
        steps = await cut(
            it, key, lambda found: [one.status for one in found].count(Status.INTERRUPTED) == 1
            and [one.status for one in found].count(Status.COMPLETED) == 2
        )  # fmt: skip
        copy = await it.engine.fork(steps["quick"].step_key)
        await it.until(copy, Status.INTERRUPTED)
        await it.engine.resume(copy, "yes")
        forked = await it.ended(copy)
        assert (forked.status, forked.state) == (Status.COMPLETED, {"asked": [0, 1, 1]})


async def test_o14_a_sleep_that_was_cut_off_goes_on_in_the_copy(dsn: str) -> None:
    """X6: a delay that is not over holds on; the copy does not end without it."""
    async with bench(dsn) as it:
        graph = fan("nap", "quick")
        graph.add_goto("nap", "later")
        graph.add_transition("later", "join")

        def nap(flow: Flow) -> None:
            flow.sleep(3600)
            flow.goto("later")

        it.tasks(nap=nap)
        it.idle("split", "quick", "join", "later")
        key = await it.engine.create(graph, start=True)
        steps = await cut(
            it, key, lambda found: any(one.task == "later" for one in found)
            and [one.status for one in found].count(Status.COMPLETED) == 3
        )  # fmt: skip
        copy = await it.engine.fork(steps["quick"].step_key)
        await it.until_steps(copy, lambda _: it.proxy.calls["quick"] == 2)
        assert [one.status for one in await it.engine.history(copy) if one.task == "later"] == [Status.PENDING]
        assert (await it.engine.snapshot(copy)).status is Status.RUNNING
        rows = await it.engine.shards[1].store.flows.complete_steps([int(copy.split("-")[1])])
        (later,) = [row for row in rows if row.node == "later"]
        assert later.not_before > later.updated_at


async def test_o14_a_child_that_was_cut_off_runs_on_and_its_caller_waits_for_it(dsn: str) -> None:
    """P1: at any depth; the steps the child had completed do not run again, nor does the caller before it ends."""
    async with bench(dsn, line("child", "c1", "c2", "c3"), line("leaf", "d1", "d2")) as it:
        gate = Gate()
        it.tasks(calls=call("child"), c2=call("leaf"), d2=gate)
        it.idle("split", "join", "quick", "c1", "c3", "d1")
        key = await it.engine.create(fan("calls", "quick"), start=True)
        await it.until_steps(key, lambda found: gate.waiting and any(
            one.task == "quick" and one.status is Status.COMPLETED for one in found))  # fmt: skip
        await it.engine.cancel(key)
        steps = await it.steps(key)
        gate.open = True
        before = dict(it.proxy.calls)
        forked = await it.stopped(await it.engine.fork(steps["quick"].step_key))
        assert forked.status is Status.COMPLETED
        assert forked.state["child"]["child"]["done"] == ["d2"]
        ran = {name: count - before.get(name, 0) for name, count in it.proxy.calls.items()}
        assert ran == {"split": 0, "quick": 1, "join": 1, "calls": 1, "c1": 0, "c2": 1, "c3": 1, "d1": 0, "d2": 1}
        (calls,) = [one for one in await it.engine.history(forked.flow_key) if one.task == "calls"]
        assert [one.task for one in calls.sub_history] == ["c1", "c2", "c3"]
        assert [one.task for one in calls.sub_history[1].sub_history] == ["d1", "d2"]
        flows = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        assert {one.status for one in flows.values()} == {Status.CANCELLED}


async def test_o14_fork_from_a_step_inside_a_child_of_a_cancelled_tree(dsn: str) -> None:
    """Beside it a branch of the child, a branch of the root and another child run on."""
    child = fan("slow", "quick")
    child.name = "child"
    async with bench(dsn, child, line("other", "o")) as it:
        slow, beside, inside = Gate(), Gate(), Gate()
        it.tasks(calls=call("child"), others=call("other"), slow=slow, beside=beside, o=inside)
        it.tasks(quick=lambda flow: {"done": [flow.get("x", "first")]})
        it.idle("split", "join")
        key = await it.engine.create(fan("calls", "others", "beside"), start=True)

        def ready(found: list[Step]) -> bool:
            quick = [one for step in found for one in step.sub_history if one.task == "quick"]
            return bool(
                slow.waiting and beside.waiting and inside.waiting and quick and quick[0].status is Status.COMPLETED
            )

        steps = await cut(it, key, ready)
        slow.open = beside.open = inside.open = True
        (quick,) = [one for one in steps["calls"].sub_history if one.task == "quick"]
        forked = await it.stopped(await it.engine.fork(quick.step_key, {"x": "again"}))
        assert forked.status is Status.COMPLETED
        assert forked.state["done"] == ["beside"]
        history = {one.task: one for one in await it.engine.history(forked.flow_key)}
        assert shape(history["calls"].sub_history) == [
            (task, "completed", []) for task in ("join", "quick", "slow", "split")
        ]
        result = (await it.engine.step(history["calls"].step_key)).changes_json
        assert json.loads(result or b"{}")["child"]["done"] == ["slow", "again"]
        assert shape(history["others"].sub_history) == [("o", "completed", [])]


async def test_o14_what_came_after_the_forked_step_is_not_copied(dsn: str) -> None:
    async with bench(dsn) as it:
        gate = Gate()
        it.tasks(c=gate)
        it.idle("a", "b")
        key = await it.engine.create(line("x", "a", "b", "c"), start=True)
        steps = await cut(it, key, lambda _: gate.waiting)
        gate.open = True
        forked = await it.stopped(await it.engine.fork(steps["a"].step_key))
        assert forked.status is Status.COMPLETED
        assert it.proxy.calls == {"a": 2, "b": 2, "c": 2}


async def test_o14_a_failure_from_before_the_cancel_still_counts(dsn: str) -> None:
    """X8: the copy fails once everything that runs on has resolved."""
    async with bench(dsn) as it:
        gate = Gate()

        def bad() -> None:
            raise TaskError("broken")

        it.tasks(slow=gate, bad=bad)
        it.idle("split", "join", "quick")
        key = await it.engine.create(fan("slow", "bad", "quick"), start=True)
        steps = await cut(
            it, key, lambda found: gate.waiting and any(one.status is Status.FAILED for one in found)
            and any(one.task == "quick" and one.status is Status.COMPLETED for one in found)
        )  # fmt: skip
        gate.open = True
        forked = await it.stopped(await it.engine.fork(steps["quick"].step_key))
        assert forked.status is Status.FAILED
        assert forked.error is not None
        assert forked.error.message == "broken"
        assert forked.state["done"] == ["slow"]


async def test_o14_a_fork_that_was_cancelled_can_be_forked_again(dsn: str) -> None:
    async with bench(dsn) as it:
        gate = Gate()
        it.tasks(slow=gate)
        it.idle("split", "join", "quick")
        key = await it.engine.create(fan("slow", "quick"), start=True)
        for round_ in (1, 2):
            steps = await cut(
                it, key, lambda found: gate.waiting == round_  # noqa: B023 - awaited at once
                and [one.status for one in found].count(Status.COMPLETED) == 2
            )  # fmt: skip
            gate.open = round_ == 2
            key = await it.engine.fork(steps["quick"].step_key)
        forked = await it.stopped(key)
        assert (forked.status, forked.state) == (Status.COMPLETED, {"done": ["slow"]})


async def test_o14_steps_of_a_tripped_task_are_born_parked_in_the_copy(dsn: str) -> None:
    """V4: they run once the breaker lets them."""
    async with bench(dsn) as it:

        def away() -> None:
            raise TaskError("not now", code=503)

        it.idle("split", "join", "quick")
        it.tasks(away=away)
        key = await it.engine.create(fan("away", "quick"), start=True)
        async with asyncio.timeout(SOON):
            while not await it.engine.breaker_tripped("away"):
                await asyncio.sleep(0)
        steps = await cut(
            it, key, lambda found: any(one.task == "quick" and one.status is Status.COMPLETED for one in found)
        )
        copy = await it.engine.fork(steps["quick"].step_key)
        rows = await it.engine.shards[1].store.flows.complete_steps([int(copy.split("-")[1])])
        assert [row.status for row in rows if row.node == "away"] == [Status.PENDING]
        it.tasks(away=lambda: {"done": ["away"]})
        async with asyncio.timeout(SOON):
            forked = await it.ended(copy)
        assert (forked.status, forked.state) == (Status.COMPLETED, {"done": ["away"]})
