"""The cases, and how their arms take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from . import restate, temporal
from .arms import FloorArm, Runner, Servers, ServiceArm, Sides
from .backlog import BACKLOGS, LIMITED, BacklogArm
from .capacity import CoresArm, OfferedArm, capacities, shared_load
from .children import Failed
from .database import committers, sharded
from .history import HistoryArm
from .peers import PeerArm
from .resting import HeldArm, IdleArm, ResidentArm
from .result import FLOOR, PEERS, Case, Figures
from .scaled import PAYLOADS, FanOutArm, PayloadArm, size_label
from .soak import SoakArm
from .starting import StartArm

Progress = Callable[[str], None]
DATABASES = ("postgresql", "sqlite")
ALL = "all"


@dataclass(slots=True, frozen=True)
class Plan:
    """A case to run. `flows` in each round of each arm, unless the case says otherwise."""

    name: str
    concurrency: int
    flows: int
    by_default: bool = True
    sizes: tuple[int, ...] = ()
    """The value in which the arms differ, or by how much."""
    label: str = ""
    rate: int = 0
    """Steps a second that are offered; 0: as many as the concurrency gives."""
    offered: bool = False
    """Its load comes by the clock."""
    timed: bool = False
    """Its amount is seconds, and few."""

    @property
    def key(self) -> str:
        """As `Case.key`."""
        return f"{self.name}/{self.label or self.concurrency}"


PLANS = (
    Plan("floor-latency", 1, 60),
    Plan("floor-linear", 64, 1500),
    Plan("floor-linear", 256, 2000),
    Plan("backlog", 256, 600, by_default=False),
    Plan("limited", 256, 600, by_default=False),
    # In branches, of as many as a replica has workers.
    Plan("fan-out", 1024, 30_000, by_default=False, sizes=(16, 1_000, 10_000)),
    Plan("history", 256, 1000, by_default=False, sizes=(1_000_000,)),
    *(Plan("payload", 16, 400, False, (size,), size_label(size)) for size in (4096, 65_536, 524_288)),
    Plan("replicas", 256, 1000, by_default=False, sizes=(1, 2, 4)),
    *(
        Plan("capacity", at_once, flows, False)
        for at_once, flows in ((1, 100), (16, 800), (64, 1500), (256, 2000), (1024, 3000))
    ),
    Plan("offered", 64, 3, False, (500, 1_000, 2_000, 4_000, 6_000, 8_000), "load", offered=True, timed=True),
    Plan("cores", 128, 1000, False),
    Plan("coordination", 256, 200, False, (1, 2, 4, 8), "light", 500, offered=True),
    Plan("coordination", 256, 1000, False, (1, 2, 4, 8), "offered", 2_000, offered=True),
    Plan("coordination", 256, 1500, False, (1, 2, 4, 8), "full"),
    *(Plan("database", group, 2, False, (1, 4, 16), timed=True) for group in (1, 8, 64, 256)),
    Plan("shards", 64, 3, False, timed=True),
    Plan("soak", 32, 600, by_default=False, label="minutes"),  # seconds
    Plan("idle", 1, 60, by_default=False, label="watch"),  # seconds
    Plan("start", 1, 1, by_default=False, label="empty"),
    Plan("memory", 256, 600, by_default=False, sizes=(100_000, 1_000_000, 1_000), label="resident"),
    *(
        Plan("peers", concurrency, flows, False, (steps,), f"{steps}x{concurrency}")
        for steps in (3, 10)
        for concurrency, flows in ((1, 200), (16, 1000), (64, 1500), (256, 2000))
    ),
)
PEERS_MOST = 64
"""Beyond this the libraries do not get faster, and PostgreSQL runs out of connections, one for each client; nor does Temporal
with ordinary activities."""
QUICK = 4
"""By how much `--quick` divides the flows."""


def chosen(names: Sequence[str], quick: bool, sizes: Sequence[int] = ()) -> list[Plan]:
    """The plans of these names or keys, all of them for `all`, the floor's for none.

    `sizes` instead of their own. Raises `ValueError` for an unknown name, or for sizes that a plan cannot have.
    """
    known = {plan.name for plan in PLANS} | {plan.key for plan in PLANS} | {ALL}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no case {name!r}: choose among {', '.join(sorted(known))}")
    plans = [
        plan
        for plan in PLANS
        if plan.name in names or plan.key in names or ALL in names or (plan.by_default and not names)
    ]
    if sizes:
        plans = _sized(plans, sizes)
    if quick:
        plans = [one if one.timed else replace(one, flows=max(one.flows // QUICK, one.concurrency)) for one in plans]
    return plans


def _sized(plans: Sequence[Plan], sizes: Sequence[int]) -> list[Plan]:
    """The plans with these sizes, each of which is a case of its own for `payload`."""
    if min(sizes) < 1 or not all(plan.sizes and plan.name != "peers" for plan in plans):
        raise ValueError(
            "--size goes with fan-out, history, payload, replicas, offered, coordination, database or memory, and is at least 1"
        )
    if any(plan.name == "memory" for plan in plans) and len(sizes) != 3:
        raise ValueError("memory has three sizes: sleeping flows, pending steps, tasks in flight")
    found = dict.fromkeys(replace(plan, sizes=tuple(sizes)) for plan in plans if plan.name != "payload")
    payload = next((plan for plan in plans if plan.name == "payload"), None)
    if payload is not None:
        found |= dict.fromkeys(replace(payload, sizes=(size,), label=size_label(size)) for size in sizes)
    return list(found)


async def run_cases(
    plans: Sequence[Plan], arms: Sequence[str], servers: Servers, sides: Sides, rounds: int, progress: Progress
) -> list[Case]:
    """Run each case: every round lets each arm run once, in turn, so that they share the machine's mood."""
    return [await _run_case(plan, arms, servers, sides, rounds, progress) for plan in plans]


async def _run_case(
    plan: Plan, names: Sequence[str], servers: Servers, sides: Sides, rounds: int, progress: Progress
) -> Case:
    runners = _runners(plan, names, servers, sides)
    steps = plan.sizes[0] if plan.name == "peers" else sides.steps
    if isinstance(runners[0], ServiceArm):
        steps = runners[0].shape.steps
    case = Case(plan.name, plan.concurrency, steps, label=plan.label, offered=plan.offered)
    if plan.name == "soak":
        rounds = 1
    if plan.name in ("idle", "memory", "soak", "start", "capacity", "offered", "database"):
        case.base = ""
    elif not isinstance(runners[0], FloorArm) and plan.name not in ("floor-latency", "floor-linear"):
        case.base = runners[0].figures.name
    async with AsyncExitStack() as stack:
        for runner in runners:
            progress(f"{plan.key}: starting {runner.figures.name}")
            await stack.enter_async_context(runner)
            await runner.warm_up(plan.concurrency)
        for number in range(1, rounds + 1):
            for runner in runners:
                figures = await runner.measure(plan.concurrency, plan.flows)
                runner.figures.rounds.append(figures)
                progress(f"{plan.key}: round {number} of {rounds}: {runner.figures.name} {_said(figures)}")
    case.arms = [runner.figures for runner in runners]
    return case


def _said(figures: Figures) -> str:
    """In a few words."""
    flows = f"{figures.steps_per_s:,.0f} steps/s, p50 {figures.p50_ms:.1f} ms" if figures.flows else ""
    return ", ".join(filter(None, (flows, *(f"{name} {value:,.4g}" for name, value in figures.measures.items()))))


def _runners(plan: Plan, names: Sequence[str], servers: Servers, sides: Sides) -> list[Runner]:
    """The arms of a plan, in the order in which they take turns; the first is what the others are measured against."""
    match plan.name:
        case "backlog":
            return [BacklogArm(backlog, servers, sides) for backlog in BACKLOGS]
        case "limited":
            return [BacklogArm(backlog, servers, sides) for backlog in LIMITED]
        case "fan-out":
            return [FanOutArm(size, servers, sides) for size in plan.sizes]
        case "history":
            return [HistoryArm(size, servers, sides) for size in (0, *plan.sizes)]
        case "payload":
            return [PayloadArm(kind, plan.sizes[0], servers, sides) for kind in PAYLOADS]
        case "replicas":
            return [
                *(_replicas(servers, sides, replicas=number) for number in plan.sizes),
                _replicas(servers, sides, shards=2),
            ]
        case "capacity":
            return [*capacities(servers, sides)]
        case "offered":
            return [OfferedArm(servers, sides, rate) for rate in plan.sizes]
        case "cores":
            return [CoresArm(number, servers, sides) for number in (1, 2)]
        case "coordination":
            return [*shared_load(servers, sides, plan.sizes, plan.rate)]
        case "database":
            return [*committers(servers, sides, plan.sizes)]
        case "shards":
            return [*sharded(servers, sides)]
        case "soak":
            return [SoakArm(servers, sides)]
        case "idle":
            return [IdleArm(name, servers, sides) for name in names if name in DATABASES]
        case "start":
            return [StartArm(name, servers, sides) for name in names if name in DATABASES]
        case "peers":
            return _peers(plan, servers, replace(sides, steps=plan.sizes[0]))
        case "memory":
            asleep, pending, held = plan.sizes
            return [
                ResidentArm(0, 0, servers, sides),
                ResidentArm(asleep, pending, servers, sides),
                HeldArm(held, servers, sides),
            ]
    return [
        FloorArm(servers, sides) if name == FLOOR else ServiceArm(name, servers, sides)
        for name in names
        if name in (FLOOR, *DATABASES)
    ]


def _peers(plan: Plan, servers: Servers, sides: Sides) -> list[Runner]:
    """Other engines and ours. Beyond `PEERS_MOST` only those that may still get faster."""
    ours = [
        ServiceArm("postgresql", servers, sides),
        ServiceArm("postgresql", servers, replace(sides, sdk_worker=True), name="sdk-worker"),
        ServiceArm("postgresql", servers, replace(sides, pipelined=True), name="pipelined"),
        ServiceArm("sqlite", servers, sides),
    ]
    if plan.concurrency > PEERS_MOST:
        found: list[Runner] = [*ours, *restate.arms(servers, sides), *temporal.arms(servers, sides, ("local",))]
    else:
        libraries = [PeerArm(name, servers, sides) for name in PEERS]
        found = [*libraries, *restate.arms(servers, sides), *temporal.arms(servers, sides), *ours]
    only = sides.others.only
    chosen_arms = [arm for arm in found if not only or arm.figures.name in only]
    if not chosen_arms:
        names = ", ".join(arm.figures.name for arm in found)
        raise Failed(f"{plan.key} has no arm {' or '.join(only)}: it has {names}")
    return chosen_arms


def _replicas(servers: Servers, sides: Sides, replicas: int = 1, shards: int = 1) -> ServiceArm:
    name = f"{replicas} replica" + ("s" if replicas > 1 else "") + (f", {shards} shards" if shards > 1 else "")
    return ServiceArm("postgresql", servers, sides, name=name, replicas=replicas, shards=shards)
