"""Other engines with a server of their own as arms: server, workers and client in a process each, as with ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from dwarf_nats.child_process import ChildProcess

from .arms import Servers, Sides, per_step
from .children import Child, Failed
from .peers import ROUND_SECONDS, WARM_UP_SECONDS, flows_of_peers
from .processes import cpu_of
from .result import Arm, Figures

ROUND_AT_MOST = 120.0
"""A round that has not ended by then hangs: an engine that loses a call waits for ever."""
_UP_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(slots=True, frozen=True)
class Started:
    """An engine that runs. `pids`: by part, whose CPU time is read; `on_database`: it stores in the run's PostgreSQL."""

    client: Child
    pids: dict[str, int]
    on_database: bool = False


Start = Callable[[AsyncExitStack], Awaitable[Started]]
"""Starts it; what must be ended afterwards goes onto the stack."""


class ServedArm:
    """One such engine in one shape."""

    def __init__(self, name: str, servers: Servers, sides: Sides, start: Start) -> None:
        self.figures = Arm(name)
        self._servers = servers
        self._sides = sides
        self._start = start
        self._stack = AsyncExitStack()
        self._started: Started | None = None

    async def __aenter__(self) -> Self:
        try:
            self._started = await self._start(self._stack)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def warm_up(self, concurrency: int) -> None:
        """Connections made, code paths taken."""
        await self._run(0, concurrency, WARM_UP_SECONDS)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """As `PeerArm.measure`, by process."""
        before = self._cpu()
        done = await self._run(flows, concurrency, ROUND_SECONDS)
        after = self._cpu()
        before["client"], after["client"] = 0.0, done["cpu"]
        steps = done["flows"] * self._sides.steps
        return Figures(
            done["flows"], steps, done["seconds"], steps / done["seconds"], done["p50_ms"], done["p99_ms"],
            cpu_us=per_step(before, after, steps),
        )  # fmt: skip

    async def _run(self, flows: int, concurrency: int, seconds: float) -> dict[str, Any]:
        assert self._started is not None
        flows = flows_of_peers(flows, concurrency)
        try:
            async with asyncio.timeout(ROUND_AT_MOST):
                done: dict[str, Any] = await self._started.client.ask(
                    flows=flows, concurrency=concurrency, seconds=seconds
                )
        except TimeoutError:
            raise Failed(f"{self.figures.name} did not finish a round within {ROUND_AT_MOST:.0f} s") from None
        return done

    def _cpu(self) -> dict[str, float]:
        """CPU seconds so far of each part; the server's count as the engine's."""
        assert self._started is not None
        spent = {part: cpu_of(pid) for part, pid in self._started.pids.items()}
        found = {part: seconds for part, seconds in spent.items() if seconds is not None}
        if self._started.on_database:
            found |= {part: seconds for part, seconds in self._servers.cpu().items() if part == "database"}
        return found


async def until_connected(
    name: str, ports: Iterable[int], process: ChildProcess | None = None, host: str = "127.0.0.1"
) -> None:
    """Wait until a server takes connections. Raises `Unavailable` if its process ends, `Failed` if it takes too long."""
    for port in ports:
        try:
            async with asyncio.timeout(_UP_SECONDS):
                while not await _connects(host, port):
                    if process is not None:
                        process.check_alive()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Failed(f"{name} did not take connections on {host}:{port} within {_UP_SECONDS:.0f} s") from None


async def _connects(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def free_ports(number: int) -> list[int]:
    """Different ports on loopback that nobody listens on now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
