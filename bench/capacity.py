"""Each part on a core of its own, and replicas that share a load: the figures from which `sizing` is fitted."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import replace

from .arms import Pins, Servers, ServiceArm, Sides
from .children import Failed
from .processes import pin
from .result import PARTS, Figures

CORES = 2
"""Cores that these cases need."""


class CapacityArm(ServiceArm):
    """The service with one part alone on a core and everything else on another; without a part, all on both."""

    def __init__(self, alone: str, servers: Servers, sides: Sides, *, sdk_worker: bool) -> None:
        own, others = two_cores()
        pins: Pins = {part: own if part == alone else others for part in PARTS} if alone else {}
        kind = "SDK" if sdk_worker else "plain"
        name = f"{alone} alone, {kind} worker" if alone else f"shared cores, {kind} worker"
        super().__init__("postgresql", servers, replace(sides, sdk_worker=sdk_worker, pins=pins), name=name)
        self.figures.alone = alone

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run flows; say how much of its core the part used."""
        found = await super().measure(concurrency, flows)
        if self.figures.alone:
            found.measures["core_percent"] = _used(found, self.figures.alone)
        return found


class CoresArm(ServiceArm):
    """Replicas with a core each; worker, client and servers use the same cores."""

    def __init__(self, cores: int, servers: Servers, sides: Sides) -> None:
        chosen = two_cores()[:cores]
        self._each = chosen
        pins: Pins = dict.fromkeys(PARTS, frozenset[int]().union(*chosen))
        name = f"{cores} replica{'s' * (cores > 1)} on {cores} core{'s' * (cores > 1)}"
        super().__init__("postgresql", servers, replace(sides, pins=pins), name=name, replicas=cores)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run flows, as many for each replica whatever their number."""
        number = len(self._each)
        return await super().measure(concurrency * number, flows * number)

    def _pin(self) -> None:
        """As in every arm; then each replica on its own core."""
        super()._pin()
        for replica, core in zip(self._replicas, self._each, strict=True):
            pin(replica.pid, core)


class SharedLoadArm(ServiceArm):
    """Replicas that share a load: `rate` steps a second, or `share` of it; 0: as many as they can."""

    def __init__(
        self, servers: Servers, sides: Sides, *, rate: int = 0, replicas: int = 1, shards: int = 1, share: int = 1
    ) -> None:
        name = f"{replicas} replica{'s' * (replicas > 1)}"
        name += f", {shards} shards" if shards > 1 else ""
        name += f", 1/{share} of the load" if share > 1 else ""
        super().__init__("postgresql", servers, sides, name=name, replicas=replicas, shards=shards)
        self._offered = rate / sides.steps / share
        self._share = share

    async def warm_up(self, concurrency: int) -> None:
        """At full speed, so that every replica has run flows."""
        await super().warm_up(max(concurrency, 32 * self.figures.replicas))
        self.flows_per_s = self._offered

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run its share of the flows."""
        return await super().measure(concurrency, max(1, flows // self._share) if self.flows_per_s else flows)


class OfferedArm(ServiceArm):
    """One replica, and steps offered at a rate, for a number of seconds."""

    def __init__(self, servers: Servers, sides: Sides, rate: int) -> None:
        super().__init__("postgresql", servers, sides, name=f"{rate:,} steps/s")
        self._offered = rate / sides.steps

    async def warm_up(self, concurrency: int) -> None:
        """At full speed."""
        await super().warm_up(concurrency)
        self.flows_per_s = self._offered

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run it for `flows` seconds, or so many flows to warm up."""
        return await super().measure(
            concurrency, max(1, round(flows * self.flows_per_s)) if self.flows_per_s else flows
        )


def shared_load(servers: Servers, sides: Sides, replicas: Sequence[int], rate: int) -> list[SharedLoadArm]:
    """The arms of the case `coordination`.

    The load of one of N replicas on a single replica shows what smaller groups cost; the rest is what coordination costs.
    """
    arms = [SharedLoadArm(servers, sides, rate=rate, replicas=number) for number in replicas]
    arms += [SharedLoadArm(servers, sides, rate=rate, replicas=number, shards=2) for number in replicas[:1]]
    if rate:
        arms += [SharedLoadArm(servers, sides, rate=rate, share=number) for number in replicas if number > 1]
    return arms


def capacities(servers: Servers, sides: Sides) -> list[CapacityArm]:
    """The arms of the case `capacity`."""
    return [
        CapacityArm("", servers, sides, sdk_worker=False),
        CapacityArm("engine", servers, sides, sdk_worker=False),
        CapacityArm("database", servers, sides, sdk_worker=False),
        CapacityArm("nats", servers, sides, sdk_worker=False),
        CapacityArm("workers", servers, sides, sdk_worker=True),
        CapacityArm("engine", servers, sides, sdk_worker=True),
    ]


def pins_of(text: str) -> Pins:
    """Read `engine=0` or `workers,client=1,2`. Raises `ArgumentTypeError`, which says what to write."""
    parts, _, cores = text.partition("=")
    names = parts.split(",")
    if not set(names) <= set(PARTS) or not all(core.isdecimal() for core in cores.split(",")):
        raise ArgumentTypeError(f"{text!r} is not PART,…=CORE,… such as engine=0, of the parts {', '.join(PARTS)}")
    numbers = frozenset(int(core) for core in cores.split(","))
    usable = _usable_cores()
    if not usable:
        raise ArgumentTypeError("processes can be kept on cores on Linux only")
    if not numbers <= set(usable):
        there = ", ".join(map(str, usable))
        raise ArgumentTypeError(f"{text!r} names a core that is not there: this process may use {there}")
    return dict.fromkeys(names, numbers)


def _usable_cores() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def two_cores() -> tuple[frozenset[int], frozenset[int]]:
    """Two cores that this process may use. Raises `Failed` if there are fewer."""
    usable = _usable_cores()
    if len(usable) < CORES:
        raise Failed("this case keeps processes on cores of their own: it needs Linux and two cores")
    return frozenset(usable[:1]), frozenset(usable[1:2])


def _used(figures: Figures, part: str) -> float:
    """Per cent of a core."""
    return round(figures.cpu_us.get(part, 0.0) * figures.steps_per_s / 1e4, 1)
