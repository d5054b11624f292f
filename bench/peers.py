"""Other engines as arms: on the same PostgreSQL in the same run, from a virtual environment that is made on demand."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from . import peer
from .arms import Servers, Sides, per_step
from .children import ROOT, Child, Failed
from .result import Arm, Figures

CONSTRAINTS = ROOT / "bench" / "peers-constraints.txt"
_HOME = ROOT / ".bench-venv"
_WANTED = (
    "dbos", "langgraph", "langgraph-checkpoint-postgres", "psycopg[binary]", "orjson", "matplotlib",
    "restate-sdk", "hypercorn", "aiohttp", "temporalio",
)  # fmt: skip
_NAMED = ("dbos", "langgraph", "langgraph-checkpoint-postgres", "restate-sdk", "temporalio")
_INSTALL_SECONDS = 600
SLOWER = 5
"""The flows of ours for one of theirs, so that rounds take about the same time."""
_LEAST = 100
WARM_UP_SECONDS, ROUND_SECONDS = 1.0, 2.0
"""After so long no further flow of theirs is started in a round: the slowest would take a minute otherwise."""


def flows_of_peers(flows: int, concurrency: int) -> int:
    """Of a round, where ours runs `flows`."""
    return max(flows // SLOWER, concurrency, _LEAST)


def pinned() -> dict[str, str]:
    """The versions of the other engines, and of their SDKs."""
    lines = [line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    return {name: version for name, version in lines if name in _NAMED}


async def environment() -> str:
    """The interpreter of the peers' environment, which is made or made anew when its pinned versions change."""
    stamp, wanted = _HOME / ".installed", hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    python = str(_HOME / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != wanted:
        await _run(sys.executable, "-m", "venv", "--clear", str(_HOME))
        await _run(
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--constraint", str(CONSTRAINTS), *_WANTED,
        )  # fmt: skip
        stamp.write_text(wanted)
    return python


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=sys.stderr)
    try:
        async with asyncio.timeout(_INSTALL_SECONDS):
            code = await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if code:
        raise Failed(f"{' '.join(command[:4])} ended with code {code}")


async def draw(out: Path, results: Sequence[Path]) -> None:
    """One picture of result files, drawn in that environment. Raises `Failed`."""
    await _run(await environment(), str(ROOT / "bench" / "plot.py"), str(out), *map(str, results))


class PeerArm:
    """One other engine, on a database of its own."""

    def __init__(self, which: str, servers: Servers, sides: Sides) -> None:
        self.figures = Arm(which)
        self._which = which
        self._servers = servers
        self._sides = sides
        self._stack = AsyncExitStack()
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        python = await environment()
        database = f"dwarf_bench_{secrets.token_hex(4)}"
        try:
            admin = await asyncpg.connect(self._servers.dsn)
            self._stack.push_async_callback(admin.close)
            await admin.execute(f'create database "{database}"')
            self._stack.push_async_callback(admin.execute, f'drop database "{database}" with (force)')
            dsn = self._servers.dsn.rsplit("/", 1)[0] + f"/{database}"
            arguments = (self._which, "--dsn", dsn, "--steps", str(self._sides.steps))
            self._child = await self._stack.enter_async_context(Child(peer.__name__, *arguments, executable=python))
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
        assert self._child is not None
        await self._child.ask(flows=flows_of_peers(0, concurrency), concurrency=concurrency, seconds=WARM_UP_SECONDS)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run so many flows, divided by `SLOWER`. Its CPU counts as the engine's: client and tasks are in the same process."""
        assert self._child is not None
        before = self._database_cpu()
        done = await self._child.ask(
            flows=flows_of_peers(flows, concurrency), concurrency=concurrency, seconds=ROUND_SECONDS
        )
        after = self._database_cpu()
        before["engine"], after["engine"] = 0.0, done["cpu"]
        steps = done["flows"] * self._sides.steps
        return Figures(
            done["flows"], steps, done["seconds"], steps / done["seconds"], done["p50_ms"], done["p99_ms"],
            cpu_us=per_step(before, after, steps),
        )  # fmt: skip

    def _database_cpu(self) -> dict[str, float]:
        return {part: seconds for part, seconds in self._servers.cpu().items() if part == "database"}
