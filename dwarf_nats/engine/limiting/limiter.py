"""The limiter of a replica passes on what is freed (K1).

The database of shard 1 counts. Nothing limited is dispatched before its permits are written there, so the counts hold whatever
replicas do, and whichever die. What a replica keeps in memory only makes it quick: slots to look at, and when.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.rules.limiting import Because, Denied, LimitBook, Over, Waiting, Want
from dwarf_nats.workflow.limit import limits_of

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Definition, LimitStore, Logger
    from dwarf_nats.rules.limiting import Denial, Exchanged
    from dwarf_nats.rules.steps import ClaimedStep, ReadyStep

RETRY_SECONDS = 1.0
"""Pause after a database was away, or a defect, before what is to be done is tried again."""
LEAST_PAUSE_US = 10_000
"""Shortest time between two looks at a queue that waits for its rate: beginnings of that time are let go together."""
MAX_HEADS = 1_024
"""Steps of one queue that are looked at together: bounds a transaction."""
MAX_SLOTS = 500
"""Queues that are looked at together."""
RELEASE_BATCH_STEPS = 5_000
"""Steps made ready in one transaction once their limit is removed."""


class LimitedShard(Protocol):
    """A shard, as far as limits ask."""

    @property
    def number(self) -> int: ...
    @property
    def opened(self) -> bool: ...
    @property
    def limits(self) -> LimitStore: ...
    def running_steps(self) -> Sequence[ClaimedStep]:
        """The steps in flight."""
        ...

    def found_ready(self, steps: Sequence[ReadyStep]) -> None:
        """Look for steps that are ready, and have the other replicas look."""
        ...


class _Alarm(NamedTuple):
    """A slot to be looked at, at a time on this replica's clock."""

    at: int
    slot: str


class Limiter:
    """The part of one replica in keeping limits. Costs nothing while `book.active` is false."""

    def __init__(self, shards: Mapping[int, LimitedShard], clock: Clock, logger: Logger) -> None:
        self.book = LimitBook()
        self._clock = clock
        self._log = logger
        self.shards = shards
        self._over: deque[Over] = deque()
        self._fill: dict[str, int] = {}
        self._alarms: list[_Alarm] = []
        self._alarm_of: dict[str, int] = {}
        self._adopting = False
        self._removed: set[str] = set()
        self.changed = asyncio.Event()
        """Set when limits were put or deleted: the sweep rests no longer."""
        self._wakeup = asyncio.Event()
        self._job: asyncio.Task[None] | None = None

    # -- lifecycle

    def follow(self, definitions: Mapping[str, Definition]) -> None:
        """Know these limits from now on. Steps in flight that a new one covers are counted; removed ones free who waits."""
        limits = limits_of(definitions)
        before = dict(self.book.by_name)
        self.book.replace(limits)
        self._removed |= {name for name, limit in before.items() if name not in limits or limits[name].by != limit.by}
        if limits != before:
            self._adopting = True
            self.changed.set()
        self._wakeup.set()

    def start(self) -> None:
        """Work from now on."""
        self._job = asyncio.create_task(self.run(), name="dwarf-limits")

    async def close(self) -> None:
        """End what is under way."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    @property
    def home(self) -> LimitStore:
        """Where permits are counted. Raises `Unavailable`."""
        shard = self.shards.get(HOME)
        if shard is None or not shard.opened:
            raise Unavailable("limits are counted in the database of shard 1, which is away")
        return shard.limits

    def opened(self) -> list[LimitedShard]:
        """The shards whose databases are open."""
        return [shard for shard in self.shards.values() if shard.opened]

    # -- after a step

    def over(self, permits: Iterable[Over]) -> None:
        """Give back permits whose holders are over: they go to those that wait."""
        self._over.extend(permits)
        self._wakeup.set()

    def flow_stopped(self, shard: int, flow_id: int, workflow: str, at: int) -> None:
        """A root flow stopped at `at`: so do its permits."""
        for limit in self.book.workflows.get(workflow, ()):
            self._over.append(Over(f"{limit.name}/f{shard}-{flow_id}", at, older=True))
        self._wakeup.set()

    def fill(self, slots: Iterable[str], number: int = 1) -> None:
        """Look whether those that wait for these slots may begin."""
        for slot in slots:
            self._fill[slot] = max(number, self._fill.get(slot, 0))
            self._wakeup.set()

    # -- the job

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self._wait()
                await self.work()
            except Unavailable as error:
                self._log.debug("limits: %s", error)
                await self._clock.sleep(RETRY_SECONDS)
                self._wakeup.set()
            except Exception:
                self._log.exception("a defect in the limits")
                await self._clock.sleep(RETRY_SECONDS)
                self._wakeup.set()

    async def _wait(self) -> None:
        seconds = max(0, self._alarms[0].at - self._clock.now()) / 1_000_000 if self._alarms else None
        await self._clock.wait(self._wakeup, seconds)

    async def work(self) -> None:
        """Do what is to be done now. Raises `Unavailable`; what was not done is done by the next call."""
        self._wakeup.clear()
        if self._adopting:
            await self._adopt()
        for name in sorted(self._removed):
            await self.release(name)
            self._removed.discard(name)
        self._ring()
        if self._over or self._fill:
            await self._pass_on()
        if self._over or self._fill or self._removed or self._adopting:
            self._wakeup.set()

    def _ring(self) -> None:
        now = self._clock.now()
        while self._alarms and self._alarms[0].at <= now:
            alarm = heapq.heappop(self._alarms)
            if self._alarm_of.get(alarm.slot) == alarm.at:
                del self._alarm_of[alarm.slot]
                self.fill([alarm.slot])

    async def _pass_on(self) -> None:
        """Take back what is over, and give it to the heads of the queues."""
        over = [self._over.popleft() for _ in range(min(len(self._over), MAX_HEADS))]
        freed: dict[str, int] = {}
        for one in over:
            if one.slot:
                freed[one.slot] = freed.get(one.slot, 0) + 1
        for slot, number in freed.items():
            self._fill[slot] = max(number, self._fill.get(slot, 0))
        # What was just freed goes first: after a change of a limit, very many queues may be waiting to be looked at.
        first = list(dict.fromkeys([*freed, *itertools.islice(self._fill, MAX_SLOTS)]))[:MAX_SLOTS]
        asked = {slot: min(self._fill.pop(slot), MAX_HEADS) for slot in first}
        try:
            heads = await self._heads(asked)
            wants = [self._want(shard, head) for shard, head in heads]
            result = await self.home.exchange(over, wants, self.book.by_name)
        except BaseException:
            self._over.extendleft(reversed(over))
            self.fill(asked)
            raise
        self.fill(result.freed - asked.keys())
        await self._handed_out(result, heads, asked)

    async def _heads(self, asked: Mapping[str, int]) -> list[tuple[int, Waiting]]:
        """The heads of these queues over all shards, in the order of priority and turn."""
        found: list[tuple[int, Waiting]] = []
        for shard in self.opened() if asked else ():
            try:
                found += [(shard.number, head) for head in await shard.limits.heads(asked)]
            except Unavailable as error:  # what waits there goes on when it is back: the sweep finds it
                if shard.number == HOME:
                    raise
                self._log.debug("shard %d: %s", shard.number, error)
        found.sort(key=lambda one: (one[1].priority, one[1].turn))
        return found

    def _want(self, shard: int, head: Waiting) -> Want:
        demands = self.book.demands(
            shard,
            (head.step_id, head.lease_seq + 1),
            url=head.url,
            fairness_key=head.fairness_key,
            root=head.root,
            begun_at=None,
        )
        return Want(shard, head.step_id, demands, begins=False)

    async def _handed_out(
        self, result: Exchanged, heads: Sequence[tuple[int, Waiting]], asked: Mapping[str, int]
    ) -> None:
        by_step = {(shard, head.step_id): head for shard, head in heads}
        granted: dict[int, list[int]] = {}
        served: dict[str, int] = {}
        for want in result.granted:
            granted.setdefault(want.shard, []).append(want.step_id)
            slot = by_step[want.shard, want.step_id].slot
            served[slot] = served.get(slot, 0) + 1
        moved: dict[int, list[Denied]] = {}
        for want, denial in result.denied:
            head = by_step[want.shard, want.step_id]
            if denial.slot != head.slot:
                moved.setdefault(want.shard, []).append(_moved(head, denial))
                served[head.slot] = served.get(head.slot, 0) + 1
        for number, step_ids in granted.items():
            ready = await self.shards[number].limits.unpark(step_ids)
            self.shards[number].found_ready(ready)
        for number, denied in moved.items():
            await self.shards[number].limits.move(denied)
        self.await_rates(result.denied)
        for slot, number in served.items():
            if number >= asked[slot]:  # all that were looked at went: there may be more
                self.fill([slot], min(2 * number, MAX_HEADS))
        self.fill({one.slot for denied in moved.values() for one in denied} - asked.keys())

    def await_rates(self, denials: Iterable[tuple[Want, Denial]]) -> None:
        """Look again when the rate allows more."""
        now = self._clock.now()
        for _, denial in denials:
            if denial.because is Because.RATE and denial.retry_us is not None:
                at = now + max(denial.retry_us, LEAST_PAUSE_US)
                if at < self._alarm_of.get(denial.slot, 2**63):
                    self._alarm_of[denial.slot] = at
                    heapq.heappush(self._alarms, _Alarm(at, denial.slot))

    async def release(self, name: str) -> None:
        """Make all steps ready that wait for a limit which is no more."""
        for shard in self.opened():
            rows = RELEASE_BATCH_STEPS
            while rows == RELEASE_BATCH_STEPS:
                rows, ready = await shard.limits.release(name, RELEASE_BATCH_STEPS)
                shard.found_ready(ready)

    async def _adopt(self) -> None:
        """Count the steps in flight that a new limit covers, and give those that wait what a changed one allows."""
        self._adopting = False
        try:
            for shard in self.opened():
                await self._adopt_of(shard)
                await self._fill_queues(shard)
        except BaseException:
            self._adopting = True
            raise

    async def _fill_queues(self, shard: LimitedShard) -> None:
        """Look at every queue of a shard: what a limit allows is another than before."""
        page = await shard.limits.queues(("", ""), MAX_SLOTS)
        while page:
            self.fill(slot for name, slot in page if name in self.book.by_name)
            page = await shard.limits.queues(page[-1], MAX_SLOTS) if len(page) == MAX_SLOTS else []

    async def _adopt_of(self, shard: LimitedShard) -> None:
        steps = [step for step in shard.running_steps() if not step.permits]
        if not steps or not self.book.active:
            return
        roots = await shard.limits.roots({step.flow.root_id or step.flow.flow_id for step in steps})
        wants = []
        for step in steps:
            demands = self.book.demands(
                shard.number,
                (step.step_id, step.lease_seq),
                url=step.url,
                fairness_key=step.flow.fairness_key,
                root=roots.get(step.flow.root_id or step.flow.flow_id),
                begun_at=0,
            )
            if demands:
                forced = [demand._replace(forced=True) for demand in demands]
                wants.append(Want(shard.number, step.step_id, forced, begins=True))
        if not wants:
            return
        result = await self.home.exchange((), wants, self.book.by_name)
        in_flight = {step.step_id: step for step in shard.running_steps()}
        by_id = {step.step_id: step for step in steps}
        for want in result.granted:
            step = by_id[want.step_id]
            step.permits = over_with(want)
            if in_flight.get(want.step_id) is not step:  # it has ended meanwhile
                self.over(step.permits)


def over_with(want: Want) -> tuple[Over, ...]:
    """The permits that are over when the step is."""
    return tuple(
        Over(demand.permit, demand.generation, slot=demand.slot) for demand in want.demands if not demand.limit.of_flows
    )


def _moved(head: Waiting, denial: Denial) -> Denied:
    """A step that another slot denies: it waits there from now on."""
    return Denied(
        step_id=head.step_id,
        lease_seq=head.lease_seq,
        name=denial.name,
        slot=denial.slot,
        because=denial.because,
        priority=head.priority,
        fairness_key=head.fairness_key,
        weight=head.weight,
        fresh=False,
    )
