"""The findings of a run, as tables."""

from __future__ import annotations

import statistics

from rich import box
from rich.console import Console
from rich.table import Table

from .result import MEASURES, PARTS, Arm, Case, Run, p50, throughput
from .targets import targets

TRANSPORT_US = 35.0
"""Microseconds of a step's CPU in the engine's process that are not its own: a NATS request-reply, its share of a group's
statements. What is above is W, the engine's own Python. A model for groups of 100 and more (docs/benchmarks.md)."""


def show(run: Run, console: Console) -> None:
    """The table."""
    table = Table(
        title="medians over the rounds; ratios side by side, to the first arm; a step: transactions, round trips, CPU in µs",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for column in ("case", "arm"):
        table.add_column(column, no_wrap=True)
    for column in ("steps/s", "× base", "p50 ms", "× base", "p99 ms", "group", "tx", "trips", *PARTS, "sum", "W"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for case in run.cases:
        for arm in (arm for arm in case.arms if any(one.flows for one in arm.rounds)):
            table.add_row(*_row(case, arm), end_section=arm is case.arms[-1])
    console.print(table)
    _show_measures(run, console)
    _show_targets(run, console)
    machine = run.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in run.versions.items())
    )


def _show_measures(run: Run, console: Console) -> None:
    """Figures particular to some cases, where there are any."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("case", "arm", "figure", "median", "rounds"):
        table.add_column(column, justify="right" if column == "median" else "left")
    for case in run.cases:
        for arm in case.arms:
            for name in MEASURES:
                if values := arm.measured(name):
                    rounds = ", ".join(f"{value:,.4g}" for value in values)
                    table.add_row(case.key, arm.name, name, f"{statistics.median(values):,.4g}", rounds)
    if table.row_count:
        console.print(table)


def _show_targets(run: Run, console: Console) -> None:
    """The cases that have a target, beside it."""
    for one in targets(run.cases):
        sign = "≤" if one.at_most else "≥"
        color = "green" if one.met else "yellow"
        console.print(f"{one.case}: {one.what} {one.value:,.3g} ({sign} {one.bound:g})", style=color, highlight=False)


def _row(case: Case, arm: Arm) -> list[str]:
    rates, waits = case.against_floor(arm, throughput), case.against_floor(arm, p50)
    is_floor = arm.name == case.base
    groups = [one.group for one in arm.rounds if one.group is not None]
    trips = [one.round_trips_per_step for one in arm.rounds if one.round_trips_per_step is not None]
    costs = arm.all_costs()
    own = [cost - TRANSPORT_US for cost in arm.costs("engine")] if groups else []
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
        f"{statistics.median(trips):.3f}" if trips else "",
        *(f"{costs[part]:.0f}" if part in costs else "" for part in PARTS),
        f"{sum(costs.values()):.0f}" if costs else "",
        f"{statistics.median(own):.0f}" if own else "",
    ]
