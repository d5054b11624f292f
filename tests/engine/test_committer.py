"""Commits in groups, on both databases: sizes, isolation of a bad member, outages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine.availability import Availability
from dwarf_nats.engine.execution import linger
from dwarf_nats.engine.execution.committer import Committer
from dwarf_nats.engine.execution.linger import UsualSize
from dwarf_nats.engine.ids import StepIds
from dwarf_nats.errors import Internal, Unavailable
from dwarf_nats.ports import StatementRefused
from dwarf_nats.rules.settlement import Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep, NewFlow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.parts.steps import SqlSteps
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.keys import Tokens
from dwarf_nats.workflow.state import Raw
from tests.support.stores import BUDGET, claim_all, ended, flow_status, in_flight, look, new_flow, step_status, went_on

REFUSALS = {
    "sqlite": """
        create trigger poison_step before update on dwarf_steps when new.changes like '%poison%'
          begin select raise(abort, 'no poison here'); end;
        create trigger poison_flow before update on dwarf_flows when new.final_state like '%poison%'
          begin select raise(abort, 'no poison here'); end;
        create trigger poison_new before insert on dwarf_flows when new.baggage like '%poison%'
          begin select raise(abort, 'no poison here'); end
    """,
    "postgresql": """
        alter table dwarf_steps add constraint no_poison check (changes not like '%poison%');
        alter table dwarf_flows add constraint no_poison check (final_state not like '%poison%');
        alter table dwarf_flows add constraint no_poison_bags check (baggage not like '%poison%')
    """,
}


class Quick(SystemClock):
    """Does not wait between attempts; counts them."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()
        await asyncio.sleep(0)


class FlakySteps(SqlSteps):
    """Its steps."""

    def __init__(self, store: Flaky) -> None:
        super().__init__(store.database, store.replicas)
        self._store = store

    async def settle(self, group: Sequence[Settlement], budget_ms: int, *births: Any) -> SettleResult:
        self._store.answer(len(group))
        if self._store.refused & {one.step.step_id for one in group}:
            raise self._store.words
        return await super().settle(group, budget_ms, *births)

    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]:
        self._store.answer(len(group))
        return await super().create(group, budget_ms)


class Flaky(SqlStore):
    """A store whose database is away for the next `away` calls."""

    away = 0
    groups: list[int]
    refused: frozenset[int] = frozenset()
    """A group that holds one of these steps is refused, as where a row is locked."""
    words: Exception = StatementRefused("canceling statement due to lock timeout, try again")

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.steps = FlakySteps(self)

    def answer(self, members: int) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away, try again")
        self.groups.append(members)


class Desk:
    """A committer, and what it told."""

    def __init__(self, store: Flaky, **settings: Any) -> None:
        self.store = store
        self.clock = Quick()
        self.effects: dict[int, tuple[Settlement, bool]] = {}
        self.dropped: list[int] = []
        self.told = asyncio.Event()
        self.before: Callable[[Sequence[Settlement]], None] = lambda _: None
        """Called with each part that is followed up."""
        self.committer = Committer(
            store.steps,
            EngineSettings(**settings),
            self.clock,
            StepIds(store, Tokens(), self.clock),
            Availability(),
        )

    def settled(self, group: Sequence[Settlement], result: SettleResult) -> None:
        self.before(group)
        self.effects |= {one.step.step_id: (one, result.applied[one.step.step_id].alive) for one in group}
        self.told.set()

    def fenced(self, settlement: Settlement) -> None:
        self.dropped.append(settlement.step.step_id)

    def cascaded(self, result: SettleResult) -> None:
        """Nothing here follows on it."""

    async def run(self) -> None:
        await self.committer.run(self)

    async def settle(self, *settlements: Settlement) -> None:
        for settlement in settlements:
            self.committer.settle(settlement)
        await self.done()

    async def until(self, count: int) -> None:
        """Wait until so many settlements were followed up."""
        async with asyncio.timeout(20):
            while len(self.effects) < count:
                self.told.clear()
                await self.told.wait()

    async def done(self) -> None:
        self.committer.close()
        async with asyncio.timeout(20):
            await self.run()


@asynccontextmanager
async def one_after_many(store: Flaky, steps: Sequence[ClaimedStep]) -> AsyncIterator[Desk]:
    """A committer that has written 30 results and gets one more; it runs until the block ends, and writes what is left."""
    desk = Desk(store)
    task = asyncio.create_task(desk.run())
    for step in steps[:30]:
        desk.committer.settle(ended(step))
    await desk.until(30)
    desk.committer.settle(ended(steps[30]))
    yield desk
    desk.committer.close()
    async with asyncio.timeout(20):
        await task


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Flaky]:
    opened = Flaky(1, dsn, pool=2, clock=SystemClock())
    opened.groups = []
    await opened.open("one", migrated=True)
    refusals = REFUSALS[dsn.split(":", 1)[0]]
    for statement in refusals.split(";\n"):
        await look(opened, statement)
    yield opened
    await opened.close()


async def claimed(store: Flaky, count: int, state: dict[str, Any] | None = None) -> list[ClaimedStep]:
    await store.steps.create([new_flow(state) for _ in range(count)], BUDGET)
    steps = [in_flight(row) for row in await claim_all(store, count, BUDGET)]
    assert len(steps) == count
    store.groups.clear()
    return steps


async def test_what_arrives_during_a_commit_shares_the_next(store: Flaky) -> None:
    steps = await claimed(store, 25)
    desk = Desk(store, max_group=10)
    await desk.settle(*map(ended, steps))
    assert store.groups == [10, 10, 5]
    assert all(alive for _, alive in desk.effects.values())
    assert set(desk.effects) == {step.step_id for step in steps}
    assert (desk.committer.groups, desk.committer.members) == (3, 25)


async def test_of_two_results_of_one_step_the_stale_one_is_fenced_though_they_come_together(store: Flaky) -> None:
    """X1: the step was given back and claimed again here, and both executions have ended. It goes on once."""
    (stale,) = await claimed(store, 1)
    await store.replicas.release_unowned_leases([])
    again = in_flight((await claim_all(store, 1, BUDGET))[0])
    desk = Desk(store)
    late, valid = went_on(stale, {"by": "the first"}), went_on(again, {"by": "the second"})
    await desk.settle(late, valid)
    assert desk.dropped == [stale.step_id]
    assert desk.effects == {again.step_id: (valid, True)}
    assert len(await store.flows.steps([again.flow.flow_id])) == 2


async def test_of_many_results_a_group_takes_half(store: Flaky) -> None:
    """So that stages overlap (design note 0061); few are taken whole."""
    desk = Desk(store)
    await desk.settle(*map(ended, await claimed(store, 200)))
    assert store.groups == [100, 50, 32, 18]
    assert len(desk.effects) == 200


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small group waits for as long as the test takes, and what was usual is known all the time."""
    monkeypatch.setattr(linger, "LINGER_SECONDS", 60.0)
    monkeypatch.setattr(linger, "RECENT_SECONDS", 60.0)


@pytest.mark.usefixtures("unhurried")
async def test_few_results_wait_for_those_that_come_with_them_as_a_rule(store: Flaky) -> None:
    """Design note 0061: one that comes first does not hold up the many behind it."""
    steps = await claimed(store, 60)
    async with one_after_many(store, steps) as desk:
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.groups == [30]
        for step in steps[31:]:
            desk.committer.settle(ended(step))
        await desk.until(60)
        assert store.groups == [30, 30]


async def test_few_results_are_written_if_no_others_come(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "RECENT_SECONDS", 60.0)
    steps = await claimed(store, 31)
    async with one_after_many(store, steps) as desk:
        await desk.until(31)
        assert store.groups[-1] == 1


@pytest.mark.usefixtures("unhurried")
async def test_few_results_wait_for_nobody_at_the_end(store: Flaky) -> None:
    steps = await claimed(store, 31)
    async with one_after_many(store, steps) as desk:
        for _ in range(5):
            await asyncio.sleep(0)
        assert sum(store.groups) == 30
    assert len(desk.effects) == 31


def test_a_group_is_small_by_those_of_late() -> None:
    usual = UsualSize()
    assert not usual.is_small(1, 100.0), "nothing is known yet"
    usual.note(30, 100.0)
    assert usual.is_small(19, 100.01)
    assert not usual.is_small(20, 100.01)
    usual.note(3, 100.01)  # a tenth less for each that is smaller
    assert usual.is_small(17, 100.02)
    assert not usual.is_small(18, 100.02)
    assert not usual.is_small(1, 100.04), "a step that comes later is alone"
    usual.note(1, 100.04)
    assert not usual.is_small(1, 100.04)


async def test_the_next_group_is_at_the_database_before_the_last_one_is_followed_up(store: Flaky) -> None:
    """Design note 0061: in order, a few a turn, and all of it before `run` returns."""
    steps = await claimed(store, 90)
    desk = Desk(store, max_group=40)
    told: list[tuple[int, int]] = []
    desk.before = lambda group: told.append((len(group), len(store.groups)))
    await desk.settle(*map(ended, steps))
    assert store.groups == [40, 32, 18]
    assert [size for size, _ in told] == [32, 8, 32, 18]
    assert [at for _, at in told][:1] == [2], "the second group was on its way"
    assert list(desk.effects) == [step.step_id for step in steps]


async def test_a_defect_in_the_follow_up_of_some_does_not_keep_the_others_from_it(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    steps = await claimed(store, 60)
    desk = Desk(store)

    def fails_at_first(group: Sequence[Settlement]) -> None:
        if group[0].step is steps[0]:
            raise KeyError("nobody thought of it")

    desk.before = fails_at_first
    with caplog.at_level(logging.ERROR, "dwarf_nats.engine"):
        await desk.settle(*map(ended, steps))
    assert "a defect after the commit of a group of 32" in caplog.text
    assert set(desk.effects) == {step.step_id for step in steps[32:]}


async def test_creations_and_settlements_alternate(store: Flaky) -> None:
    steps = await claimed(store, 3)
    desk = Desk(store)
    made = [desk.committer.create(new_flow()) for _ in range(4)]
    await desk.settle(*map(ended, steps))
    assert store.groups == [4, 3]
    assert all(isinstance(future.result(), int) for future in made)


async def test_a_settlement_the_database_refuses_fails_alone_with_its_words(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: never the batch it travels in."""
    steps = await claimed(store, 13)
    bad = steps[6]
    desk = Desk(store)
    group = [went_on(step, {"n": 1}) for step in steps]
    group[6] = went_on(bad, {"x": "poison"})
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(*group)
    for step in steps:
        (flow, first) = await flow_status(store, step.flow.flow_id), await step_status(store, step.step_id)
        assert (flow, first) == (("failed", "failed") if step is bad else ("running", "completed"))
    row = await store.flows.by_id(bad.flow.flow_id)
    assert row is not None
    assert row.error is not None
    assert "the result of task a cannot be stored" in row.error
    assert "poison" in row.error
    assert len(await store.flows.steps([bad.flow.flow_id])) == 1
    assert (set(desk.effects), desk.dropped) == ({step.step_id for step in steps}, [])


async def test_several_bad_members_are_all_found(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    steps = await claimed(store, 16)
    desk = Desk(store)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(
            *(ended(step, {"x": "poison"} if n in (0, 7, 15) else {"n": 1}) for n, step in enumerate(steps))
        )
    statuses = [await flow_status(store, step.flow.flow_id) for step in steps]
    assert statuses == ["failed" if n in (0, 7, 15) else "completed" for n in range(16)]


async def test_bytes_that_are_no_text_fail_their_step_alone(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = await claimed(store, 2)
    broken = went_on(bad)
    broken.changes = {"x": Raw(b'"\xff"')}
    desk = Desk(store)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(went_on(good), broken)
    assert await step_status(store, good.step_id) == "completed"
    assert await step_status(store, bad.step_id) == "failed"


async def test_what_cannot_even_be_failed_is_left_to_its_lease(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = await claimed(store, 2)
    bad.state = {"x": Raw(b'"poison"')}
    desk = Desk(store)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(ended(good), ended(bad))
    assert desk.dropped == [bad.step_id]
    assert await step_status(store, good.step_id) == "completed"
    assert await step_status(store, bad.step_id) == "running"


async def test_a_creation_the_database_refuses_is_refused_alone(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(store)
    flows = [new_flow(baggage=Raw(b'"poison"' if n == 3 else b"{}")) for n in range(7)]
    made = [desk.committer.create(new) for new in flows]
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.done()
    for n, future in enumerate(made):
        assert isinstance(future.exception(), Internal) if n == 3 else future.result() is not None
    assert await store.flows.size() == (6, 6)


async def test_results_in_hand_outlast_an_outage(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """B6."""
    steps = await claimed(store, 5)
    store.away = 12
    desk = Desk(store)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(*map(ended, steps))
    assert (len(desk.effects), desk.dropped, desk.committer.outages) == (5, [], 1)
    assert desk.clock.slept[:3] == [0.05, 0.1, 0.2]
    assert len(desk.clock.slept) == 12


async def test_results_are_dropped_once_their_leases_have_run_out(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    (step,) = await claimed(store, 1)
    store.away = 10**9
    desk = Desk(store, time_budget_ms=1000)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(ended(step))
    assert desk.dropped == [step.step_id]
    assert sum(desk.clock.slept) >= 31


@pytest.mark.parametrize("error", [StatementRefused("lock timeout"), KeyError("nobody thought of it")])
async def test_what_is_refused_for_a_while_holds_nobody_up(
    store: Flaky, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Semantics: database-errors; the value is not at fault, nothing fails; S1: the rest of the batch is written meanwhile."""
    steps = await claimed(store, 40)
    slow = {steps[3].step_id, steps[30].step_id}
    store.refused, store.words = frozenset(slow), error
    desk = Desk(store, time_budget_ms=10**9)
    others = {step.step_id for step in steps} - slow

    def later() -> None:
        if set(desk.effects) >= others:
            store.refused = frozenset()

    desk.clock.meanwhile = later
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        for step in steps:
            desk.committer.settle(ended(step))
        running = asyncio.create_task(desk.run())
        async with asyncio.timeout(20):
            while len(desk.effects) < 40:
                await asyncio.sleep(0)
        await desk_ends(desk, running)
    assert desk.dropped == []
    for step in steps:
        assert await step_status(store, step.step_id) == "completed"


async def desk_ends(desk: Desk, running: asyncio.Task[None]) -> None:
    desk.committer.close()
    async with asyncio.timeout(20):
        await running


async def test_what_is_refused_for_good_is_dropped_once_its_lease_has_run_out_and_fails_nothing(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    """Semantics: database-errors; a statement that is wrong for a reason of ours is tried with the back-off, and told."""
    steps = await claimed(store, 8)
    store.refused = frozenset([steps[5].step_id])
    desk = Desk(store, time_budget_ms=1000)
    with caplog.at_level(logging.WARNING, "dwarf_nats.engine"):
        for step in steps:
            desk.committer.settle(ended(step))
        running = asyncio.create_task(desk.run())
        async with asyncio.timeout(20):
            while not desk.dropped:
                await asyncio.sleep(0)
        await desk_ends(desk, running)
    assert desk.dropped == [steps[5].step_id]
    assert await step_status(store, steps[5].step_id) == "running"
    assert len(desk.effects) == 7
    assert sum(desk.clock.slept) >= 31
    assert len(caplog.messages) <= 5
    assert "1 results were dropped" in caplog.messages[-1]


async def test_what_is_held_at_the_end_is_left_to_its_lease(store: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    """B3: a drain does not wait for it."""
    steps = await claimed(store, 4)
    store.refused = frozenset([steps[0].step_id])
    desk = Desk(store, time_budget_ms=10**9)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        for step in steps:
            desk.committer.settle(ended(step))
        running = asyncio.create_task(desk.run())
        async with asyncio.timeout(20):
            while len(desk.effects) < 3:
                await asyncio.sleep(0)
        await desk_ends(desk, running)
    assert desk.dropped == [steps[0].step_id]


async def test_creations_are_refused_during_an_outage(store: Flaky) -> None:
    """B6: 503."""
    store.away = 1
    desk = Desk(store)
    made = [desk.committer.create(new_flow()) for _ in range(3)]
    await desk.done()
    assert [type(future.exception()) for future in made] == [Unavailable] * 3


async def test_creations_do_not_wait_for_results_that_outlast_an_outage(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    """B6: the results are kept, the callers get their 503 at once."""
    (step,) = await claimed(store, 1)
    desk = Desk(store)
    made: list[asyncio.Future[int | None]] = []
    desk.clock.meanwhile = lambda: made.append(desk.committer.create(new_flow()))
    store.away = 3
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        await desk.settle(ended(step))
    assert [type(future.exception()) for future in made[:2]] == [Unavailable] * 2
    assert made[2].result() is not None
    assert set(desk.effects) == {step.step_id}


async def test_whoever_comes_after_the_end_is_told(store: Flaky) -> None:
    """B3: nobody waits for a committer that has gone."""
    (step,) = await claimed(store, 1)
    desk = Desk(store)
    await desk.done()
    assert isinstance(desk.committer.create(new_flow()).exception(), Unavailable)
    desk.committer.settle(ended(step))
    assert desk.dropped == [step.step_id]
    desk.committer.reopen()
    made = desk.committer.create(new_flow())
    await desk.done()
    assert made.result() is not None


async def test_whoever_waits_for_a_committer_that_is_cancelled_is_told(
    store: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    (step,) = await claimed(store, 1)
    desk = Desk(store)
    desk.committer.settle(ended(step))
    store.away = 10**9
    late = asyncio.get_running_loop().create_future()
    desk.clock.meanwhile = lambda: late.done() or late.set_result(None)
    with caplog.at_level(logging.CRITICAL, "dwarf_nats.engine"):
        running = asyncio.create_task(desk.run())
        await late
        desk.clock.meanwhile = lambda: None
        waiting = desk.committer.create(new_flow())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert isinstance(waiting.exception(), Unavailable)


async def test_a_caller_that_has_gone_is_no_trouble(store: Flaky) -> None:
    desk = Desk(store)
    gone, stays = desk.committer.create(new_flow()), desk.committer.create(new_flow())
    gone.cancel()
    await desk.done()
    assert stays.result() is not None
    assert await store.flows.size() == (2, 2)


async def test_an_error_no_json_can_hold_is_told_as_far_as_it_goes(store: Flaky) -> None:
    (step,) = await claimed(store, 1)
    desk = Desk(store)
    settlement = ended(step)
    settlement.error = ErrorInfo("lone \ud800", 500, {"what": object()})
    await desk.settle(settlement)
    ((error,),) = await look(store, "select error from dwarf_steps")
    assert error == '{"message":"lone \\\\ud800","code":500}'
