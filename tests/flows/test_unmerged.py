"""A fan-in whose input could not be merged, when it runs again (F3, O13, O14): nothing is lost, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status
from tests.support.engines import Remembered
from tests.support.flows import SOON, Bench, bench, call

pytestmark = pytest.mark.slow

HOW = pytest.mark.parametrize("how", ["restart_from", "fork"])
WORDS = "`add` reducer on field `n` requires a number, got string"


def fan(name: str = "fan") -> Graph:
    """split → b, c → join → after → END; `n` is added, `done` appended."""
    graph = Graph(name)
    graph.add_fan_out("split", "b", "c")
    for branch in ("b", "c"):
        graph.add_transition(branch, "join")
    graph.set_fan_in("join")
    graph.add_chain("join", "after", END)
    graph.set_reducer("n", "add")
    graph.set_reducer("done", "append")
    return graph


def branches(it: Bench, wrong: Any = "text") -> None:
    it.idle("split", "join", "after")
    it.tasks(b=lambda: {"n": wrong, "done": ["b"], "plain": "b"}, c=lambda: {"n": 2, "done": ["c"]})


async def again(it: Bench, outcome: Outcome, how: str, overrides: dict[str, Any] | None = None) -> Outcome:
    """The fan-in once more; how the flow, or its copy, ends."""
    step = (await it.steps(outcome.flow_key))["join"]
    if how == "fork":
        return await it.ended(await it.engine.fork(step.step_key, overrides))
    await it.engine.restart_from(step.step_key, overrides)
    ended = await it.ended(outcome.flow_key)
    assert (await it.steps(outcome.flow_key))["join"].step_key == step.step_key
    return ended


@HOW
async def test_without_a_change_it_fails_again_with_the_same_error(dsn: str, how: str) -> None:
    """As often as it is tried; its task is never asked, and an override of something else is kept and mends nothing."""
    async with bench(dsn) as it:
        branches(it)
        outcome = await it.run(fan(), {"n": 1, "x": 0})
        assert (outcome.status, outcome.state) == (Status.FAILED, {"n": 1, "x": 0})
        for x in (1, 2):
            outcome = await again(it, outcome, how, {"x": x})
            assert outcome.status is Status.FAILED
            assert outcome.error is not None
            assert (outcome.error.message, outcome.error.code) == (WORDS, 500)
            assert outcome.state == {"n": 1, "x": x}
        assert "join" not in {name for name, calls in it.proxy.calls.items() if calls}
        assert (await it.steps(outcome.flow_key))["join"].status is Status.FAILED
        last = await again(it, outcome, how, {"n": 7})
        assert last.state == {"n": 7, "x": 2, "done": ["b", "c"], "plain": "b"}


@HOW
async def test_an_override_replaces_the_merged_value_and_the_other_values_arrive(dsn: str, how: str) -> None:
    """O13: a null removes the field."""
    async with bench(dsn) as it:
        branches(it)
        outcome = await it.run(fan(), {"n": 1, "done": ["s"], "gone": 1})
        mended = await again(it, outcome, how, {"n": 40, "gone": None, "new": True})
        assert mended.status is Status.COMPLETED
        assert mended.state == {"n": 40, "done": ["s", "b", "c"], "plain": "b", "new": True}
        outcome = await it.run(fan(), {"n": 1})
        mended = await again(it, outcome, how, {"n": None})
        assert mended.state == {"done": ["b", "c"], "plain": "b"}
        outcome = await it.run(fan(), {"n": 1})
        mended = await again(it, outcome, how, {"n": "any", "done": 5})
        assert mended.state == {"n": "any", "done": 5, "plain": "b"}


async def test_a_branch_that_is_mended_mends_the_fan_in(dsn: str) -> None:
    async with bench(dsn) as it:
        branches(it)
        outcome = await it.run(fan(), {"n": 1})
        it.tasks(b=lambda: {"n": 10, "done": ["b"]})
        await it.engine.restart_from((await it.steps(outcome.flow_key))["b"].step_key)
        assert (await it.ended(outcome.flow_key)).state == {"n": 13, "done": ["b", "c"]}


@HOW
async def test_it_takes_its_error_edge_again(dsn: str, how: str) -> None:
    """X4: a fan-in that counts as completed after its error is no other."""
    graph = fan()
    graph.add_on_error("join", "mend")
    graph.add_transition("mend", END)
    async with bench(dsn) as it:
        branches(it)
        it.idle("mend")
        outcome = await it.run(graph, {"n": 1})
        assert outcome.state["onErr"]["message"] == WORDS
        for _ in range(2):
            outcome = await again(it, outcome, how)
            assert (outcome.status, outcome.state["onErr"]["message"]) == (Status.COMPLETED, WORDS)
        assert it.proxy.calls["mend"] == 3
        mended = await again(it, outcome, how, {"n": 5})
        assert mended.state == {"n": 5, "done": ["b", "c"], "plain": "b"}


@HOW
async def test_in_a_branch_of_another_fan_out_it_fails_or_mends_that(dsn: str, how: str) -> None:
    """X8: the outer cohort counts the branch as outstanding until then."""
    graph = Graph("nested")
    graph.add_fan_out("top", "split", "side")
    graph.add_fan_out("split", "b", "c")
    for branch in ("b", "c"):
        graph.add_transition(branch, "join")
    for branch in ("join", "side"):
        graph.add_transition(branch, "outer")
    graph.set_fan_in("join")
    graph.set_fan_in("outer")
    graph.add_transition("outer", END)
    graph.set_reducer("n", "add")
    graph.set_reducer("done", "append")
    async with bench(dsn) as it:
        branches(it)
        it.idle("top", "outer")
        it.tasks(
            side=lambda: {"done": ["side"]}, join=lambda flow: {"done": [*flow.get("done"), "join"], "n": flow.get("n")}
        )
        outcome = await it.run(graph, {})
        assert outcome.status is Status.FAILED
        outcome = await again(it, outcome, how)
        assert outcome.error is not None
        assert outcome.error.message == WORDS
        assert (outcome.status, outcome.state) == (Status.FAILED, {"done": ["side"]})
        mended = await again(it, outcome, how, {"n": 5})
        assert mended.state == {"n": 5, "done": ["b", "c", "join", "side"]}


@HOW
async def test_in_a_child_its_caller_gets_the_error_again(dsn: str, how: str) -> None:
    async with bench(dsn, fan("child")) as it:
        branches(it)
        it.tasks(calls=call("child", n=1))
        top = Graph("top")
        top.add_chain("calls", END)
        outcome = await it.run(top)

        async def once_more(key: str, overrides: dict[str, Any]) -> Outcome:
            (calls,) = await it.engine.history(key)
            (join,) = [one for one in calls.sub_history if one.task == "join"]
            if how == "fork":
                return await it.ended(await it.engine.fork(join.step_key, overrides))
            await it.engine.restart_from(join.step_key, overrides)
            return await it.ended(key)

        outcome = await once_more(outcome.flow_key, {})
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == WORDS
        mended = await once_more(outcome.flow_key, {"n": 3})
        assert mended.state["child"] == {"n": 3, "done": ["b", "c"], "plain": "b"}


@HOW
async def test_what_was_too_much_together_is_too_much_again(dsn: str, how: str) -> None:
    """413: until an override stands for the large field."""
    proxy, heard = TaskProxy(), Remembered()
    settings = EngineSettings(max_fan_out_bytes=3_000, max_state_bytes=2_000)
    async with workflow_engine(dsn, proxy=proxy, notices=heard, settings=settings) as (engine, _):
        it = Bench(engine, proxy, heard)
        it.idle("split", "join", "after")
        it.tasks(b=lambda: {"done": ["x" * 1_200]}, c=lambda: {"done": ["y" * 1_200]})
        outcome = await engine.run(fan(), {}, timeout=SOON)
        assert outcome.error is not None
        assert outcome.error.code == 413
        outcome = await again(it, outcome, how)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.code == 413
        assert (await again(it, outcome, how, {"done": []})).state == {"done": []}
        it.tasks(b=lambda: {"done": ["x" * 1_900]}, c=lambda: {"done": ["y" * 1_900]})
        outcome = await engine.run(fan(), {}, timeout=SOON)
        outcome = await again(it, outcome, how, {"done": []})
        assert outcome.error is not None
        assert (outcome.error.code, "max_fan_out_bytes" in outcome.error.message) == (413, True)


@HOW
async def test_a_tripped_breaker_holds_no_step_that_asks_no_task(dsn: str, how: str) -> None:
    """V4: nobody would let it through."""
    async with bench(dsn) as it:
        branches(it)
        outcome = await it.run(fan(), {"n": 1})
        await it.engine.shards[1].store.breakers.trip("join", "no_responders")
        failed = await again(it, outcome, how)
        assert failed.error is not None
        assert failed.error.message == WORDS


async def test_large_fields_of_the_step_that_fanned_out_arrive_whole(dsn: str) -> None:
    """They are held by the steps before it."""
    large = "x" * 5_000
    graph = Graph("g")
    graph.add_transition("first", "split")
    for edge in fan().to_values()["transitions"]:
        graph.add_transition(edge["from"], edge["to"])
    graph.set_fan_in("join")
    graph.set_reducer("n", "add")
    async with bench(dsn) as it:
        branches(it)
        it.tasks(first=lambda: {"large": large}, after=lambda flow: {"size": len(flow.get("large"))})
        outcome = await it.run(graph, {"n": 1, "given": large})
        assert outcome.status is Status.FAILED
        mended = await again(it, outcome, "restart_from", {"n": 0})
        assert (mended.state["large"], mended.state["given"], mended.state["size"]) == (large, large, 5_000)


async def test_an_ordinary_failure_of_a_fan_in_keeps_the_input_it_had(dsn: str) -> None:
    """Also with overrides from before: it was merged, and is not merged again."""
    async with bench(dsn) as it:
        branches(it, wrong=5)

        def join(flow: Flow) -> None:
            if not flow.get("mended"):
                raise ValueError("broken")

        it.tasks(join=join)
        outcome = await it.run(fan(), {"n": 1})
        outcome = await again(it, outcome, "restart_from", {"n": 100})
        mended = await again(it, outcome, "restart_from", {"mended": True})
        assert mended.state == {"n": 100, "done": ["b", "c"], "plain": "b", "mended": True}
        step = (await it.steps(outcome.flow_key))["join"]
        assert json.loads((await it.engine.step(step.step_key)).state_json or b"")["n"] == 100
