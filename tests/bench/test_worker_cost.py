"""The measurement of a worker runs. What it finds is no matter of tests."""

from __future__ import annotations

import pytest

from bench.worker import measure

pytestmark = pytest.mark.slow


async def test_the_steps_of_every_size_of_message_are_answered() -> None:
    found = await measure([64, 1], steps=256, rounds=1)
    assert list(found) == ["64", "1", "alone"]
    assert all(cost >= 0 for cost in found.values())
