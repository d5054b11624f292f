"""Run workers as a process: signals, threads, exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from dwarf_nats import event_loop
from dwarf_nats.collector import collect_seldom
from dwarf_nats.errors import DwarfError

log = logging.getLogger("dwarf_nats.worker")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServedWorker(Protocol):
    """A worker as this module needs it: `concurrency` is how many tasks it runs at once."""

    @property
    def concurrency(self) -> int:
        """The number of tasks it runs at once."""
        ...

    async def start_patiently(self) -> None:
        """Start, waiting for a NATS server if none answers. Raises what `Worker.start` raises for everything else."""

    async def stop(self) -> bool:
        """Stop; true if everything in flight was finished."""

    def halt(self) -> None:
        """Make a `stop` that is under way end at once."""


async def serve(*workers: ServedWorker, ready: Callable[[], object] | None = None) -> bool:
    """Run workers until SIGTERM or SIGINT, then stop them; a second signal stops them at once.

    Waits for a NATS server for ever. Gives the event loop one thread per concurrent task. `ready` is called when all of them
    serve. Returns whether every execution was finished.
    """
    loop = asyncio.get_running_loop()
    threads = sum(worker.concurrency for worker in workers)
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="dwarf-task"))
    stop_requested = asyncio.Event()

    def on_signal() -> None:
        if stop_requested.is_set():
            for worker in workers:
                worker.halt()
        stop_requested.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        if await _started(workers, stop_requested):
            if ready is not None:
                ready()
            await stop_requested.wait()
            log.info("finishing what is in hand; a second signal stops at once")
        return all(await asyncio.gather(*(worker.stop() for worker in workers)))
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _started(workers: tuple[ServedWorker, ...], stop_requested: asyncio.Event) -> bool:
    """Start all workers; returns false if the signal to stop comes first."""
    starting: asyncio.Future[list[None]] = asyncio.gather(*(worker.start_patiently() for worker in workers))
    stop = asyncio.ensure_future(stop_requested.wait())
    try:
        both: set[asyncio.Future[Any]] = {starting, stop}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        return False
    finally:
        starting.cancel()
        stop.cancel()
        await asyncio.gather(starting, stop, return_exceptions=True)


def run(*workers: ServedWorker, ready: Callable[[], object] | None = None) -> None:
    """Call `serve` on an event loop of its own. Ends the process with exit code 1 if an execution was not finished.

    Raises what `Worker.start` raises.
    """

    async def serving() -> None:
        if not await serve(*workers, ready=ready):
            # Threads cannot be ended, and an ordinary exit would wait for them.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(1)

    event_loop.run(serving())


def main(*workers: ServedWorker) -> None:
    """Serve with these workers until SIGTERM or SIGINT, and end the process.

    The exit code is 0 if every execution was finished, and 1 if not, or if a worker could not start.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run(*workers, ready=collect_seldom)
    except (DwarfError, TypeError) as error:
        log.error("%s", error)
        raise SystemExit(1) from None
    raise SystemExit(0)
