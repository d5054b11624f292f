"""The bulkhead: one task never takes every worker slot while others wait (C6), on real engines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.scheduling.slots import ClaimBudget, WorkerSlots
from dwarf_nats.library import open_engine
from dwarf_nats.rules.scheduling.values import Page, PageRequest
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Gate, line, quiet, until_rows

pytestmark = pytest.mark.slow


class Tasks:
    """Tasks whose executions are counted while they run; `hangs` and `holds` wait until they are let go."""

    def __init__(self) -> None:
        self.proxy = TaskProxy()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.gates = {name: asyncio.Event() for name in ("hangs", "holds", "other")}
        self._changed = asyncio.Event()
        for name in self.gates:
            self.proxy.handle_task(name, self._waiting(name))
        self.proxy.handle_task("quick", lambda: {"done": True})

    def _waiting(self, name: str) -> Any:
        async def wait() -> None:
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
            self._changed.set()
            try:
                await self.gates[name].wait()
            finally:
                self.running[name] -= 1
                self._changed.set()

        return wait

    async def until(self, name: str, number: int) -> None:
        """Wait until so many executions of a task run."""
        async with asyncio.timeout(SOON):
            while self.running[name] != number:
                self._changed.clear()
                await self._changed.wait()

    def let_go(self) -> None:
        for gate in self.gates.values():
            gate.set()


@asynccontextmanager
async def opened(*dsns: str, workers: int, clock: ManualClock | None = None) -> AsyncIterator[tuple[Engine, Tasks]]:
    tasks = Tasks()
    settings = EngineSettings(workers=workers, drain_ms=0)
    async with open_engine(dsns, tasks=tasks.proxy, graphs=tasks.proxy, settings=settings, clock=clock) as engine:
        try:
            yield engine, tasks
        finally:
            tasks.let_go()


async def flows(engine: Engine, task: str, number: int, priority: int, key: str = "") -> list[str]:
    options = FlowOptions(priority=priority, fairness_key=key)
    return [await engine.create_task(task, None, options, start=True) for _ in range(number)]


async def all_held(engine: Engine, tasks: Tasks, workers: int) -> None:
    """Hold every worker slot without any task being beyond its share."""
    await flows(engine, "holds", workers // 2, 1)
    await flows(engine, "other", workers - workers // 2, 1)
    await tasks.until("holds", workers // 2)
    await tasks.until("other", workers - workers // 2)


# -- while others wait


async def test_a_task_gets_three_quarters_while_others_wait(dsn: str) -> None:
    """C6: whatever the bands."""
    async with opened(dsn, workers=8) as (engine, tasks):
        await all_held(engine, tasks, 8)
        await flows(engine, "hangs", 30, 2)
        others = await flows(engine, "quick", 20, 300)
        tasks.gates["holds"].set()
        tasks.gates["other"].set()
        for key in others:
            assert (await engine.await_(key, SOON)).status is Status.COMPLETED
        assert tasks.most["hangs"] <= 8
        assert tasks.running["hangs"] >= 6


@pytest.mark.parametrize("keys", [1, 7])
async def test_it_holds_no_more_before_the_others_are_served(dsn: str, keys: int) -> None:
    """C6: exactly three quarters for as long as anything of another task is due."""
    async with opened(dsn, workers=8) as (engine, tasks):
        await all_held(engine, tasks, 8)
        for number in range(28):
            await flows(engine, "hangs", 1, 2, f"k{number % keys}")
        await flows(engine, "other", 20, 300)
        tasks.gates["holds"].set()
        tasks.gates["other"].set()
        tasks.gates["other"] = asyncio.Event()
        await tasks.until("hangs", 6)
        await tasks.until("other", 2)
        await quiet(engine)
        assert (tasks.most["hangs"], tasks.running["other"]) == (6, 2)


async def test_it_holds_over_shards(tmp_path: Path) -> None:
    """C6: three quarters of a replica's slots, however many databases it has."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two", "three")]
    async with opened(*dsns, workers=16) as (engine, tasks):
        await all_held(engine, tasks, 16)
        await flows(engine, "hangs", 60, 2)
        await flows(engine, "other", 40, 300)
        tasks.gates["holds"].set()
        tasks.gates["other"].set()
        tasks.gates["other"] = asyncio.Event()
        await tasks.until("hangs", 12)
        await tasks.until("other", 4)
        await quiet(engine)
        assert (tasks.most["hangs"], tasks.running["other"]) == (12, 4)


async def test_each_replica_keeps_a_quarter_for_the_others(pg_dsn: str) -> None:
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(opened(pg_dsn, workers=4)) for _ in range(2)]
        for engine, tasks in pairs:
            await all_held(engine, tasks, 4)
        await flows(pairs[0][0], "hangs", 30, 2)
        others = await flows(pairs[1][0], "quick", 20, 300)
        for _, tasks in pairs:
            tasks.gates["holds"].set()
            tasks.gates["other"].set()
        for key in others:
            assert (await pairs[0][0].await_(key, SOON)).status is Status.COMPLETED


async def test_a_flow_that_goes_on_to_a_task_at_its_share_stands_in_line(dsn: str) -> None:
    """C6: a successor that would be born running counts as well."""
    async with opened(dsn, workers=4) as (engine, tasks):
        tasks.proxy.handle_graph(line("goes", "holds", "hangs"))
        tasks.proxy.handle_graph(line("stays", "other"))
        for _ in range(4):
            await engine.create("goes", None, FlowOptions(priority=1), start=True)
        await tasks.until("holds", 4)
        waiting = [await engine.create("stays", None, FlowOptions(priority=300), start=True) for _ in range(3)]
        tasks.gates["holds"].set()
        await tasks.until("hangs", 3)
        await tasks.until("other", 1)
        tasks.gates["other"].set()
        for key in waiting:
            assert (await engine.await_(key, SOON)).status is Status.COMPLETED


# -- while nothing else waits


async def test_a_task_alone_takes_every_slot(dsn: str) -> None:
    """C6: created one by one, and out of a backlog."""
    async with opened(dsn, workers=8) as (engine, tasks):
        await flows(engine, "hangs", 8, 5)
        await tasks.until("hangs", 8)
        await flows(engine, "hangs", 20, 5)
        tasks.gates["hangs"].set()
        await until_rows(engine, [(0,)], "select count(*) from dwarf_steps where status in ('pending', 'running')")
        tasks.gates["hangs"] = asyncio.Event()
        tasks.most.clear()
        await all_held(engine, tasks, 8)
        await flows(engine, "hangs", 20, 5)
        tasks.gates["holds"].set()
        tasks.gates["other"].set()
        await tasks.until("hangs", 8)


async def test_the_others_take_what_becomes_free(dsn: str) -> None:
    """C6: a task that had everything is given no more until it is below its share, if its steps end."""
    async with opened(dsn, workers=4) as (engine, tasks):
        gates = [Gate() for _ in range(4)]
        waiting = iter(gates)
        tasks.proxy.handle_task("turns", lambda: None)

        async def turns() -> None:
            await next(waiting)()

        tasks.proxy.handle_task("turns", turns)
        await flows(engine, "turns", 4, 1)
        for gate in gates:
            await gate.began()
        await flows(engine, "hangs", 4, 1)
        gates[0].open()
        await tasks.until("hangs", 1)
        gates[1].open()
        await tasks.until("hangs", 2)


async def test_a_backlog_of_one_task_is_claimed_without_looking_past_it_each_time(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4, C6: with many keys that costs a probe of the index for each; it is known for a second, on a clock that stands."""
    async with opened(dsn, workers=8, clock=ManualClock()) as (engine, tasks):
        steps = engine.shards[1].store.steps
        peek, past = steps.peek, []

        async def counted(request: PageRequest, blocked: Collection[str] = ()) -> Page:
            past.extend(blocked)
            return await peek(request, blocked)

        await all_held(engine, tasks, 8)
        for number in range(60):
            await flows(engine, "quick", 1, 5, f"k{number}")
        monkeypatch.setattr(steps, "peek", counted)
        tasks.let_go()
        await until_rows(engine, [(0,)], "select count(*) from dwarf_steps where status in ('pending', 'running')")
        assert len(past) <= 1


async def test_a_step_of_another_task_is_seen_at_once_though_the_task_was_alone(dsn: str) -> None:
    """C6: its replica knows of it. The clock stands, so what was known of the task alone does not expire."""
    async with opened(dsn, workers=8, clock=ManualClock()) as (engine, tasks):
        gates = [Gate() for _ in range(20)]
        waiting = iter(gates)

        async def turns() -> None:
            await next(waiting)()

        tasks.proxy.handle_task("turns", turns)
        await flows(engine, "turns", 20, 1)
        for gate in gates[:8]:
            await gate.began()
        gates[0].open()
        await gates[8].began()
        await flows(engine, "other", 2, 300)
        gates[1].open()
        await tasks.until("other", 1)
        gates[2].open()
        await tasks.until("other", 2)
        for gate in gates:
            gate.open()


# -- a task that hangs


@pytest.mark.parametrize("workers", [2, 3, 4, 16])
async def test_a_hanging_task_that_had_every_slot_leaves_the_others_their_quarter(workers: int, tmp_path: Path) -> None:
    """C6: none of its steps ends, so nothing becomes free; after a second the others run beside it, on every shard."""
    clock = ManualClock()
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    async with opened(*dsns, workers=workers, clock=clock) as (engine, tasks):
        await flows(engine, "hangs", workers + 10, 200, "noisy")
        await tasks.until("hangs", workers)
        others = await flows(engine, "other", 10, 1, "quiet")
        await quiet(engine)
        assert tasks.running["other"] == 0
        clock.advance(1.01)
        quarter = workers - workers * 3 // 4
        await tasks.until("other", quarter)
        await quiet(engine)
        assert (tasks.running["hangs"], tasks.running["other"]) == (workers, quarter)
        tasks.gates["other"].set()
        for key in others:
            assert (await engine.await_(key, SOON)).status is Status.COMPLETED
        assert tasks.most["other"] == quarter
        # A flow that comes now starts at once, and the hanging task gets nothing more.
        assert (await engine.run(line("w", "quick"), timeout=SOON)).state == {"done": True}
        await flows(engine, "hangs", 3, 1)
        await quiet(engine)
        assert tasks.running["hangs"] == workers
        assert engine.replica.slots.hung_task == "hangs"
        tasks.gates["hangs"].set()
        for shard in (1, 2):
            await until_rows(
                engine, [(0,)], "select count(*) from dwarf_steps where status in ('pending', 'running')", shard=shard
            )
        assert (engine.replica.slots.in_use, engine.replica.slots.hung_task) == (0, "")


async def test_an_engine_whose_only_task_hangs_does_not_look_again_and_again() -> None:
    """C5: its own backlog may not be taken, and there is nothing else."""
    clock = ManualClock()
    async with opened("sqlite://", workers=4, clock=clock) as (engine, tasks):
        await flows(engine, "hangs", 20, 1)
        await tasks.until("hangs", 4)
        clock.advance(1.01)
        await quiet(engine)
        looks: list[Any] = []
        store = engine.shards[1].store
        peek = store.steps.peek

        async def counted(*args: Any) -> Any:
            looks.append(args)
            return await peek(*args)

        store.steps.peek = counted  # type: ignore[method-assign]
        for _ in range(5):
            await quiet(engine)
        assert len(looks) <= 1
        tasks.gates["hangs"].set()
        await until_rows(engine, [(0,)], "select count(*) from dwarf_steps where status in ('pending', 'running')")


async def test_one_worker_serves_everybody_in_turn(dsn: str) -> None:
    """C6: of one slot there is no quarter."""
    async with opened(dsn, workers=1) as (engine, tasks):
        await flows(engine, "hangs", 1, 1)
        await tasks.until("hangs", 1)
        key = (await flows(engine, "quick", 1, 1))[0]
        tasks.gates["hangs"].set()
        assert (await engine.await_(key, SOON)).status is Status.COMPLETED


# -- the rule itself


@pytest.mark.parametrize(("workers", "share"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (16, 12), (1024, 768)])
def test_the_share_leaves_a_slot_where_there_are_two(workers: int, share: int) -> None:
    assert WorkerSlots(EngineSettings(workers=workers)).share == share


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 7, 8, 16, 100])
def test_no_claim_brings_a_task_beyond_its_share(workers: int) -> None:
    """C6: whatever is in hand of which tasks, and whatever the claim brings of tasks that are not held back."""
    for first in range(workers + 1):
        for second in range(0, workers + 1 - first, max(1, workers // 8)):
            for reserved in range(0, workers + 1 - first - second, max(1, workers // 4)):
                slots = WorkerSlots(EngineSettings(workers=workers))
                for url, number in (("a", first), ("b", second)):
                    for _ in range(number):
                        slots.acquire(url)
                slots.reserve(reserved)
                ration = slots.claim_budget(slots.available)
                assert ration.limit <= slots.available
                for url, held in (("a", first), ("b", second), ("new", 0)):
                    if url == ration.url:  # what is under way counts as its own
                        assert ration.left == max(0, slots.share - held - reserved)
                    elif held <= slots.share:
                        assert held + ration.limit <= slots.share
                assert ration.limit > 0 or slots.available == 0


def test_slots_are_counted_for_the_step_that_follows() -> None:
    slots = WorkerSlots(EngineSettings(workers=4))
    slots.acquire("a")
    slots.hand_over("a", "b")
    assert (slots.used_by("a"), slots.used_by("b"), slots.in_use) == (0, 1, 1)
    slots.release("b")
    assert slots.claim_budget(4) == ClaimBudget(3)
