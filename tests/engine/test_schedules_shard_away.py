"""Due times are fired once while the home of their key is away, wherever the process ends (R3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance import schedule_timer
from dwarf_nats.engine.operations.schedule_runs import ScheduleRunner
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.rules.shard_counts import home_of
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.schedules import Overlap, Schedule, micros_of
from tests.support.engines import SOON, rows
from tests.support.outages import shard_away

START = datetime(2026, 6, 1, 0, 0, 30, tzinfo=UTC)
FIRST = START + timedelta(seconds=30)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(micros_of(START))


@pytest.fixture
async def two(sqlite_dsn: str, proxy: TaskProxy, clock: ManualClock) -> AsyncIterator[Engine]:
    settings = EngineSettings(drain_ms=0, replica_timeout_ms=86_400_000)
    databases = [sqlite_dsn, "sqlite://"]
    async with open_engine(databases, tasks=proxy, graphs=proxy, settings=settings, clock=clock) as engine:
        yield engine


def schedule(overlap: Overlap = Overlap.ALLOW) -> Schedule:
    """A schedule whose first due time has the home of its key on shard 2."""
    for number in range(100):
        one = Schedule(name=f"s{number}", workflow="single", cron="* * * * *", overlap=overlap)
        if home_of(2, "", one.key_of(micros_of(FIRST))) == 2:
            return one
    raise AssertionError


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Ends the process once, at one of the calls that have an effect: before it, or after it."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def watch(self, target: Any, name: str) -> None:
        call = getattr(target, name)

        async def watched(*args: Any, **more: Any) -> Any:
            self._pass()
            result = await call(*args, **more)
            self._pass()
            return result

        setattr(target, name, watched)

    def _pass(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


async def forward(engine: Engine, clock: ManualClock, seconds: float) -> None:
    timer = engine._lifecycle.maintenance[1].schedules
    assert timer is not None
    clock.advance(seconds)
    for _ in range(3):
        await until(lambda: timer.is_idle)
        for number in (1, 2):
            database: Any = engine.shards[number].store
            if "fetch" not in vars(database.database):
                await rows(engine, "select 1", shard=number)


async def flows(engine: Engine) -> list[tuple[int, str]]:
    """The shards and idempotency keys of all flows."""
    return [
        (number, key)
        for number in (1, 2)
        for (key,) in await rows(engine, "select idempotency_key from dwarf_flows", shard=number)
    ]


async def outcomes(engine: Engine, name: str) -> list[str]:
    return [run.outcome.value for run in reversed((await engine.get_schedule(name)).last)]


@pytest.mark.parametrize("noticed", [False, True])
async def test_r3_a_due_time_whose_key_is_away_is_fired_on_another_shard(
    two: Engine, clock: ManualClock, *, noticed: bool
) -> None:
    """R3: at once; a backfill finds it there, and makes no second flow of it."""
    one = schedule()
    await two.put_schedule(one)
    with shard_away(2, two, noticed=noticed):
        await forward(two, clock, 30)
        assert await outcomes(two, one.name) == ["started"]
        assert await rows(two, "select idempotency_key from dwarf_flows") == [(one.key_of(micros_of(FIRST)),)]
    assert await two.backfill_schedule(one.name, micros_of(FIRST), micros_of(FIRST)) == 0
    await forward(two, clock, 60)
    assert await outcomes(two, one.name) == ["started"] * 2
    assert len(await flows(two)) == 2


@pytest.mark.parametrize("kill_at", range(1, 11))
async def test_r3_a_planned_flow_is_made_once_wherever_the_process_ends(
    two: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """R3: before and after the plan, the flow, its key in the row, its start and the next due time."""
    one = schedule()
    await two.put_schedule(one)
    killer = Killer(kill_at)
    run = ScheduleRunner.run

    async def until_killed(self: Any, row: Any, now: int) -> None:
        try:
            await run(self, row, now)
        except Killed:
            pass

    monkeypatch.setattr(ScheduleRunner, "run", until_killed)
    schedules: Any = two.shards[1].store.schedules
    control: Any = two.shards[1].store.control
    for target, name in ((schedules, "save"), (control, "create_placed"), (two._operations.control, "start")):
        killer.watch(target, name)
    lease = schedule_timer.LEASE_US / 1_000_000 + 1
    with shard_away(2, two):
        await forward(two, clock, 30)
        if kill_at > 1:  # what is planned needs no other shard
            await forward(two, clock, lease)
            assert await outcomes(two, one.name) == ["started"]
    assert killer.count >= kill_at
    for _ in range(3):
        await forward(two, clock, lease / 3 + 0.1)
    assert await outcomes(two, one.name) == ["started"]
    found = await flows(two)
    assert [key for _, key in found] == [one.key_of(micros_of(FIRST))]
    assert found[0][0] == (2 if kill_at == 1 else 1)
    assert await two.backfill_schedule(one.name, micros_of(FIRST), micros_of(FIRST)) == 0


async def test_r3_an_attempt_that_may_have_made_the_flow_at_its_home_is_not_planned_elsewhere(
    two: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: the flow was made, and the process ended before the row knew; then the home went away."""
    one = schedule()
    await two.put_schedule(one)
    schedules: Any = two.shards[1].store.schedules
    save = schedules.save

    async def dies(_row: Any) -> bool:
        raise Killed

    run = ScheduleRunner.run

    async def until_killed(self: Any, row: Any, now: int) -> None:
        try:
            await run(self, row, now)
        except Killed:
            pass

    monkeypatch.setattr(ScheduleRunner, "run", until_killed)
    schedules.save = dies
    await forward(two, clock, 30)
    schedules.save = save
    with shard_away(2, two):
        await forward(two, clock, schedule_timer.LEASE_US / 1_000_000 + 1)
        assert await outcomes(two, one.name) == []
    await forward(two, clock, schedule_timer.LEASE_US / 1_000_000 + 1)
    assert await outcomes(two, one.name) == ["started"]
    assert [number for number, _ in await flows(two)] == [2]


async def test_r3_a_planned_flow_that_cannot_be_made_any_more_is_told(two: Engine, clock: ManualClock) -> None:
    """R3: the process ended after the plan, and the schedule now names a workflow that is not there; nothing was made."""
    one = schedule()
    await two.put_schedule(one)
    control: Any = two.shards[1].store.control
    create_placed = control.create_placed

    async def fails(_new: Any) -> int | None:
        raise Unavailable("the replica was killed here")

    control.create_placed = fails
    with shard_away(2, two):
        await forward(two, clock, 30)
        control.create_placed = create_placed
        await two.put_schedule(Schedule(name=one.name, workflow="nowhere", cron="* * * * *"))
        await forward(two, clock, schedule_timer.LEASE_US / 1_000_000 + 1)
        assert await outcomes(two, one.name) == ["failed"]
    assert await flows(two) == []
