"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from dwarf_nats import event_loop

T = TypeVar("T")
STOP_SECONDS = 5.0
"""Time in which the thread ends once it is told to; it only closes what is open."""
LOOK_SECONDS = 1.0
"""Pause after which a waiting thread looks whether it was interrupted: a signal just before the wait wakes nobody."""
_END = object()


class LoopThread:
    """Runs coroutines for other threads, from its making until `stop`. Any number of threads may use it at once."""

    def __init__(self, name: str) -> None:
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result.

        An exception in the thread that waits, such as Ctrl-C, cancels the coroutine. Raises `RuntimeError` in the thread of the
        loop itself, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a synchronous client cannot be used in its own event loop: use dwarf_nats.Client there")
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                try:
                    return running.result(LOOK_SECONDS)
                except TimeoutError:
                    if running.done():  # its own, or it has ended this moment
                        return running.result()
        except BaseException:
            running.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Yield what an asynchronous iterator yields, each when it is asked for."""
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                self.run(items.aclose())

    def stop(self) -> None:
        """End the loop and its thread; what still runs there is cancelled."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_SECONDS)

    def _main(self) -> None:
        event_loop.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._started.set_result(asyncio.get_running_loop())
        await self._stop.wait()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)
