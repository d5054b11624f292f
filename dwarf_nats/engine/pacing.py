"""The pace of work on many flows, such as bulk operations and removals, beside the steps of other flows (M1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dwarf_nats.rules import pacing

T = TypeVar("T")
R = TypeVar("R")


class Pace:
    """The pace of one shard on this replica: one group of members at a time, a rest after it while others are at work.

    `settled`: counts the steps that were settled, and flows that were made. `steps_per_flow`: how many steps flows ran here
    on average. The size of a group follows from the time that groups take.
    """

    def __init__(self, settled: Callable[[], int], steps_per_flow: Callable[[], float]) -> None:
        self._settled = settled
        self._steps_per_flow = steps_per_flow
        self._seen, self._seen_at = settled(), time.perf_counter()
        self._turn = asyncio.Lock()
        self._started_steps = 0.0
        """The work of the flows of the last group in steps, which are not settled for others."""
        self._awaited_steps = 0.0
        """Those of these steps that are settled sooner or later."""
        self._had_steps = 0.0
        self.room = pacing.room_for_started(0.0)
        """Steps a second that started flows may run."""
        self.size = pacing.FIRST_GROUP
        """Units of work of the next group."""

    async def run(
        self,
        members: Sequence[T],
        work: Callable[[Sequence[T]], Awaitable[R]],
        *,
        weight: int = 1,
        starts: bool = False,
    ) -> tuple[int, R]:
        """Do `work` on as many of the first members as a group has; return how many, and its result.

        `weight`: the units of work for one member; one is that of a removal. `starts`: the members run afterwards.
        """
        async with self._turn:
            count = pacing.members_of_group(self.size, weight)
            if starts:
                count = min(count, pacing.members_started(self.room, self._steps_each()))
            group = members[:count]
            began = time.perf_counter()
            try:
                return len(group), await work(group)
            finally:
                took = time.perf_counter() - began
                self.size = pacing.next_size(self.size, len(group) * weight, took)
                if self._others_at_work():
                    self._started_steps = len(group) * self._steps_each() if starts else 0.0
                    self._awaited_steps = len(group) * self._had_steps if starts else 0.0
                    units = len(group) * weight
                    await asyncio.sleep(pacing.rest_seconds(units, took, self._started_steps, self.room))

    def had_steps(self, flows: int, steps: int) -> None:
        """Note that flows which are started anew had so many steps: they are taken to run as many again."""
        if flows:
            self._had_steps = steps / flows

    def _others_at_work(self) -> bool:
        """Tell whether anything was settled since the last group, and note how much of it for others."""
        settled, now = self._settled(), time.perf_counter()
        count, seconds = settled - self._seen, max(now - self._seen_at, 1e-3)
        self._seen, self._seen_at = settled, now
        others = max(0.0, count - self._started_steps) / seconds
        kept_up = count / self._awaited_steps if self._awaited_steps else 0.0
        self.room = pacing.next_room(self.room, others, kept_up)
        self._started_steps = self._awaited_steps = 0.0
        return count > 0

    def _steps_each(self) -> float:
        """Steps that a started flow is taken to cost."""
        return max(1.0, self._had_steps, self._steps_per_flow()) + pacing.START_STEPS
