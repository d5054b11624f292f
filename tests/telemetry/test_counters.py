"""Every counter moves when it should and only then: each test says what all of them came to (T1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import WorkerLost
from dwarf_nats.telemetry.catalogue import CATALOGUE, Kind
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import crash
from tests.support.telemetry import WAIT, Held, Points, Watched, line, until, watched

OF_EVERY_COMMIT = {"dwarf_commit_groups_total", "dwarf_commit_members_total"}


def moved(on: Watched) -> dict[str, Points]:
    """What all counters have come to, those left out that are at zero; labels in the order of their names."""
    found = {one.name: on.heard.points(one.name) for one in CATALOGUE if one.kind is Kind.COUNTER}
    nonzero = {name: {labels: n for labels, n in points.items() if n} for name, points in found.items()}
    return {name: points for name, points in nonzero.items() if points and name not in OF_EVERY_COMMIT}


def flows(started: Points, terminated: Points, executed: Points, **more: Points) -> dict[str, Points]:
    """What `moved` says of flows, and of what else there is."""
    return {
        "dwarf_flows_started_total": started,
        "dwarf_flows_terminated_total": terminated,
        "dwarf_steps_executed_total": executed,
        **{f"dwarf_{name}_total": points for name, points in more.items()},
    }


async def test_a_flow_that_completes(on: Watched) -> None:
    assert moved(on) == {}
    await on.run("line")
    assert moved(on) == flows(
        {("line",): 1}, {("completed", "line"): 1}, {("completed", "add"): 1, ("completed", "add2"): 1}
    )


async def test_a_flow_that_fails(on: Watched) -> None:
    await on.run("bad")
    assert moved(on) == flows({("bad",): 1}, {("failed", "bad"): 1}, {("failed", "bad"): 1})


async def test_a_retry_is_an_execution_of_its_own(on: Watched) -> None:
    await on.run("shaky")
    assert moved(on) == flows(
        {("shaky",): 1}, {("completed", "shaky"): 1}, {("retried", "shaky"): 1, ("completed", "shaky"): 1}
    )


async def test_a_fan_out_is_one_flow_however_it_ends(on: Watched) -> None:
    await on.run("wide")
    steps = {("completed", task): 1.0 for task in ("add", "left", "right", "join")}
    assert moved(on) == flows({("wide",): 1}, {("completed", "wide"): 1}, steps)
    on.proxy.handle_task("left", _refuse)
    await on.run("wide")
    steps = {("completed", "add"): 2, ("completed", "left"): 1, ("completed", "right"): 2, ("completed", "join"): 1}
    assert moved(on) == flows(
        {("wide",): 2}, {("completed", "wide"): 1, ("failed", "wide"): 1}, {**steps, ("failed", "left"): 1}
    )


def _refuse() -> None:
    raise TaskError("no", code=400)


async def test_a_pause_ends_nothing_and_a_resume_starts_nothing(on: Watched) -> None:
    key = (await on.engine.run("asking", {}, timeout=WAIT)).flow_key
    paused: dict[str, Points] = flows({("asking",): 1}, {}, {("interrupted", "asking"): 1})
    del paused["dwarf_flows_terminated_total"]
    assert moved(on) == paused
    await on.engine.resume(key, "yes")
    await on.engine.await_(key, WAIT)
    assert moved(on) == flows(
        {("asking",): 1}, {("completed", "asking"): 1}, {("interrupted", "asking"): 1, ("completed", "asking"): 1}
    )


async def test_a_breakpoint_is_no_execution(on: Watched) -> None:
    key = await on.engine.create("bad")
    await on.engine.break_before(key, "bad")
    await on.engine.start(key)
    await on.engine.await_(key, WAIT)
    assert moved(on) == {"dwarf_flows_started_total": {("bad",): 1}}


async def test_a_subgraph_is_a_flow_of_its_own(on: Watched) -> None:
    await on.run("calling")
    assert moved(on) == flows(
        {("calling",): 1, ("line",): 1},
        {("completed", "calling"): 1, ("completed", "line"): 1},
        {("waiting", "calling"): 1, ("completed", "calling"): 1, ("completed", "add"): 1, ("completed", "add2"): 1},
    )


async def test_a_cancelled_flow_counts_as_terminated_and_its_step_not_as_completed(on: Watched) -> None:
    held = Held()
    on.proxy.handle_task("bad", held)
    await on.engine.cancel(await on.engine.create("line"))
    assert moved(on) == {"dwarf_flows_terminated_total": {("cancelled", "line"): 1}}
    key = await on.engine.create("bad", start=True)
    await held.entered()
    await on.engine.cancel(key)
    await until(lambda: not on.engine.replica.slots.in_use, on.engine)
    assert moved(on) == flows(
        {("bad",): 1}, {("cancelled", "line"): 1, ("cancelled", "bad"): 1}, {("cancelled", "bad"): 1}
    )


async def test_running_again_counts_as_another_start(on: Watched) -> None:
    key = (await on.engine.run("line", {}, timeout=WAIT)).flow_key
    await on.engine.restart(key)
    await on.engine.await_(key, WAIT)
    last = (await on.engine.history(key))[-1].step_key
    await on.engine.restart_from(last)
    await on.engine.await_(key, WAIT)
    await on.engine.await_(await on.engine.fork(last), WAIT)
    await on.engine.await_(await on.engine.continue_(key, start=True), WAIT)
    assert moved(on) == flows(
        {("line",): 5}, {("completed", "line"): 5}, {("completed", "add"): 3, ("completed", "add2"): 5}
    )


async def test_steps_of_a_replica_that_died_are_recovered(dsn: str, proxy: TaskProxy) -> None:
    held = Held()
    proxy.handle_task("add", held)
    async with watched(dsn, proxy) as dead:
        await dead.engine.create("line", start=True)
        await held.entered()
        assert dead.heard.points("dwarf_steps_recovered_total") == {(): 0}
        await crash(dead.engine)
    proxy.handle_task("add", lambda: {"n": 1})
    async with watched(dsn, proxy) as on:
        shard = on.engine.shards[1]
        store: Any = shard.store
        await store.database.fetch(
            "update dwarf_replicas set seen_at = 1 where replica_id < $1", store.replicas.replica_id
        )
        await on.engine._lifecycle.maintenance[1].lease_reaper.sweep()
        await until(lambda: on.heard.points("dwarf_flows_terminated_total") != {}, on.engine)
        assert moved(on)["dwarf_steps_recovered_total"] == {(): 1}


async def test_a_result_whose_step_was_taken_away_is_fenced(on: Watched) -> None:
    """X1"""
    held = Held()
    on.proxy.handle_task("bad", held)
    await on.engine.create("bad", start=True)
    await held.entered()
    await on.engine.shards[1].store.database.fetch("update dwarf_steps set lease_seq = 7")  # type: ignore[attr-defined]
    held.release.set()
    await until(lambda: not on.engine.replica.slots.in_use, on.engine)
    assert moved(on) == {"dwarf_flows_started_total": {("bad",): 1}, "dwarf_steps_fenced_total": {(): 1}}


async def test_a_step_whose_worker_is_lost_is_given_back(dsn: str) -> None:
    class Losing(TaskProxy):
        async def execute(self, call: TaskCall) -> Answer:
            if not self.calls.get(call.url):
                self.calls[call.url] = 1
                raise WorkerLost("killed")
            return await super().execute(call)

    proxy = Losing()
    proxy.handle_graph(line("line", "add"))
    proxy.handle_task("add", lambda: {"n": 1})
    async with watched(dsn, proxy) as on:
        await on.run("line")
        assert moved(on) == flows(
            {("line",): 1}, {("completed", "line"): 1}, {("completed", "add"): 1},
            steps_lost={("add",): 1}, steps_given_back={("add",): 1},
        )  # fmt: skip


async def test_a_busy_task_cuts_its_rate_and_is_passed_over(timed: Watched, clock: ManualClock) -> None:
    """V1, C3"""
    codes = iter([429])
    timed.proxy.handle_task("busy", lambda: _answer(next(codes, 0)))
    key = await timed.engine.create("busy", start=True)
    await until(lambda: bool(timed.heard.points("dwarf_steps_skipped_saturated_total")), timed.engine)
    found = moved(timed)
    assert found.pop("dwarf_steps_skipped_saturated_total").keys() == {("busy",)}
    assert found == {
        "dwarf_flows_started_total": {("busy",): 1},
        "dwarf_task_rate_cuts_total": {("busy",): 1},
        "dwarf_steps_given_back_total": {("busy",): 1},
    }
    await timed.read()
    assert timed.heard.points("dwarf_task_rate_limit") == {("busy",): 1.0}
    clock.advance(2)
    await timed.engine.await_(key, WAIT)
    clock.advance(100_000)
    await timed.read()
    assert timed.heard.points("dwarf_task_rate_limit") == {("busy",): 100_000.0}


def _answer(code: int) -> dict[str, bool]:
    if code:
        raise TaskError("refused", code)
    return {"served": True}


async def test_a_breaker_trips_is_probed_and_closes(timed: Watched, clock: ManualClock) -> None:
    """V4, V5"""
    codes = iter([503, 529])
    timed.proxy.handle_task("away", lambda: _answer(next(codes, 0)))
    await timed.read()
    assert timed.heard.points("dwarf_task_breaker_state") == {}
    key = await timed.engine.create("away", start=True)
    await until(lambda: bool(timed.heard.points("dwarf_task_breaker_trips_total")), timed.engine)
    await timed.read()
    assert timed.heard.points("dwarf_task_breaker_state") == {("away",): 1}
    waiting = timed.engine.await_(key, WAIT)
    for _ in range(3):
        await timed.engine.shard_info()
        await until(lambda: not timed.engine.replica.slots.in_use, timed.engine)
        clock.advance(1)
    await waiting
    # The labels of a trip are cause and task, of a probe cause, outcome and task.
    assert moved(timed) == flows(
        {("away",): 1}, {("completed", "away"): 1}, {("completed", "away"): 1},
        steps_given_back={("away",): 2},
        task_breaker_trips={("unavailable", "away"): 1},
        task_breaker_probes={("unavailable", "refused", "away"): 1, ("unavailable", "served", "away"): 1},
    )  # fmt: skip
    await timed.read()
    assert timed.heard.points("dwarf_task_breaker_state") == {("away",): 0}


async def test_outages_of_a_database_are_counted_by_shard(
    timed: Watched, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_name: str) -> bool:
        raise Unavailable("gone")

    await timed.read()
    assert timed.heard.points("dwarf_shard_up") == {("1",): 1}
    with monkeypatch.context() as patched:
        patched.setattr(timed.engine.shards[1].store.replicas, "heartbeat", away)
        await until(lambda: bool(clock._sleepers))
        clock.advance(5)
        await until(lambda: bool(moved(timed)))
    assert moved(timed) == {"dwarf_shard_outages_total": {("1",): 1}}
    await timed.read()
    assert timed.heard.points("dwarf_shard_up") == {("1",): 0}
    await until(lambda: bool(clock._sleepers))
    clock.advance(5)
    await until(lambda: not timed.engine.shards[1].availability.is_away, timed.engine)
    await timed.read()
    assert timed.heard.points("dwarf_shard_up") == {("1",): 1}
    assert moved(timed) == {"dwarf_shard_outages_total": {("1",): 1}}


async def test_commits_are_counted_with_what_they_hold(on: Watched) -> None:
    """A creation and two results, each of which came alone."""
    await on.run("line")
    counted = [on.heard.points(f"dwarf_commit_{what}_total") for what in ("groups", "members")]
    assert counted == [{("1",): 3}, {("1",): 3}]


async def test_engines_that_share_a_provider_are_shown_as_one_also_when_one_has_ended(
    tmp_path: Path, proxy: TaskProxy
) -> None:
    """The SDK takes a name once; a counter never falls back."""
    async with watched(f"sqlite:///{tmp_path}/one.db", proxy) as one:
        two = open_engine(f"sqlite:///{tmp_path}/two.db", tasks=proxy, graphs=proxy, meter_provider=one.heard.provider)
        await one.run("line")
        for flows_so_far in (2, 3):
            async with two:
                await two.run("line", {}, timeout=WAIT)
                assert one.heard.points("dwarf_flows_started_total") == {("line",): flows_so_far}
            assert one.heard.points("dwarf_flows_started_total") == {("line",): flows_so_far}
        await one.run("line")
        assert one.heard.points("dwarf_flows_started_total") == {("line",): 4}
