"""Log lines that come as a flood are summed up."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from dwarf_nats.summed import KINDS, OTHERS, SECONDS, Repeats, Summed


class Alarm:
    """Rings when told."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Alarms(list[Alarm]):
    def __call__(self, seconds: float, call: Callable[[], None]) -> Alarm:
        assert seconds == SECONDS
        self.append(Alarm(call))
        return self[-1]

    def ring(self) -> None:
        """The time of all of them has come."""
        rung = list(self)
        self.clear()
        for alarm in rung:
            if not alarm.cancelled:
                alarm.call()


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


@pytest.fixture
def summed(alarms: Alarms, caplog: pytest.LogCaptureFixture) -> Summed:
    caplog.set_level(logging.INFO)
    return Summed(logging.getLogger("test.summed"), later=alarms)


def test_the_first_line_is_logged_and_the_others_are_counted(
    summed: Summed, alarms: Alarms, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(17_000):
        summed.warning("full", "request %d is lost", number, extra={"operation": "flow.create"})
    assert caplog.messages == ["request 0 is lost"]
    alarms.ring()
    assert caplog.messages[1:] == ["request 16999 is lost (and 16,998 more like it in the last 10 s)"]
    assert {record.__dict__["operation"] for record in caplog.records} == {"flow.create"}
    alarms.ring()  # nothing more came
    summed.warning("full", "again")
    assert caplog.messages[2:] == ["again"]


def test_a_flood_that_goes_on_is_one_line_each_time(
    summed: Summed, alarms: Alarms, caplog: pytest.LogCaptureFixture
) -> None:
    summed.warning("full", "lost")
    for _ in range(3):
        for _ in range(5):
            summed.warning("full", "lost")
        alarms.ring()
    assert caplog.messages == ["lost", *["lost (and 4 more like it in the last 10 s)"] * 3]


def test_kinds_are_told_apart_up_to_a_number(summed: Summed, alarms: Alarms, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(KINDS + 50):
        summed.warning(number, "kind %d", number)
    assert len(caplog.messages) == KINDS + 1
    assert len(alarms) == KINDS + 1


def test_the_end_says_what_was_summed_up(summed: Summed, alarms: Alarms, caplog: pytest.LogCaptureFixture) -> None:
    summed.log(logging.INFO, "a", "one")
    summed.log(logging.INFO, "a", "two")
    summed.warning("b", "other")
    summed.flush()
    assert caplog.messages == ["one", "other", "two"]
    assert all(alarm.cancelled for alarm in alarms)


def test_the_first_lines_come_at_once_and_the_others_in_sum(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    repeats = Repeats(logging.getLogger("x"), burst=2, seconds=60, clock=lambda: now[0])
    for _ in range(100):
        repeats.say(logging.WARNING, "lost")
    assert caplog.messages == ["lost", "lost"]
    repeats.say(logging.WARNING, "refused")
    assert caplog.messages[2:] == ["refused"]
    now[0] = 60
    repeats.say(logging.WARNING, "lost")
    assert caplog.messages[3:] == ["lost (and 98 times more since the last such line)"]
    repeats.say(logging.WARNING, "lost")
    assert caplog.messages[4:] == ["lost"]


def test_no_number_of_texts_fills_the_memory_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    repeats = Repeats(logging.getLogger("x"), burst=1, seconds=60, clock=lambda: now[0])
    for number in range(1000):
        repeats.say(logging.WARNING, f"line {number}")
    assert caplog.messages == [*(f"line {number}" for number in range(100)), OTHERS]
    now[0] = 60
    repeats.say(logging.WARNING, "something new")
    assert caplog.messages[-1] == "something new"
    assert len(repeats._texts) <= 101
