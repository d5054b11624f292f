"""Limits hold over steps, flows, keys, replicas and shards, and let nobody wait for long who may begin (K1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.limit import Limit
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, Dsns, Wire, crash, line, rows, until_rows


class Counted:
    """A task that counts how often it runs at once, in all and by `key`; it ends when told, or at once if `open`."""

    def __init__(self, *, opened: bool = False) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.began: list[str] = []
        self._opened = opened
        self._waiting: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()

    async def __call__(self, key: str = "") -> dict[str, Any]:
        self.began.append(key)
        for one in {key, "*"}:
            self.now[one] += 1
            self.most[one] = max(self.most[one], self.now[one])
        self._changed.set()
        try:
            if self._opened:
                await asyncio.sleep(0)
            else:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
        finally:
            for one in {key, "*"}:
                self.now[one] -= 1
        return {}

    def end_one(self) -> None:
        """Let the execution end that has waited longest."""
        self._waiting.pop(0).set_result(None)

    def open(self) -> None:
        """Let all end, those to come at once."""
        self._opened = True
        while self._waiting:
            future = self._waiting.pop(0)
            if not future.done():
                future.set_result(None)

    async def times(self, count: int) -> None:
        """Wait until it began so often."""
        async with asyncio.timeout(SOON):
            while len(self.began) < count:
                self._changed.clear()
                await self._changed.wait()


async def put(engine: Engine, name: str = "few", **what: Any) -> None:
    await engine.replica.definitions.put("limit", name, Limit(name=name, **what).body())


async def create(
    engine: Engine, count: int, *, workflow: str = "limited", key: Callable[[int], str] = lambda _: "", **options: Any
) -> list[str]:
    return await asyncio.gather(
        *(
            engine.create(
                workflow,
                {"key": key(n)},
                FlowOptions(fairness_key=key(n), tags={"key": key(n)} if key(n) else None, **options),
                start=True,
            )
            for n in range(count)
        )
    )


async def all_end(engine: Engine, flows: Sequence[str]) -> set[Status]:
    async with asyncio.timeout(SOON):
        return {(await engine.await_(flow)).status for flow in flows}


async def waiting(engine: Engine, count: int, shard: int = 1) -> None:
    await until_rows(engine, [(count,)], "select count(*) from dwarf_steps where parked = 4", shard=shard)


async def settled(engine: Engine) -> None:
    """Nothing is counted any more."""
    await until_rows(engine, [], "select permit from dwarf_permits")
    assert await rows(engine, "select slot from dwarf_limit_counts where running <> 0 or reserved <> 0") == []
    assert await rows(engine, "select step_id from dwarf_limit_waits") == []


@pytest.fixture
def task(proxy: TaskProxy) -> Counted:
    """The task of `limited`, `pair` (before and after it come others) and of the child of `calling`."""
    made = Counted()
    proxy.handle_task("counted", made)
    proxy.handle_graph(line("limited", "counted"))
    proxy.handle_graph(line("pair", "add", "counted", "double"))
    return made


async def test_no_more_than_so_many_steps_of_a_task_run_at_once_and_all_run(engine: Engine, task: Counted) -> None:
    """K1."""
    await put(engine, task="counted", concurrency=3)
    flows = await create(engine, 12)
    await task.times(3)
    await waiting(engine, 9)
    assert await rows(engine, "select running, reserved from dwarf_limit_counts") == [(3, 0)]
    for ended in range(1, 10):
        task.end_one()
        await task.times(3 + ended)
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert task.most["*"] == 3
    await settled(engine)


async def test_a_step_that_waits_holds_up_nobody_else(engine: Engine, task: Counted) -> None:
    """K1, C3: steps of other tasks run meanwhile, whatever their priority."""
    await put(engine, task="counted", concurrency=1)
    flows = await create(engine, 6, priority=1)
    await waiting(engine, 5)
    assert (await engine.run("single", {"n": 1}, FlowOptions(priority=900), timeout=SOON)).state == {"n": 2}
    task.open()
    await all_end(engine, flows)
    assert task.most["*"] == 1


@pytest.mark.parametrize("by", ["fairnessKey", "tag:key"])
async def test_each_key_has_a_count_of_its_own(engine: Engine, task: Counted, by: str) -> None:
    """K1."""
    await put(engine, task="counted", by=by, concurrency=2)
    flows = await create(engine, 15, key=lambda n: "abc"[n % 3])
    await task.times(6)
    await waiting(engine, 9)
    assert task.now == {"a": 2, "b": 2, "c": 2, "*": 6}
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert (task.most["a"], task.most["b"], task.most["c"]) == (2, 2, 2)
    await settled(engine)


async def test_several_limits_of_one_task_hold_together(engine: Engine, task: Counted) -> None:
    """K1."""
    await put(engine, "each", task="counted", by="fairnessKey", concurrency=2)
    await put(engine, "all", task="counted", concurrency=3)
    flows = await create(engine, 16, key=lambda n: "ab"[n % 2])
    await task.times(3)
    await waiting(engine, 13)
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert task.most["*"] == 3
    assert max(task.most["a"], task.most["b"]) == 2
    await settled(engine)


async def test_a_workflow_begins_no_more_flows_than_its_limit(engine: Engine, task: Counted) -> None:
    """K1: a flow counts from its first step to its end, and the next one waits at its entry step."""
    await put(engine, workflow="pair", concurrency=2)
    flows = await create(engine, 5, workflow="pair")
    await task.times(2)
    await waiting(engine, 3)
    found = await rows(engine, "select depth, status, parked from dwarf_steps order by depth, parked, step_id")
    assert [(depth, status, parked) for depth, status, parked in found if parked] == [(1, "pending", 4)] * 3
    task.end_one()
    await task.times(3)
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert task.most["*"] == 2
    await settled(engine)


async def test_a_flow_that_is_paused_frees_its_place_and_waits_for_one_when_it_goes_on(
    engine: Engine, proxy: TaskProxy, task: Counted
) -> None:
    """K1, P2."""
    asking = Counted(opened=True)

    async def ask(flow: Flow, key: str = "") -> None:
        await asking(key)
        flow.interrupt({"approve": True})

    proxy.handle_task("ask", ask)
    proxy.handle_graph(line("asking", "ask", "counted"))
    await put(engine, workflow="asking", concurrency=1)
    first, second = await create(engine, 2, workflow="asking", key=lambda n: str(n))
    await asking.times(2)
    async with asyncio.timeout(SOON):
        assert {(await engine.await_(one)).status for one in (first, second)} == {Status.INTERRUPTED}
    await engine.resume(first, {})
    await task.times(1)
    await engine.resume(second, {})
    await waiting(engine, 1)
    task.end_one()
    await task.times(2)
    task.open()
    assert await all_end(engine, [first, second]) == {Status.COMPLETED}
    assert task.most["*"] == 1
    await settled(engine)


async def test_a_change_reaches_more_queues_than_are_looked_at_together(
    engine: Engine, task: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K1: every key, however many there are."""
    monkeypatch.setattr("dwarf_nats.engine.limiting.limiter.MAX_SLOTS", 3)
    await put(engine, task="counted", by="fairnessKey", concurrency=1)
    flows = await create(engine, 20, key=lambda n: f"key {n % 10}")
    await task.times(10)
    await waiting(engine, 10)
    await put(engine, task="counted", by="fairnessKey", concurrency=2)
    await task.times(20)
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    await settled(engine)


async def test_a_limit_that_is_raised_lowered_and_removed_takes_effect_at_once(engine: Engine, task: Counted) -> None:
    """K1."""
    await put(engine, task="counted", concurrency=1)
    flows = await create(engine, 10)
    await task.times(1)
    await waiting(engine, 9)
    await put(engine, task="counted", concurrency=4)
    await task.times(4)
    await waiting(engine, 6)
    await put(engine, task="counted", concurrency=2)
    for _ in range(2):
        task.end_one()
    await until_rows(engine, [(2,)], "select running from dwarf_limit_counts")
    await waiting(engine, 6)
    await engine.replica.definitions.delete("limit", "few")
    await task.times(10)
    task.open()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert task.most["*"] == 8


async def test_steps_that_ran_before_a_limit_was_put_are_counted(engine: Engine, task: Counted) -> None:
    """K1."""
    before = await create(engine, 3)
    await task.times(3)
    await put(engine, task="counted", concurrency=3)
    await until_rows(engine, [(3,)], "select running from dwarf_limit_counts")
    after = await create(engine, 2)
    await waiting(engine, 2)
    task.open()
    assert await all_end(engine, [*before, *after]) == {Status.COMPLETED}
    assert task.most["*"] == 3
    await settled(engine)


async def test_a_flow_that_is_cancelled_while_it_waits_takes_no_slot(engine: Engine, task: Counted) -> None:
    """K1, O10."""
    await put(engine, task="counted", concurrency=1)
    (first,) = await create(engine, 1)
    await task.times(1)
    second, third = await create(engine, 2)
    await waiting(engine, 2)
    await engine.cancel(second)
    task.open()
    assert await all_end(engine, [first, third]) == {Status.COMPLETED}
    assert (await engine.snapshot(second)).status is Status.CANCELLED
    assert task.began == ["", ""]
    await settled(engine)


async def test_cancelled_flows_at_the_head_of_a_queue_delay_nobody(timed: Engine, task: Counted) -> None:
    """K1, O10: a permit goes to the first step that still waits at once; here no time passes in which a sweep could run."""
    await put(timed, task="counted", concurrency=1)
    (first,) = await create(timed, 1)
    await task.times(1)
    cancelled = await create(timed, 20)
    await waiting(timed, 20)
    (last,) = await create(timed, 1)
    await waiting(timed, 21)
    for flow in cancelled:
        await timed.cancel(flow)
    task.open()
    assert await all_end(timed, [first, last]) == {Status.COMPLETED}
    assert task.began == ["", ""]
    await settled(timed)


async def test_a_retry_waits_for_its_turn_like_any_step(engine: Engine, proxy: TaskProxy) -> None:
    """K1, X5: between two attempts a step holds no slot."""
    counted = Counted(opened=True)
    failures = Counter[str]()

    async def flaky(flow: Flow) -> None:
        await counted()
        failures[flow.step_key] += 1
        if failures[flow.step_key] < 3:
            flow.retry(initial_delay=0.001)

    proxy.handle_task("flaky", flaky)
    proxy.handle_graph(line("flaky", "flaky"))
    await put(engine, task="flaky", concurrency=2)
    flows = await create(engine, 6, workflow="flaky")
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert len(counted.began) == 18
    assert counted.most["*"] <= 2
    await settled(engine)


async def test_a_held_step_keeps_no_slot_from_others(engine: Engine, task: Counted) -> None:
    """K1, K2: steps that wait for a limit when their workflow is held let others begin, and begin when it is not any more."""
    await put(engine, task="counted", concurrency=1)
    held = await create(engine, 2)
    await task.times(1)
    await waiting(engine, 1)
    await engine.put_hold(workflow="limited")
    other = await engine.create("pair", start=True)
    await waiting(engine, 2)
    task.end_one()
    await until_rows(engine, [(1,)], "select count(*) from dwarf_steps where parked = 5")
    await task.times(2)
    task.end_one()
    assert await all_end(engine, [other]) == {Status.COMPLETED}
    await settled(engine)
    await engine.delete_hold(workflow="limited")
    await task.times(3)
    task.open()
    assert await all_end(engine, held) == {Status.COMPLETED}
    assert task.most["*"] == 1
    await settled(engine)


async def test_a_step_that_waits_for_its_child_holds_no_slot(engine: Engine, proxy: TaskProxy) -> None:
    """K1, P1: a task that calls itself under a limit of one does not wait for itself."""

    async def nested(flow: Flow, depth: int = 0) -> dict[str, Any]:
        if depth < 3 and flow.subgraph("nested", {"depth": depth + 1}) is None:
            return {}
        return {"deep": True}

    proxy.handle_task("nested", nested)
    proxy.handle_graph(line("nested", "nested"))
    await put(engine, task="nested", concurrency=1)
    assert (await engine.run("nested", {}, timeout=SOON)).status is Status.COMPLETED
    await settled(engine)


async def test_priorities_and_fairness_hold_among_those_that_wait(engine: Engine, task: Counted) -> None:
    """K1, C1, C2: better priorities first, and keys in turn."""
    await put(engine, task="counted", concurrency=1)
    flows = await create(engine, 1, key=lambda _: "first")
    await task.times(1)
    flows += await create(engine, 4, key=lambda _: "many")
    await waiting(engine, 4)
    flows += await create(engine, 2, key=lambda _: "few")
    await waiting(engine, 6)
    flows += await create(engine, 1, key=lambda _: "urgent", priority=1)
    await waiting(engine, 7)
    for ended in range(7):
        task.end_one()
        await task.times(2 + ended)
    task.open()
    await all_end(engine, flows)
    assert task.began[:2] == ["first", "urgent"]
    assert sorted(task.began[2:6]) == ["few", "few", "many", "many"]
    assert task.began[6:] == ["many", "many"]


async def test_a_tripped_task_is_probed_within_its_limit(engine: Engine, proxy: TaskProxy) -> None:
    """K1, V4, V5."""
    serves = asyncio.Event()
    counted = Counted(opened=True)

    async def sometimes() -> None:
        await counted()
        if not serves.is_set():
            raise TaskError("not now", 503)

    proxy.handle_task("sometimes", sometimes)
    proxy.handle_graph(line("sometimes", "sometimes"))
    await put(engine, task="sometimes", concurrency=2)
    flows = await create(engine, 8, workflow="sometimes")
    await counted.times(4)
    serves.set()
    assert await all_end(engine, flows) == {Status.COMPLETED}
    assert counted.most["*"] <= 2
    await settled(engine)


async def test_a_rate_holds_over_any_ten_seconds(timed: Engine, clock: ManualClock, proxy: TaskProxy) -> None:
    """K1: within a tenth, above and below."""
    at: list[int] = []
    proxy.handle_task("rated", lambda: at.append(clock.now()) or {})
    proxy.handle_graph(line("rated", "rated"))
    await put(timed, task="rated", per_second=4)
    flows = await create(timed, 120, workflow="rated")
    async with asyncio.timeout(SOON):
        while len(at) < 100:
            clock.advance(0.05)
            for _ in range(12):
                await rows(timed, "select 1")
    assert len(flows) == 120
    for first in at[:60]:
        assert 36 <= sum(first <= one < first + 10_000_000 for one in at) <= 44


def two(dsn: str, proxy: TaskProxy, **settings: Any) -> tuple[Engine, Engine]:
    """Two replicas that hear each other."""
    wires = Wire(), Wire()
    one, other = (
        open_engine(dsn, tasks=proxy, graphs=proxy, signals=wire, settings=EngineSettings(drain_ms=0, **settings))
        for wire in wires
    )
    wires[0].peers.append(other)
    wires[1].peers.append(one)
    return one, other


async def test_a_limit_holds_over_two_replicas_one_of_which_dies(pg_dsn: str, proxy: TaskProxy, task: Counted) -> None:
    """K1, B2: the slots of a dead replica come back with its steps."""
    one, other = two(pg_dsn, proxy, replica_timeout_ms=2_000)
    await one.startup()
    async with other:
        await put(one, task="counted", concurrency=4)
        await other.replica.definitions.refresh()
        flows = await create(one, 10) + await create(other, 10)
        await task.times(4)
        await waiting(other, 16)
        assert task.now["*"] == 4
        await crash(one)
        await one.replica.limits.close()
        task.open()
        assert await all_end(other, flows) == {Status.COMPLETED}
        assert task.most["*"] == 4
        await settled(other)


async def test_a_limit_holds_over_shards(dsns: Dsns, proxy: TaskProxy, task: Counted) -> None:
    """K1: two databases, one count."""
    async with open_engine(dsns(2), tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        await put(engine, task="counted", concurrency=3)
        flows = await create(engine, 40)
        await task.times(3)
        task.open()
        assert await all_end(engine, flows) == {Status.COMPLETED}
        assert task.most["*"] == 3
        assert len({flow.split("-")[0] for flow in flows}) == 2
        await settled(engine)
