"""The arms of a case: the floor, and the service on one database. Each is started once and then runs round by round."""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import asyncpg
import orjson

from . import load, serving
from .children import Child, Failed
from .processes import cpu_of
from .result import FLOOR, PARTS, Arm, Figures


@dataclass(slots=True)
class Servers:
    """Where the servers are. `pids`: by part, the ones that run here, whose CPU time can be read."""

    dsn: str
    nats: str
    folder: Path
    pids: dict[str, int] = field(default_factory=dict)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of each part that runs here, its children included."""
        spent = {part: cpu_of(pid) for part, pid in self.pids.items()}
        return {part: seconds for part, seconds in spent.items() if seconds is not None}


@dataclass(slots=True)
class Sides:
    """What stays the same through a run: steps a flow, the kind of task service, where a profile goes."""

    steps: int = 10
    sdk_worker: bool = False
    profile: str = ""


class Runner(Protocol):
    """An arm that runs. `figures` holds what it found so far."""

    figures: Arm

    async def __aenter__(self) -> Runner: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def warm_up(self, concurrency: int) -> None: ...
    async def measure(self, concurrency: int, flows: int) -> Figures: ...


class FloorArm:
    """The yardstick, `floor.py`, as it is."""

    def __init__(self, servers: Servers, sides: Sides) -> None:
        self.figures = Arm(FLOOR)
        self._servers = servers
        self._sides = sides

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def warm_up(self, concurrency: int) -> None:
        """It starts anew each round."""

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run it once."""
        before = self._servers.cpu()
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("floor.py")), "--dsn", self._servers.dsn,
            "--nats", self._servers.nats, "--concurrency", str(concurrency), "--steps", str(self._sides.steps),
            "--flows", str(flows), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said, _ = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            raise
        if process.returncode or not said:
            raise Failed(f"floor.py ended with code {process.returncode}")
        floor = orjson.loads(said.splitlines()[-1])
        steps = floor["flows"] * floor["steps_per_flow"]
        return Figures(
            floor["flows"], steps, steps / floor["steps_per_s"], floor["steps_per_s"], floor["flow_p50_ms"],
            floor["flow_p99_ms"], floor["mean_batch"], 1 / floor["mean_batch"],
            _per_step(before, self._servers.cpu(), steps),
        )  # fmt: skip


class ServiceArm:
    """The whole service on one database of its own: client, replica and task service in a process each."""

    def __init__(self, name: str, servers: Servers, sides: Sides, *load_arguments: str) -> None:
        self.figures = Arm(name)
        self._servers = servers
        self._sides = sides
        self._on_postgres = name == "postgresql"
        self._stack = AsyncExitStack()
        tag = secrets.token_hex(4)
        self._database = f"dwarf_bench_{tag}"
        self._prefix = prefix = f"bench{tag}"
        task_prefix = f"task{tag}"
        common = ("--nats", servers.nats, "--prefix", prefix)
        kind = "worker" if sides.sdk_worker else "tasks"
        profile = ("--profile", f"{sides.profile}.{name}.{tag}") if sides.profile else ()
        self._dsn = (
            servers.dsn.rsplit("/", 1)[0] + f"/{self._database}"
            if self._on_postgres
            else f"sqlite:///{servers.folder / self._database}.db"
        )
        self._workers = Child(serving.__name__, kind, *common, "--task-prefix", task_prefix)
        self._replica = Child(
            serving.__name__, "replica", *common, "--task-prefix", task_prefix, "--dsn", self._dsn, *profile
        )
        self._load = Child(load.__name__, *common, "--steps", str(sides.steps), *load_arguments)
        self._admin: asyncpg.Connection | None = None
        self._steps = 0

    async def __aenter__(self) -> Self:
        try:
            if self._on_postgres:
                await self._make_database()
            for child in (self._workers, self._replica, self._load):
                await self._stack.enter_async_context(child)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _make_database(self) -> None:
        self._admin = await asyncpg.connect(self._servers.dsn)
        self._stack.push_async_callback(self._admin.close)
        await self._admin.execute(f'create database "{self._database}"')
        self._stack.push_async_callback(self._admin.execute, f'drop database "{self._database}" with (force)')
        # A connection's counts are in the statistics once it has gone, so this comes after the replica's end.
        self._stack.push_async_callback(self._count_transactions)

    async def _count_transactions(self) -> None:
        assert self._admin is not None
        leaving = "select count(*) from pg_stat_activity where datname = $1 and backend_type = 'client backend'"
        for _ in range(500):
            if await self._admin.fetchval(leaving, self._database) == 0:
                break
            await asyncio.sleep(0.01)
        commits = await self._admin.fetchval(
            "select xact_commit from pg_stat_database where datname = $1", self._database
        )
        if self._steps:
            self.figures.transactions_per_step = round(commits / self._steps, 4)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def warm_up(self, concurrency: int) -> None:
        """Plans cached, code paths taken, tables no longer empty."""
        await self.measure(concurrency, max(20, concurrency))

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run so many flows."""
        before = await self._read()
        done = await self._load.ask(flows=flows, concurrency=concurrency)
        after = await self._read()
        steps = done["flows"] * self._sides.steps
        self._steps += steps
        groups = after.pop("groups") - before.pop("groups")
        members = after.pop("members") - before.pop("members")
        before["client"], after["client"] = 0.0, done["cpu"]
        return Figures(
            done["flows"],
            steps,
            done["seconds"],
            steps / done["seconds"],
            done["p50_ms"],
            done["p99_ms"],
            members / groups if groups else None,
            groups / steps,
            _per_step(before, after, steps),
        )

    async def _read(self) -> dict[str, float]:
        """Counters, and CPU seconds so far of each part."""
        engine: dict[str, Any] = await self._replica.ask()
        found = {"groups": engine["groups"], "members": engine["members"], "engine": engine["cpu"]}
        found["workers"] = (await self._workers.ask())["cpu"]
        found.update(self._servers.cpu())
        return found


def _per_step(before: dict[str, float], after: dict[str, float], steps: int) -> dict[str, float]:
    """Microseconds a step of each part, from CPU seconds."""
    return {part: round((after[part] - before[part]) / steps * 1e6, 2) for part in PARTS if part in after}
