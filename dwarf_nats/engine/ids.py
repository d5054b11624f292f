"""Ids in blocks from the database's sequence, so that a settlement knows its successors' ids before it is written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import Store


class Ids:
    """Ids of one kind on one shard. `take` is synchronous; `ensure` before it awaits a block when there is none left."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store = store
        self._kind = kind
        self._next = self._end = 0
        self._lock = asyncio.Lock()

    @property
    def left(self) -> int:
        return self._end - self._next

    async def ensure(self) -> None:
        """Have at least one id. Raises `Unavailable`."""
        while self._next >= self._end:
            async with self._lock:
                if self._next >= self._end:
                    first, count = await self._store.next_ids(self._kind)
                    self._next, self._end = first, first + count

    def take(self) -> int:
        if self._next >= self._end:
            raise RuntimeError("no id left: call ensure() first")
        self._next += 1
        return self._next - 1
