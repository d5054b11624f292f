"""The model behind docs/operating/sizing.md: steps a second → replicas, shards and cores. Fitted to result files. Pure.

The assumptions:

- A step costs each part `base + commit * x` of CPU, where `x` is the number of commits for a step: the larger the groups, the
  less a step costs.
- `x` follows from the load of a replica: while one commit is under way, what arrives shares the next. It is read off the points
  measured with a load that came by the clock, one replica and one shard, never beyond them. With several shards, a replica
  commits to each of them as often as it would to one.
- Commits fill the time that the core of a replica leaves. A replica whose core is full commits more rarely, and its groups
  grow. So what a replica carries is what it carries with the largest groups, and a core that is busy is not yet a bound.
- Each further replica adds a fixed cost to every commit, since a commit that ends flows tells all others so by one message. It
  is what several replicas cost more than one with the load of each of them, where no step shares a commit.
- Nothing is shared between shards, and no part has a bound but its cores and, for PostgreSQL, what its disk takes of the log.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from .fitting import Line, fit_cost, fit_slope
from .result import Arm, Case, Figures, Run

LADDER = (100, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Steps a second of the table."""
WORKER, SDK_WORKER = "plain worker", "SDK worker"
COMMITS = "commits"
FITTED = ("engine", "database", "nats", WORKER, SDK_WORKER)
_SINGLE, _SEVERAL = ("capacity", "offered"), ("coordination",)
UNGROUPED = 1.0
"""Commits for a step from which steps share none, so that what replicas cost each other is not mixed with smaller groups."""
MOST_REPLICAS = 1_000
LEAST_LOADS = 3
"""Points that a law of the load takes."""


class Point(NamedTuple):
    """The median of an arm's rounds. `x`: commits for a step. `offered`: its load came by the clock, below what it carries."""

    label: str
    steps_per_s: float
    x: float
    replicas: int
    shards: int
    cpu_us: dict[str, float]
    wal_bytes: float | None
    offered: bool = False
    case: str = ""

    @property
    def several(self) -> bool:
        """True if there were several replicas or shards."""
        return self.replicas > 1 or self.shards > 1

    @property
    def load(self) -> float:
        """Steps a second of each replica."""
        return self.steps_per_s / self.replicas


@dataclass(slots=True, frozen=True)
class Bounds:
    """An operator's bounds: the share of its capacity that a part is planned with; cores and log of one database server."""

    utilisation: float = 0.6
    database_cores: int = 8
    log_mb_per_s: float = 60.0


class Need(NamedTuple):
    """The needs of a load: cores in use, the log of all shards. `bound`: the part that calls for more than one shard."""

    steps_per_s: float
    replicas: int
    shards: int
    database_cores: float
    log_mb_per_s: float
    nats_cores: float
    workers: int
    sdk_workers: int
    commits_per_s: float
    bound: str


class Residual(NamedTuple):
    """A measured figure and what the model says in its place."""

    point: Point
    part: str
    measured: float
    modelled: float

    @property
    def share(self) -> float:
        """`0.1`: the model says ten per cent more."""
        return self.modelled / self.measured - 1


@dataclass(slots=True)
class Model:
    """Costs in microseconds of CPU a step, by part (`FITTED`)."""

    costs: dict[str, Line]
    wal: Line
    """Bytes of the write-ahead log a step."""
    commits: list[tuple[float, float]]
    """Measured with one replica on one shard: `(steps/s, commits for a step)`, by load."""
    told: dict[str, float] = field(default_factory=dict)
    """The cost that each further replica adds to a commit, of the parts for which that was measured."""
    fewest: float = 0.0
    """Commits for a step in the largest groups measured."""

    def commits_per_step(self, load: float, replicas: int = 1, shards: int = 1) -> float:
        """The commits for a step that the load of a replica gives, at most what time its core leaves for them."""
        wanted = min(self.commits[0][1], shards * self._with_one_shard(load))
        base = self.costs["engine"].base
        commit = self.cost("engine", 1, replicas) - base
        return max(min(shards * self.fewest, wanted), min(wanted, (1e6 / load - base) / commit)) if commit else wanted

    def _with_one_shard(self, load: float) -> float:
        """Between two measured loads on a line of logarithms; beyond those measured, as at the nearest."""
        points = self.commits
        if load <= points[0][0]:
            return points[0][1]
        for (low, x_low), (high, x_high) in pairwise(points):
            if load <= high:
                share = math.log(load / low) / math.log(high / low)
                return math.exp(math.log(x_low) * (1 - share) + math.log(x_high) * share)
        return points[-1][1]

    def cost(self, part: str, x: float, replicas: int = 1) -> float:
        """Microseconds of CPU a step of one part."""
        return self.costs[part].at(x) + self.told.get(part, 0.0) * (replicas - 1) * x

    def capacity(self, replicas: int = 1, shards: int = 1) -> float:
        """Steps a second of a replica that has a core to itself, one of so many, with the largest groups."""
        return 1e6 / self.cost("engine", shards * self.fewest, replicas)

    def need(self, steps_per_s: float, bounds: Bounds) -> Need:
        """The needs of a load in steps a second: the fewest shards, and for them the fewest replicas.

        Raises `ValueError` if no number of replicas does.
        """
        shards, bound = 1, ""
        while True:
            found, limits = self._with_shards(steps_per_s, shards, bounds)
            if not limits:
                return found._replace(bound=bound)
            shards, bound = shards + 1, limits

    def _with_shards(self, steps_per_s: float, shards: int, bounds: Bounds) -> tuple[Need, str]:
        """The need with so many shards, and what is too much for them, if anything."""
        replicas = self._replicas(steps_per_s, shards, bounds.utilisation)
        x = self.commits_per_step(steps_per_s / replicas, replicas, shards)

        def cores(part: str) -> float:
            return steps_per_s * self.cost(part, x, replicas) / 1e6

        log = steps_per_s * self.wal.at(x) / 1e6
        limits = []
        if log / shards > bounds.log_mb_per_s:
            limits.append("log")
        if cores("database") / shards > bounds.utilisation * bounds.database_cores:
            limits.append("cores of PostgreSQL")
        workers, sdk_workers = (math.ceil(cores(part) / bounds.utilisation) for part in (WORKER, SDK_WORKER))
        need = Need(
            steps_per_s,
            replicas,
            shards,
            cores("database"),
            log,
            cores("nats"),
            workers,
            sdk_workers,
            steps_per_s * x,
            "",
        )
        return need, " and ".join(limits)

    def _replicas(self, steps_per_s: float, shards: int, utilisation: float) -> int:
        """The fewest that have no more to do than that share of what they carry."""
        for replicas in range(1, MOST_REPLICAS + 1):
            if steps_per_s / replicas <= utilisation * self.capacity(replicas, shards):
                return replicas
        raise ValueError(f"{steps_per_s:,.0f} steps a second are more than {MOST_REPLICAS} replicas carry")

    def residuals(self, points: Sequence[Point]) -> Iterator[Residual]:
        """The model against each point: costs at the number of commits that was measured there, and that number."""
        for point in points:
            if point.offered:
                modelled = self.commits_per_step(point.load, point.replicas, point.shards)
                yield Residual(point, COMMITS, point.x, modelled)
            for part, measured in point.cpu_us.items():
                if part in self.costs:
                    yield Residual(point, part, measured, self.cost(part, point.x, point.replicas))


def points_of(runs: Iterable[Run]) -> list[Point]:
    """The points of these runs: arms of the cases that are measured for this."""
    return [
        point
        for run in runs
        for case in run.cases
        if case.name in (*_SINGLE, *_SEVERAL)
        for arm in case.arms
        if (point := _point(case, arm)) is not None
    ]


def fit(points: Sequence[Point]) -> Model:
    """The model of these points. Raises `ValueError` if there are too few, or a part was not measured."""
    alone = [point for point in points if point.case.startswith(_SINGLE)]
    if len(alone) < LEAST_LOADS:
        raise ValueError("the model needs at least three loads of one replica on one shard: run the case capacity")
    costs = {}
    for part in FITTED:
        measured = [(point.x, point.cpu_us[part]) for point in alone if part in point.cpu_us]
        if not measured:
            raise ValueError(f"none of the runs has measured the CPU time of the part {part}")
        costs[part] = fit_cost(measured)
    logged = [(point.x, point.wal_bytes) for point in alone if point.wal_bytes is not None]
    if not logged:
        raise ValueError("none of the runs has measured the write-ahead log")
    told = {part: fit_slope(added) for part in costs if (added := list(_added(points, part)))}
    offered = [point for point in alone if point.offered]
    commits = _falling(sorted((point.load, point.x) for point in (offered if len(offered) >= LEAST_LOADS else alone)))
    return Model(costs, fit_cost(logged), commits, told, min(point.x for point in alone))


def _added(points: Sequence[Point], part: str) -> Iterator[tuple[float, float]]:
    """Further replicas, and what a commit costs more with them than with one replica that has the load of each of them.

    Only where no step shares a commit: then nothing else makes a difference.
    """
    ungrouped = [point for point in points if point.x >= UNGROUPED and part in point.cpu_us and point.shards == 1]
    for one in (point for point in ungrouped if point.replicas == 1):
        for point in ungrouped:
            if point.case == one.case and point.replicas > 1 and math.isclose(point.load, one.load, rel_tol=0.1):
                yield point.replicas - 1, (point.cpu_us[part] - one.cpu_us[part]) / point.x


def _falling(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Loads and commits a step, which fall with the load: neighbours that do not are drawn together (means of logarithms)."""
    pools: list[list[tuple[float, float]]] = []
    for point in points:
        pools.append([point])
        while len(pools) > 1 and _middle(pools[-2])[1] <= _middle(pools[-1])[1]:
            last = pools.pop()
            pools[-1] += last
    return [_middle(pool) for pool in pools]


def _middle(pool: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.geometric_mean(load for load, _ in pool), statistics.geometric_mean(x for _, x in pool)


def _point(case: Case, arm: Arm) -> Point | None:
    rounds = [one for one in arm.rounds if one.groups_per_step]
    if not rounds:
        return None

    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    rate, x = arm.median(_rate), median(one.groups_per_step for one in rounds)
    assert x is not None
    cpu = {part: statistics.median(arm.costs(part)) for part in ("engine", "database", "nats") if arm.costs(part)}
    if workers := arm.costs("workers"):
        cpu[SDK_WORKER if arm.sdk_worker else WORKER] = statistics.median(workers)
    wal = median(arm.measured("wal_bytes_per_step"))
    return Point(f"{case.key}, {arm.name}", rate, x, arm.replicas, arm.shards, cpu, wal, case.offered, case.key)


def _rate(figures: Figures) -> float:
    return figures.steps_per_s
