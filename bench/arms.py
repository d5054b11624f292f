"""The arms of a case: the floor, and the service on one database. Each is started once and then runs round by round."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import asyncpg
import orjson

from . import load, serving
from .children import Child, Failed
from .others import Others
from .processes import cpu_of, pin
from .result import FLOOR, PARTS, Arm, Figures
from .shapes import Shape

_POLL_SECONDS = 0.02
Pins = dict[str, frozenset[int]]
"""Cores by part; a part that is missing may use all."""


@dataclass(slots=True)
class Servers:
    """The addresses of the servers. `pids`: by part, the ones that run here, whose CPU time can be read."""

    dsn: str
    nats: str
    folder: Path
    pids: dict[str, int] = field(default_factory=dict)
    _pinned: bool = False

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of each part that runs here, its children included."""
        spent = {part: cpu_of(pid) for part, pid in self.pids.items()}
        return {part: seconds for part, seconds in spent.items() if seconds is not None}

    def pin(self, pids: Mapping[str, Sequence[int]], pins: Pins) -> None:
        """Keep these processes and the servers on their cores, by part; on any core if their part is not in `pins`."""
        if not (pins or self._pinned):
            return
        self._pinned = True
        everywhere = os.sched_getaffinity(0)
        for part, numbers in (*pids.items(), *((part, (pid,)) for part, pid in self.pids.items())):
            for pid in numbers:
                pin(pid, pins.get(part, everywhere))


@dataclass(slots=True)
class Sides:
    """The choices for a whole run: steps a flow, the kind of task service, where a profile goes, what is recorded.

    `others`: the optional engines of the case with the peers.
    """

    steps: int = 10
    sdk_worker: bool = False
    profile: str = ""
    telemetry: str = "off"
    pipelined: bool = False
    others: Others = field(default_factory=Others)
    pins: Pins = field(default_factory=dict)


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
            per_step(before, self._servers.cpu(), steps)
            | {part: round(seconds / steps * 1e6, 2) for part, seconds in floor["cpu_s"].items()},
        )  # fmt: skip


class ServiceArm:
    """The whole service on databases of its own: client, replicas and task service in a process each."""

    def __init__(
        self,
        database: str,
        servers: Servers,
        sides: Sides,
        *load_arguments: str,
        name: str = "",
        shape: Shape | None = None,
        replicas: int = 1,
        shards: int = 1,
    ) -> None:
        self.figures = Arm(name or database, replicas=replicas, shards=shards, sdk_worker=sides.sdk_worker)
        self.shape = shape or Shape("pipelined" if sides.pipelined else "linear", sides.steps)
        self._servers = servers
        self._sides = sides
        self.flows_per_s = 0.0
        """Flows a second; 0: as many as the concurrency gives."""
        self._on_postgres = database == "postgresql"
        self._stack = AsyncExitStack()
        self._tag = tag = secrets.token_hex(4)
        self._databases = [f"dwarf_bench_{tag}_{shard}" for shard in range(1, shards + 1)]
        self._prefix = f"bench{tag}"
        self._common = ("--nats", servers.nats, "--prefix", self._prefix)
        self._task_prefix = ("--task-prefix", f"task{tag}")
        kind = "worker" if sides.sdk_worker else "tasks"
        self._workers = Child(serving.__name__, kind, *self._common, *self._task_prefix)
        self._replicas = [self._new_replica(number) for number in range(1, replicas + 1)]
        self._load = Child(load.__name__, *self._common, *self.shape.arguments, *load_arguments)
        self._admin: asyncpg.Connection | None = None
        self._steps = 0

    @property
    def dsns(self) -> list[str]:
        """One for each shard, as the harness reaches it."""
        if self._on_postgres:
            return [self._servers.dsn.rsplit("/", 1)[0] + f"/{database}" for database in self._databases]
        return [f"sqlite:///{self._servers.folder / database}.db" for database in self._databases]

    def _new_replica(self, number: int) -> Child:
        profile = f"{self._sides.profile}.{self.figures.name.replace(' ', '-')}.{self._tag}.{number}"
        return Child(
            serving.__name__, "replica", *self._common, *self._task_prefix,
            *(part for dsn in self._replica_dsns() for part in ("--dsn", dsn)),
            *(("--profile", profile) if self._sides.profile else ()), "--telemetry", self._sides.telemetry,
        )  # fmt: skip

    def _replica_dsns(self) -> list[str]:
        """As the replicas reach them."""
        return self.dsns

    async def __aenter__(self) -> Self:
        try:
            if self._on_postgres:
                await self._make_databases()
            for child in (self._workers, *self._replicas, self._load):
                await self._stack.enter_async_context(child)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _make_databases(self) -> None:
        self._admin = await asyncpg.connect(self._servers.dsn)
        self._stack.push_async_callback(self._admin.close)
        for database in self._databases:
            await self._admin.execute(f'create database "{database}"')
            self._stack.push_async_callback(self._admin.execute, f'drop database "{database}" with (force)')
        # A connection's counts are in the statistics once it has gone, so this comes after the replica's end.
        self._stack.push_async_callback(self._count_transactions)

    async def _count_transactions(self) -> None:
        assert self._admin is not None
        leaving = "select count(*) from pg_stat_activity where datname = any($1) and backend_type = 'client backend'"
        for _ in range(500):
            if await self._admin.fetchval(leaving, self._databases) == 0:
                break
            await asyncio.sleep(0.01)
        commits = await self._admin.fetchval(
            "select sum(xact_commit)::bigint from pg_stat_database where datname = any($1)", self._databases
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
        self._pin()
        before = await self._read()
        done = await self._load.ask(flows=flows, concurrency=concurrency, rate=self.flows_per_s)
        after = await self._read()
        steps = done["flows"] * self.shape.steps
        self._steps += steps
        log = after.pop("log", 0.0) - before.pop("log", 0.0)
        groups = after.pop("groups") - before.pop("groups")
        members = after.pop("members") - before.pop("members")
        transactions = after.pop("transactions") - before.pop("transactions")
        round_trips = after.pop("round_trips") - before.pop("round_trips")
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
            per_step(before, after, steps),
            transactions_per_step=transactions / steps if self._on_postgres else None,
            round_trips_per_step=round_trips / steps if self._on_postgres else None,
            measures={"wal_bytes_per_step": round(log / steps)} if log else {},
        )

    def _pin(self) -> None:
        """Put the processes on their cores. The servers are those of other arms, too, so it is done for each round."""
        pids = {"workers": [self._workers.pid], "client": [self._load.pid]}
        self._servers.pin(pids | {"engine": [replica.pid for replica in self._replicas]}, self._sides.pins)

    async def rss_kib(self) -> float:
        """Memory of all replicas."""
        return sum([float((await replica.ask())["rss_kib"]) for replica in self._replicas])

    async def while_held(self, flows: int, seconds: float) -> float:
        """Start flows of the shape `held`, and read `rss_kib` when the tasks of all are in flight; then let them end.

        Raises `Failed` if they are not within `seconds`.
        """
        running = asyncio.create_task(self._load.ask(flows=flows, concurrency=flows))
        deadline = time.monotonic() + seconds
        while (held := (await self._workers.ask())["held"]) < flows and not running.done():
            if time.monotonic() > deadline:
                raise Failed(f"only {held} of {flows} tasks arrived within {seconds:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)
        found = await self.rss_kib()
        await self._workers.ask(release=True)
        await running
        return found

    async def _read(self) -> dict[str, float]:
        """Counters, and CPU seconds so far of each part."""
        engines: list[dict[str, float]] = [await replica.ask() for replica in self._replicas]
        found = {
            name: sum(engine[key] for engine in engines)
            for name, key in (*((one, one) for one in _COUNTED), ("engine", "cpu"))
        }
        found["workers"] = (await self._workers.ask())["cpu"]
        if self._admin is not None:
            found["log"] = float(await self._admin.fetchval(LOGGED))
        found.update(self._servers.cpu())
        return found


LOGGED = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
"""Bytes of the write-ahead log so far."""
_COUNTED = ("groups", "members", "transactions", "round_trips")


def per_step(before: dict[str, float], after: dict[str, float], steps: int) -> dict[str, float]:
    """Microseconds a step of each part, from CPU seconds."""
    return {part: round((after[part] - before[part]) / steps * 1e6, 2) for part in PARTS if part in after}
