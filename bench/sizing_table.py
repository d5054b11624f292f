"""The tables of docs/operating/sizing.md, from the model, and where they stand in the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from .result import Arm, Case, Figures, Run, p50, throughput
from .sizing import COMMITS, FITTED, LADDER, Bounds, Model, Need, Point, Residual, fit, points_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operating" / "sizing.md"
MEASURED_RUNS = Path(__file__).with_name("measured")
"""The folder of the runs behind the page."""
MEASURED, EXTRAPOLATED = "measured", "extrapolated"
"""The parts of the page that are written."""


def sections(runs: Sequence[Run], bounds: Bounds, ladder: Sequence[int] = LADDER) -> dict[str, str]:
    """The text of each part. Raises `ValueError` if the runs do not have what the model needs."""
    points = points_of(runs)
    model = fit(points)
    return {
        MEASURED: "\n\n".join(
            filter(None, (_capacity(runs), _coordination(runs), _database(runs), _residuals(model, points)))
        ),
        EXTRAPOLATED: "\n\n".join((_needs([model.need(rate, bounds) for rate in ladder]), _costs(model))),
    }


def renewed(page: str, parts: dict[str, str]) -> str:
    """The page with its parts written anew. Raises `ValueError` if it has no place for one."""
    for name, text in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no lines {begin} and {end}")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


def _needs(needs: Iterable[Need]) -> str:
    rows = [
        (
            f"{one.steps_per_s:,.0f}",
            "1, and one to spare" if one.replicas == 1 else f"{one.replicas:,}",
            f"{one.shards}" + (f" ({one.bound})" if one.bound else ""),
            _short(one.database_cores),
            f"{_short(one.log_mb_per_s)} MB/s",
            f"{one.commits_per_s:,.0f}",
            _short(one.nats_cores),
            f"{one.sdk_workers} ({one.workers})",
        )
        for one in needs
    ]
    head = (
        "steps/s",
        "replicas",
        "shards",
        "PostgreSQL: cores",
        "log",
        "commits/s",
        "NATS: cores",
        "worker processes: SDK (plain)",
    )
    return _table(head, rows)


def _costs(model: Model) -> str:
    rows = [
        (
            part,
            f"{line.base:.1f}",
            f"{line.slope:.0f}",
            f"{model.told[part]:.1f}" if part in model.told else "not measured",
        )
        for part, line in ((part, model.costs[part]) for part in FITTED)
    ]
    rows.append(("write-ahead log, bytes", f"{model.wal.base:,.0f}", f"{model.wal.slope:,.0f}", ""))
    return _table(("µs of CPU", "a step", "a commit", "a commit, for each further replica"), rows)


def _capacity(runs: Sequence[Run]) -> str:
    """A row for each number of flows at once, with every part as it was alone on a core."""
    rows = []
    for case in sorted(_cases(runs, ("capacity",)), key=lambda case: case.concurrency):
        alone = {(arm.alone, arm.sdk_worker): arm for arm in case.arms}
        if not alone.keys() >= {("engine", False), ("database", False), ("nats", False), ("workers", True)}:
            continue
        engine = alone["engine", False]
        rows.append(
            (
                f"{case.concurrency:,}",
                f"{engine.median(throughput):,.0f}",
                f"{statistics.median(engine.measured('core_percent')):.0f}",
                f"{1 / engine.median(_commits):.1f}",
                *(_cost(alone[part, False], part) for part in ("engine", "database", "nats")),
                f"{_cost(engine, 'workers')}, {_cost(alone['workers', True], 'workers')}",
                f"{statistics.median(engine.measured('wal_bytes_per_step')):,.0f}",
            )
        )
    head = (
        "flows at once",
        "steps/s",
        "replica: % of its core",
        "steps a commit",
        "replica",
        "PostgreSQL",
        "NATS",
        "worker: plain, SDK",
    )
    return _table((*head, "log, bytes a step"), rows) if rows else ""


def _coordination(runs: Sequence[Run]) -> str:
    rows = [
        (
            "offered" if case.offered else f"{case.concurrency} at once",
            arm.name,
            f"{arm.median(throughput):,.0f}",
            f"{arm.median(p50):.0f}",
            f"{1 / arm.median(_commits):.1f}",
            f"{arm.median(lambda one: one.round_trips_per_step or 0):.3f}",
            *(_cost(arm, part) for part in ("engine", "database", "nats", "workers")),
        )
        for case in _cases(runs, ("coordination", "cores"))
        for arm in case.arms
    ]
    head = (
        "load",
        "arm",
        "steps/s",
        "p50 ms",
        "steps a commit",
        "statements a step",
        "replicas",
        "PostgreSQL",
        "NATS",
        "workers",
    )
    return _table(head, rows) if rows else ""


def _cost(arm: Arm, part: str) -> str:
    return f"{statistics.median(arm.costs(part)):.0f}" if arm.costs(part) else ""


def _commits(figures: Figures) -> float:
    return figures.groups_per_step or 0.0


def _database(runs: Sequence[Run]) -> str:
    rows = [
        (
            case.key,
            arm.name,
            f"{arm.median(throughput):,.0f}",
            f"{arm.median(lambda one: one.steps_per_s * (one.transactions_per_step or 0)):,.0f}",
            f"{statistics.median(arm.costs('database')):.1f}",
            f"{statistics.median(arm.measured('core_percent')):.0f}",
            f"{statistics.median(arm.measured('wal_bytes_per_step')) * arm.median(throughput) / 1e6:.1f}",
        )
        for case in _cases(runs, ("database", "shards"))
        for arm in case.arms
    ]
    head = ("case", "arm", "steps/s", "commits/s", "PostgreSQL µs a step", "% of a core", "log MB/s")
    return _table(head, rows) if rows else ""


def _residuals(model: Model, points: Sequence[Point]) -> str:
    residuals = list(model.residuals(points))
    rows = []
    for part in (*FITTED, COMMITS):
        row = [part]
        for several in (False, True):
            shares = [abs(one.share) for one in residuals if one.part == part and one.point.several is several]
            row += [f"{statistics.median(shares):.0%}, {max(shares):.0%}", f"{len(shares)}"] if shares else ["", ""]
        rows.append(row)
    head = ("error of the model: median, largest", "one replica, one shard", "points", "several", "points")
    return _table(head, rows)


def worst(model: Model, points: Sequence[Point], count: int) -> list[Residual]:
    """The residuals that are furthest off, for people."""
    return sorted(model.residuals(points), key=lambda one: -abs(one.share))[:count]


def _cases(runs: Iterable[Run], names: Sequence[str]) -> Iterable[Case]:
    return (case for run in runs for case in run.cases if case.name in names)


def _short(value: float) -> str:
    return f"{math.ceil(value * 10) / 10:.1f}" if value < 10 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
