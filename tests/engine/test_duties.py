"""The duties of a replica: what the lease reaper does in which run, and what becomes of errors."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine.availability import Availability
from dwarf_nats.engine.maintenance.duty import Duty, DutyRunner
from dwarf_nats.engine.maintenance.lease_reaper import LeaseReaper
from dwarf_nats.engine.maintenance.waiter_poll import WAITER_POLL_SECONDS, WaiterPoll
from dwarf_nats.engine.waiters import Waiters
from dwarf_nats.errors import Unavailable
from dwarf_nats.settings import EngineSettings

log = logging.getLogger("tests")


class Database:
    """The parts of a store that the duties ask; notes what they do. `away`: calls that find it away from now on."""

    def __init__(self) -> None:
        self.shard = 1
        self.done: list[str] = []
        self.away = 0

    def _note(self, what: str) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away, try again")
        self.done.append(what)

    async def release_unowned_leases(self, _step_ids: Any) -> int:
        self._note("release unowned leases")
        return 0

    async def reclaim_expired_leases(self, _timeout_ms: int) -> int:
        self._note("reclaim")
        return 0

    async def delete_dead(self, _timeout_ms: int) -> None:
        self._note("delete dead replicas")

    async def reconcile(self) -> None:
        """Of its backpressure."""

    async def run_once(self) -> None:
        self._note("integrity")

    def wake(self) -> None:
        self.done.append("wake")

    async def stopped_among(self, flow_ids: Any) -> list[int]:
        self._note(f"look for {list(flow_ids)}")
        return list(flow_ids)


def reaper(database: Database, availability: Availability) -> LeaseReaper:
    part: Any = database
    shared: Any = SimpleNamespace(settings=EngineSettings(), counters=None, logger=log)
    idle: Any = SimpleNamespace(steps=[], executing={})
    made = LeaseReaper(
        shared,
        part,
        part,
        availability=availability,
        in_flight=idle,
        ready_queue=part,
        backpressure=part,
        integrity=part,
    )
    made.begin()
    return made


async def test_the_reaper_sweeps_every_few_runs_and_checks_integrity_rarely() -> None:
    database = Database()
    duty = reaper(database, Availability())
    for _ in range(60):
        await duty.run_once()
    counted = {what: database.done.count(what) for what in dict.fromkeys(database.done)}
    assert counted == {"reclaim": 20, "delete dead replicas": 4, "integrity": 1}


async def test_after_an_outage_unowned_leases_are_released_first_and_the_others_get_time() -> None:
    """B6: they could not renew their rows either."""
    database, availability = Database(), Availability()
    duty = reaper(database, availability)
    for _ in range(2):
        await duty.run_once()
    availability.count_outage()
    await duty.run_once()  # it would have been the third
    assert database.done == ["release unowned leases", "wake"]
    for _ in range(2):
        await duty.run_once()
    assert database.done == ["release unowned leases", "wake", "reclaim"]


async def test_a_run_that_finds_the_database_away_is_made_up_for() -> None:
    database, availability = Database(), Availability()
    duty = reaper(database, availability)
    availability.count_outage()
    database.away = 1
    with pytest.raises(Unavailable):
        await duty.run_once()
    await duty.run_once()
    assert database.done == ["release unowned leases", "wake"]


class Failing(Duty):
    """Fails with one error after the other; `ran` is set with each run."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs = 0

    def interval(self) -> float:
        return 1.0

    async def run_once(self) -> None:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_a_duty_goes_on_whatever_a_run_raises(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    duty = Failing(Unavailable("away"), KeyError("a defect"))
    job = asyncio.create_task(DutyRunner(1, clock, log).run(duty))
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(20):
            while duty.runs < 3:
                clock.advance(1.0)
                await asyncio.sleep(0)
    assert not job.done()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert [record.message for record in caplog.records] == ["a defect in the upkeep of shard 1"]


async def test_an_attempt_says_whether_the_database_was_there() -> None:
    runner = DutyRunner(1, ManualClock(), log)
    duty = Failing(Unavailable("away"), KeyError("a defect"))
    assert [await runner.attempt(duty) for _ in range(3)] == [False, True, True]


async def test_only_what_was_waited_for_before_is_looked_for() -> None:
    """O4: a flow that somebody has begun to wait for since the last poll will probably be announced."""
    waiters = Waiters()
    database: Any = Database()
    poll = WaiterPoll(database, waiters)
    poll.begin()
    waiting = waiters.add(7)
    await poll.run_once()
    assert (database.done, waiting.done()) == ([], False)
    late = waiters.add(8)
    await poll.run_once()
    assert (database.done, waiting.result(), late.done()) == (["look for [7]"], None, False)


async def test_a_poll_begins_once_somebody_waits() -> None:
    waiters, clock = Waiters(), ManualClock()
    database: Any = Database()
    job = asyncio.create_task(DutyRunner(1, clock, log).run(WaiterPoll(database, waiters)))
    for _ in range(3):
        clock.advance(WAITER_POLL_SECONDS)
        await asyncio.sleep(0)
    future = waiters.add(7)
    async with asyncio.timeout(20):
        while not future.done():
            clock.advance(WAITER_POLL_SECONDS)
            await asyncio.sleep(0)
    assert database.done == ["look for [7]"]
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
