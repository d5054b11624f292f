"""The ready queue of one shard, as this replica knows it: when to poll it, what is hinted at, what was left (C1-C5).

What became pending, here or by a peer's signal, is a *hint*: the queue is polled then. Between polls it rests until its next
scheduled step comes due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.engine.scheduling.sole_task import NO_TASK, SoleTask, is_sole
from dwarf_nats.rules.scheduling.clock_offset import ClockOffset
from dwarf_nats.rules.scheduling.queue_view import QueueView
from dwarf_nats.rules.scheduling.values import NO_BUDGETS, Claim

if TYPE_CHECKING:
    from dwarf_nats.engine.availability import Availability
    from dwarf_nats.engine.scheduling.slots import ClaimBudget, WorkerSlots
    from dwarf_nats.errors import Unavailable
    from dwarf_nats.ports import Clock, Logger, StepStore
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.scheduling.fair_scheduler import FairScheduler
    from dwarf_nats.rules.steps import FlowContext

PROMOTE_BATCH_STEPS = 2_000
"""Scheduled steps that are promoted in one transaction, once they are due: bounds its locks and its time."""
PROMOTE_MAX_BATCHES = 5
"""Batches promoted in a row before steps that are ready are claimed meanwhile."""
EMPTY_CLAIM_FIRST_US, EMPTY_CLAIM_LONGEST_US = 20_000, 1_000_000
"""The pause after a claim that found every step taken by other replicas: the first, doubled each time, and the longest."""
DEFECT_PAUSE_US = 1_000_000
"""The pause after a defect, so that it is not repeated in a tight loop."""
DEFECT_NEWS_US = 60_000_000
"""A defect that comes again within this time is not logged again."""
STALE_AFTER_US = 20_000
"""Age of a poll from which on the queue is polled again when a slot becomes free."""
BEST_BAND = 0
NEVER = 2**63


class AdmissionControl(Protocol):
    """Says which tasks of a shard may be asked at this moment (C3)."""

    def task_budgets(self) -> Mapping[str, int]:
        """The steps that may still be claimed of each limited task; a task with 0 is blocked. Other tasks have no limit."""
        ...

    def opens_at(self) -> int | None:
        """The time at which the first blocked task may be asked again, on this replica's clock; `None` if none will."""
        ...


class ClaimSink(Protocol):
    """Takes over the steps that are claimed from one shard."""

    async def take(self, rows: Sequence[ClaimedRow]) -> None:
        """Dispatch the steps in these claimed rows."""
        ...


class ReadyQueue:
    """The ready queue of one shard, as far as this replica knows it.

    `backlog_band`: the best band that had more steps than there were slots when it was last polled; `None` if nothing was
    left. `limited`: all it has is of a task that is at its share (C6).
    """

    def __init__(
        self,
        steps: StepStore,
        admission: AdmissionControl,
        availability: Availability,
        *,
        clock: Clock,
        wakeup: asyncio.Event,
        slots: WorkerSlots,
        scheduler: FairScheduler,
        logger: Logger,
    ) -> None:
        self._log = logger
        self.steps = steps
        self.admission = admission
        self._availability = availability
        self._sink: ClaimSink | None = None
        self._clock = clock
        self._wakeup = wakeup
        self._slots = slots
        self._scheduler = scheduler
        self.is_open = False
        self.job: asyncio.Task[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.view = QueueView()
        self._clock_offset = ClockOffset()
        self._poll_at = 0
        self._wake_at = NEVER
        self.backlog_band: int | None = BEST_BAND
        self.failures = 0
        self._last_defect_at = -DEFECT_NEWS_US - 1
        self._hinted = 0
        self._hinted_band = BEST_BAND
        self._unclaimed = 0
        self._unclaimed_band = BEST_BAND
        self._polled_at = 0
        self._backing_off = False
        self._empty_claims = 0
        self.limited = False
        self._task_budgets: Mapping[str, int] = NO_BUDGETS
        self._sole_task = SoleTask()

    def open(self, sink: ClaimSink) -> None:
        """Its database is open: claim steps from it for `sink`; nothing is known of them yet."""
        self._sink = sink
        self._reset()
        self.is_open = True
        self._wakeup.set()

    def close(self) -> None:
        """Claim no more steps from it."""
        self.is_open = False

    # -- what is hinted at

    def wake(self, delay_us: int = 0) -> None:
        """Poll `delay_us` from now at the latest: a step may be due then."""
        due = self._clock.now() + delay_us
        if due < self._wake_at:
            if due < self._poll_at:
                self._wakeup.set()
            self._wake_at = due

    def hint_flow(self, flow: FlowContext | FlowRow, delay_us: int = 0, steps: int = 1, task: str = NO_TASK) -> None:
        """`steps` steps of this flow, all of the `task` if it is given, are pending, due `delay_us` from now."""
        if delay_us <= 0:
            self.view.note_ready(flow.priority, flow.fairness_key, flow.fairness_weight, self._clock.now())
        self.hint(flow.priority, delay_us, steps, task)

    def hint(self, priority: int, delay_us: int = 0, steps: int = 1, task: str = NO_TASK) -> None:
        """`steps` steps of this band, all of the `task` if it is given, are pending, due `delay_us` from now."""
        if delay_us <= 0:
            self._sole_task.note_ready(task)
            self._hinted_band = min(priority, self._hinted_band) if self._hinted else priority
            self._hinted += steps
        else:
            self.view.note_scheduled(self._clock.now() + delay_us)
        self.wake(delay_us)

    def hint_any(self, delay_us: int) -> None:
        """The database says that a step of some band is pending, due `delay_us` from now; it may have been hinted at."""
        if delay_us > 0:
            self.view.note_scheduled(self._clock.now() + delay_us)
        self.wake(delay_us)

    def hint_at(self, priority: int, due_at: int) -> None:
        """A step of this band is pending, due at `due_at` on the shard's clock."""
        self.hint(priority, self.view.delay_of(due_at, self._clock.now()))

    @property
    def next_poll_at(self) -> int:
        """The time of the next poll, on this replica's clock."""
        return min(self._poll_at, self._wake_at)

    def hinted_steps(self, priority: int) -> int:
        """Steps of this band or a better one that came to be pending, as far as known, and are not yet claimed."""
        number = self._hinted if self._hinted_band <= priority else 0
        return number + (self._unclaimed if self._unclaimed_band <= priority else 0)

    def forget_unclaimed(self) -> None:
        """The steps hinted at before the last poll are claimed, or were found to be gone."""
        self._unclaimed = 0

    def is_due(self, now: int) -> bool:
        """True if it is time to poll, and nothing is under way."""
        return self.is_open and self.job is None and self.next_poll_at <= now

    def is_stale(self, now: int) -> bool:
        """True if it may have got steps without a hint since it was last polled."""
        return self.is_open and self.job is None and not self._backing_off and self._polled_at <= now - STALE_AFTER_US

    # -- polling

    async def poll(self, slots: int, blocked: Sequence[str] = ()) -> None:
        """Read the queue, after promoting what has come due. The tasks `blocked` are passed over as well (C6)."""
        if self._unclaimed:
            self._unclaimed_band = (
                min(self._unclaimed_band, self._hinted_band) if self._hinted else self._unclaimed_band
            )
        else:
            self._unclaimed_band = self._hinted_band
        self._unclaimed += self._hinted
        self._hinted = 0
        self._wake_at = NEVER
        self._polled_at = self._clock.now()
        self.limited = False
        self._task_budgets = self.admission.task_budgets()
        blocked_tasks = [task for task, budget in self._task_budgets.items() if budget <= 0]
        blocked_tasks += [task for task in blocked if task not in blocked_tasks]
        if self.view.next_due_at is not None and self.view.next_due_at <= self._clock.now():
            await self._promote_due()
        await self._read(blocked_tasks, slots)
        if (
            self.view.next_due_at is not None
            and self.view.next_due_at <= self._clock.now()
            and await self._promote_due()
        ):
            await self._read(blocked_tasks, slots)
        self.failures = 0
        self._backing_off = False
        self._availability.report_answer()
        self._poll_at = self._clock.now()  # for a claim, or to read on where a long stretch of tasks is passed over
        if self.view.is_empty and not blocked:
            self._rest()

    def limit(self) -> None:
        """All it has is of a task at its share: rest until that task uses less, or something else comes due (C6)."""
        self._rest()
        self.limited = True

    def is_alone(self, task: str, now: int) -> bool:
        """True if no step of another task is due here, as far as is known."""
        return self._sole_task.is_alone(task, now) or self.next_poll_at > now

    def may_look(self, now: int) -> bool:
        """True if it is time to look whether steps of other tasks are due."""
        return self._sole_task.may_look(now)

    async def look_for_others(self, task: str) -> None:
        """Find out whether steps of other tasks are due. The view stays as it is."""
        alone = await is_sole(self.steps, task)
        self._sole_task.note_look(task, self._clock.now(), alone=alone)

    async def _promote_due(self) -> int:
        total = 0
        for _ in range(PROMOTE_MAX_BATCHES):
            promoted = await self.steps.promote_due(PROMOTE_BATCH_STEPS)
            total += promoted
            if promoted:
                self._sole_task.note_ready(NO_TASK)
            if promoted < PROMOTE_BATCH_STEPS:
                break
        return total

    async def _read(self, blocked_tasks: Sequence[str], slots: int) -> None:
        request = self.view.first_request(slots)
        while True:
            asked_at = self._clock.now()
            page = await self.steps.peek(request, blocked_tasks)
            for head in page.heads:
                self._sole_task.note_ready(head.url)
            now = page.now - self._clock_offset.measure(page.now, asked_at, self._clock.now())
            following = self.view.add_page(request, page, now, blocked=blocked_tasks, slots=slots)
            if following is None:
                return
            request = following

    def _rest(self) -> None:
        """Nothing is left: rest until a step comes due. The replica's heartbeat finds what nobody hints at (`hint_any`)."""
        self.backlog_band = None
        self._unclaimed = 0
        self.view.clear()
        self._poll_at = NEVER
        if self.view.next_due_at is not None:
            self._poll_at = min(self._poll_at, self.view.next_due_at)
        if self._task_budgets and (opens_at := self.admission.opens_at()) is not None:
            self._poll_at = min(self._poll_at, opens_at)

    # -- claiming

    async def claim(self, claim: Claim, budget: ClaimBudget, budget_ms: int, *, passed_over: bool = False) -> None:
        """Claim and hand over; note what is left. `passed_over`: the poll has passed over the task whose budget is 0."""
        limited = {task: most for task, most in self._task_budgets.items() if most < claim.limit}
        if budget.url and budget.left < limited.get(budget.url, claim.limit):
            limited[budget.url] = budget.left
        self._poll_at = NEVER
        self._slots.reserve(claim.limit)
        try:
            rows = await self.steps.claim(claim.limit, budget_ms, claim.shares, limited)
        finally:
            self._slots.unreserve(claim.limit)
        assert self._sink is not None
        await self._sink.take(rows)
        self._charge(claim, rows, cut=bool(budget.url) and budget.left > 0)
        self._note_claimed(claim, rows, limited=bool(limited), blocked=bool(budget.blocked_tasks) and not passed_over)

    def _note_claimed(self, claim: Claim, rows: Sequence[ClaimedRow], *, limited: bool, blocked: bool) -> None:
        self._unclaimed = 0
        if not rows and not blocked and self.view.scanned_whole(claim.shares[0].priority):
            # All of them were claimed by other replicas.
            pause = min(EMPTY_CLAIM_FIRST_US << self._empty_claims, EMPTY_CLAIM_LONGEST_US)
            self._poll_at = self._clock.now() + pause
            self._empty_claims = min(self._empty_claims + 1, 10)
            self.backlog_band = None
            return
        self._empty_claims = 0
        if self.view.best is None and self.view.complete and not limited:
            self._rest()
        else:
            self.backlog_band = self.view.best if self.view.best is not None else claim.shares[0].priority
            self._poll_at = self._clock.now()

    def _charge(self, claim: Claim, rows: Sequence[ClaimedRow], *, cut: bool) -> None:
        """Charge each key for the steps of its share that were claimed.

        `cut`: a key that gave less than its share may have more, since the budget of its task was used up.
        """
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
            self._scheduler.charge(share, number)
            total += number
            if number == share.steps or (total < claim.limit and not cut):  # else it was the limit that cut it off
                self.view.note_claimed(share, number, last)

    # -- failing

    def back_off(self, error: Unavailable) -> None:
        """Its database is away: try again in a while. What waits there holds nobody up meanwhile."""
        if self.failures == 0:  # the store has logged it
            self._log.debug("shard %d: %s", self.steps.shard, error, extra={"shard": self.steps.shard})
        self._availability.count_outage()
        self._availability.report_away(str(error))
        seconds = DATABASE_BACKOFF.delay(self.failures)
        self.failures += 1
        self._backing_off = True
        self.view.clear()
        self.backlog_band = None
        self._hinted = self._unclaimed = 0
        self._wake_at = NEVER
        self._poll_at = self._clock.now() + round(seconds * 1_000_000)

    def back_off_from_defect(self) -> bool:
        """A defect: do not repeat it in a tight loop. The lease reaper releases what was claimed and not handed over.

        Returns whether it is to be logged: a defect that comes again within a minute is logged once.
        """
        now = self._clock.now()
        is_news = now - self._last_defect_at > DEFECT_NEWS_US
        self._last_defect_at = now
        self._availability.count_outage()
        self._backing_off = True
        self._unclaimed = 0
        self._wake_at = NEVER
        self._poll_at = now + DEFECT_PAUSE_US
        return is_news
