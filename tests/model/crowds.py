"""Several flows of an example at once, under limits and a hold: what must hold of them (K1, K2)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from dwarf_nats.engine import Engine
from dwarf_nats.errors import NotFound
from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.limit import BY_FAIRNESS_KEY, Limit
from tests.model.example import Bound, Crowd, Example

SECONDS = 30.0
"""No count should ever take so long to be taken back."""
QUIET_LOOKS = 20
"""Looks at which no execution has begun since the one before, after which none is expected."""
MARGIN = 1.1
"""A rate may be exceeded by a tenth."""
_serial = itertools.count(1)


@dataclass
class Span:
    """One flow at work, from the beginning of its first execution to the end of the last one, as numbers of moments."""

    begun: int
    ended: int = 0


@dataclass
class Tally:
    """What tasks do while the flows of a crowd run, against its limits."""

    example: Example
    crowd: Crowd
    names: list[str]
    """Of the limits: new ones for each crowd, since counts belong to names."""
    began: float = field(default_factory=time.time)
    held: bool = False
    executions: int = 0
    waited: int = 0
    """Steps that had to wait for a limit."""
    problems: list[str] = field(default_factory=list)
    _moment: int = 0
    _running: Counter[tuple[int, str]] = field(default_factory=Counter)
    _begun: Counter[tuple[int, str]] = field(default_factory=Counter)
    _spans: dict[int, Span] = field(default_factory=dict)

    @contextlib.contextmanager
    def during(self, call: TaskCall, member: int) -> Iterator[None]:
        """One execution of a task, for a flow of the crowd."""
        self.executions += 1
        root = self.example.root["name"]
        if self.held and self.crowd.held in (call.url, "" if call.workflow == root else None):
            self.problems.append(f"{call.workflow}/{call.task} began at {call.url} during the hold")
        first = member not in self._spans
        span = self._spans.setdefault(member, Span(self._next()))
        counted = []
        for number, bound in enumerate(self.crowd.bounds):
            slot = (number, self._key(bound, member))
            if bound.task == call.url:
                counted.append(slot)
                self._check(slot, bound, call.url)
            if bound.task == call.url or (not bound.task and first):
                self._count(slot, bound)
        try:
            yield
        finally:
            self._running.subtract(counted)
            span.ended = self._next()

    def check_flows(self) -> None:
        """Of limits of the workflow: a flow counts from its first execution to its last one, if nothing pauses it."""
        for number, bound in enumerate(self.crowd.bounds):
            most = _most(bound)
            if bound.task or most is None:
                continue
            for member, span in self._spans.items():
                beside = [
                    other
                    for other, one in self._spans.items()
                    if one.begun <= span.begun < one.ended and self._key(bound, other) == self._key(bound, member)
                ]
                if len(beside) > most:
                    self.problems.append(f"limit {number}: {len(beside)} flows at once, {most} are allowed")

    def _check(self, slot: tuple[int, str], bound: Bound, where: str) -> None:
        self._running[slot] += 1
        most = _most(bound)
        if most is not None and self._running[slot] > most:
            self.problems.append(f"limit {slot}: {self._running[slot]} at once at {where}, {most} are allowed")

    def _count(self, slot: tuple[int, str], bound: Bound) -> None:
        """A rate: so many have begun since the limit was put, which is no later than the first of them."""
        self._begun[slot] += 1
        if bound.per_second is not None and bound.later is None:
            capacity = limit_of(self.example, "rate", bound).capacity
            allowed = capacity + bound.per_second * (time.time() - self.began) * MARGIN
            if self._begun[slot] > allowed:
                self.problems.append(f"limit {slot}: {self._begun[slot]} began, {allowed:.2f} are allowed")

    def _key(self, bound: Bound, member: int) -> str:
        return self.crowd.keys[member] if bound.by else ""

    def _next(self) -> int:
        self._moment += 1
        return self._moment


def _most(bound: Bound) -> int | None:
    """How many may run at once at any time; `None`: any number."""
    if bound.concurrency is None or bound.later == 0:
        return None
    return max(bound.concurrency, bound.later or 0)


def limit_of(example: Example, name: str, bound: Bound) -> Limit:
    """The limit that is put for a bound."""
    assert bound.by in ("", BY_FAIRNESS_KEY, "tag:key")
    return Limit(
        name=name,
        task=bound.task,
        workflow="" if bound.task else example.root["name"],
        by=bound.by,
        concurrency=bound.concurrency,
        per_second=bound.per_second,
        burst=bound.burst,
    )


@contextlib.asynccontextmanager
async def limited(engines: Sequence[Engine], example: Example, crowd: Crowd) -> AsyncIterator[Tally]:
    """The limits and the hold of a crowd, which end with it; its counts are taken back by then."""
    engine = engines[0]
    tally = Tally(example, crowd, [f"limit{next(_serial)}" for _ in crowd.bounds])
    for name, bound in zip(tally.names, crowd.bounds, strict=True):
        await engine.put_limit(limit_of(example, name, bound))
    hold = None
    if crowd.held is not None:
        hold = {"task": crowd.held} if crowd.held else {"workflow": example.root["name"]}
        await engine.put_hold(**hold)
    await _until_known(engines, tally.names, hold)
    tally.held = hold is not None
    changing = asyncio.create_task(_changes(engine, example, tally, hold))
    try:
        before = _waits(engines)
        yield tally
        await changing
        await _until_nothing_counts(engine)
        tally.waited = _waits(engines) - before
    finally:
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        for name in tally.names:
            with contextlib.suppress(NotFound):
                await engine.delete_limit(name)
        if hold is not None:
            with contextlib.suppress(NotFound):
                await engine.delete_hold(**hold)


async def _until_known(engines: Sequence[Engine], names: Sequence[str], hold: dict[str, str] | None) -> None:
    """Until every replica knows the limits and the hold: until then it may start steps uncounted."""
    async with asyncio.timeout(SECONDS):
        for engine in engines:
            replica = engine.replica
            while not replica.limits.book.by_name.keys() >= set(names):
                await asyncio.sleep(0.001)
            while hold is not None and replica.holds.find(hold.get("task", ""), hold.get("workflow", "")) is None:
                await asyncio.sleep(0.001)


async def _changes(engine: Engine, example: Example, tally: Tally, hold: dict[str, str] | None) -> None:
    """After a while, end the hold and change the limits."""
    seen = quiet = 0
    while tally.executions < tally.crowd.after and quiet < QUIET_LOOKS:
        await asyncio.sleep(0.002)
        quiet, seen = (quiet + 1 if tally.executions == seen else 0), tally.executions
    tally.held = False
    if hold is not None:
        await engine.delete_hold(**hold)
    for name, bound in zip(tally.names, tally.crowd.bounds, strict=True):
        if bound.later == 0:
            await engine.delete_limit(name)
        elif bound.later is not None:
            later = msgspec.structs.replace(bound, concurrency=bound.later, per_second=None, burst=None)
            await engine.put_limit(limit_of(example, name, later))


def _waits(engines: Sequence[Engine]) -> int:
    return sum(sum(engine.replica.counters.limit_waits.values()) for engine in engines)


async def _until_nothing_counts(engine: Engine) -> None:
    """All flows have ended, so no limit counts anything any more, and nobody waits."""
    async with asyncio.timeout(SECONDS):
        while any(one.running or one.waiting for one in await engine.list_limits()):
            await asyncio.sleep(0.002)
