"""The pace of bulk operations and removals: bounded beside others, none without, less for flows that run then (M1, M2)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dwarf_nats.engine.pacing import Pace
from dwarf_nats.rules import pacing


def test_a_group_is_bounded_in_members_and_in_units() -> None:
    assert pacing.members_of_group(pacing.MAX_GROUP, 1) == pacing.MAX_GROUP_MEMBERS
    assert pacing.members_of_group(160, 8) == 20
    assert pacing.members_of_group(160, 1_000) == 1


def test_slow_groups_shrink_and_fast_ones_grow_within_bounds() -> None:
    size = pacing.FIRST_GROUP
    for _ in range(20):
        size = pacing.next_size(size, size, 0.01)
    assert size == pacing.MAX_GROUP
    assert pacing.next_size(size, size, 0.07) == size
    assert pacing.next_size(size, 10, 0.001) == size, "a small last group says nothing"
    for _ in range(20):
        size = pacing.next_size(size, size, 1.0)
    assert size == pacing.MIN_GROUP


@pytest.mark.parametrize("took", [0.001, 0.05, 0.4])
def test_a_rest_keeps_to_the_units_a_second_and_to_a_quarter_of_the_time(took: float) -> None:
    rest = pacing.rest_seconds(400, took, 0, 100)
    assert 400 / (took + rest) <= pacing.UNITS_PER_SECOND + 1
    assert took / (took + rest) <= 0.25 + 1e-9


@pytest.mark.parametrize("others", [0.0, 10.0, 500.0, 3_000.0, 30_000.0])
def test_started_flows_take_a_share_of_a_busy_machine_and_more_of_an_idle_one(others: float) -> None:
    """M1: what runs beside others costs them less than a tenth; where little runs, there is room for others."""
    room = pacing.room_for_started(others)
    assert room >= pacing.LIGHT_LOAD * pacing.STARTED_SHARE
    if others >= pacing.LIGHT_LOAD:
        assert room <= others / 10
    steps = pacing.members_started(room, 4.5) * 4.5
    rest = pacing.rest_seconds(100, 0.01, steps, room)
    assert steps / (0.01 + rest) <= room + 1e-6
    assert rest <= max(pacing.START_SECONDS, 4.5 / room)


def test_alone_started_flows_find_what_the_machine_can_do_and_give_it_back_at_once() -> None:
    """M1: a restart of very many flows takes no longer than it must where nobody else is at work."""
    room, capacity = pacing.room_for_started(0.0), 6_000.0
    found = []
    for _ in range(100):
        room = pacing.next_room(room, 0.0, min(1.0, capacity / room))
        found.append(room)
    assert min(found[20:]) > capacity * 0.6
    assert max(found) <= capacity * 1.5 / pacing.KEPT_UP
    assert pacing.next_room(room, 3_000.0, 1.0) == pacing.room_for_started(3_000.0)
    assert pacing.next_room(room, pacing.QUIET_LOAD, 1.0) <= pacing.LIGHT_LOAD / 2
    for _ in range(100):
        room = pacing.next_room(room, 0.0, 1.0)
    assert room == pacing.MAX_ROOM
    for _ in range(100):
        room = pacing.next_room(room, 0.0, 0.1)
    assert room == pacing.room_for_started(0.0)


async def test_without_others_at_work_there_is_no_rest_m1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others at work are known by what is settled for them; flows that a group starts are not taken for others."""
    settled, slept = 0, list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("dwarf_nats.engine.pacing.asyncio.sleep", sleep)
    pace = Pace(lambda: settled, lambda: 0.0)

    async def work(members: Sequence[int]) -> int:
        return sum(members)

    assert await pace.run(range(1_000), work) == (320, sum(range(320)))
    assert slept == []
    settled += 1
    count, _ = await pace.run(range(1_000), work, weight=8)
    assert count <= 60
    assert len(slept) == 1


async def test_flows_with_many_steps_are_started_in_smaller_groups_m1() -> None:
    pace = Pace(lambda: 0, lambda: 3.0)

    async def work(members: Sequence[int]) -> None:
        pace.had_steps(len(members), 1_000 * len(members))

    few, _ = await pace.run(range(1_000), work, weight=1, starts=True)
    assert few == int(pace.room / 4.5)
    assert (await pace.run(range(1_000), work, starts=True))[0] == 1
    assert (await pace.run(range(1_000), work))[0] > few, "what starts nothing is not bounded by it"
