"""The cases, and how their arms take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from .arms import FloorArm, Runner, Servers, ServiceArm, Sides
from .backlog import BACKLOGS, BacklogArm
from .result import FLOOR, Case

Progress = Callable[[str], None]
DATABASES = ("postgresql", "sqlite")


@dataclass(slots=True, frozen=True)
class Plan:
    """A case to run. `flows` in each round of each arm."""

    name: str
    concurrency: int
    flows: int
    by_default: bool = True

    @property
    def key(self) -> str:
        """As `Case.key`."""
        return f"{self.name}/{self.concurrency}"


PLANS = (
    Plan("floor-latency", 1, 60),
    Plan("floor-linear", 64, 1500),
    Plan("floor-linear", 256, 2000),
    Plan("backlog", 256, 600, by_default=False),
)
QUICK = 4
"""By how much `--quick` divides the flows."""


def chosen(names: Sequence[str], quick: bool) -> list[Plan]:
    """The plans of these names or keys, all of them for none. Raises `ValueError` for an unknown one."""
    known = {plan.name for plan in PLANS} | {plan.key for plan in PLANS}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no case {name!r}: choose among {', '.join(sorted(known))}")
    plans = [plan for plan in PLANS if plan.name in names or plan.key in names or (plan.by_default and not names)]
    if quick:
        plans = [replace(one, flows=max(one.flows // QUICK, one.concurrency)) for one in plans]
    return plans


async def run_cases(
    plans: Sequence[Plan], arms: Sequence[str], servers: Servers, sides: Sides, rounds: int, progress: Progress
) -> list[Case]:
    """Run each case: every round lets each arm run once, in turn, so that they share the machine's mood."""
    return [await _run_case(plan, arms, servers, sides, rounds, progress) for plan in plans]


async def _run_case(
    plan: Plan, names: Sequence[str], servers: Servers, sides: Sides, rounds: int, progress: Progress
) -> Case:
    case = Case(plan.name, plan.concurrency, sides.steps)
    runners: list[Runner] = (
        [BacklogArm(backlog, servers, sides) for backlog in BACKLOGS]
        if plan.name == "backlog"
        else [FloorArm(servers, sides) if name == FLOOR else ServiceArm(name, servers, sides) for name in names]
    )
    case.base = runners[0].figures.name if plan.name == "backlog" else FLOOR
    async with AsyncExitStack() as stack:
        for runner in runners:
            progress(f"{plan.key}: starting {runner.figures.name}")
            await stack.enter_async_context(runner)
            await runner.warm_up(plan.concurrency)
        for number in range(1, rounds + 1):
            for runner in runners:
                figures = await runner.measure(plan.concurrency, plan.flows)
                runner.figures.rounds.append(figures)
                progress(
                    f"{plan.key}: round {number} of {rounds}: {runner.figures.name}"
                    f" {figures.steps_per_s:,.0f} steps/s, p50 {figures.p50_ms:.1f} ms"
                )
    case.arms = [runner.figures for runner in runners]
    return case
