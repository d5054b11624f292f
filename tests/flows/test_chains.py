"""Chains: nodes that the engine carries out at once are settled with the step before them (N8), on each database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine.execution import chains
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import AskPerson, RetryPolicy, SetFields, Sleep
from dwarf_nats.workflow.status import Status
from tests.support.engines import Gate, crash, quiet, replica, rows, shard_of
from tests.support.flows import Bench, bench
from tests.support.nodes import act, acting

COUNT = SetFields({"n": "=n + 1"})


def counting(name: str, length: int, *, before: str = "", after: str = "") -> Graph:
    """A line of nodes that count, perhaps with a task before and after."""
    nodes: dict[str, Any] = {before: None} if before else {}
    nodes |= {f"s{at}": COUNT for at in range(length)}
    nodes |= {after: None} if after else {}
    return acting(name, **nodes)


def groups(it: Bench) -> int:
    return shard_of(it.engine).committer.groups


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chain ends because the machine is slow."""
    monkeypatch.setattr(chains, "TURN_US", 10**12)


@pytest.mark.usefixtures("unhurried")
async def test_a_chain_is_one_group_with_the_step_before_it(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=lambda: {"n": 0})
        it.idle("b")
        outcome = await it.run(counting("x", 10, before="a"))
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 10})
        assert groups(it) == 2  # the creation, and the chain to the end of the flow
        steps = await it.engine.history(outcome.flow_key)
        assert [step.task for step in steps] == ["a", *(f"s{at}" for at in range(10))]
        assert {step.status for step in steps} == {Status.COMPLETED}
        assert await rows(
            it.engine,
            "select count(*) from dwarf_steps a join dwarf_steps b on a.successor_id = b.step_id"
            " and b.predecessor_id = a.step_id",
        ) == [(10,)]
        assert await rows(it.engine, "select count(*) from dwarf_steps where claimed_by is not null") == [(0,)]


@pytest.mark.usefixtures("unhurried")
async def test_the_step_after_a_chain_starts_eagerly_in_the_slot_of_the_first(dsn: str) -> None:
    async with bench(dsn) as it:
        it.tasks(a=lambda: {"n": 0})
        used: list[Any] = []
        slots = shard_of(it.engine).admission.slots
        it.tasks(b=lambda: used.append((slots.in_use, slots.used_by("b"), slots.used_by("a"))))
        outcome = await it.run(counting("x", 3, before="a", after="b"))
        assert (outcome.state, used) == ({"n": 3}, [(1, 1, 0)])
        assert groups(it) == 3
        assert slots.in_use == 0
        assert shard_of(it.engine).in_flight.steps == []


@pytest.mark.usefixtures("unhurried")
async def test_a_thousand_nodes_in_a_row(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await it.run(counting("x", 1000), {"n": 0})
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 1000})
        assert groups(it) <= 3 + 1000 // chains.CHAIN_MAX_LINKS
        assert await rows(it.engine, "select status, count(*) from dwarf_steps group by status") == [
            ("completed", 1000)
        ]


async def test_a_loop_ends_at_max_steps(dsn: str) -> None:
    """O13: a loop of nodes that the engine carries out is bounded like any other."""
    graph = Graph("loop")
    act(graph, "again", COUNT)
    graph.add_transition_switch("again", "again", "true")
    graph.add_transition_switch("again", END, "true")
    async with workflow_engine(dsn, settings=EngineSettings(max_steps=250)) as (engine, _):
        outcome = await engine.run(graph, {"n": 0}, timeout=30)
        assert outcome.error is not None
        assert "max_steps" in outcome.error.message
        assert outcome.state["n"] == 249


@pytest.mark.usefixtures("unhurried")
async def test_a_loop_lets_others_have_their_turn() -> None:
    """N8: between two groups of an endless loop, another flow goes on; turns of the event loop are counted, not time."""
    graph = Graph("loop")
    act(graph, "again", COUNT)
    graph.add_transition_switch("again", "again", "true")
    graph.add_transition_switch("again", END, "true")
    async with bench("sqlite://") as it:
        it.idle("a", "b", "c")
        await it.engine.create(graph, {"n": 0}, start=True)
        before = groups(it)
        await it.run(acting("other", a=None, b=None, c=None))
        assert groups(it) - before < 40
        ((links,),) = await rows(it.engine, "select count(*) from dwarf_steps")
        assert links < 40 * (chains.CHAIN_MAX_LINKS + 1)


async def test_a_chain_ends_when_the_turn_has_taken_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """N8: with a clock that moves by a millisecond each time it is read."""

    class Slow(ManualClock):
        def now(self) -> int:
            self._now += 1000
            return self._now

    links: list[int] = []
    extend = chains.Chains.extend

    def counted(self: chains.Chains, settlement: Settlement, graph: Graph) -> None:
        extend(self, settlement, graph)
        links.append(sum(1 for _ in settlement.chain()) - 1)

    monkeypatch.setattr(chains.Chains, "extend", counted)
    async with bench("sqlite://", clock=Slow()) as it:
        outcome = await it.run(counting("x", 30), {"n": 0})
        assert outcome.state == {"n": 30}
    assert 0 < max(links) <= chains.TURN_US // 1000
    assert sum(links) > 10


@pytest.mark.usefixtures("unhurried")
async def test_nodes_that_wait_are_settled_with_the_step_before_them(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await it.run(acting("x", one=COUNT, two=COUNT, ask=AskPerson(payload="=n"), three=COUNT), {"n": 0})
        assert (outcome.status, outcome.interrupt_payload) == (Status.INTERRUPTED, 2)
        assert groups(it) == 2
        assert shard_of(it.engine).admission.slots.in_use == 0
        await it.engine.resume(outcome.flow_key, "yes")
        assert (await it.stopped(outcome.flow_key)).state == {"n": 3, "ask": "yes"}


@pytest.mark.usefixtures("unhurried")
async def test_a_sleep_in_a_chain_holds_no_slot_and_goes_on_in_time() -> None:
    clock = ManualClock()
    async with bench("sqlite://", clock=clock) as it:
        key = await it.engine.create(acting("x", one=COUNT, nap=Sleep(ms=60_000), two=COUNT), {"n": 0}, start=True)
        await it.until_steps(key, lambda steps: len(steps) == 2 and steps[1].status is Status.PENDING)
        assert groups(it) == 2
        assert shard_of(it.engine).admission.slots.in_use == 0
        clock.advance(61)
        assert (await it.stopped(key)).state == {"n": 2}


async def test_a_breakpoint_on_a_node_of_a_chain_pauses_there(dsn: str) -> None:
    """O12: set while the step before it runs, so that the chain does not know of it."""
    async with bench(dsn) as it:
        gate = Gate({"n": 0})
        it.tasks(a=gate)
        key = await it.engine.create(counting("x", 5, before="a"), start=True)
        await gate.began()
        await it.engine.break_before(key, "s2")
        gate.open()
        outcome = await it.until(key, Status.INTERRUPTED)
        assert outcome.state == {"n": 2}
        steps = await it.steps(key)
        assert (steps["s2"].status, steps["s1"].status) == (Status.INTERRUPTED, Status.COMPLETED)
        await it.engine.resume_break(key, {"n": 10})
        assert (await it.stopped(key)).state == {"n": 13}
        assert shard_of(it.engine).admission.slots.in_use == 0


async def test_a_flow_cancelled_before_the_commit_ends_where_it_was(dsn: str) -> None:
    """O10: nothing of the chain is written."""
    async with bench(dsn) as it:
        gate = Gate({"n": 0})
        it.tasks(a=gate)
        key = await it.engine.create(counting("x", 5, before="a"), start=True)
        await gate.began()
        await it.engine.cancel(key, "enough")
        gate.open()
        await quiet(it.engine)
        outcome = await it.engine.snapshot(key)
        assert outcome.status is Status.CANCELLED
        assert [step.task for step in await it.engine.history(key)] == ["a"]
        assert shard_of(it.engine).admission.slots.in_use == 0


@pytest.mark.usefixtures("unhurried")
async def test_branches_that_the_engine_carries_out_converge(dsn: str) -> None:
    """F1-F3: the branches are settled together; the fan-in adds up what they changed."""
    graph = Graph("each")
    act(graph, "split", SetFields({"items": "=items"}))
    act(graph, "work", SetFields({"total": "=item * 10"}))
    act(graph, "more", SetFields({"count": 1}))
    act(graph, "join", SetFields({"done": True}))
    graph.add_for_each("split", "work", "items")
    graph.add_chain("work", "more", "join", END)
    graph.set_fan_in("join")
    graph.set_reducer("total", "add")
    graph.set_reducer("count", "add")
    async with bench(dsn) as it:
        outcome = await it.run(graph, {"items": list(range(1, 31)), "total": 0, "count": 0})
        assert outcome.status is Status.COMPLETED
        assert (outcome.state["total"], outcome.state["count"], outcome.state["done"]) == (4650, 30, True)
        assert groups(it) <= 5
        assert it.proxy.calls == {}
        statuses = await rows(it.engine, "select status, count(*) from dwarf_steps group by status")
        assert statuses == [("completed", 62)]


async def test_a_wide_fan_out_of_such_branches_takes_several_groups(dsn: str) -> None:
    """F6: those beyond the bound of a chain are claimed like any step."""
    graph = Graph("each")
    act(graph, "split", SetFields({"x": 1}))
    act(graph, "work", SetFields({"total": "=item"}))
    act(graph, "join", SetFields({"done": True}))
    graph.add_for_each("split", "work", "items")
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("total", "add")
    async with bench(dsn) as it:
        outcome = await it.run(graph, {"items": list(range(400)), "total": 0})
        assert outcome.error is None
        assert (outcome.status, outcome.state["total"]) == (Status.COMPLETED, 400 * 399 // 2)
        assert shard_of(it.engine).admission.slots.in_use == 0


async def test_branches_of_tasks_and_of_nodes_run_side_by_side(dsn: str) -> None:
    graph = Graph("both")
    act(graph, "split", SetFields({"x": 1}))
    act(graph, "quick", SetFields({"total": 1}))
    graph.add_task("slow")
    act(graph, "join", SetFields({"done": True}))
    graph.add_fan_out("split", "quick", "slow")
    graph.add_transition("quick", "join")
    graph.add_transition("slow", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("total", "add")
    async with bench(dsn) as it:
        it.tasks(slow=lambda: {"total": 10})
        outcome = await it.run(graph)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"x": 1, "total": 11, "done": True})
        assert shard_of(it.engine).admission.slots.in_use == 0


async def test_an_error_in_a_chain_is_retried_handled_or_fails_the_flow(dsn: str) -> None:
    """X4, L2."""
    graph = acting("x", one=COUNT, bad=SetFields({"x": "=nope.y"}), never=COUNT)
    graph.nodes["bad"].retry = RetryPolicy(initial_delay_ms=0, max_attempts=2)
    handled = acting("y", one=COUNT, bad=SetFields({"x": "=nope.y"}), sorry=COUNT)
    handled.add_transition("bad", "sorry", on_error=True)
    async with bench(dsn) as it:
        outcome = await it.run(graph, {"n": 0})
        assert outcome.error is not None
        assert outcome.error.message.endswith("(tried 2 times)")
        assert outcome.state == {"n": 1}
        outcome = await it.run(handled, {"n": 0})
        assert (outcome.status, outcome.state["n"], outcome.state["onErr"]["task"]) == (Status.COMPLETED, 2, "bad")
        assert shard_of(it.engine).admission.slots.in_use == 0


async def test_a_chain_in_a_child_wakes_the_parent(dsn: str) -> None:
    """P1: the end of a child that is reached within a chain."""
    async with bench(dsn, counting("child", 3)) as it:

        def a(flow: Flow) -> None:
            flow.set("got", flow.subgraph("child", {"n": 0}))

        it.tasks(a=a)
        outcome = await it.run(acting("x", a=None, after=SetFields({"m": "=got['n']"})))
        assert outcome.state == {"got": {"n": 3}, "m": 3}


async def test_a_replica_that_dies_before_the_commit_leaves_the_step_before_the_chain(dsn: str) -> None:
    """X11: the chain is written whole with that step, or not at all."""
    proxy = TaskProxy()
    proxy.handle_graph(counting("x", 5, before="a"))
    asked = 0

    def a() -> dict[str, int]:
        nonlocal asked
        asked += 1
        return {"n": 0}

    proxy.handle_task("a", a)
    first = replica(dsn, proxy)
    await first.startup()
    steps = shard_of(first).store.steps
    stuck = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        stuck.set()
        await asyncio.Event().wait()

    key = await first.create("x")
    steps.settle = never  # type: ignore[method-assign]
    await first.start(key)
    await stuck.wait()
    await crash(first)
    async with replica(dsn, proxy) as second:
        await rows(
            second, "update dwarf_steps set lease_expires = 0, claimed_by = null where status = 'running' returning 1"
        )
        outcome = await second.await_(key, 30)
        assert (outcome.status, outcome.state, asked) == (Status.COMPLETED, {"n": 5}, 2)
        assert len(await second.history(key)) == 6


async def test_a_chain_that_the_database_refuses_is_written_link_by_link(dsn: str) -> None:
    """S1: only the step whose value it cannot hold fails."""
    async with bench(dsn) as it:
        store = shard_of(it.engine).store.steps
        settle = store.settle

        async def refuse(group: Any, *args: Any, **more: Any) -> Any:
            for one in group:
                for link in one.chain():
                    if link.step.node == "s2" and link.status is Status.COMPLETED:
                        raise ValueError("cannot hold this")
            return await settle(group, *args, **more)

        store.settle = refuse
        it.tasks(a=lambda: {"n": 0})
        outcome = await it.run(counting("x", 5, before="a"))
        assert outcome.error is not None
        assert "cannot hold this" in outcome.error.message
        assert outcome.state == {"n": 2}
        steps = await it.steps(outcome.flow_key)
        assert {name: step.status for name, step in steps.items()} == {
            "a": Status.COMPLETED, "s0": Status.COMPLETED, "s1": Status.COMPLETED, "s2": Status.FAILED,
        }  # fmt: skip
        assert shard_of(it.engine).admission.slots.in_use == 0


async def test_a_chain_waits_for_its_database_like_any_result(dsn: str) -> None:
    """B6."""
    async with bench(dsn) as it:
        store = shard_of(it.engine).store.steps
        settle = store.settle
        failures = 2

        async def away(group: Any, *args: Any, **more: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise DatabaseAway("gone")
            return await settle(group, *args, **more)

        store.settle = away
        it.tasks(a=lambda: {"n": 0})
        outcome = await it.run(counting("x", 5, before="a"))
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 5})


async def test_the_members_of_a_chain_are_counted_and_announced(dsn: str) -> None:
    async with bench(dsn) as it:
        outcome = await it.run(counting("x", 5), {"n": 0})
        await it.heard.until(lambda: len(it.heard.of(outcome.flow_key.rsplit("-", 1)[0])) == 3)
        assert it.heard.of(outcome.flow_key.rsplit("-", 1)[0]) == [Status.CREATED, Status.RUNNING, Status.COMPLETED]
