"""Changes between two runs, beyond noise. Pure.

Where both runs have the floor, or another arm that a case is measured against, figures are compared as ratios to it: that
takes out the machine, and the mood it was in. The floor itself and other engines are not compared, another such arm without
a verdict. A figure moved when the rounds of both runs do not overlap *and* the medians differ by more than `least` (a
share). CPU costs, transactions and most measures follow the machine's load, too: they are told, on the same kind of machine,
but no verdict hangs on them; one does on memory and on what an idle replica asks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .result import FLOOR, MEASURES, PARTS, STEADY, Arm, Case, Figures, Run, is_peer, p50, throughput

LEAST = 0.05


class Move(NamedTuple):
    """One figure in both runs: its medians, and the change as a share of the first."""

    case: str
    arm: str
    figure: str
    before: float
    after: float
    moved: bool
    better: bool
    judged: bool = True
    """True if a change for the worse is a regression."""

    @property
    def change(self) -> float:
        """`0.1`: ten per cent more."""
        return self.after / self.before - 1 if self.before else 0.0


class _Figure(NamedTuple):
    name: str
    before: list[float]
    after: list[float]
    more_is_better: bool
    judged: bool = True


def compare(before: Run, after: Run, least: float = LEAST) -> list[Move]:
    """Every figure that both runs have, in the order of the first."""
    return list(_compare(before, after, least))


def regressions(moves: list[Move]) -> list[Move]:
    """Those that got worse beyond noise, and count."""
    return [move for move in moves if move.judged and move.moved and not move.better]


def _compare(before: Run, after: Run, least: float) -> Iterator[Move]:
    same_machine = all(before.machine.get(name) == after.machine.get(name) for name in ("cpu", "cores"))
    later = {case.key: case for case in after.cases}
    for case in before.cases:
        other = later.get(case.key)
        if other is None or other.steps_per_flow != case.steps_per_flow:
            continue
        for arm in case.arms:
            counterpart = other.arm(arm.name)
            if counterpart is None or arm.name == FLOOR or is_peer(arm.name):
                continue
            for figure in _figures(case, arm, other, counterpart, same_machine):
                yield _judged(case.key, arm.name, figure, least)


def _figures(case: Case, arm: Arm, other: Case, counterpart: Arm, same_machine: bool) -> Iterator[_Figure]:
    relative = case.base == other.base and case.arm(case.base) is not None and other.arm(case.base) is not None
    is_base = relative and arm.name == case.base
    for name, of, more_is_better in (("steps/s", throughput, True), ("p50", p50, False)):
        if not any(_values(arm, of)):
            continue
        if relative and not is_base:
            before, after = case.against_floor(arm, of), other.against_floor(counterpart, of)
            yield _Figure(f"{name} / {case.base}", before, after, more_is_better)
        elif same_machine:
            yield _Figure(name, _values(arm, of), _values(counterpart, of), more_is_better, judged=not is_base)
    if same_machine:
        for name, more_is_better in MEASURES.items():
            before, after = arm.measured(name), counterpart.measured(name)
            if before and after:
                yield _Figure(name, before, after, more_is_better, judged=name in STEADY)
        for part in PARTS:
            before, after = arm.costs(part), counterpart.costs(part)
            if before and after:
                yield _Figure(f"CPU {part}", before, after, False, judged=False)
    if arm.transactions_per_step is not None and counterpart.transactions_per_step is not None:
        before, after = [arm.transactions_per_step], [counterpart.transactions_per_step]
        yield _Figure("transactions/step", before, after, False, judged=False)


def _values(arm: Arm, of: Callable[[Figures], float]) -> list[float]:
    return [of(one) for one in arm.rounds]


def _judged(case: str, arm: str, figure: _Figure, least: float) -> Move:
    before, after = statistics.median(figure.before), statistics.median(figure.after)
    apart = max(figure.before) < min(figure.after) or max(figure.after) < min(figure.before)
    moved = apart and abs(after - before) > least * abs(before)
    return Move(case, arm, figure.name, before, after, moved, (after > before) is figure.more_is_better, figure.judged)
