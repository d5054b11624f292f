"""All engines side by side: of the case `peers`, and of runs elsewhere whose figures are quoted. Pure, but for one path.

The quoted figures are a result file, too (`engines.json`): its command says how they were measured. A row is an engine in
one shape, at the concurrency at which it made most steps a second; its p50 is from the case with one flow at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .result import PARTS, Arm, Case, Run, is_peer, p50, throughput

QUOTED = Path(__file__).with_name("engines.json")
MARK = "†"
NAMES = {
    "postgresql": "dwarf-nats, PostgreSQL",
    "sdk-worker": "dwarf-nats, PostgreSQL, SDK worker",
    "pipelined": "dwarf-nats, PostgreSQL, pipelined",
    "sqlite": "dwarf-nats, SQLite",
    "postgresql-then": "dwarf-nats, PostgreSQL, beside the quoted",
    "restate-typescript": "Restate, `ctx.run`, TypeScript",
    "restate-python": "Restate, `ctx.run`, Python",
    "restate-go": "Restate, `ctx.run`, Go",
    "restate-typescript-chained": "Restate, chained handlers, TypeScript",
    "restate-python-chained": "Restate, chained handlers, Python",
    "restate-go-chained": "Restate, chained handlers, Go",
    "langgraph": "LangGraph, async",
    "langgraph-sync": "LangGraph, sync",
    "dbos-sync": "DBOS, sync",
    "dbos": "DBOS, async",
    "temporal-local": "Temporal, local activities, Python",
    "temporal": "Temporal, activities, Python",
    "temporal-go-local": "Temporal, local activities, Go",
    "temporal-go": "Temporal, activities, Go",
    "dagnats-go": "DagNats, Go",
}
"""By arm, in the order in which they are shown; others come after them."""


class Row(NamedTuple):
    """One engine in one shape. `at`: flows at once; `p50_ms`: of one flow alone, if that was measured."""

    name: str
    ours: bool
    quoted: bool
    steps_per_s: float
    at: int
    p50_ms: float | None
    cpu_us: dict[str, float]

    @property
    def cpu_sum(self) -> float:
        """Of all processes; 0 if none was measured."""
        return sum(self.cpu_us.values())

    @property
    def label(self) -> str:
        """Its name, marked if it is quoted."""
        return f"{self.name} {MARK}" if self.quoted else self.name


def rows(measured: Iterable[Run], quoted: Iterable[Run], steps: int) -> list[Row]:
    """Of flows of so many steps, in the order of `NAMES`. What was measured is not quoted as well."""
    found: dict[str, list[tuple[Case, Arm]]] = {}
    for case, arm in _arms(measured, steps):
        found.setdefault(arm.name, []).append((case, arm))
    made = {name: _row(pairs, quoted=False) for name, pairs in found.items()}
    elsewhere: dict[str, list[tuple[Case, Arm]]] = {}
    for case, arm in _arms(quoted, steps):
        if arm.name not in made:
            elsewhere.setdefault(arm.name, []).append((case, arm))
    made |= {name: _row(pairs, quoted=True) for name, pairs in elsewhere.items()}
    order = list(NAMES)
    return [made[name] for name in sorted(made, key=lambda name: order.index(name) if name in order else len(order))]


def _arms(runs: Iterable[Run], steps: int) -> list[tuple[Case, Arm]]:
    """Of the last run of each case, so that to measure again is not to choose the best."""
    found: dict[tuple[str, str], tuple[Case, Arm]] = {}
    for case in (case for run in runs for case in run.cases):
        if case.name == "peers" and case.steps_per_flow == steps:
            found |= {(case.key, arm.name): (case, arm) for arm in case.arms if arm.rounds}
    return list(found.values())


def _row(pairs: Sequence[tuple[Case, Arm]], quoted: bool) -> Row:
    case, best = max(pairs, key=lambda pair: pair[1].median(throughput))
    alone = [arm.median(p50) for one, arm in pairs if one.concurrency == 1]
    return Row(
        NAMES.get(best.name, best.name), not is_peer(best.name), quoted, best.median(throughput), case.concurrency,
        alone[0] if alone else None, best.all_costs(),
    )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    parts = [part for part in PARTS if any(part in row.cpu_us for row in rows)]
    head = ["engine", "steps/s", "at once", "p50 alone, ms", "CPU µs a step", *parts]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for row in rows:
        label = f"**{row.label}**" if row.ours else row.label
        cells = [label, f"{row.steps_per_s:,.0f}", f"{row.at}", "" if row.p50_ms is None else f"{row.p50_ms:.1f}"]
        cells.append(f"{row.cpu_sum:,.0f}" if row.cpu_us else "")
        cells += [f"{row.cpu_us[part]:,.0f}" if part in row.cpu_us else "" for part in parts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
