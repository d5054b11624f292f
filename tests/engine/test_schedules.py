"""Schedules: once per due time, over kills at every line, other replicas, changes and moving clocks (R3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance import schedule_timer
from dwarf_nats.errors import BadRequest, NotFound, TooLarge, Unavailable
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.schedules import Overlap, RunOutcome, Schedule, micros_of, rfc3339_short
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Gate, line, quiet, replica, shard_of, until_rows

FLOWS = "select count(*) from dwarf_flows where workflow = 'report'"
START = datetime(2026, 6, 1, 0, 0, 30, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(micros_of(START))


def nothing() -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def workflows(proxy: TaskProxy) -> None:
    """The workflows `report`, which ends at once, and `slow`."""
    proxy.handle_graph(line("report", "remember"))
    proxy.handle_task("remember", nothing)
    proxy.handle_graph(line("slow", "slow"))


def schedule(name: str = "nightly", **more: Any) -> Schedule:
    given: dict[str, Any] = {"workflow": "report", "state": {"at": "=scheduledAt"}}
    if "every_ms" not in more:
        given["cron"] = "* * * * *"
    return Schedule(name=name, **given | more)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


async def settled(engine: Engine) -> None:
    """Wait until no schedule is due or being fired, and no step runs."""
    timer = engine._lifecycle.maintenance[1].schedules
    assert timer is not None
    await until(lambda: timer.is_idle)
    await until_rows(engine, [(0,)], f"{FLOWS} and status = 'running'")
    await quiet(engine)


async def forward(engine: Engine, clock: ManualClock, seconds: float) -> None:
    """Move the clock, and let everything happen that is due; also what becomes due by that."""
    clock.advance(seconds)
    for _ in range(3):
        await settled(engine)


async def runs(engine: Engine, name: str = "nightly") -> list[tuple[str, str]]:
    """Due times and outcomes of the last runs, the oldest first."""
    return [
        (rfc3339_short(run.due_at)[11:-1], run.outcome.value)
        for run in reversed((await engine.get_schedule(name)).last)
    ]


async def states(engine: Engine) -> list[dict[str, Any]]:
    """The states of the flows of `report`, in the order in which they were created; all have completed."""
    await until_rows(engine, [(0,)], f"{FLOWS} and status <> 'completed'")
    return await made(engine)


async def made(engine: Engine) -> list[dict[str, Any]]:
    found = await shard_of(engine).store.database.fetch(
        "select state from dwarf_steps where url = 'remember' order by step_id"
    )
    return [json.loads(state) for (state,) in found]


async def fired(engine: Engine) -> list[str]:
    """The due times of the flows of `report`."""
    return [one["at"][11:-1] for one in await states(engine)]


async def test_it_fires_at_each_due_time_exactly(timed: Engine, clock: ManualClock) -> None:
    """R3: neither a microsecond before nor later; the first due time lies after the put."""
    info = await timed.put_schedule(
        schedule(state={"at": "=scheduledAt", "day": "=timestamp(scheduledAt).getDayOfMonth()", "fired": "=firedAt"})
    )
    assert [rfc3339_short(one) for one in info.next[:2]] == ["2026-06-01T00:01:00Z", "2026-06-01T00:02:00Z"]
    assert len(info.next) == 10
    assert not info.warnings
    await forward(timed, clock, 29.999999)
    assert await states(timed) == []
    await forward(timed, clock, 0.000001)
    assert await states(timed) == [{"at": "2026-06-01T00:01:00Z", "day": 0, "fired": "2026-06-01T00:01:00Z"}]
    await forward(timed, clock, 60)
    await forward(timed, clock, 60)
    assert await fired(timed) == ["00:01:00", "00:02:00", "00:03:00"]
    info = await timed.get_schedule("nightly")
    assert [run.outcome for run in info.last] == [RunOutcome.STARTED] * 3
    flows, _ = await timed.list(Query(workflow="report"))
    assert sorted(flow.flow_key.rsplit("-", 1)[0] for flow in flows) == sorted(run.flow_id or "" for run in info.last)
    assert {flow.status for flow in flows} == {Status.COMPLETED}
    assert info.next[0] == micros_of(START + timedelta(minutes=3, seconds=30))


@pytest.mark.parametrize("overlap", list(Overlap))
async def test_the_last_flow_still_lives(timed: Engine, clock: ManualClock, proxy: TaskProxy, overlap: Overlap) -> None:
    """R3: skip, allow, queue (one at most), cancel."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    await timed.put_schedule(schedule(workflow="slow", overlap=overlap, state={}))
    for _ in range(3):
        await forward(timed, clock, 60)
    flows, _ = await timed.list(Query(workflow="slow"))
    shown = sorted(flow.status.value for flow in flows)
    started, skipped = "started", "skipped"
    if overlap is Overlap.SKIP:
        assert shown == ["running"]
        assert [what for _, what in await runs(timed)] == [started, skipped, skipped]
        assert "still runs" in ((await timed.get_schedule("nightly")).last[0].message or "")
    elif overlap is Overlap.ALLOW:
        assert shown == ["running"] * 3
    elif overlap is Overlap.CANCEL:
        assert shown == ["cancelled", "cancelled", "running"]
    else:
        assert shown == ["running"]
        assert await runs(timed) == [("00:01:00", started), ("00:03:00", skipped)]
        gate.open()
        await forward(timed, clock, 20)
        assert await runs(timed) == [("00:01:00", started), ("00:03:00", skipped), ("00:02:00", started)]
        flows, _ = await timed.list(Query(workflow="slow"))
        assert [flow.status.value for flow in flows] == ["completed", "completed"]
    gate.open()


async def test_what_was_missed_fires_within_the_time_to_catch_up_the_oldest_first(engine: Engine) -> None:
    """R3: after an outage of half an hour."""
    await engine.put_schedule(schedule(catch_up_ms=200_000, overlap=Overlap.ALLOW))
    half_an_hour_ago = "({now} / 60000000 - 30) * 60000000"
    await shard_of(engine).store.database.fetch(
        f"update dwarf_schedules set due_at = {half_an_hour_ago}, fire_at = {half_an_hour_ago}, wake_at = 1"
    )
    engine.replica.schedule_alarm.note(0)
    async with asyncio.timeout(SOON):
        while (await engine.get_schedule("nightly")).next[0] <= micros_of(datetime.now(UTC)):
            await asyncio.sleep(0)
    await engine.pause_schedule("nightly")  # a minute may end here, and would fire between the next two readings
    times = await fired(engine)
    info = await engine.get_schedule("nightly")
    assert len(times) in (3, 4, 5)
    assert times == sorted(times)
    assert [run.outcome for run in info.last] == [RunOutcome.STARTED] * len(times) + [RunOutcome.MISSED]


async def test_what_is_too_old_is_told(timed: Engine, clock: ManualClock) -> None:
    await timed.put_schedule(schedule(catch_up_ms=150_000, overlap=Overlap.ALLOW))
    await forward(timed, clock, 30)
    timer = timed._lifecycle.maintenance[1].schedules
    assert timer is not None
    clock._now += 10 * 60_000_000  # nobody is woken: no replica was there
    timed.replica.schedule_alarm.note(0)
    await forward(timed, clock, 0)
    assert await fired(timed) == ["00:01:00", "00:09:00", "00:10:00", "00:11:00"]
    info = await timed.get_schedule("nightly")
    missed = next(run for run in info.last if run.outcome is RunOutcome.MISSED)
    assert "7 due times from 2026-06-01T00:02:00Z on passed" in (missed.message or "")
    assert await timed.backfill_schedule("nightly", micros_of(START), micros_of(START + timedelta(minutes=10))) == 7
    await forward(timed, clock, 0)
    assert sorted(await fired(timed)) == [f"00:{minute:02}:00" for minute in range(1, 12)]
    assert await timed.backfill_schedule("nightly", micros_of(START), micros_of(START + timedelta(minutes=10))) == 0


async def test_a_clock_that_is_set_back_fires_nothing_twice(timed: Engine, clock: ManualClock) -> None:
    """R3: what fired last is kept with the schedule."""
    await timed.put_schedule(schedule())
    for _ in range(3):
        await forward(timed, clock, 60)
    clock._now -= 150_000_000
    await timed.put_schedule(schedule(jitter_ms=1))  # its times are worked out anew
    for _ in range(5):
        await forward(timed, clock, 60)
    assert await fired(timed) == ["00:01:00", "00:02:00", "00:03:00", "00:04:00", "00:05:00"]


async def test_jitter_is_the_same_for_a_due_time_and_within_bounds(timed: Engine, clock: ManualClock) -> None:
    one = schedule(jitter_ms=20_000, state={"at": "=scheduledAt", "fired": "=firedAt"})
    due = micros_of(datetime(2026, 6, 1, 0, 1, tzinfo=UTC))
    delays = {one.fires_at(due + n * 60_000_000) - due - n * 60_000_000 for n in range(50)}
    assert len(delays) > 40
    assert all(0 <= delay <= 20_000_000 for delay in delays)
    await timed.put_schedule(one)
    await forward(timed, clock, 30 + 20)
    (state,) = await states(timed)
    assert state["at"] == "2026-06-01T00:01:00Z" < state["fired"]


async def test_from_and_until_bound_it(timed: Engine, clock: ManualClock) -> None:
    await timed.put_schedule(
        schedule(
            every_ms=60_000,
            from_=START + timedelta(seconds=100),
            until=START + timedelta(seconds=220),
        )
    )
    for _ in range(6):
        await forward(timed, clock, 50)
    info = await timed.get_schedule("nightly")
    assert await fired(timed) == ["00:02:10", "00:03:10", "00:04:10"], info
    assert info.next == []


async def test_paused_schedules_fire_nothing_and_what_passed_meanwhile_does_not_come_later(
    timed: Engine, clock: ManualClock
) -> None:
    await timed.put_schedule(schedule(paused=True))
    await forward(timed, clock, 120)
    assert (await timed.get_schedule("nightly")).next == []
    await timed.resume_schedule("nightly")
    await forward(timed, clock, 29)
    assert await states(timed) == []
    await forward(timed, clock, 1)
    assert await fired(timed) == ["00:03:00"]
    await timed.pause_schedule("nightly")
    await forward(timed, clock, 120)
    assert await fired(timed) == ["00:03:00"]
    assert (await timed.get_schedule("nightly")).schedule.paused


async def test_trigger_starts_one_flow_now_for_each_request(timed: Engine, clock: ManualClock) -> None:
    await timed.put_schedule(schedule(paused=True))
    first = await timed.trigger_schedule("nightly", "r1")
    clock.advance(5)
    again = await timed.trigger_schedule("nightly", "r1")
    await timed.trigger_schedule("nightly")
    await quiet(timed)
    assert [run.flow_id for run in again.last] == [run.flow_id for run in first.last]
    assert await fired(timed) == ["00:00:30", "00:00:35"]
    assert len((await timed.get_schedule("nightly")).last) == 2


async def test_a_backfill_is_bounded_and_past(timed: Engine) -> None:
    await timed.put_schedule(schedule())
    now = micros_of(START)
    with pytest.raises(TooLarge, match="backfill up to 2026-05-0"):
        await timed.backfill_schedule("nightly", now - 30 * 86_400_000_000, now)
    with pytest.raises(BadRequest, match="to must not lie in the future"):
        await timed.backfill_schedule("nightly", now, now + 86_400_000_000)
    with pytest.raises(BadRequest, match="to is before from"):
        await timed.backfill_schedule("nightly", now, now - 1)
    with pytest.raises(NotFound, match=r"dwarf\.schedule\.list"):
        await timed.backfill_schedule("other", now, now)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cron": "61 * * * *"}, "schedule 'nightly', cron: '61 * * * *': the minute '61' is not understood"),
        ({"timezone": "Europe/Berln"}, "schedule 'nightly', timezone: there is no time zone 'Europe/Berln': did you mean"),
        ({"cron": "", "every_ms": 50}, "everyMs must be between 100 and"),
        ({"cron": ""}, "neither cron nor everyMs is given: give one"),
        ({"cron": "* * * * *", "every_ms": 1000}, "both cron and everyMs are given"),
        ({"jitter_ms": 3_600_001}, "jitterMs must be between 0 and 3600000"),
        ({"catch_up_ms": -1}, "catchUpMs must be between 0"),
        ({"from_": datetime(2027, 1, 1)}, "from must be a time with a zone"),
        ({"from_": datetime(2027, 1, 1, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)}, "until is before from"),
        ({"workflow": "a b"}, "schedule 'nightly', invalid workflow 'a b'"),
        ({"name": "x y"}, "invalid schedule name"),
        ({"name": "x" * 129}, "at most 128"),
        ({"state": {"a": "=scheduledA"}}, "schedule 'nightly', state.a: the expression 'scheduledA'"),
        ({"state": {"a": "=1 +"}}, "schedule 'nightly', state.a: the expression '1 +' is invalid"),
        ({"options": {"priorty": 1}}, "options.priorty: it is not known: did you mean 'priority'?"),
        ({"options": {"priority": "high"}}, "options.priority: expected `int"),
        ({"options": {"priority": 0}}, "priority must be at least 1"),
        ({"options": {"idempotencyKey": "x"}}, "options.idempotencyKey: leave it out"),
        ({"options": {"threadKey": "x"}}, "options.threadKey: leave it out"),
    ],
)  # fmt: skip
async def test_a_bad_schedule_is_refused_with_place_and_remedy(
    timed: Engine, more: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"name": "nightly", "workflow": "report", "cron": "0 3 * * *"} | more
    with pytest.raises(BadRequest) as refused:
        await timed.put_schedule(Schedule(**given))
    assert message in refused.value.message
    assert (await timed.list_schedules())[0] == []


async def test_options_are_templates_too(timed: Engine, clock: ManualClock) -> None:
    options = {"tags": {"day": "=scheduledAt"}, "fairnessKey": "reports", "priority": 3, "startAt": "=scheduledAt"}
    await timed.put_schedule(schedule(options=options))
    await forward(timed, clock, 30)
    (flow,), _ = await timed.list(Query(workflow="report"))
    assert (flow.tags, flow.fairness_key, flow.priority) == ({"day": "2026-06-01T00:01:00Z"}, "reports", 3)
    assert flow.status is Status.COMPLETED


async def test_an_unknown_workflow_is_a_warning_and_its_runs_say_why_they_failed(
    timed: Engine, clock: ManualClock, proxy: TaskProxy
) -> None:
    """R3: it may be served later; nothing is lost silently."""
    info = await timed.put_schedule(schedule(workflow="later"))
    assert "a flow of workflow 'later' cannot be made now" in info.warnings[0]
    await forward(timed, clock, 30)
    (run,) = (await timed.get_schedule("nightly")).last
    assert run.outcome is RunOutcome.FAILED
    assert run.flow_id is None
    assert (run.message or "").startswith("404: no workflow 'later'")
    proxy.handle_graph(line("later", "remember"))
    await forward(timed, clock, 60)
    assert await fired(timed) == ["00:02:00"]


async def test_what_cannot_be_created_now_is_tried_again_within_the_time_to_catch_up(
    timed: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    creator = timed._operations.creator
    create, failures = creator.create, [Unavailable("away")] * 4

    async def failing(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await create(*args, **more)

    monkeypatch.setattr(creator, "create", failing)
    await timed.put_schedule(schedule(state={"at": "=scheduledAt", "fired": "=firedAt"}))
    await forward(timed, clock, 30)
    for _ in range(20):
        await forward(timed, clock, 0.5)
    assert await states(timed) == [{"at": "2026-06-01T00:01:00Z", "fired": "2026-06-01T00:01:00Z"}]
    failures += [Unavailable("away")] * 1000
    for _ in range(240):
        await forward(timed, clock, 0.5)
    failures.clear()
    for _ in range(20):
        await forward(timed, clock, 0.5)
    outcomes = await runs(timed)
    assert outcomes[:2] == [("00:01:00", "started"), ("00:02:00", "failed")]
    assert ("00:02:00", "failed") in outcomes
    assert "503: away" in str([run.message for run in (await timed.get_schedule("nightly")).last])
    assert await fired(timed) == sorted(set(await fired(timed)))


async def test_put_again_keeps_what_was_fired(timed: Engine, clock: ManualClock) -> None:
    await timed.put_schedule(schedule())
    await forward(timed, clock, 30)
    info = await timed.put_schedule(schedule(state={"at": "=scheduledAt", "new": True}))
    assert [run.outcome for run in info.last] == [RunOutcome.STARTED]
    assert info.created_at < info.updated_at
    await forward(timed, clock, 60)
    assert await states(timed) == [{"at": "2026-06-01T00:01:00Z"}, {"at": "2026-06-01T00:02:00Z", "new": True}]
    await timed.delete_schedule("nightly")
    with pytest.raises(NotFound):
        await timed.get_schedule("nightly")
    await forward(timed, clock, 600)
    assert len(await states(timed)) == 2


async def test_schedules_are_listed_by_name_in_pages(engine: Engine) -> None:
    for name in ("c", "a", "b", "d"):
        await engine.put_schedule(schedule(name, workflow="report" if name != "d" else "line", paused=True))
    page, cursor = await engine.list_schedules(limit=2)
    rest, end = await engine.list_schedules(limit=2, cursor=cursor)
    assert [one.schedule.name for one in (*page, *rest)] == ["a", "b", "c", "d"]
    assert end == ""
    (found,), _ = await engine.list_schedules(workflow="line")
    assert found.schedule.name == "d"
    assert found.description == "Every minute (UTC)"


# -- the process ends on any line


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Ends the process at one of the calls that have an effect: before it, or after it."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0
        self.killed = False

    def watch(self, target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        call = getattr(target, name)

        async def watched(*args: Any, **more: Any) -> Any:
            for moment in ("before", "after"):
                if moment == "after":
                    result = await call(*args, **more)
                self.count += 1
                if self.count == self.at and not self.killed:
                    self.killed = True
                    raise Killed
            return result

        monkeypatch.setattr(target, name, watched)


CALLS = 12
"""Claim, create, save, start and save, before and after each, and some more."""


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE, Overlap.CANCEL])
@pytest.mark.parametrize("kill_at", range(1, CALLS + 1))
async def test_a_due_time_fires_once_wherever_the_process_ends(
    timed: Engine,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int,
    overlap: Overlap,
) -> None:
    """R3: another replica goes on once the lease is over, and every due time has exactly one flow, and one record."""
    await timed.put_schedule(schedule(overlap=overlap, state={"at": "=scheduledAt", "fired": "=firedAt"}))
    killer = Killer(kill_at)
    store, operations = shard_of(timed).store.schedules, timed._operations
    for target, name in (
        (store, "claim"),
        (operations.creator, "create"),
        (store, "save"),
        (operations.control, "start"),
        (operations.control, "cancel"),
    ):
        killer.watch(target, name, monkeypatch)
    monkeypatch.setattr(schedule_timer.ScheduleTimer, "_fire", until_killed)
    monkeypatch.setattr(
        schedule_timer.ScheduleTimer, "fire_due", claims_until_killed(schedule_timer.ScheduleTimer.fire_due)
    )
    await forward(timed, clock, 30)
    assert killer.killed == (kill_at <= 10)
    await forward(timed, clock, schedule_timer.LEASE_US / 1_000_000 + 1)
    await forward(timed, clock, 49)
    assert await fired(timed) == ["00:01:00", "00:02:00"]
    assert await runs(timed) == [("00:01:00", "started"), ("00:02:00", "started")]
    flows, _ = await timed.list(Query(workflow="report"))
    assert [flow.status for flow in flows] == [Status.COMPLETED] * 2


async def until_killed(self: Any, row: Any, now: int) -> None:
    try:
        await self._runner.run(row, now)
    except Killed:
        pass


def claims_until_killed(fire_due: Any) -> Any:
    async def claims(self: Any) -> None:
        try:
            await fire_due(self)
        except Killed:  # another replica wakes when it knows of the next time
            self._alarm.note(1_000_000)

    return claims


@pytest.mark.parametrize("moment", ["create", "start"])
@pytest.mark.parametrize("change", ["put", "pause", "delete", "retime"])
async def test_what_is_changed_while_it_fires_neither_loses_nor_doubles_a_run(
    timed: Engine,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    change: str,
) -> None:
    """R3: put, pause and delete between the creation of the flow and the record of the run."""
    await timed.put_schedule(schedule())
    target = timed._operations.creator if moment == "create" else timed._operations.control
    call = getattr(target, moment)
    changed: list[str] = []

    async def changing(*args: Any, **more: Any) -> Any:
        result = await call(*args, **more)
        if not changed:
            changed.append(change)
            if change == "put":
                await timed.put_schedule(schedule(state={"at": "=scheduledAt", "new": 1}))
            elif change == "retime":
                await timed.put_schedule(schedule(cron="*/2 * * * *"))
            elif change == "pause":
                await timed.pause_schedule("nightly")
            else:
                await timed.delete_schedule("nightly")
                with pytest.raises(NotFound):
                    await timed.get_schedule("nightly")
        return result

    monkeypatch.setattr(target, moment, changing)
    await forward(timed, clock, 30)
    assert changed
    assert await fired(timed) == ["00:01:00"]
    await forward(timed, clock, 60)
    expected = {"put": 2, "retime": 2, "pause": 1, "delete": 1}[change]
    assert len(await states(timed)) == expected
    if change == "delete":
        rows = await shard_of(timed).store.database.fetch("select name from dwarf_schedules")
        assert list(rows) == []
    else:
        assert [what for _, what in await runs(timed)] == ["started"] * expected


@pytest.mark.slow
async def test_two_replicas_fire_each_due_time_once(pg_dsn: str, proxy: TaskProxy) -> None:
    """R3: over all replicas; and a replica hears of a schedule that was put at another one."""
    async with replica(pg_dsn, proxy) as one, replica(pg_dsn, proxy) as other:
        for number in range(20):
            state = {"n": number, "at": "=scheduledAt"}
            await one.put_schedule(schedule(f"s{number}", every_ms=200, overlap=Overlap.ALLOW, state=state))
        other.replica.schedule_alarm.note(0)
        async with asyncio.timeout(SOON):
            while len(await made(one)) < 200:
                await asyncio.sleep(0)
        for number in range(20):
            await other.pause_schedule(f"s{number}")
        seen = [(state["n"], state["at"]) for state in await states(one)]
    assert len(seen) == len(set(seen))
