"""The fetcher: one for all shards, it keeps this replica's worker slots filled, best band first (C1-C6, O17).

A round polls the ready queues of those shards that may have due work, plans across them and claims. Between rounds the
fetcher sleeps until the next step of any shard comes due, or a hint wakes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dwarf_nats.engine.scheduling.ready_queue import NEVER, AdmissionControl, ReadyQueue
from dwarf_nats.engine.scheduling.slots import ClaimBudget, WorkerSlots
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.scheduling.fair_scheduler import FairScheduler

if TYPE_CHECKING:
    from dwarf_nats.engine.availability import Availability
    from dwarf_nats.ports import Clock, Logger, StepStore
    from dwarf_nats.settings import EngineSettings

log = logging.getLogger("dwarf_nats.engine")
STRAGGLER_SECONDS = 0.25
"""Time a round waits for a database that does not answer; then it goes on with the other shards."""
DEFECT_PAUSE_SECONDS = 1
"""Pause after a defect of a round, so that it is not repeated in a tight loop."""
NO_BAND = 2**63
"""Worse than any band."""


class Fetcher:
    """Fills the worker slots from the ready queues of all shards."""

    def __init__(self, settings: EngineSettings, clock: Clock, slots: WorkerSlots, logger: Logger = log) -> None:
        self._log = logger
        self._settings = settings
        self._clock = clock
        self._slots = slots
        self._queues: list[ReadyQueue] = []
        self._scheduler = FairScheduler()
        self._rotation = 0
        self._warned_of = ""
        self._wakeup = asyncio.Event()
        slots.notify_share_freed(self._wake_limited)
        self._stopped = True
        self._job: asyncio.Task[None] | None = None

    def add_queue(self, steps: StepStore, admission: AdmissionControl, availability: Availability) -> ReadyQueue:
        """Add the ready queue of one more shard."""
        queue = ReadyQueue(
            steps,
            admission,
            availability,
            clock=self._clock,
            wakeup=self._wakeup,
            slots=self._slots,
            scheduler=self._scheduler,
            logger=self._log,
        )
        self._queues.append(queue)
        return queue

    def start(self) -> None:
        """Claim from all queues that are open."""
        self._stopped = False
        self._job = asyncio.create_task(self._run(), name="dwarf-fetcher")

    def dead_jobs(self) -> Sequence[str]:
        """The name of its job, if that has ended though nobody stopped it."""
        return [] if self._stopped or self._job is None or not self._job.done() else [self._job.get_name()]

    def stop(self) -> None:
        """Claim no more."""
        self._stopped = True
        self._wakeup.set()

    async def close(self) -> None:
        """End what is under way."""
        self.stop()
        jobs = [job for job in [self._job, *(queue.job for queue in self._queues)] if job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._job = None

    def admits_eager(self, priority: int, url: str, *, freed: str | None = None) -> bool:
        """True if a new step may start eagerly, without waiting in the ready queue: no due work of its band or a better one
        waits anywhere (C1).

        If its task has its share already, no due work of any band may wait (C6). `freed`: the step takes over the slot of a
        step of that task; otherwise it needs one that is not in use.
        """
        unused = self._slots.unused if freed is not None else self._slots.unused - 1
        if unused < 0 or self._stopped:
            return False
        if self._slots.exceeds_share(url, freed or ""):
            if self._slots.hung_task:
                return False
            priority, unused = NO_BAND, 0
        hinted = 0
        for queue in self._queues:
            if queue.is_open:
                if (queue.backlog_band is not None and queue.backlog_band <= priority) or (
                    unused <= 0 and queue.next_poll_at <= self._clock.now()
                ):
                    return False
                hinted += queue.hinted_steps(priority)
        return hinted <= unused

    def _wake_limited(self) -> None:
        """Poll what is limited: a task that used more than its share uses less, so its steps may be claimed, perhaps."""
        for queue in self._queues:
            if queue.limited:
                queue.wake()

    async def _run(self) -> None:
        while not self._stopped:
            try:
                queues = await self._until_due()
                if queues:
                    await self._round(queues)
            except asyncio.CancelledError:
                raise
            except Exception:
                self._log.exception("a defect while claiming")
                await self._clock.sleep(DEFECT_PAUSE_SECONDS)

    async def _until_due(self) -> list[ReadyQueue]:
        """The queues to poll, once there are any and a slot is available."""
        now = self._clock.now()
        due = [queue for queue in self._queues if queue.is_due(now)]
        if due:
            if self._slots.available > 0:
                return due
            await self._until_available()
            # Meanwhile more may have come due, on every shard, hinted at or not (C1).
            now = self._clock.now()
            return [queue for queue in self._queues if queue.is_due(now) or queue.is_stale(now)]
        coming = [queue.next_poll_at for queue in self._queues if queue.is_open and queue.job is None]
        following = min(coming, default=NEVER)
        seconds = max(0.0, (following - now) / 1_000_000) if following < NEVER else None
        await self._clock.wait(self._wakeup, seconds)
        self._wakeup.clear()
        return []

    async def _until_available(self) -> None:
        """Wait for an available slot; if a task uses more than its share and hangs, the others get theirs (C6)."""
        slots = self._slots
        while slots.available <= 0:
            now = self._clock.now()
            at = slots.hung_at(now)
            if at is not None and at <= now:
                slots.mark_hung()
                self._warned_of = ""
            else:
                await self._clock.wait(slots.has_available, None if at is None else (at - now) / 1_000_000)

    async def _round(self, queues: Sequence[ReadyQueue]) -> None:
        budget = self._claim_budget()
        if budget.url and await self._look_for_others(queues, budget.url):
            now = self._clock.now()
            queues = [queue for queue in queues if queue.is_due(now) or queue.is_stale(now)]
            budget = self._claim_budget()
        blocked = budget.blocked_tasks
        polled = await self._poll(queues, budget.limit, blocked)
        if not polled:
            return
        budget = self._claim_budget()
        if blocked and not any(queue.view.best is not None for queue in polled.values()):
            # Nothing of other tasks is due: the task may have what is available (C6).
            available = min(self._slots.strictly_available, self._settings.max_group)
            if available <= 0:
                if self._slots.hung_task:
                    for queue in polled.values():
                        queue.limit()
                return
            polled = await self._poll(list(polled.values()), available, ())
            budget = ClaimBudget(min(self._slots.strictly_available, self._settings.max_group))
            blocked = ()
        elif blocked:
            budget = budget._replace(url=blocked[0], left=0)
            self._warn_of_hung()
        await self._claim(polled, budget, passed_over=bool(blocked))

    async def _claim(self, polled: dict[int, ReadyQueue], budget: ClaimBudget, *, passed_over: bool) -> None:
        """Plan over the queues that were polled, and claim."""
        plan = self._scheduler.plan({number: queue.view for number, queue in polled.items()}, budget.limit)
        for number, queue in polled.items():
            if number not in plan:
                queue.forget_unclaimed()
                if queue.view.best is not None:
                    queue.backlog_band = queue.view.best
        if self._stopped or not plan:
            return
        budget_ms = self._settings.time_budget_ms
        await self._each(
            [
                (
                    queue := polled[number],
                    partial(queue.claim, plan[number], part, budget_ms, passed_over=passed_over),
                )
                for number, part in self._parts(budget, list(plan)).items()
            ]
        )

    def _claim_budget(self) -> ClaimBudget:
        """The budget of the next claim. A task beside which nobody waits has no share to keep to (C6)."""
        budget = self._slots.claim_budget(min(self._slots.available, self._settings.max_group))
        if budget.url:
            free = min(self._slots.strictly_available, self._settings.max_group)
            now = self._clock.now()
            if free > 0 and all(queue.is_alone(budget.url, now) for queue in self._queues if queue.is_open):
                return ClaimBudget(free)
        return budget

    async def _look_for_others(self, queues: Sequence[ReadyQueue], task: str) -> bool:
        """Look for due steps of tasks other than the one that is at its share, unless that was done lately."""
        now = self._clock.now()
        unknown = [queue for queue in queues if queue.may_look(now)]
        if unknown:
            await self._each([(queue, partial(queue.look_for_others, task)) for queue in unknown])
        return bool(unknown)

    def _parts(self, budget: ClaimBudget, numbers: Sequence[int]) -> dict[int, ClaimBudget]:
        """The budget of each shard: what is left for a task is divided among them, each in turn being the first."""
        if not budget.url or len(numbers) == 1:
            return dict.fromkeys(numbers, budget)
        self._rotation += 1
        each, over = divmod(budget.left, len(numbers))
        return {
            number: budget._replace(left=each + ((place + self._rotation) % len(numbers) < over))
            for place, number in enumerate(numbers)
        }

    def _warn_of_hung(self) -> None:
        slots = self._slots
        hung = slots.hung_task
        if hung and hung != self._warned_of:
            self._warned_of = hung
            self._log.warning(
                "task %s holds %d of %d workers, and none of its steps has ended for a second: "
                "up to %d steps of other tasks run beside them",
                hung,
                slots.used_by(hung),
                self._settings.workers,
                slots.uncounted,
                extra={"task": hung},
            )

    async def _poll(self, queues: Sequence[ReadyQueue], slots: int, blocked: Sequence[str]) -> dict[int, ReadyQueue]:
        """Poll these queues; those that have answered, by shard."""
        await self._each([(queue, partial(queue.poll, slots, blocked)) for queue in queues])
        return {queue.steps.shard: queue for queue in queues if queue.job is None and queue.failures == 0}

    async def _each(self, work: Sequence[tuple[ReadyQueue, Callable[[], Awaitable[None]]]]) -> None:
        """Do this work on all these queues at once. A queue that takes long is left behind and comes back on its own."""
        if len(self._queues) == 1:
            await self._one(*work[0])
            return
        for queue, task in work:
            queue.job = asyncio.create_task(self._one(queue, task))
            queue.job.add_done_callback(partial(self._back, queue))
        await asyncio.wait([queue.job for queue, _ in work if queue.job is not None], timeout=STRAGGLER_SECONDS)

    async def _one(self, queue: ReadyQueue, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Unavailable as error:
            queue.back_off(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            if queue.back_off_from_defect():
                self._log.exception("a defect while claiming on shard %d", queue.steps.shard)

    def _back(self, queue: ReadyQueue, _job: asyncio.Task[None]) -> None:
        queue.job = None
        self._wakeup.set()
