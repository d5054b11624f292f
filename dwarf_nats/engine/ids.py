"""Ids in blocks from the database's sequence, so that a settlement knows its successors' ids before it is written."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.steps import StepRef

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, IdSource
    from dwarf_nats.workflow.keys import Tokens


class NoneLeft(Exception):
    """No id is left: call `ensure` first."""


class Ids:
    """Ids of one kind on one shard. `take` is synchronous; `ensure` before it awaits blocks when there are too few left.

    Raises `NoneLeft` if more are taken than were ensured.
    """

    def __init__(self, source: IdSource, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._next = self._end = 0
        self._blocks: deque[tuple[int, int]] = deque()
        self._lock = asyncio.Lock()

    @property
    def left(self) -> int:
        return self._end - self._next + sum(count for _, count in self._blocks)

    async def ensure(self, wanted: int = 1) -> None:
        """Have at least `wanted` ids. Raises `Unavailable`."""
        if self._end - self._next >= wanted:
            return
        async with self._lock:
            while self.left < wanted:
                self._blocks.append(await self._source.next_ids(self._kind))

    def take(self) -> int:
        if self._next >= self._end:
            if not self._blocks:
                raise NoneLeft
            first, count = self._blocks.popleft()
            self._next, self._end = first, first + count
        self._next += 1
        return self._next - 1


class StepIds(Ids):
    """Ids of steps, with the tokens that go with them."""

    def __init__(self, source: IdSource, tokens: Tokens, clock: Clock) -> None:
        super().__init__(source, "step")
        self._tokens = tokens
        self._clock = clock

    def new(self) -> StepRef:
        """The id and token of a step that is about to be made. Raises `NoneLeft`."""
        return StepRef(self.take(), self._tokens())

    async def wait_for(self, wanted: int) -> None:
        """Have at least `wanted` ids, however long the database is away: an answer in flight outlives an outage (B6)."""
        failures = 0
        while True:
            try:
                return await self.ensure(wanted)
            except Unavailable:
                await self._clock.sleep(DATABASE_BACKOFF.delay(failures))
                failures += 1
