"""One read for all who want the same: tabs share what they look at."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
MAX_KEPT_WEIGHT = 50_000
"""Steps of flows that have ended and are kept as they were read, in all."""
MAX_RESULTS = 256
"""Results that are kept for those who ask within their time."""


class SharedReads:
    """Joins equal reads that are under way, and gives a result to those who ask shortly after."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._results: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._generation = 0

    async def get(self, key: Hashable, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """The result of `read`, which runs at most once in `seconds` for one key. Errors are shared, but not kept."""
        loop = asyncio.get_running_loop()
        kept = self._results.get(key)
        if kept is not None and loop.time() - kept[0] < seconds:
            result: T = kept[1]
            return result
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = loop.create_task(self._read(key, read, self._generation))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)  # the read goes on for the others if this one gives up

    def clear(self) -> None:
        """Forget all results, because something was changed from here."""
        self._generation += 1
        self._results.clear()
        self._running.clear()

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[T]], generation: int) -> T:
        result = await read()
        if generation == self._generation:  # else it may have been read before the change
            self._results[key] = (asyncio.get_running_loop().time(), result)
            self._results.move_to_end(key)
            if len(self._results) > MAX_RESULTS:
                self._results.popitem(last=False)
        return result

    def _forget(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        if self._running.get(key) is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()  # those who waited have it; nobody may be left


class Kept(Generic[T]):
    """Values that are good as long as a stamp stays the same; the least recently used ones are forgotten first."""

    def __init__(self, most: int = MAX_KEPT_WEIGHT) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, tuple[str, int, T]] = OrderedDict()

    def get(self, key: Hashable, stamp: str) -> T | None:
        """The value that was kept with this stamp."""
        found = self._values.get(key)
        if found is None or found[0] != stamp:
            return None
        self._values.move_to_end(key)
        return found[2]

    def put(self, key: Hashable, stamp: str, value: T, *, weight: int) -> None:
        """Keep a value. One that is too heavy is not kept."""
        self._values.pop(key, None)
        self._values[key] = (stamp, weight, value)
        while sum(one for _, one, _ in self._values.values()) > self._most:
            self._values.popitem(last=False)
