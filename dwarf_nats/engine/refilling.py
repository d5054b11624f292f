"""Taking steps: one refiller for all shards keeps this replica's hands full, best band first (C1-C5, O17).

A round looks at the lines of those shards that may have due work, plans across them and claims. What became pending,
here or by a peer's signal, is a *hint*: it makes the refiller look. Between rounds it sleeps until the next step of any
shard comes due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.engine.slots import Ration, WorkerSlots
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.planning import NO_ALLOWANCES, Claim, FairScheduler, QueueView

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Logger, Store
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.steps import FlowContext
    from dwarf_nats.settings import EngineSettings

log = logging.getLogger("dwarf_nats.engine")
WOKEN = 2_000
"""So many steps whose time has come are put in line at once."""
WAKINGS = 5
"""So often in a row, before what is in line is served meanwhile."""
FRUITLESS_US, FRUITLESS_MOST_US = 20_000, 1_000_000
"""The wait after a claim that found every step taken by others: the first, twice as long each time, and the longest."""
UPSET_US = 60_000_000
STRAGGLER_SECONDS = 0.25
"""A round waits so long for a database that does not answer; then the other shards go on without it."""
STALE_US = 20_000
"""What was read so long ago, or later, is not read again when a hand becomes free."""
EVERY_BAND = 0
NO_BAND = 2**63
"""Worse than any."""
NEVER = 2**63


class Gate(Protocol):
    """What a shard's steps may ask of their tasks at this moment (C3)."""

    def task_budgets(self) -> Mapping[str, int]:
        """How many more steps may be claimed for each task that is held back; with 0 it is passed over. Others are free."""
        ...

    def opens_at(self) -> int | None:
        """When the first of the tasks that are passed over may be asked again, on this replica's clock; `None` if none will."""
        ...


class Open:
    """Every task may be asked."""

    def task_budgets(self) -> Mapping[str, int]:
        return NO_ALLOWANCES

    def opens_at(self) -> int | None:
        return None


class Taker(Protocol):
    """Who works on what is claimed. `away`: why its database does not answer; empty if it does."""

    away: str

    async def take(self, rows: Sequence[ClaimedRow]) -> None:
        """These rows were claimed."""
        ...


class ReadyQueue:
    """What this replica knows of the line of one shard.

    `left`: the best band that had more than there were hands for when it was last looked at; `None` if nothing was
    left.
    """

    def __init__(self, store: Store, taker: Taker, clock: Clock, poke: asyncio.Event, logger: Logger = log) -> None:
        self._log = logger
        self.store = store
        self.gate: Gate = Open()
        self.outages = 0
        self._taker = taker
        self._clock = clock
        self._poke = poke
        self.open = False
        self.job: asyncio.Task[None] | None = None
        self.reset()

    def reset(self) -> None:
        """Nothing is known of it."""
        self.queue_view = QueueView()
        self._look_at = 0
        self._heard = NEVER
        self.left: int | None = EVERY_BAND
        self.failures = 0
        self._upset_at = -UPSET_US - 1
        self._hinted = 0
        self._hinted_band = EVERY_BAND
        self._sought = 0
        self._sought_band = EVERY_BAND
        self._looked_at = 0
        self._shunned = False
        self._fruitless = 0
        self.held_back = False
        self._allowances: Mapping[str, int] = NO_ALLOWANCES

    def begin(self) -> None:
        """Its database is open: take steps from it."""
        self.reset()
        self.open = True
        self._poke.set()

    def end(self) -> None:
        """Take no more steps from it."""
        self.open = False

    def wake(self, delay_us: int = 0) -> None:
        """A step may be due `delay_us` from now."""
        due = self._clock.now() + delay_us
        if due < self._heard:
            if due < self._look_at:
                self._poke.set()
            self._heard = due

    def hint_of(self, flow: FlowContext | FlowRow, delay_us: int = 0, steps: int = 1) -> None:
        """So many steps of this flow are pending, due `delay_us` from now."""
        if delay_us <= 0:
            self.queue_view.note(flow.priority, flow.fairness_key, flow.fairness_weight, self._clock.now())
        self.hint(flow.priority, delay_us, steps)

    def hint(self, priority: int, delay_us: int = 0, steps: int = 1) -> None:
        """So many steps of this band are pending, due `delay_us` from now."""
        if delay_us <= 0:
            self._hinted_band = min(priority, self._hinted_band) if self._hinted else priority
            self._hinted += steps
        else:
            self.queue_view.note_wake(self._clock.now() + delay_us)
        self.wake(delay_us)

    def told(self, delay_us: int) -> None:
        """By the database: a step of some band is pending, due `delay_us` from now, whether or not it was hinted at."""
        if delay_us > 0:
            self.queue_view.note_wake(self._clock.now() + delay_us)
        self.wake(delay_us)

    def hint_at(self, priority: int, due_at: int) -> None:
        """The same, in the words of a peer: `due_at` is on the shard's clock."""
        self.hint(priority, self.queue_view.delay_of(due_at, self._clock.now()))

    @property
    def look_at(self) -> int:
        """When to look next."""
        return min(self._look_at, self._heard)

    def hinted(self, priority: int) -> int:
        """How many steps of this band or a better one came to be pending, as far as known, and are not yet claimed."""
        number = self._hinted if self._hinted_band <= priority else 0
        return number + (self._sought if self._sought_band <= priority else 0)

    def sought(self) -> None:
        """What was hinted at before the last look is claimed, or found to be gone."""
        self._sought = 0

    def ready(self, now: int) -> bool:
        """Whether it is time to look, and nothing is under way."""
        return self.open and self.job is None and self.look_at <= now

    def stale(self, now: int) -> bool:
        """Whether it may hold what nobody told of since it was last read."""
        return self.open and self.job is None and not self._shunned and self._looked_at <= now - STALE_US

    async def look(self, slots: int, held: Sequence[str] = ()) -> None:
        """Read the line, after putting in it what has come due. The tasks `held` are passed over as well (C6)."""
        if self._sought:
            self._sought_band = min(self._sought_band, self._hinted_band) if self._hinted else self._sought_band
        else:
            self._sought_band = self._hinted_band
        self._sought += self._hinted
        self._hinted = 0
        self._heard = NEVER
        self._looked_at = self._clock.now()
        self.held_back = False
        self._allowances = self.gate.task_budgets()
        blocked_tasks = [task for task, most in self._allowances.items() if most <= 0]
        blocked_tasks += [task for task in held if task not in blocked_tasks]
        if self.queue_view.next_due_at is not None and self.queue_view.next_due_at <= self._clock.now():
            await self._ripen()
        await self._read(blocked_tasks, slots)
        if (
            self.queue_view.next_due_at is not None
            and self.queue_view.next_due_at <= self._clock.now()
            and await self._ripen()
        ):
            await self._read(blocked_tasks, slots)
        self.failures = 0
        self._shunned = False
        self._taker.away = ""
        self._look_at = self._clock.now()  # for a claim, or to read on where a long stretch of tasks is passed over
        if self.queue_view.barren and not held:
            self._rest()

    def hold_back(self) -> None:
        """All it has is of a task at its share: sleep until that task holds less, or something else comes due (C6)."""
        self._rest()
        self.held_back = True

    async def _ripen(self) -> int:
        total = 0
        for _ in range(WAKINGS):
            woken = await self.store.promote_due(WOKEN)
            total += woken
            if woken < WOKEN:
                break
        return total

    async def _read(self, blocked_tasks: Sequence[str], slots: int) -> None:
        ask = self.queue_view.ask(slots)
        while True:
            before = self._clock.now()
            page = await self.store.peek(ask, blocked_tasks)
            now = (before + self._clock.now()) // 2
            following = self.queue_view.read(ask, page, now, blocked_tasks, slots)
            if following is None:
                return
            ask = following

    def _rest(self) -> None:
        """Nothing is left: sleep until something comes due. What nobody tells of, the replica's next beat does (`told`)."""
        self.left = None
        self._sought = 0
        self.queue_view.clear()
        self._look_at = NEVER
        if self.queue_view.next_due_at is not None:
            self._look_at = min(self._look_at, self.queue_view.next_due_at)
        if self._allowances and (opens_at := self.gate.opens_at()) is not None:
            self._look_at = min(self._look_at, opens_at)

    async def claim(
        self,
        claim: Claim,
        budget_ms: int,
        turns: FairScheduler,
        slots: WorkerSlots,
        ration: Ration,
        *,
        passed_over: bool = False,
    ) -> None:
        """Claim and hand over; note what is left. `passed_over`: the look has passed over the task that has a ration of 0."""
        rationed = {task: most for task, most in self._allowances.items() if most < claim.limit}
        if ration.url and ration.left < rationed.get(ration.url, claim.limit):
            rationed[ration.url] = ration.left
        self._look_at = NEVER
        slots.reserve(claim.limit)
        try:
            rows = await self.store.claim(claim.limit, budget_ms, claim.shares, rationed)
        finally:
            slots.unreserve(claim.limit)
        await self._taker.take(rows)
        self._note(claim, rows, turns, rationed=bool(rationed), held=bool(ration.blocked_tasks) and not passed_over)

    def _note(
        self, claim: Claim, rows: Sequence[ClaimedRow], turns: FairScheduler, *, rationed: bool, held: bool
    ) -> None:
        self._sought = 0
        found: dict[tuple[int, str], tuple[int, int]] = {}
        for row in rows:
            key = (row.priority, row.fairness_key)
            number, last = found.get(key, (0, 0))
            found[key] = (number + 1, max(last, row.not_before))
        total = 0
        for share in claim.shares:
            key = (share.priority, share.fairness_key)
            left, last = found.get(key, (0, 0))
            number = min(left, share.steps)
            found[key] = (left - number, last)
            turns.charge(share, number)
            total += number
            if total < claim.limit or number == share.steps:  # else it was the limit that cut it off
                self.queue_view.served(share, number, last)
        if (
            not rows and not held and self.queue_view.certain(claim.shares[0].priority)
        ):  # all of them in the hands of others
            self._look_at = self._clock.now() + min(FRUITLESS_US << self._fruitless, FRUITLESS_MOST_US)
            self._fruitless = min(self._fruitless + 1, 10)
            self.left = None
            return
        self._fruitless = 0
        if self.queue_view.best is None and self.queue_view.complete and not rationed:
            self._rest()
        else:
            self.left = self.queue_view.best if self.queue_view.best is not None else claim.shares[0].priority
            self._look_at = self._clock.now()

    def fail(self, error: Unavailable) -> None:
        """Its database is away: try again in a while. What waits there holds nobody up meanwhile."""
        if self.failures == 0:  # the store has told it
            self._log.debug("shard %d: %s", self.store.shard, error, extra={"shard": self.store.shard})
        self.outages += 1
        self._taker.away = str(error)
        seconds = DATABASE_BACKOFF.delay(self.failures)
        self.failures += 1
        self._shunned = True
        self.queue_view.clear()
        self.left = None
        self._hinted = self._sought = 0
        self._heard = NEVER
        self._look_at = self._clock.now() + round(seconds * 1_000_000)

    def upset(self) -> bool:
        """A defect: do not repeat it in a tight loop. What it claimed and did not hand over is given back by the reaper.

        Returns whether it is news: a defect that comes again within a minute is told once.
        """
        now = self._clock.now()
        news = now - self._upset_at > UPSET_US
        self._upset_at = now
        self.outages += 1
        self._shunned = True
        self._sought = 0
        self._heard = NEVER
        self._look_at = now + 1_000_000
        return news


class Fetcher:
    """Keeps the hands full."""

    def __init__(self, settings: EngineSettings, clock: Clock, slots: WorkerSlots, logger: Logger = log) -> None:
        self._log = logger
        self._settings = settings
        self._clock = clock
        self._slots = slots
        self._lines: list[ReadyQueue] = []
        self._turns = FairScheduler()
        self._first = 0
        self._told_of = ""
        self._poke = asyncio.Event()
        slots.relieved = self._relieved
        self._stopped = True
        self._job: asyncio.Task[None] | None = None

    def add(self, store: Store, taker: Taker) -> ReadyQueue:
        """The line of one more shard."""
        line = ReadyQueue(store, taker, self._clock, self._poke, self._log)
        self._lines.append(line)
        return line

    def start(self) -> None:
        """Take work from all lines that are open."""
        self._stopped = False
        self._job = asyncio.create_task(self._run(), name="dwarf-fetcher")

    def dead_jobs(self) -> Sequence[str]:
        """Its job, if that has ended though nobody stopped it."""
        return [] if self._stopped or self._job is None or not self._job.done() else [self._job.get_name()]

    def stop(self) -> None:
        """Take no more work."""
        self._stopped = True
        self._poke.set()

    async def close(self) -> None:
        """End what is under way."""
        self.stop()
        jobs = [job for job in [self._job, *(line.job for line in self._lines)] if job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._job = None

    def admits(self, priority: int, url: str, *, freed: str | None = None) -> bool:
        """Whether a new step may start without standing in line: nowhere waits due work of its band or a better one (C1).

        Where its task has its share already, of no band at all (C6). `freed`: the step takes the hand of one of that task;
        otherwise it needs one that is free.
        """
        spare = self._slots.spare if freed is not None else self._slots.spare - 1
        if spare < 0 or self._stopped:
            return False
        if self._slots.crowds(url, freed or ""):
            if self._slots.hanging:
                return False
            priority, spare = NO_BAND, 0
        hinted = 0
        for line in self._lines:
            if line.open:
                if (line.left is not None and line.left <= priority) or (
                    spare <= 0 and line.look_at <= self._clock.now()
                ):
                    return False
                hinted += line.hinted(priority)
        return hinted <= spare

    def _relieved(self) -> None:
        """A task that held more than its share holds less: what was passed over may be taken, perhaps."""
        for line in self._lines:
            if line.held_back:
                line.wake()

    async def _run(self) -> None:
        while not self._stopped:
            try:
                lines = await self._until_due()
                if lines:
                    await self._round(lines)
            except asyncio.CancelledError:
                raise
            except Exception:
                self._log.exception("a defect while claiming")
                await self._clock.sleep(1)

    async def _until_due(self) -> list[ReadyQueue]:
        """The lines to look at, once there are any and a hand is free."""
        now = self._clock.now()
        ready = [line for line in self._lines if line.ready(now)]
        if ready:
            if self._slots.room > 0:
                return ready
            await self._until_room()
            # Meanwhile more may have come due, on every shard, told or not (C1).
            now = self._clock.now()
            return [line for line in self._lines if line.ready(now) or line.stale(now)]
        coming = [line.look_at for line in self._lines if line.open and line.job is None]
        following = min(coming, default=NEVER)
        seconds = max(0.0, (following - now) / 1_000_000) if following < NEVER else None
        await self._clock.wait(self._poke, seconds)
        self._poke.clear()
        return []

    async def _until_room(self) -> None:
        """Wait for a free hand; where one task holds more than its share and hangs, the others get theirs (C6)."""
        slots = self._slots
        while slots.room <= 0:
            now = self._clock.now()
            at = slots.hangs_at(now)
            if at is not None and at <= now:
                slots.lend()
                self._told_of = ""
            else:
                await self._clock.wait(slots.free, None if at is None else (at - now) / 1_000_000)

    async def _round(self, lines: Sequence[ReadyQueue]) -> None:
        ration = self._ration()
        blocked_tasks = ration.blocked_tasks
        looked = await self._look(lines, ration.limit, blocked_tasks)
        if not looked:
            return
        ration = self._ration()
        if blocked_tasks and not any(line.queue_view.best is not None for line in looked.values()):
            # Nothing of other tasks is due: the task may have what is free (C6).
            free = min(self._slots.own_room, self._settings.max_group)
            if free <= 0:
                if self._slots.hanging:
                    for line in looked.values():
                        line.hold_back()
                return
            looked = await self._look(list(looked.values()), free, ())
            ration, blocked_tasks = Ration(min(self._slots.own_room, self._settings.max_group)), ()
        elif blocked_tasks:
            ration = ration._replace(url=blocked_tasks[0], left=0)
            self._tell_of_hanging()
        plan = self._turns.plan({number: line.queue_view for number, line in looked.items()}, ration.limit)
        for number, line in looked.items():
            if number not in plan:
                line.sought()
                if line.queue_view.best is not None:
                    line.left = line.queue_view.best
        if self._stopped or not plan:
            return
        budget_ms = self._settings.time_budget_ms
        await self._each(
            [
                (
                    line := looked[number],
                    partial(
                        line.claim,
                        plan[number],
                        budget_ms,
                        self._turns,
                        self._slots,
                        part,
                        passed_over=bool(blocked_tasks),
                    ),
                )
                for number, part in self._parts(ration, list(plan)).items()
            ]
        )

    def _ration(self) -> Ration:
        return self._slots.ration(min(self._slots.room, self._settings.max_group))

    def _parts(self, ration: Ration, numbers: Sequence[int]) -> dict[int, Ration]:
        """The ration of each shard: what is left for a task is divided among them, each in turn being the first."""
        if not ration.url or len(numbers) == 1:
            return dict.fromkeys(numbers, ration)
        self._first += 1
        each, over = divmod(ration.left, len(numbers))
        return {
            number: ration._replace(left=each + ((place + self._first) % len(numbers) < over))
            for place, number in enumerate(numbers)
        }

    def _tell_of_hanging(self) -> None:
        slots = self._slots
        if slots.hanging and slots.hanging != self._told_of:
            self._told_of = slots.hanging
            self._log.warning(
                "task %s holds %d of %d workers, and none of its steps has ended for a second: "
                "up to %d steps of other tasks run beside them",
                slots.hanging, slots.held_by(slots.hanging), self._settings.workers, slots.lent,
                extra={"task": slots.hanging},
            )  # fmt: skip

    async def _look(self, lines: Sequence[ReadyQueue], slots: int, held: Sequence[str]) -> dict[int, ReadyQueue]:
        """Look at these lines; those that have answered, by shard."""
        await self._each([(line, partial(line.look, slots, held)) for line in lines])
        return {line.store.shard: line for line in lines if line.job is None and line.failures == 0}

    async def _each(self, work: Sequence[tuple[ReadyQueue, Callable[[], Awaitable[None]]]]) -> None:
        """Do it on all these lines at once; whoever takes long is left behind and comes back on its own."""
        if len(self._lines) == 1:
            await self._one(*work[0])
            return
        for line, deed in work:
            line.job = asyncio.create_task(self._one(line, deed))
            line.job.add_done_callback(partial(self._back, line))
        await asyncio.wait([line.job for line, _ in work if line.job is not None], timeout=STRAGGLER_SECONDS)

    async def _one(self, line: ReadyQueue, deed: Callable[[], Awaitable[None]]) -> None:
        try:
            await deed()
        except Unavailable as error:
            line.fail(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            if line.upset():
                self._log.exception("a defect while claiming on shard %d", line.store.shard)

    def _back(self, line: ReadyQueue, _job: asyncio.Task[None]) -> None:
        line.job = None
        self._poke.set()
