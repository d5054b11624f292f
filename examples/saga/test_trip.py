"""Tests of the trip: whatever fails, and whenever, nothing stays booked that is not paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import tasks

from dwarf_nats.sdk import Status, TaskError
from dwarf_nats.testing import FlowEnv

ROME = {"traveller": "Ada", "city": "Rome", "nights": 3}
KYOTO = {"traveller": "Ada", "city": "Kyoto", "nights": 7}


@pytest.fixture
def env(flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch) -> FlowEnv:
    """An environment with the graph and the tasks, and with partners that have no bookings."""
    monkeypatch.setattr(tasks, "ledger", tasks.Ledger())
    flow_env.graphs(Path(__file__).parent / "graphs")
    flow_env.use(tasks.worker)
    return flow_env


def booked() -> list[str]:
    """The bookings that stand, such as `flight`."""
    return [what.split()[0] for what in tasks.ledger.bookings.values()]


async def test_a_trip_is_booked_and_paid(env: FlowEnv) -> None:
    outcome = await env.run("trip", ROME)
    assert (outcome.status, outcome.state["total"]) == (Status.COMPLETED, 180 + 3 * 130 + 3 * 45)
    assert booked() == ["flight", "hotel", "car", "payment"]
    await env.assert_history(outcome, ["flight", "hotel", "car", "pay"])


async def test_a_card_that_is_declined_cancels_the_last_booking_first(env: FlowEnv) -> None:
    outcome = await env.finish(await env.start("trip", {**ROME, "traveller": "Mallory"}))
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, booked()) == (Status.FAILED, 402, [])
    cancelled = [call.task for call in env.calls["trip.cancel_booking"]]
    assert cancelled == ["car:compensate", "hotel:compensate", "flight:compensate"]


async def test_a_booking_that_failed_needs_no_cancellation(env: FlowEnv) -> None:
    env.fake("trip.book_car", raises=TaskError("no car left", 409))
    outcome = await env.finish(await env.start("trip", ROME))
    assert (outcome.status, booked()) == (Status.FAILED, [])
    assert [call.task for call in env.calls["trip.cancel_booking"]] == ["hotel:compensate", "flight:compensate"]


async def test_a_crash_at_any_step_books_nothing_twice(env: FlowEnv) -> None:
    for task in ("trip.book_flight", "trip.book_hotel", "trip.book_car", "trip.pay"):
        env.crash_in(task)
    outcome = await env.run("trip", ROME)
    assert outcome.state["total"] == 180 + 3 * 130 + 3 * 45
    assert booked() == ["flight", "hotel", "car", "payment"]
    assert len(env.calls["trip.book_flight"]) == 2


async def test_a_crash_while_bookings_are_cancelled_forgets_none(env: FlowEnv) -> None:
    env.crash_in("trip.cancel_booking", nth=2)
    env.fail("trip.cancel_booking", nth=4, error=TaskError("try later", 500))
    outcome = await env.finish(await env.start("trip", {**ROME, "traveller": "Mallory"}))
    assert (outcome.status, booked()) == (Status.FAILED, [])


async def test_an_expensive_trip_waits_for_a_person(env: FlowEnv) -> None:
    outcome = await env.run("trip", KYOTO)
    assert outcome.interrupt_payload["total"] == 1_150 + 7 * 130 + 7 * 45
    await env.answer(outcome.flow_key, {"yes": True}, "approve")
    assert (await env.finish(outcome.flow_key)).status is Status.COMPLETED


@pytest.mark.parametrize("how", ["refused", "forgotten", "cancelled"])
async def test_a_trip_that_is_not_approved_is_undone(env: FlowEnv, how: str) -> None:
    outcome = await env.run("trip", KYOTO)
    assert booked() == ["flight", "hotel", "car"]
    if how == "refused":
        await env.answer(outcome.flow_key, {"yes": False})
    elif how == "cancelled":
        await env.engine.cancel(outcome.flow_key, "the traveller is ill")
    else:
        await env.skip(days=1)
    ended = await env.finish(outcome.flow_key)
    assert ended.status is (Status.CANCELLED if how == "cancelled" else Status.FAILED)
    assert booked() == []
