"""The targets of the cases, and the values of a run. Pure; medians over ratios of rounds run side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .result import PEERS, Arm, Case, p50, throughput

_TIMES = {"dbos": 10.0, "langgraph": 5.0}
"""Our steps/s as a multiple of each engine's."""


FILLED = 3
"""Minutes until a soak deletes as much as it adds: flows leave one to two minutes after they have completed."""


class Target(NamedTuple):
    """One figure and its bound."""

    case: str
    what: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """True if it is where it should be."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def targets(cases: Iterable[Case]) -> list[Target]:
    """Those of all cases that have one and that ran with the arms it takes."""
    cases = list(cases)
    return [*(target for case in cases for target in _OF.get(case.name, _none)(case)), *_best(cases)]


def _none(_case: Case) -> Iterator[Target]:
    return iter(())


def _shares(bound: float) -> Callable[[Case], Iterator[Target]]:
    """Each arm's steps/s as a share of the first's."""

    def share(case: Case) -> Iterator[Target]:
        for arm in case.arms:
            if arm.name != case.base and (ratios := case.against_floor(arm, throughput)):
                yield Target(case.key, f"{arm.name}, steps/s of {case.base}", statistics.median(ratios), bound)

    return share


def _latency(case: Case) -> Iterator[Target]:
    for arm in case.arms:
        if arm.name != case.base and (ratios := case.against_floor(arm, p50)):
            yield Target(case.key, f"{arm.name}, p50 / {case.base}", statistics.median(ratios), 2, at_most=True)


def _fan_out(case: Case) -> Iterator[Target]:
    rounds = list(zip(*(arm.measured("us_per_branch") for arm in case.arms), strict=False))
    if rounds:
        value = statistics.median(max(costs) / min(costs) for costs in rounds)
        yield Target(case.key, "cost of a branch, dearest size / cheapest", value, 1.5, at_most=True)


def _payload(case: Case) -> Iterator[Target]:
    """A step's time beyond that without text, unchanged against changed."""
    arms = [case.arm(name) for name in ("no text", "unchanged", "changed")]
    without, kept, turned = (_step_us(arm) if arm else [] for arm in arms)
    ratios = [(b - a) / (c - a) for a, b, c in zip(without, kept, turned, strict=False) if c > a]
    if ratios:
        yield Target(case.key, "cost of a field, unchanged / changed", statistics.median(ratios), 0.5, at_most=True)


def _step_us(arm: Arm) -> list[float]:
    return [1e6 / one.steps_per_s for one in arm.rounds]


def _measures(**bounds: float) -> Callable[[Case], Iterator[Target]]:
    """The medians of these measures, of every arm that has them."""

    def most(case: Case) -> Iterator[Target]:
        for arm in case.arms:
            for name, bound in bounds.items():
                if values := arm.measured(name):
                    yield Target(case.key, f"{arm.name}, {name}", statistics.median(values), bound, at_most=True)

    return most


def _soak(case: Case) -> Iterator[Target]:
    """From the third minute, when the first flows have been deleted, to the end."""
    minutes = case.arms[0].rounds
    if len(minutes) > FILLED:
        for name in ("rss_mib", "asyncio_tasks", "connections", "tables_mib"):
            values = case.arms[0].measured(name)
            yield Target(case.key, f"{name}, last minute / third", values[-1] / values[FILLED - 1], 1.1, at_most=True)


def _peers(case: Case) -> Iterator[Target]:
    """Idle, each at once: whose flow is done first."""
    ours = case.arm("postgresql")
    for theirs in (case.arm(name) for name in PEERS):
        if ours and theirs and case.concurrency == 1:
            pairs = zip(ours.rounds, theirs.rounds, strict=False)
            value = statistics.median(our.p50_ms / their.p50_ms for our, their in pairs)
            yield Target(case.key, f"p50 / {theirs.name}", value, 1, at_most=True)


def _best(cases: Iterable[Case]) -> Iterator[Target]:
    """Of the cases with other engines: steps/s of ours against theirs, each at its best: concurrency, async or sync."""
    best: dict[tuple[int, str], float] = {}
    for case in cases:
        for arm in case.arms if case.name == "peers" else ():
            key = (case.steps_per_flow, arm.name.removesuffix("-sync"))
            best[key] = max(best.get(key, 0.0), arm.median(throughput))
    for (steps, name), theirs in best.items():
        ours = best.get((steps, "postgresql"))
        if name in _TIMES and ours:
            yield Target(f"peers, {steps} steps", f"best steps/s / best of {name}", ours / theirs, _TIMES[name])


_OF: dict[str, Callable[[Case], Iterator[Target]]] = {
    "floor-linear": _shares(0.35),
    "floor-latency": _latency,
    "limited": _shares(0.80),
    "backlog": _shares(0.80),
    "fan-out": _fan_out,
    "history": _shares(0.90),
    "payload": _payload,
    "replicas": _shares(0.90),
    "peers": _peers,
    "soak": _soak,
    "idle": _measures(engine_cpu_percent=1, statements_per_minute=30),
    "start": _measures(help_cpu_ms=250, flow_list_cpu_ms=250, serve_ready_ms=800, dev_ready_ms=2_000, idle_rss_mib=60),
    "memory": _measures(rss_mib=200, kib_per_task=50),
}
