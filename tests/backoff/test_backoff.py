"""The pauses between attempts, to the exact value: nobody's waits may change by accident."""

from __future__ import annotations

import random

import pytest

from dwarf_nats.backoff import DATABASE_BACKOFF, Backoff
from dwarf_nats.bus import backlog
from dwarf_nats.bus.roll_call import LOST_WORKER_BACKOFF
from dwarf_nats.engine.backpressure.prober import PROBER_BACKOFF
from dwarf_nats.sdk import requester
from dwarf_nats.sdk.task_subscriptions import REOPEN_BACKOFF
from dwarf_nats.server import STARTUP_BACKOFF
from dwarf_nats.wire.connecting import RECONNECT_BACKOFF, SHORT_LIVED_BACKOFF


def pauses(backoff: Backoff, count: int) -> list[float]:
    return [backoff.delay(failures) for failures in range(count)]


def test_pauses_grow_by_the_factor_up_to_the_longest() -> None:
    assert pauses(Backoff(0.05, 2, 1.5), 8) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]
    assert pauses(Backoff(1.0, 3, 10.0), 5) == [1.0, 3.0, 9.0, 10.0, 10.0]
    assert pauses(Backoff(2.0, 2, 2.0), 3) == [2.0, 2.0, 2.0]
    assert Backoff(0.1, 2, 5.0).delay(10**9) == 5.0


def test_listed_pauses_are_taken_as_they_are_and_the_last_is_repeated() -> None:
    assert pauses(Backoff.listed(0.2, 0.5, 1.0, 2.0, 5.0), 7) == [0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(("jitter", "lowest"), [(1.0, 0.0), (0.5, 1.0)])
def test_jitter_is_the_random_share_of_a_pause(jitter: float, lowest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or low)
    assert Backoff(2.0, 2, 8.0, jitter).delay(0) == lowest
    assert asked == [(lowest, 2.0)]


def test_the_total_is_the_sum_of_the_pauses() -> None:
    backoff = Backoff(0.05, 2, 1.5)
    assert [backoff.total(attempts) for attempts in (0, 1, 2)] == [0, 0.05, 0.05 + 0.1]
    assert backoff.total(6) == sum((0.05, 0.1, 0.2, 0.4, 0.8, 1.5))
    assert backoff.total(8) == sum((0.05, 0.1, 0.2, 0.4, 0.8, 1.5)) + 2 * 1.5


@pytest.mark.parametrize("wrong", [(0, 2, 1), (1, 1, 2), (2, 2, 1), (1, 2, 4, 1.5), (1, 2, 4, -0.1)])
def test_pauses_that_make_no_sense_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"pauses cannot grow|jitter is a share"):
        Backoff(*wrong)


TABLES = {
    "a database is away": (DATABASE_BACKOFF, [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5]),
    "the prober's database is away": (PROBER_BACKOFF, [0.05, 0.2, 1.0, 2.0, 2.0]),
    "a start waits for its database": (STARTUP_BACKOFF, [0.2, 0.5, 1.0, 2.0, 5.0, 5.0]),
    "a queued request is tried again": (backlog.RETRY_BACKOFF, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
    "a step has lost worker after worker": (LOST_WORKER_BACKOFF, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
    "a worker's connection was closed": (REOPEN_BACKOFF, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
    "a client's request is sent again": (requester.RETRY_BACKOFF, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
    "no server answers": (RECONNECT_BACKOFF, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
    "connections do not live long": (SHORT_LIVED_BACKOFF, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
}
SHARES = {"no server answers": 1.0, "connections do not live long": 0.5}


@pytest.mark.parametrize("when", TABLES)
def test_the_pauses_of_the_service_and_the_sdk(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    backoff, expected = TABLES[when]
    assert pauses(backoff, len(expected)) == expected
    assert backoff.jitter == SHARES.get(when, 0.0)
