"""Takes over the steps that were claimed: reads their rows and dispatches them (C3, X2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.executor import RELEASE_DELAY_US
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.claims import HAS_PROGRESS, claimed_step
from dwarf_nats.rules.decide import release
from dwarf_nats.rules.lifecycle import FLOW_LIVE

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.execution.committer import Committer
    from dwarf_nats.engine.execution.executor import Executor
    from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.ports import HoldStore, StepStore
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.limiting import Over
    from dwarf_nats.rules.steps import ClaimedStep

LIMITED_PROBE_PAUSE_US = 1_000_000
"""The pause of the probes of a task once a limit made one wait."""
NO_PERMITS: Mapping[int, Sequence[Over]] = {}


class Intake:
    """The claim sink of one shard."""

    def __init__(
        self,
        shared: Shared,
        steps: StepStore,
        *,
        holds: HoldStore,
        ready_queue: ReadyQueue,
        backpressure: ShardBackpressure,
        executor: Executor,
        committer: Committer,
    ) -> None:
        self._settings = shared.settings
        self._clock = shared.clock
        self._slots = shared.slots
        self._instruments = shared.instruments
        self._limits = shared.limit_gate
        self._log = shared.logger
        self._holds = shared.holds
        self._hold_store = holds
        self._steps = steps
        self._shard = steps.shard
        self._ready_queue = ready_queue
        self._backpressure = backpressure
        self._executor = executor
        self._committer = committer

    async def take(self, rows: Sequence[ClaimedRow]) -> None:
        """Dispatch the steps in these rows; release those whose tasks may not be asked at this moment."""
        if self._holds.active:
            rows = await self._without_held(rows)
        await self._take(rows, probe=False)

    async def claim_probe(self, url: str) -> bool:
        """Claim the parked step of the task that is due longest and dispatch it as a probe; whether there was one (V5)."""
        self._slots.acquire(url)
        try:
            row = await self._steps.claim_probe(url, self._settings.time_budget_ms)
        finally:
            self._slots.release(url)
        if row is None:
            return False
        rows = await self._without_held([row]) if self._holds.active else [row]
        if not await self._take(rows, probe=True):
            # A hold or a limit made it wait (K1, K2): the next probe is not asked for at once.
            self._backpressure.breakers.no_probe_until(url, self._clock.now() + LIMITED_PROBE_PAUSE_US)
        return True

    async def _take(self, rows: Sequence[ClaimedRow], *, probe: bool) -> int:
        """Dispatch what may be; how many of the steps were not made to wait by a limit."""
        permits: Mapping[int, Sequence[Over]] = NO_PERMITS
        if self._limits.active:
            rows, permits = await self._admitted(rows)
        refs = {ref for row in rows if row.borrowed is not None for ref in state_refs.read(row.borrowed).values()}
        source = await self._steps.ref_source(refs)
        with_progress = [row.step_id for row in rows if row.marks & HAS_PROGRESS]
        checkpoints = await self._steps.checkpoints(with_progress) if with_progress else {}
        now = self._clock.now() if self._instruments.listening else 0
        stale = []
        for row in rows:
            if row.flow_status not in FLOW_LIVE:
                stale.append(row.step_id)  # X2
                continue
            if now:
                waited = -self._ready_queue.view.delay_of(row.not_before, now)
                self._instruments.queue_wait(row.url, max(0, waited), now)
            step = self._read(row, source)
            if step is not None and permits:
                step.permits = permits.get(step.step_id, ())
            if step is not None and row.compensates is not None:
                step = await self._with_compensated(step)
            if step is not None:
                if checkpoints:
                    step.checkpoint = checkpoints.get(step.step_id)
                self._dispatch(step, probe=probe)
        if stale:
            await self._steps.close_stale(stale)
        return len(rows)

    async def _without_held(self, rows: Sequence[ClaimedRow]) -> list[ClaimedRow]:
        """The steps that no hold stops; the others are parked aside (K2)."""
        held: dict[str, list[int]] = {}
        others = []
        for row in rows:
            hold = self._holds.find(row.url, row.workflow) if row.flow_status in FLOW_LIVE else None
            if hold is None:
                others.append(row)
            else:
                held.setdefault(hold.name, []).append(row.step_id)
                self._limits.waive(self._shard, row)
        for name, step_ids in held.items():
            await self._hold_store.park_claimed(name, step_ids)
            self._holds.recheck(name)
        return others

    async def _admitted(self, rows: Sequence[ClaimedRow]) -> tuple[Sequence[ClaimedRow], Mapping[int, Sequence[Over]]]:
        """The steps that no limit makes wait, and what is over with each of them (K1)."""
        living = [row for row in rows if row.flow_status in FLOW_LIVE]
        self._slots.reserve(len(living))
        try:
            admitted, permits = await self._limits.admit(self._shard, living)
        finally:
            self._slots.unreserve(len(living))
        return [*(row for row in rows if row.flow_status not in FLOW_LIVE), *admitted], permits

    async def _with_compensated(self, step: ClaimedStep) -> ClaimedStep | None:
        """The step of a compensation, with the step that it compensates; `None` if that cannot be read: then it is released."""
        try:
            step.compensating = await self._steps.compensation(step)
        except (state_refs.DanglingRef, Unavailable) as error:
            self._log.warning("step %s is given back: %s", step.public_id, error, extra=step.log_fields)
            self._slots.acquire(step.url)
            self._committer.settle(release(step, RELEASE_DELAY_US))
            return None
        return step

    def _read(self, row: ClaimedRow, source: state_refs.RefSource) -> ClaimedStep | None:
        """The step of a row; `None` if it cannot be read: then it is left to its lease, and the others are dispatched."""
        try:
            return claimed_step(row, self._shard, source)
        except state_refs.DanglingRef as gone:
            self._log.warning(
                "step %d-%d was removed while it was claimed: %s",
                self._shard,
                row.step_id,
                gone,
                extra={"step_id": f"{self._shard}-{row.step_id}"},
            )
        except Exception:
            self._log.exception("step %d-%d cannot be read: it is left to its lease", self._shard, row.step_id)
        return None

    def _dispatch(self, step: ClaimedStep, *, probe: bool) -> None:
        self._slots.acquire(step.url)
        if probe:
            self._backpressure.mark_probe(step)
        if probe or self._backpressure.admits(step):
            self._executor.dispatch(step)
        else:
            self._committer.settle(release(step))
