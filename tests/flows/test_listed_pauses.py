"""Pauses one by one: listed in outcomes, continued by the key of their step (P5, O5, O11), on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, Conflict, NotFound
from dwarf_nats.rules.pauses import MAX_LISTED_PAUSES, MAX_PAYLOAD_BYTES
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import WaitTimeout
from tests.support.flows import Bench, bench, call, each, line

PEOPLE = ["ada", "bea", "cyd"]


def approving(*names: str) -> Graph:
    """split → one branch per name → join; each asks one person."""
    graph = Graph("approvals")
    graph.add_fan_out("split", *names)
    for name in names:
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("by", "append")
    return graph


async def all_paused(it: Bench, key: str, count: int) -> Outcome:
    """The outcome once so many pauses are listed."""
    async with asyncio.timeout(30):
        while len((outcome := await it.engine.snapshot(key)).pauses) < count:
            await asyncio.sleep(0)
    return outcome


async def three_asked(it: Bench) -> Outcome:
    """A flow that has asked three people."""
    it.idle("split", "join")

    def ask(flow: Flow) -> dict[str, Any]:
        return {"by": [[flow.task, flow.interrupt({"for": flow.task})]]}

    for name in PEOPLE:
        it.tasks(**{name: ask})
    return await all_paused(it, await it.engine.create(approving(*PEOPLE), {}, start=True), 3)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
async def test_p5_three_people_answer_in_any_order_and_each_reaches_their_own(dsn: str, order: tuple[int, ...]) -> None:
    """P5, O11: three approvals at once."""
    async with bench(dsn) as it:
        outcome = await three_asked(it)
        keys = {pause.task: pause.step_key for pause in outcome.pauses}
        for left, at in zip((2, 1, 0), order, strict=True):
            assert outcome.status is Status.INTERRUPTED
            await it.engine.resume(step=keys[PEOPLE[at]], data=f"yes from {PEOPLE[at]}")
            if left:
                outcome = await it.engine.snapshot(outcome.flow_key)
                assert {pause.task for pause in outcome.pauses} == {PEOPLE[at] for at in order[3 - left :]}
        after = await it.ended(outcome.flow_key)
        assert (after.status, after.pauses) == (Status.COMPLETED, [])
        assert after.state["by"] == [[name, f"yes from {name}"] for name in PEOPLE]


async def test_p5_three_people_answer_at_the_same_moment(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await three_asked(it)
        await asyncio.gather(*(it.engine.resume(step=one.step_key, data=one.payload["for"]) for one in outcome.pauses))
        after = await it.ended(outcome.flow_key)
        assert after.state["by"] == [[name, name] for name in PEOPLE]


async def test_p5_pauses_are_listed_oldest_first_with_all_that_a_person_needs(dsn: str) -> None:
    """P5, O5: payload, kind, since when and until when; the oldest is the one that the outcome itself shows."""
    async with bench(dsn) as it:
        it.idle("split", "join", "c")

        def ask(flow: Flow) -> None:
            flow.interrupt({"for": flow.task}, timeout=3600 if flow.task == "b" else None)

        it.tasks(a=ask, b=ask)
        key = await it.engine.create(approving("a", "b", "c"), {})
        await it.engine.break_before(key, "c")
        await it.engine.start(key)
        outcome = await all_paused(it, key, 3)
        assert [one.since for one in outcome.pauses] == sorted(one.since for one in outcome.pauses)
        steps = await it.steps(key)
        by_task = {one.task: one for one in outcome.pauses}
        assert {name: one.step_key for name, one in by_task.items()} == {name: steps[name].step_key for name in "abc"}
        assert {name: (one.kind, one.payload_json) for name, one in by_task.items()} == {
            "a": ("interrupt", b'{"for":"a"}'),
            "b": ("interrupt", b'{"for":"b"}'),
            "c": ("breakpoint", None),
        }
        assert (by_task["a"].until, by_task["c"].until) == (None, None)
        until = by_task["b"].until
        assert until is not None
        assert abs(until - by_task["b"].since - 3_600_000_000) < 1_000_000
        assert outcome.interrupt_json == outcome.pauses[0].payload_json
        assert not outcome.truncated


async def test_p5_waiters_and_announcements_have_the_pauses_of_a_snapshot(dsn: str) -> None:
    """B4, O4."""
    async with bench(dsn, line("inner", "ask")) as it:
        it.tasks(outer=call("inner"), ask=lambda flow: {"got": flow.interrupt({"a": 1}, timeout=3600)})
        outcome = await it.run(line("x", "outer"), options=FlowOptions(notify="me"))
        assert [(one.task, one.kind, one.payload) for one in outcome.pauses] == [("ask", "interrupt", {"a": 1})]
        assert outcome == await it.engine.snapshot(outcome.flow_key)
        await it.heard.until(lambda: bool(it.heard.announced))
        assert it.heard.announced == [("me", outcome)]


async def test_p5_a_step_of_a_sub_workflow_is_continued_by_its_key(dsn: str) -> None:
    """P2: every flow up to the root runs again, once nothing is paused."""
    async with bench(dsn, line("inner", "ask")) as it:
        it.idle("split", "join")
        it.tasks(ask=lambda flow: {"got": flow.interrupt(flow.get("who"))})

        def work(flow: Flow) -> dict[str, Any]:
            return {"done": [flow.subgraph("inner", {"who": flow.get("item")})["got"]]}

        it.tasks(work=work)
        key = await it.engine.create(each(), {"items": ["ada", "bea"]}, start=True)
        outcome = await all_paused(it, key, 2)
        keys = {one.payload: one.step_key for one in outcome.pauses}
        await it.engine.resume(step=keys["bea"], data="from bea")
        assert (await it.engine.snapshot(key)).status is Status.INTERRUPTED
        await it.engine.resume(step=keys["ada"], data="from ada")
        assert (await it.ended(key)).state["done"] == ["from ada", "from bea"]


async def test_p5_a_breakpoint_is_continued_by_the_key_of_its_step(dsn: str) -> None:
    """O11, O12: with overrides for that step only."""
    async with bench(dsn) as it:
        it.idle("split", "join")
        it.tasks(work=lambda item: {"done": [item]})
        key = await it.engine.create(each(), {"items": [1, 2]})
        await it.engine.break_before(key, "work")
        await it.engine.start(key)
        outcome = await all_paused(it, key, 2)
        items = {(await it.engine.step(one.step_key)).state_json: one.step_key for one in outcome.pauses}
        (second,) = [step for state, step in items.items() if state is not None and b'"item":2' in state]
        await it.engine.resume_break(step=second, overrides={"item": 20})
        await it.until_steps(key, lambda steps: sum(one.status is Status.COMPLETED for one in steps) == 2)
        await it.engine.resume_break(key)
        assert (await it.ended(key)).state["done"] == [1, 20]


async def test_p5_what_is_not_paused_in_that_way_is_refused(dsn: str) -> None:
    """P5: 404 for a key that names nothing, 409 for another pause or none, 400 for two keys or none."""
    async with bench(dsn) as it:
        it.tasks(a=lambda flow: {"got": flow.interrupt(1)}, b=lambda: None)
        key = await it.engine.create(line("x", "a", "b"), {}, start=True)
        outcome = await it.stopped(key)
        await it.engine.break_before(key, "b")
        step = outcome.pauses[0].step_key
        with pytest.raises(Conflict, match="the step is paused by an interrupt, not by a breakpoint"):
            await it.engine.resume_break(step=step)
        for flow_key, step_key in ((key, step), ("", "")):
            with pytest.raises(BadRequest, match="exactly one key"):
                await it.engine.resume(flow_key, step=step_key)
            with pytest.raises(BadRequest, match="exactly one key"):
                await it.engine.resume_break(flow_key, step=step_key)
        with pytest.raises(NotFound):
            await it.engine.resume(step=key)
        with pytest.raises(NotFound):
            await it.engine.resume(step)
        with pytest.raises(NotFound):
            await it.engine.resume(step=step[:-1] + ("a" if step[-1] != "a" else "b"))
        with pytest.raises(BadRequest):
            await it.engine.resume(step="no key")
        await it.engine.resume(step=step, data="yes")
        with pytest.raises(
            Conflict, match="the step is (pending|running|completed): to be resumed it must be interrupted"
        ):
            await it.engine.resume(step=step)
        outcome = await all_paused(it, key, 1)
        with pytest.raises(Conflict, match="the step is paused by a breakpoint, not by an interrupt"):
            await it.engine.resume(step=outcome.pauses[0].step_key)
        await it.engine.resume_break(step=outcome.pauses[0].step_key)
        assert (await it.ended(key)).state == {"got": "yes"}


async def test_p5_two_answers_to_one_step_count_once(dsn: str) -> None:
    """P5: the second is a 409, though another pause of the flow is left."""
    async with bench(dsn) as it:
        outcome = await three_asked(it)
        step = outcome.pauses[1].step_key
        answers = await asyncio.gather(
            *(it.engine.resume(step=step, data=number) for number in range(4)), return_exceptions=True
        )
        assert [isinstance(one, Conflict) for one in answers].count(True) == 3
        assert len((await it.engine.snapshot(outcome.flow_key)).pauses) == 2


async def test_p5_a_pause_leaves_the_list_when_its_deadline_passes(dsn: str) -> None:
    """P6."""
    async with bench(dsn) as it:
        it.idle("split", "join")

        def ask(flow: Flow) -> dict[str, Any]:
            try:
                return {"by": [flow.interrupt(flow.task, timeout=0.01 if flow.task == "a" else None)]}
            except WaitTimeout:
                return {"by": ["nobody"]}

        it.tasks(a=ask, b=ask)
        key = await it.engine.create(approving("a", "b"), {}, start=True)
        async with asyncio.timeout(30):
            while [one.task for one in (await it.engine.snapshot(key)).pauses] != ["b"] or (
                (await it.steps(key))["a"].status is not Status.COMPLETED
            ):
                await asyncio.sleep(0)
        outcome = await it.engine.snapshot(key)
        assert (outcome.status, outcome.interrupt_payload) == (Status.INTERRUPTED, "b")
        await it.engine.resume(step=outcome.pauses[0].step_key, data="b")
        assert (await it.ended(key)).state["by"] == ["nobody", "b"]


async def test_p5_of_very_many_pauses_the_oldest_are_listed(dsn: str) -> None:
    """P5: bounded in number; `truncated` says so, and the others show as these are continued."""
    async with bench(dsn) as it:
        it.idle("split", "join")
        it.tasks(work=lambda flow: {"done": [flow.interrupt(flow.get("item"))]})
        count = MAX_LISTED_PAUSES + 5
        key = await it.engine.create(each(), {"items": list(range(count))}, start=True)
        await it.until_steps(key, lambda steps: sum(one.status is Status.INTERRUPTED for one in steps) == count)
        outcome = await it.engine.snapshot(key)
        assert (len(outcome.pauses), outcome.truncated) == (MAX_LISTED_PAUSES, True)
        steps = [one for one in await it.engine.history(key) if one.status is Status.INTERRUPTED]
        oldest = sorted(steps, key=lambda one: (one.updated_at, one.step_id))
        assert [one.step_key for one in outcome.pauses] == [one.step_key for one in oldest[:MAX_LISTED_PAUSES]]
        for pause in outcome.pauses:
            await it.engine.resume(step=pause.step_key, data=pause.payload)
        outcome = await it.engine.snapshot(key)
        assert (len(outcome.pauses), outcome.truncated) == (5, False)
        for pause in outcome.pauses:
            await it.engine.resume(step=pause.step_key, data=pause.payload)
        assert (await it.ended(key)).state["done"] == list(range(count))


async def test_p5_large_payloads_beyond_the_bound_are_left_out_but_the_oldest_is_there(dsn: str) -> None:
    """P5, O5: `step` reads them."""
    async with bench(dsn) as it:
        it.idle("split", "join")
        large = "x" * (MAX_PAYLOAD_BYTES // 2)
        it.tasks(work=lambda flow: {"done": [flow.interrupt([flow.get("item"), large])]})
        key = await it.engine.create(each(), {"items": [1, 2, 3]}, start=True)
        outcome = await all_paused(it, key, 3)
        assert [one.payload_json is not None for one in outcome.pauses] == [True, False, False]
        assert [one.kind for one in outcome.pauses] == ["interrupt"] * 3
        assert outcome.truncated
        assert outcome.interrupt_json == outcome.pauses[0].payload_json
        left_out = await it.engine.step(outcome.pauses[2].step_key)
        assert left_out.interrupt_json is not None
        assert len(left_out.interrupt_json) > len(large)
