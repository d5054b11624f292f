"""What runs next: bands, fairness, exact times, passing over, on real engines (C1-C5, O17)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.scheduling import fetcher
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import FlowOptions
from tests.support.engines import SOON, Gate, line


class Scheduled:
    """An engine with few workers, all of them held by a gate until it opens; `order` notes what ran, by its label."""

    def __init__(self, engine: Engine, proxy: TaskProxy, workers: int) -> None:
        self.engine = engine
        self.proxy = proxy
        self.gate = Gate()
        self.order: list[Any] = []
        self.keys: list[str] = []
        self._workers = workers
        self._ran = asyncio.Event()
        for number in range(workers):  # each hand by a task of its own, so that none is beyond its share (C6)
            proxy.handle_task(f"gate{number}", self.gate)
        proxy.handle_task("note", self.note)

    async def note(self, label: Any) -> None:  # no plain function: that runs in a thread, and two threads in any order
        self.order.append(label)
        self._ran.set()

    async def hold(self) -> None:
        """Put the gate into every hand."""
        for number in range(self._workers):
            self.gate.again()
            self.keys.append(await self.engine.create_task(f"gate{number}", start=True))
            await self.gate.began()

    async def add(self, label: Any, *, task: str = "note", **options: Any) -> str:
        """A flow of one task that notes `label`."""
        key = await self.engine.create_task(task, {"label": label}, FlowOptions(**options), start=True)
        self.keys.append(key)
        return key

    async def ran(self, number: int) -> list[Any]:
        """Wait until so many have run; what ran so far."""
        async with asyncio.timeout(SOON):
            while len(self.order) < number:
                self._ran.clear()
                await self._ran.wait()
        return self.order

    async def all(self) -> list[Any]:
        """Open the gate, wait for every flow; the order in which they ran."""
        self.gate.open()
        await asyncio.gather(*(self.engine.await_(key, SOON) for key in self.keys))
        return self.order


@asynccontextmanager
async def scheduled(
    *dsns: str, workers: int = 1, clock: ManualClock | None = None, **settings: Any
) -> AsyncIterator[Scheduled]:
    proxy = TaskProxy()
    engine = open_engine(
        dsns, tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings(workers=workers, **settings)
    )
    async with engine:
        staged = Scheduled(engine, proxy, workers)
        try:
            yield staged
        finally:
            staged.gate.open()


# -- bands (C1)


async def test_worse_bands_wait_for_better_ones(dsn: str) -> None:
    async with scheduled(dsn) as one:
        await one.hold()
        for number, priority in enumerate((300, 100, 2**31 - 1, 200, 1, 100)):
            await one.add([priority, number], priority=priority)
        assert await one.all() == [[1, 4], [100, 1], [100, 5], [200, 3], [300, 0], [2**31 - 1, 2]]


async def test_a_better_band_overtakes_a_backlog_that_is_being_served(dsn: str) -> None:
    async with scheduled(dsn) as one:
        await one.hold()
        for number in range(10):
            await one.add(f"old {number}", priority=50)
        second = Gate()
        one.proxy.handle_task("second", second)
        one.keys.append(await one.engine.create_task("second", None, FlowOptions(priority=50), start=True))
        for number in range(10, 20):
            await one.add(f"old {number}", priority=50)
        one.gate.open()
        await second.began()  # ten of the backlog have run
        await one.add("new", priority=49)
        second.open()
        order = await one.all()
    assert order.index("new") == 10


async def test_the_steps_of_a_flow_stand_in_line_with_the_others_of_their_band(dsn: str) -> None:
    """C2: a step that follows is due later than those that wait already."""
    async with scheduled(dsn) as one:
        graph = line("three", "a", "b", "c")
        one.proxy.handle_graph(graph)
        for node in "abc":
            one.proxy.handle_task(node, lambda name, node=node: one.note(f"{node}{name}"))
        await one.hold()
        for name in range(4):
            one.keys.append(await one.engine.create("three", {"name": name}, start=True))
        assert await one.all() == [f"{node}{name}" for node in "abc" for name in range(4)]


async def test_a_running_flow_goes_on_at_once_if_only_worse_bands_wait(dsn: str) -> None:
    """Born running respects the bands, and nothing else holds a flow up."""
    async with scheduled(dsn) as one:
        one.proxy.handle_graph(line("two", "first", "then"))
        first = Gate()
        one.proxy.handle_task("first", first)
        one.proxy.handle_task("then", lambda: one.note("then"))
        one.keys.append(await one.engine.create("two", None, FlowOptions(priority=10), start=True))
        await first.began()
        await one.add("worse", priority=11)
        first.open()
        assert await one.all() == ["then", "worse"]


@pytest.mark.parametrize("priority", [9, 10])
async def test_a_running_flow_stands_in_line_if_its_band_or_a_better_one_waits(dsn: str, priority: int) -> None:
    async with scheduled(dsn) as one:
        one.proxy.handle_graph(line("two", "first", "then"))
        first = Gate()
        one.proxy.handle_task("first", first)
        one.proxy.handle_task("then", lambda: one.note("then"))
        one.keys.append(await one.engine.create("two", None, FlowOptions(priority=10), start=True))
        await first.began()
        await one.add("waits", priority=priority)
        first.open()
        assert await one.all() == ["waits", "then"]


async def test_a_new_flow_does_not_pass_those_that_wait_for_a_hand(dsn: str) -> None:
    async with scheduled(dsn, workers=2) as one:
        await one.hold()
        await one.add("first", priority=5)
        one.engine.configure(workers=3)
        await one.ran(1)
        await one.add("second", priority=5)
        assert await one.all() == ["first", "second"]


# -- fairness (C2)


async def test_keys_share_the_hands_by_weight(dsn: str) -> None:
    async with scheduled(dsn) as one:
        await one.hold()
        for _ in range(40):
            await one.add("a", fairness_key="a", fairness_weight=3)
        for _ in range(40):
            await one.add("b", fairness_key="b")
        order = await one.all()
    for served in range(4, 52, 4):
        assert abs(order[:served].count("a") - served * 3 // 4) <= 1
    assert Counter(order) == {"a": 40, "b": 40}


async def test_one_step_waits_behind_no_backlog_of_another_key(dsn: str) -> None:
    async with scheduled(dsn, workers=2) as one:
        await one.hold()
        for number in range(150):
            await one.add(number, fairness_key="deep")
        await one.add("single", fairness_key="single")
        order = await one.all()
    assert order.index("single") <= 2
    assert [one for one in order if one != "single"] == list(range(150))


async def test_flows_of_many_steps_share_by_weight_all_their_way(dsn: str) -> None:
    """C2: though a flow has only one step waiting at a time, and none while it runs."""
    async with scheduled(dsn) as one:
        nodes = [f"n{number}" for number in range(60)]
        one.proxy.handle_graph(line("long", *nodes))
        for node in nodes:
            one.proxy.handle_task(node, one.note)
        await one.hold()
        for label, weight in (("a", 3.0), ("b", 1.0)):
            options = FlowOptions(fairness_key=label, fairness_weight=weight)
            one.keys.append(await one.engine.create("long", {"label": label}, options, start=True))
        order = await one.all()
    for served in range(4, 80, 4):
        assert abs(order[:served].count("a") - served * 3 // 4) <= 1


@pytest.mark.slow
async def test_two_replicas_share_a_backlog_and_keep_its_order_of_bands(pg_dsn: str) -> None:
    """C1, C2 across replicas: each by its own account, softened by what they have in hand."""
    async with scheduled(pg_dsn) as one, scheduled(pg_dsn) as two:
        two.order = one.order
        await one.hold()
        await two.hold()
        for priority in (20, 10):
            for _ in range(30):
                await one.add(f"{priority}a", priority=priority, fairness_key="a", fairness_weight=2)
                await one.add(f"{priority}b", priority=priority, fairness_key="b")
        two.gate.open()
        order = await one.all()
    assert set(order[:58]) == {"10a", "10b"}
    assert abs(order[:42].count("10a") - 28) <= 2
    assert len(order) == 120


async def test_bands_and_keys_hold_across_shards(tmp_path: Path) -> None:
    """C1, C2: the best band of all shards first; a key has its share once."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two", "three")]
    async with scheduled(*dsns) as one:
        await one.hold()
        for _ in range(30):
            await one.add("2a", priority=2, fairness_key="a")
            await one.add("2b", priority=2, fairness_key="b", fairness_weight=2)
            await one.add("1a", priority=1, fairness_key="a")
        assert len({key.split("-")[0] for key in one.keys}) == 3
        order = await one.all()
    assert order[:30] == ["1a"] * 30
    for served in range(3, 45, 3):
        assert abs(order[30 : 30 + served].count("2b") - served * 2 // 3) <= 1


async def test_a_hand_that_becomes_free_takes_the_best_band_of_every_shard(tmp_path: Path) -> None:
    """C1: also where a shard had nothing due when the wait for a hand began, and work came to it meanwhile."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two", "three")]
    for better in (1, 2, 3):
        async with scheduled(*dsns) as one:
            await one.hold()
            others = [number for number in (1, 2, 3) if number != better]
            for number in others:
                await on_shard(one, number, ["worse", number], priority=20)
            await waiting_for_a_slot(one)
            await on_shard(one, better, ["better", better], priority=10)
            assert (await one.all())[0] == ["better", better]


async def test_a_hand_that_becomes_free_takes_what_nobody_told_of(tmp_path: Path) -> None:
    """C1: as the databases have it at that moment; a lost signal is no reason to serve a worse band first."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    clock = ManualClock()
    proxy = TaskProxy()
    engine = open_engine(dsns, tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings(workers=1))
    async with engine:
        one = Scheduled(engine, proxy, 1)
        await quiet(engine)
        await one.hold()
        await on_shard(one, 1, "worse", priority=20)
        await waiting_for_a_slot(one)
        shard = engine.shards[2]
        quiet_line = shard.ready_queue
        shard.ready_queue = Unheard(quiet_line)  # type: ignore[assignment]
        await on_shard(one, 2, "better", priority=10)
        shard.ready_queue = quiet_line
        clock.advance(0.03)
        assert await one.all() == ["better", "worse"]


async def test_a_new_flow_does_not_take_the_hand_a_better_one_waits_for(tmp_path: Path) -> None:
    """C1: the hand is free and nothing is claimed yet; what waited for it comes first."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    async with scheduled(*dsns) as one:
        await one.hold()
        await on_shard(one, 2, "better", priority=10)
        shard = one.engine.shards[1]
        released = one.engine.replica.slots.release

        def release(url: str = "") -> None:
            one.engine.replica.slots.release = released  # type: ignore[method-assign]
            released(url)
            refused.append(not shard.admission.reserve(20, "note", "noted"))

        refused: list[bool] = []
        one.engine.replica.slots.release = release  # type: ignore[method-assign]
        order = await one.all()
        assert (refused, order) == ([True], ["better"])


class Unheard:
    """A ready queue that no hint reaches."""

    def __init__(self, of: Any) -> None:
        self.view = of.view

    def hint_flow(self, *_: Any, **__: Any) -> None:
        """As if the signal were lost."""


async def on_shard(one: Scheduled, number: int, label: Any, **options: Any) -> None:
    """A flow on that shard that notes `label`."""
    shard = one.engine.shards[number]
    operations = one.engine._operations
    request = operations.factory.request(line("noted", "note"), {"label": label}, FlowOptions(**options), start=True)
    one.keys.append((await operations.creator.create_on(shard, request)).key)


async def waiting_for_a_slot(one: Scheduled) -> None:
    """Let the fetcher come to where it waits for a free slot."""
    await quiet(one.engine)


async def test_within_a_key_the_longest_due_of_all_shards_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2.

    The clock is moved by hand: what a replica knows of a shard's time is right to half of the quickest round trip, no better.
    A shard that answers late is waited for.
    """
    monkeypatch.setattr(fetcher, "STRAGGLER_SECONDS", SOON)
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    clock = ManualClock()
    async with scheduled(*dsns, clock=clock) as one:
        await one.hold()
        for number in range(30):
            clock.advance(0.001)
            await one.add(number)
        assert await one.all() == list(range(30))


async def test_an_answer_that_comes_late_makes_no_step_look_younger(tmp_path: Path) -> None:
    """C2: the offset of a shard's clock is measured on the best answers; half of a slow one would be wrong by as much."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    clock = ManualClock()
    async with scheduled(*dsns, clock=clock) as one:
        await one.hold()
        await on_shard(one, 1, "older")
        clock.advance(0.001)
        await on_shard(one, 2, "younger")
        await waiting_for_a_slot(one)
        first, second = (shard.store.steps for shard in one.engine.shards.values())
        peek_first, peek_second = first.peek, second.peek
        answered = asyncio.Event()

        async def prompt(*request: Any) -> Any:
            page = await peek_second(*request)
            answered.set()
            return page

        async def late(*request: Any) -> Any:
            page = await peek_first(*request)
            await answered.wait()
            await asyncio.sleep(0)
            clock.advance(0.01)
            return page

        first.peek, second.peek = late, prompt  # type: ignore[method-assign]
        assert await one.all() == ["older", "younger"]


async def test_a_shard_that_is_away_holds_up_no_other(tmp_path: Path) -> None:
    """B6: what waits there is no reason to wait here."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    async with scheduled(*dsns) as one:
        await one.hold()
        for number in range(20):
            await one.add(number, priority=1 if number % 2 else 2)
        shards = [int(key.split("-")[0]) for key in one.keys[1:]]
        assert set(shards) == {1, 2}
        lost = one.engine.shards[2].store
        assert isinstance(lost, SqlStore)
        original = lost.steps.peek

        async def away(*_: Any) -> Any:
            raise Unavailable("away")

        lost.steps.peek = away  # type: ignore[method-assign]
        one.gate.open()
        await one.ran(shards.count(1))
        lost.steps.peek = original  # type: ignore[method-assign]
        assert len(await one.all()) == 20


async def test_a_shard_that_does_not_answer_holds_up_no_other(tmp_path: Path) -> None:
    """B6: nor does its silence take slots for ever."""
    dsns = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    async with scheduled(*dsns) as one:
        await one.hold()
        for number in range(20):
            await one.add(number)
        shards = [int(key.split("-")[0]) for key in one.keys[1:]]
        hung = one.engine.shards[2].store
        assert isinstance(hung, SqlStore)
        original, silence = hung.steps.peek, asyncio.Event()

        async def silent(*args: Any) -> Any:
            await silence.wait()
            return await original(*args)

        hung.steps.peek = silent  # type: ignore[method-assign]
        one.gate.open()
        await one.ran(shards.count(1))
        assert one.order == [number for number in range(20) if shards[number] == 1]
        silence.set()
        assert len(await one.all()) == 20


# -- passing over (C3)


class Allowed:
    """A gate whose allowances are set by hand."""

    def __init__(self, clock: ManualClock | None = None, **task_budgets: int) -> None:
        self.now: dict[str, int] = dict(task_budgets)
        self.at: int | None = None
        self.clock = clock

    def task_budgets(self) -> Mapping[str, int]:
        return self.now

    def opens_at(self) -> int | None:
        return self.at


def gated(one: Scheduled, **task_budgets: int) -> Allowed:
    gate = Allowed(**task_budgets)
    for shard in one.engine.shards.values():
        shard.ready_queue.admission = gate
    one.proxy.handle_task("busy", one.note)
    return gate


async def test_a_task_that_may_not_be_asked_is_passed_over(dsn: str) -> None:
    async with scheduled(dsn) as one:
        gate = gated(one, busy=0)
        await one.hold()
        for number in range(12):
            await one.add(f"busy {number}", task="busy")
        for number in range(3):
            await one.add(number)
        one.gate.open()
        assert await one.ran(3) == [0, 1, 2]
        gate.now = {}
        one.engine.shards[1].ready_queue.wake()
        assert len(await one.all()) == 15


async def test_if_a_whole_band_may_not_be_asked_the_next_one_runs(dsn: str) -> None:
    async with scheduled(dsn) as one:
        gate = gated(one, busy=0)
        await one.hold()
        for number in range(5):
            await one.add(number, task="busy", priority=1, fairness_key=f"k{number}")
        await one.add("worse", priority=2)
        await one.add("worst", priority=3)
        one.gate.open()
        assert await one.ran(2) == ["worse", "worst"]
        gate.now = {}
        one.engine.shards[1].ready_queue.wake()
        assert (await one.all())[2:] == [0, 1, 2, 3, 4]


async def test_a_task_that_may_be_asked_so_often_is_asked_so_often(dsn: str) -> None:
    async with scheduled(dsn, workers=20) as one:
        gate = gated(one, busy=3)
        await one.hold()
        for number in range(9):
            await one.add("busy", task="busy", fairness_key=f"k{number % 3}")
        for _ in range(4):
            await one.add("free")
        claimed = []
        store = one.engine.shards[1].store
        original = store.steps.claim

        async def once(*args: Any) -> Any:
            rows = await original(*args)
            claimed.append(Counter(row.url for row in rows))
            gate.now = {"busy": 0}
            return rows

        store.steps.claim = once  # type: ignore[method-assign]
        one.gate.open()
        await one.ran(7)
        assert sum(claimed, Counter()) == {"busy": 3, "note": 4}
        gate.now = {}
        one.engine.shards[1].ready_queue.wake()
        assert len(await one.all()) == 13


async def test_the_engine_looks_again_when_a_task_may_be_asked_again() -> None:
    """C5: on time, and not before."""
    clock = ManualClock()
    proxy = TaskProxy()
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings()) as engine:
        one = Scheduled(engine, proxy, 0)
        gate = gated(one, busy=0)
        gate.at = clock.now() + 2_000_000
        one.keys.append(await engine.create_task("busy", {"label": "busy"}))
        await engine.start(one.keys[0])
        await quiet(engine)
        assert one.order == []
        gate.now = {}
        clock.advance(1.999)
        await quiet(engine)
        assert one.order == []
        clock.advance(0.001)
        assert await one.all() == ["busy"]


# -- time (C5)


async def quiet(engine: Engine) -> None:
    """Let the engine do all it will do without time passing: its fetcher sleeps, its databases are idle."""
    for _ in range(200):
        await asyncio.sleep(0)
    for shard in engine.shards.values():
        await shard.store.flows.size()
    for _ in range(200):
        await asyncio.sleep(0)


@asynccontextmanager
async def timed_engine() -> AsyncIterator[tuple[Scheduled, ManualClock]]:
    clock = ManualClock()
    proxy = TaskProxy()
    engine = open_engine("sqlite://", tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings(drain_ms=0))
    async with engine:
        yield Scheduled(engine, proxy, 0), clock


def moment(clock: ManualClock, seconds: float) -> datetime:
    return datetime.fromtimestamp(clock.now() / 1e6, UTC) + timedelta(seconds=seconds)


async def test_a_flow_starts_exactly_when_it_is_told_to() -> None:
    async with timed_engine() as (one, clock):
        begin = clock.now()
        await one.add("later", start_at=moment(clock, 7.5))
        await one.add("soon", start_at=moment(clock, 5))
        for wait, ran in ((4.999999, []), (0.000001, ["soon"]), (2.499999, ["soon"]), (0.000001, ["soon", "later"])):
            clock.advance(wait)
            await one.ran(len(ran))
            await quiet(one.engine)
            assert one.order == ran
        assert clock.now() - begin == 7_500_000


async def test_sleeps_and_retries_end_exactly() -> None:
    async with timed_engine() as (one, clock):
        times: dict[str, int] = {}

        async def sleeper(flow: Flow) -> None:
            flow.sleep(3)

        async def trying(flow: Flow) -> None:
            if "tried" not in times:
                times["tried"] = clock.now()
                flow.retry(max_attempts=2, initial_delay=4)
            else:
                await one.note("retried")

        one.proxy.handle_graph(line("sleepy", "sleeper", "awake"))
        one.proxy.handle_task("sleeper", sleeper)
        one.proxy.handle_task("awake", lambda: one.note("awake"))
        one.proxy.handle_task("trying", trying)
        await one.engine.create("sleepy", start=True)
        await one.engine.create_task("trying", start=True)
        while "tried" not in times:
            await quiet(one.engine)
        await quiet(one.engine)
        for wait, ran in (
            (2.999999, []),
            (0.000001, ["awake"]),
            (0.999999, ["awake"]),
            (0.000001, ["awake", "retried"]),
        ):
            clock.advance(wait)
            await one.ran(len(ran))
            await quiet(one.engine)
            assert one.order == ran


async def test_a_sleeper_that_comes_due_while_all_hands_are_full_takes_its_turn(dsn: str) -> None:
    """C1, C5: by its band, and by how long it has been due."""
    async with scheduled(dsn) as one:
        await one.hold()
        await one.add("waits")
        soon = datetime.now(UTC) + timedelta(milliseconds=30)
        await one.add("slept, better", priority=1, start_at=soon)
        await one.add("slept", start_at=soon)
        while datetime.now(UTC) < soon + timedelta(milliseconds=5):
            await asyncio.sleep(0)
        await one.add("waits longer")
        assert await one.all() == ["slept, better", "waits", "slept", "waits longer"]


async def test_an_idle_engine_asks_its_database_for_little() -> None:
    """C5: fewer than thirty statements a minute, and none of them in a loop."""
    clock = ManualClock()
    proxy = TaskProxy()
    engine = open_engine("sqlite://", tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings())
    async with engine:
        await quiet(engine)
        store = engine.shards[1].store
        assert isinstance(store, SqlStore)
        said: list[str] = []
        connection = store.database._connection  # type: ignore[union-attr]
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(said.append)
        for _ in range(600):
            clock.advance(0.1)
            await quiet(engine)
        connection.set_trace_callback(None)
    asked = [statement for statement in said if statement.split()[0].lower() not in ("begin", "commit")]
    asked = [statement for statement in asked if "count(*) from dwarf_flows" not in statement]  # our own
    assert len(asked) < 30


# -- worker slots (O17)


async def test_more_workers_take_steps_at_once(dsn: str) -> None:
    async with scheduled(dsn, workers=1) as one:
        await one.hold()
        for number in range(5):
            await one.add(number)
        one.engine.configure(workers=2)
        assert await one.ran(5) == [0, 1, 2, 3, 4]
        await one.all()


async def test_fewer_workers_give_up_hands_as_steps_end(dsn: str) -> None:
    """Flows that go on step by step give them up as well."""
    async with scheduled(dsn, workers=4) as one:
        nodes = [f"n{number}" for number in range(5)]
        one.proxy.handle_graph(line("long", *nodes))
        running, most = 0, 0

        async def later() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        first = Gate()
        one.proxy.handle_task("n0", first)
        for node in nodes[1:]:
            one.proxy.handle_task(node, later)
        for _ in range(4):
            first.again()
            one.keys.append(await one.engine.create("long", start=True))
            await first.began()
        one.engine.configure(workers=2)
        first.open()
        await one.all()
    assert most <= 2
