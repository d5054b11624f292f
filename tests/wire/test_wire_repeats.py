"""Log lines that come often are summed up."""

from __future__ import annotations

import logging

import pytest

from dwarf_nats.repeats import OTHERS, Repeats


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
    assert len(repeats._told) <= 101
