"""Gauges show what stands for now, read for those who collect and at a cost that does not grow with the line (T1)."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine.maintenance.gauges import TICK_SECONDS
from dwarf_nats.library import open_engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions
from tests.support.telemetry import Held, Points, Watched, until, watched

LINE = ("dwarf_steps_queue_depth", "dwarf_steps_pending", "dwarf_steps_fairness_keys")


def shown(on: Watched, *names: str) -> list[Points]:
    return [on.heard.points(name) for name in names]


async def test_the_line_of_due_steps_by_band(dsn: str, proxy: TaskProxy) -> None:
    """What is in hand is not in line; what has gone is shown at zero, and does not just vanish."""
    held = Held()
    proxy.handle_task("bad", held)
    async with watched(dsn, proxy, settings={"workers": 1}) as on:
        await on.read()
        assert shown(on, *LINE) == [{(): 0}, {}, {}]
        await on.engine.create("bad", options=FlowOptions(priority=9), start=True)
        await held.entered()
        await on.read()
        assert shown(on, *LINE) == [{(): 0}, {}, {}]
        for priority, tenant in ((1, "a"), (1, "a"), (1, "b"), (50, "")):
            await on.engine.create("bad", options=FlowOptions(priority=priority, fairness_key=tenant), start=True)
        await on.engine.create("bad")  # not started
        await on.read()
        assert shown(on, *LINE) == [{(): 4}, {("1",): 3, ("50",): 1}, {("1",): 2, ("50",): 1}]
        oldest = on.heard.points("dwarf_steps_oldest_pending_age_seconds")
        assert oldest.keys() == {("1",), ("50",)}
        assert oldest["1",] >= oldest["50",] >= 0
        held.release.set()
        await until(lambda: not on.engine.replica.slots.in_use and held.began.locked() is False, on.engine)
        await until(lambda: on.heard.points("dwarf_flows_terminated_total") == {("completed", "bad"): 5}, on.engine)
        await on.read()
        assert shown(on, *LINE) == [{(): 0}, {("1",): 0, ("50",): 0}, {("1",): 0, ("50",): 0}]
        assert on.heard.points("dwarf_steps_oldest_pending_age_seconds") == {("1",): 0, ("50",): 0}


async def test_what_is_counted_is_counted_up_to_a_limit(dsn: str, proxy: TaskProxy) -> None:
    held = Held()
    proxy.handle_task("bad", held)
    async with watched(dsn, proxy, settings={"workers": 1}) as on:
        await on.engine.create("bad", start=True)
        await held.entered()
        for number in range(5):
            await on.engine.create(
                "bad", options=FlowOptions(priority=1 + number % 2, fairness_key=f"{number}"), start=True
            )
        store = on.engine.shards[1].store
        assert [(one.priority, one.steps, one.fairness_keys) for one in await store.steps.backlogs(9, 9, 9)] == [
            (1, 3, 3),
            (2, 2, 2),
        ]
        assert [(one.priority, one.steps, one.fairness_keys) for one in await store.steps.backlogs(1, 2, 2)] == [
            (1, 2, 2)
        ]
        held.release.set()


async def test_the_age_of_the_oldest_step_and_how_long_steps_waited(proxy: TaskProxy, clock: ManualClock) -> None:
    held = Held()
    proxy.handle_task("bad", held)
    async with watched("sqlite://", proxy, clock=clock, settings={"workers": 1}) as on:
        await on.engine.create("bad", start=True)
        await held.entered()
        await on.engine.create("line", start=True)
        clock.advance(3)
        await on.engine.create("line", start=True)
        clock.advance(4)
        await on.read()
        assert on.heard.points("dwarf_steps_oldest_pending_age_seconds") == {("100",): 7.0}
        assert on.heard.points("dwarf_step_queue_wait_seconds") == {}
        held.release.set()
        await until(lambda: on.heard.points("dwarf_step_queue_wait_seconds") != {}, on.engine)
        waits = on.heard.collect()["dwarf_step_queue_wait_seconds"].data.data_points[0]
        assert waits.max == pytest.approx(7.0)
        assert dict(waits.attributes) == {"task": "add"}


async def test_what_is_in_hand_by_task(on: Watched) -> None:
    held = Held()
    on.proxy.handle_task("left", held)
    on.proxy.handle_task("right", held)
    flow = await on.engine.create("wide", start=True)
    await held.entered(2)
    await on.read()
    assert on.heard.points("dwarf_task_concurrency_running") == {("left",): 1, ("right",): 1}
    held.release.set()
    await on.engine.await_(flow)
    await on.read()
    assert on.heard.points("dwarf_task_concurrency_running") == {("left",): 0, ("right",): 0}


async def test_latencies_of_tasks_and_commits(on: Watched) -> None:
    """A flow that never stands in line has waited for nobody."""
    assert shown(on, "dwarf_step_task_seconds", "dwarf_step_commit_seconds") == [{}, {}]
    await on.run("line")
    assert shown(on, "dwarf_step_task_seconds", "dwarf_step_commit_seconds", "dwarf_step_queue_wait_seconds") == [
        {("add",): 1, ("add2",): 1}, {("1",): 2}, {},
    ]  # fmt: skip
    point = on.heard.collect()["dwarf_step_task_seconds"].data.data_points[0]
    assert point.explicit_bounds[:3] == (0.001, 0.0025, 0.005)


async def test_of_very_many_latencies_of_one_task_a_sample_is_recorded(timed: Watched, clock: ManualClock) -> None:
    """No more than a thousand a second; each task has its own thousand."""
    for _ in range(3):
        await timed.run("line")
    assert timed.heard.points("dwarf_step_task_seconds") == {("add",): 1, ("add2",): 1}
    clock.advance(0.001)
    await timed.run("line")
    assert timed.heard.points("dwarf_step_task_seconds") == {("add",): 2, ("add2",): 2}


async def test_orphaned_flows(proxy: TaskProxy, clock: ManualClock) -> None:
    """B5: running flows without a live step, counted by whoever sweeps."""
    proxy.handle_task("add", lambda flow: flow.sleep(100_000))
    async with watched("sqlite://", proxy, clock=clock) as on:
        shard = on.engine.shards[1]
        key = await on.engine.create("line", start=True)
        await until(lambda: on.heard.points("dwarf_steps_executed_total") != {}, on.engine)
        await on.read()
        assert on.heard.points("dwarf_flows_orphaned") == {(): 0}
        await shard.store.database.fetch("delete from dwarf_steps where node = 'add2'")  # type: ignore[attr-defined]
        clock._now += 301 * 1_000_000
        await on.engine._lifecycle.maintenance[1].integrity.repair()
        await on.read()
        assert on.heard.points("dwarf_flows_orphaned") == {(): 1}
        await on.engine.cancel(key)
        await on.engine._lifecycle.maintenance[1].integrity.repair()
        await on.read()
        assert on.heard.points("dwarf_flows_orphaned") == {(): 0}


async def test_the_databases_are_read_once_for_every_collection_and_not_for_nobody(
    timed: Watched, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    store = timed.engine.shards[1].store
    bands = store.steps.backlogs

    async def counted(*limits: int) -> object:
        nonlocal reads
        reads += 1
        return await bands(*limits)

    monkeypatch.setattr(store.steps, "backlogs", counted)

    async def pass_by(seconds: int) -> None:
        for _ in range(seconds):
            clock.advance(TICK_SECONDS)
            for _ in range(10):
                await asyncio.sleep(0)
                await timed.engine.list()

    await pass_by(60)
    assert reads == 0
    for collection in range(1, 5):
        timed.heard.collect()
        before = reads
        await pass_by(30)
        assert reads == before, "the next collection is a minute off"
        await pass_by(30)
        assert reads == collection
    await pass_by(300)
    assert reads == 4
    for _ in range(3):  # sooner than expected
        timed.heard.collect()
        await pass_by(10)
    await pass_by(300)
    assert reads == 6, "for the first two together, and for the third"


async def test_without_a_provider_nothing_is_recorded_and_nothing_is_read(proxy: TaskProxy) -> None:
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy) as engine:
        assert (engine.replica.instruments.listening, engine.replica.traces.listening) == (False, False)
        assert engine._lifecycle.gauges._job is None
        await engine.run("line", {}, timeout=20)
        assert engine.replica.counters.executed == {("add", "completed"): 1, ("add2", "completed"): 1}
        assert not engine.shards[1].executor.runner.invoker.observer.listening


async def test_an_engine_that_has_stopped_shows_nothing_that_stands_for_now(proxy: TaskProxy) -> None:
    async with watched("sqlite://", proxy) as on:
        await on.run("line")
        await on.read()
        assert on.heard.points("dwarf_shard_up") == {("1",): 1}
    assert on.heard.points("dwarf_shard_up") == {}
    assert on.heard.points("dwarf_flows_started_total") == {("line",): 1}
