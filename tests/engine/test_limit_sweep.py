"""The pauses of the sweep of limits: short while many queues with room are left, else long (K1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from dwarf_nats.engine.limiting import sweep
from dwarf_nats.engine.limiting.sweep import LimitSweep
from dwarf_nats.rules.limiting import Count
from dwarf_nats.workflow.limit import Limit

LIMIT = Limit(name="few", task="work", by="fairnessKey", concurrency=1)


class Stubs:
    """A limiter of one shard, whose queues are `slots`; those in `full` have no room. `pauses`: those of the sweep."""

    def __init__(self, slots: int, full: int) -> None:
        self.slots = [f"few/{number:03}" for number in range(slots)]
        self.full = set(self.slots[:full])
        self.filled: set[str] = set()
        self.pauses: list[float] = []
        self.book = SimpleNamespace(active=True, by_name={"few": LIMIT})
        self.home = self
        self.number, self.limits = 1, self
        self.changed = asyncio.Event()
        self.swept = 0

    def opened(self) -> list[Any]:
        return [self]

    async def permits(self, _after: str, _number: int) -> list[Any]:
        self.swept += 1
        return []

    async def clear_stale(self, _after: int, _number: int) -> int:
        return 0

    async def queues(self, after: tuple[str, str], number: int) -> list[tuple[str, str]]:
        return [("few", one) for one in self.slots if ("few", one) > after][:number]

    async def counts(self, slots: Mapping[str, Limit]) -> dict[str, tuple[Count, int]]:
        return {slot: (Count(running=1, reserved=0, tokens=None, at=0), 0) for slot in slots if slot in self.full}

    def fill(self, slots: list[str]) -> None:
        self.filled.update(slots)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        assert seconds is not None
        self.pauses.append(seconds)
        return await event.wait()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == 4:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("full", "pauses"),
    [
        (0, [sweep.BRISK_SECONDS, sweep.BRISK_SECONDS, sweep.SWEEP_SECONDS, sweep.BRISK_SECONDS]),
        (12, [sweep.SWEEP_SECONDS] * 4),
    ],
    ids=["with room", "without"],
)
async def test_queues_with_room_are_gone_through_briskly_k1(
    full: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K1: two seconds a page would let 100,000 keys wait for minutes that may all begin; full ones are looked at seldom."""
    monkeypatch.setattr(sweep, "QUEUES_PAGE", 5)
    stubs: Any = Stubs(12, full)

    async def refresh() -> None:
        return None

    running = LimitSweep(stubs, refresh, stubs, logging.getLogger("test"))
    running.start()
    while len(stubs.pauses) < 4:
        await asyncio.sleep(0)
    await running.close()
    assert stubs.pauses == pauses
    assert len(stubs.filled) == 12 - full


async def test_a_sweep_that_rests_looks_again_when_a_limit_changes_k1() -> None:
    """A flow that ends while its limit is put may leave a permit behind, which only a sweep takes back."""
    stubs: Any = Stubs(0, 0)

    async def refresh() -> None:
        return None

    running = LimitSweep(stubs, refresh, stubs, logging.getLogger("test"))
    running.start()
    async with asyncio.timeout(10):
        while not stubs.pauses:
            await asyncio.sleep(0)
        assert (stubs.pauses, stubs.swept) == ([sweep.REST_SECONDS], 1)
        stubs.changed.set()
        while len(stubs.pauses) < 2:
            await asyncio.sleep(0)
    assert stubs.swept == 2
    await running.close()
