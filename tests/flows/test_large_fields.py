"""Large fields are stored once and are there wherever a state is read (S2), on both databases."""

from __future__ import annotations

import json
from typing import Any

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.flows import Bench, ask, bench, call, each, line

BIG = "x" * 50_000
OTHER = "y" * 50_000
FIVE = line("five", "a", "b", "c", "d", "e")


async def stored(it: Bench) -> int:
    """Bytes of states, changes and final states."""
    rows = await it.engine.shards[1].store.database.fetch(  # type: ignore[attr-defined]
        "select (select sum(length(state) + length(changes) + length(coalesce(borrowed, ''))) from dwarf_steps)"
        " + (select sum(length(coalesce(final_state, ''))) from dwarf_flows)"
    )
    return int(rows[0][0])


async def state_of(it: Bench, step: Step) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await it.engine.step(step.step_key)).state_json or b"")
    return found


def same(flow: Flow, **expected: Any) -> None:
    """Fail the task unless it sees this."""
    if dict(flow.state) != expected:
        raise TaskError(f"sees {[(name, str(value)[:10], len(str(value))) for name, value in flow.state.items()]}")


async def test_a_field_nobody_changes_is_stored_once_and_seen_by_all(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(**dict.fromkeys("abcde", lambda flow: same(flow, big=BIG, n=1)))
        outcome = await it.run(FIVE, {"big": BIG, "n": 1})
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"big": BIG, "n": 1})
        assert len(BIG) < await stored(it) < len(BIG) + 1_000
        for step in (await it.steps(outcome.flow_key)).values():
            assert await state_of(it, step) == {"big": BIG, "n": 1}


async def test_a_field_that_changes_is_stored_once_each_time(dsn: str) -> None:
    """As a change; whoever comes next borrows it."""

    def turned(flow: Flow) -> dict[str, Any]:
        return {"big": flow.get("big")[1:] + "z"}

    async with bench(dsn) as it:
        it.tasks(**dict.fromkeys("abcde", turned))
        outcome = await it.run(FIVE, {"big": BIG})
        assert outcome.state == {"big": BIG[5:] + "zzzzz"}
        assert await stored(it) < 6 * len(BIG) + 1_000
        step = (await it.steps(outcome.flow_key))["d"]
        assert await state_of(it, step) == {"big": BIG[3:] + "zzz"}
        assert json.loads((await it.engine.step(step.step_key)).changes_json or b"") == {"big": BIG[4:] + "zzzz"}


async def test_branches_borrow_from_the_step_that_fans_out(dsn: str) -> None:
    """F1, F3, F6: what each branch carries is stored once; the fan-in has it again."""

    def work(flow: Flow) -> dict[str, Any]:
        same(flow, big=BIG, item=flow.get("item"), itemIndex=flow.get("itemIndex"), itemCount=40)
        return {"done": [flow.get("item")]}

    async with bench(dsn) as it:
        many = list(range(40))
        it.tasks(split=lambda: {"big": BIG}, work=work, join=lambda flow: same(flow, big=BIG, items=many, done=many))
        outcome = await it.run(each(), {"items": many, "big": OTHER})
        assert outcome.status is Status.COMPLETED, outcome.error
        assert outcome.state == {"items": list(range(40)), "big": BIG, "done": list(range(40))}
        assert await stored(it) < 3 * len(BIG) + 20_000  # what it began with, the change, the fan-in's


async def test_what_a_replica_left_behind_is_whole_for_the_next(dsn: str) -> None:
    """X1, B3: a claim gathers what the step borrows."""
    async with bench(dsn) as it:
        it.idle("a", "b", "d", "e")
        it.tasks(c=ask())
        paused = await it.run(FIVE, {"big": BIG, "n": 1})
        assert paused.status is Status.INTERRUPTED
        assert paused.state == {"big": BIG, "n": 1}
        assert (await it.engine.snapshot(paused.flow_key)).state == {"big": BIG, "n": 1}
        it.tasks(c=lambda flow: same(flow, big=BIG, n=1))  # at once, not through `interrupt`
        await it.engine.resume(paused.flow_key)
        outcome = await it.stopped(paused.flow_key)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"big": BIG, "n": 1})


async def test_overrides_replace_what_is_borrowed(dsn: str) -> None:
    """O11, O13: by another value, by none; what is left alone is still borrowed."""
    async with bench(dsn) as it:
        it.idle("a", "b", "c", "d", "e")
        key = await it.engine.create(FIVE, {"big": BIG, "more": OTHER})
        await it.engine.break_before(key, "c")
        await it.engine.start(key)
        assert (await it.stopped(key)).state == {"big": BIG, "more": OTHER}
        await it.engine.resume_break(key, {"big": "short"})
        assert (await it.stopped(key)).state == {"big": "short", "more": OTHER}
        await it.engine.restart_from((await it.steps(key))["d"].step_key, {"more": None, "new": OTHER})
        assert (await it.stopped(key)).state == {"big": "short", "new": OTHER}
        await it.engine.restart(key, {"big": OTHER})
        await it.stopped(key)
        await it.engine.resume_break(key)
        assert (await it.stopped(key)).state == {"big": OTHER, "more": OTHER}


async def test_a_copy_holds_its_large_fields_itself(dsn: str) -> None:
    """O14: it outlives the original."""
    async with bench(dsn) as it:
        it.idle("a", "b", "c", "d", "e")
        first = await it.run(FIVE, {"big": BIG, "more": OTHER})
        copy = await it.engine.fork((await it.steps(first.flow_key))["d"].step_key, {"more": "short"})
        await it.stopped(copy)
        await it.engine.delete(first.flow_key)
        assert (await it.engine.snapshot(copy)).state == {"big": BIG, "more": "short"}
        steps = await it.steps(copy)
        assert await state_of(it, steps["c"]) == {"big": BIG, "more": OTHER}
        await it.engine.restart_from(steps["b"].step_key)
        assert (await it.stopped(copy)).state == {"big": BIG, "more": OTHER}
        assert await it.engine.purge(Query(status=Status.COMPLETED)) == 1


async def test_a_flow_that_ends_on_the_way_has_its_large_fields(dsn: str) -> None:
    """X9: failed, cancelled in a pause, and inside a fan-out."""

    def fails() -> None:
        raise TaskError("no")

    async with bench(dsn) as it:
        it.idle("a", "b", "d", "e", "split", "join")
        it.tasks(c=fails)
        assert (await it.run(FIVE, {"big": BIG})).state == {"big": BIG}
        it.tasks(c=ask())
        paused = await it.run(FIVE, {"big": BIG})
        await it.engine.cancel(paused.flow_key)
        assert (await it.engine.snapshot(paused.flow_key)).state == {"big": BIG}
        it.idle("first")
        graph = Graph("late")
        graph.add_transition("first", "split")
        graph.add_for_each("split", "work", "items")
        graph.add_transition("work", "join")
        graph.set_fan_in("join")
        graph.add_transition("join", END)
        it.tasks(work=fails)
        assert (await it.run(graph, {"big": BIG, "items": [1, 2]})).state == {"big": BIG, "items": [1, 2]}
        it.tasks(work=ask())
        paused = await it.run(graph, {"big": BIG, "items": [1, 2]})
        await it.engine.cancel(paused.flow_key)
        assert (await it.engine.snapshot(paused.flow_key)).state == {"big": BIG, "items": [1, 2]}


async def test_the_next_flow_of_a_thread_begins_with_large_fields_of_its_own(dsn: str) -> None:
    """O15: also once the flow before it is gone."""
    async with bench(dsn) as it:
        it.idle("a", "b", "c", "d", "e")
        first = await it.run(FIVE, {"big": BIG, "n": 1})
        second = await it.engine.continue_(first.flow_key, {"n": 2})
        await it.engine.delete(first.flow_key)
        await it.engine.start(second)
        assert (await it.stopped(second)).state == {"big": BIG, "n": 2}


async def test_a_child_hands_its_large_fields_up_and_is_copied_with_them(dsn: str) -> None:
    """P1, O14: what the parent is given is its own; the copy of a finished child borrows from copies."""
    async with bench(dsn) as it:
        it.proxy.handle_graph(line("child", "b", "c"))
        it.idle("b", "c", "d")
        it.tasks(a=call("child", big=BIG))
        first = await it.run(line("parent", "a", "d"), {"more": OTHER})
        assert first.state == {"more": OTHER, "child": {"big": BIG}}
        copy = await it.engine.fork((await it.steps(first.flow_key))["d"].step_key)
        await it.stopped(copy)
        await it.engine.delete(first.flow_key)
        assert (await it.engine.snapshot(copy)).state == {"more": OTHER, "child": {"big": BIG}}
        caller = (await it.steps(copy))["a"]
        rows = await it.engine.shards[1].store.database.fetch(  # type: ignore[attr-defined]
            "select f.flow_id, f.token from dwarf_flows f where f.surgraph_step_id = $1", caller.step_id
        )
        (key,) = [f"1-{row[0]}-{row[1]}" for row in rows]
        assert (await it.engine.snapshot(key)).state == {"big": BIG}
        assert await state_of(it, (await it.steps(key))["c"]) == {"big": BIG}
