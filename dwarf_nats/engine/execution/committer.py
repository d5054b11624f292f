"""Commits in groups: while one transaction is under way, what arrives shares the next (design note 0001)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.backoff import DATABASE_BACKOFF
from dwarf_nats.engine.execution.follow_up import FollowUps
from dwarf_nats.engine.execution.grouping import next_group, parted, share_of, weight
from dwarf_nats.engine.execution.linger import Linger
from dwarf_nats.errors import DwarfError, Internal, Unavailable
from dwarf_nats.ports import StatementRefused
from dwarf_nats.rules.decide import fail
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.rules.steps import NewFlow
from dwarf_nats.workflow.answer import ErrorInfo

if TYPE_CHECKING:
    from dwarf_nats.engine.availability import Availability
    from dwarf_nats.engine.execution.follow_up import CommitListener
    from dwarf_nats.engine.ids import StepIds
    from dwarf_nats.ports import Clock, Logger, StepStore
    from dwarf_nats.rules.settlement import SettleResult
    from dwarf_nats.settings import EngineSettings

log = logging.getLogger("dwarf_nats.engine")
T = TypeVar("T")
MAX_PARTS = 16
"""Parts in which a refused group is tried at most, to find those that can be written: bounds the statements of one try."""


class Committer:
    """The one writer of settlements and creations of a shard. Same flow, same committer (X10).

    `outages`: how often it found the database away. `groups`, `members`: what it has written so far.
    """

    def __init__(
        self,
        steps: StepStore,
        settings: EngineSettings,
        clock: Clock,
        step_ids: StepIds,
        availability: Availability,
        *,
        on_written: Callable[[int], None] | None = None,
        logger: Logger = log,
    ) -> None:
        self._on_written = on_written
        self._log = logger
        self._steps = steps
        self._settings = settings
        self._limits = settings.limits()
        self._clock = clock
        self._step_ids = step_ids
        self._availability = availability
        self._listener: CommitListener | None = None
        self._followed = FollowUps(logger)
        self._creates: deque[tuple[NewFlow, asyncio.Future[int | None]]] = deque()
        self._settlements: deque[Settlement] = deque()
        self._apart: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._lingers = not steps.in_memory
        self._linger = Linger(self._ready, lambda: len(self._creates) + len(self._settlements))
        self._closing = False
        self._ended = False
        self.outages = 0
        self.groups = 0
        self.members = 0

    def create(self, new: NewFlow) -> asyncio.Future[int | None]:
        """Have a flow created; the future gives the database's time of it, or `None` if its idempotency key is taken.

        The future raises `Unavailable` if the database is away, `Internal` for what it cannot store.
        """
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if self._ended:
            future.set_exception(_stopping())
            return future
        self._creates.append((new, future))
        self._ready.set()
        return future

    def settle(self, settlement: Settlement) -> None:
        """Have a settlement written; the listener hears what becomes of it."""
        if settlement.error is not None:
            settlement.note_error(self._clock.now())
        if settlement.step.unsaved_progress is not None:
            settlement.note_progress(self._clock.now())
        if self._ended:
            self.fence(settlement)
            return
        self._settlements.append(settlement)
        self._ready.set()

    def close(self) -> None:
        """Let `run` end once everything is written."""
        self._closing = True
        self._linger.end()
        self._ready.set()

    def reopen(self) -> None:
        """Be ready for `run` once more."""
        self._closing = self._ended = False

    async def run(self, listener: CommitListener) -> None:
        """Write until closed; `listener` follows up.

        Creations that come later or could not be written are refused, settlements are fenced.
        """
        self._listener = self._followed.listener = listener
        try:
            await self._write()
        finally:
            self._ended = True
            self._followed.finish()
            self._refuse_waiting(_stopping())
            for apart in self._apart:
                apart.cancel()
            await asyncio.gather(*self._apart, return_exceptions=True)
            while self._settlements:
                self.fence(self._settlements.popleft())

    async def _write(self) -> None:
        while True:
            if not self._creates and not self._settlements:
                if self._closing:
                    self._followed.finish()
                    return
                self._ready.clear()
                await self._ready.wait()
                continue
            if self._lingers and not self._closing and self._linger.is_due():
                await self._linger.wait()
            limit = self._settings.max_group
            creates = next_group(self._creates, limit, lambda member: len(member[0].state_json))
            settled = min(limit, share_of(len(self._settlements)))
            settlements = next_group(self._settlements, settled, weight, lambda one: one.step.step_id)
            try:
                if creates:
                    await self._commit_creations(creates)
                if settlements:
                    await self._commit_settlements(settlements)
            except asyncio.CancelledError:
                for _, future in creates:
                    _refuse(future, _stopping())
                raise
            except Exception:
                self._log.exception("a defect: a group of %d was left to its lease", len(settlements))

    # -- creations

    async def _commit_creations(self, group: list[tuple[NewFlow, asyncio.Future[int | None]]]) -> None:
        try:
            made = await self._steps.create([new for new, _ in group], self._settings.time_budget_ms)
        except Unavailable as error:
            self._count_outage()
            for _, future in group:
                _refuse(future, error)
        except Exception as error:
            if len(group) == 1:
                flow = group[0][0].flow
                self._log.error(
                    "the database refused flow %s: %s",
                    flow.public_id,
                    error,
                    extra={"flow_id": flow.public_id, "workflow": flow.workflow},
                )
                _refuse(
                    group[0][1],
                    error if isinstance(error, DwarfError) else Internal(f"the database refused it: {error}"),
                )
                return
            half = len(group) // 2
            await self._commit_creations(group[:half])
            await self._commit_creations(group[half:])
        else:
            self._count(len(group))
            for new, future in group:
                if not future.done():
                    future.set_result(made.get(new.flow.flow_id))

    # -- settlements

    async def _commit_settlements(self, group: list[Settlement], *, alone: bool = False) -> None:
        """Write a group, however long its database is away, or until the leases have run out (B6).

        If only some of its members can be written, the others are written apart and delay nobody. `alone`: these are such.
        """
        for attempt in count():
            error = await self._try(group)
            if error is None:
                return
            if not alone:
                self._refuse_waiting(_away(error))
            if attempt == 0:
                self._count_outage()
                self._log.warning("%d results in hand wait for their database: %s", len(group), error)
                if not isinstance(error, DwarfError):
                    self._log.error("a defect while results were written", exc_info=error)
            elif await self._written_in_parts(group, error, min(2**attempt, MAX_PARTS)):
                return
            if self._leases_ran_out(attempt):
                self._log.error(
                    "%d results were dropped: their leases have run out; their steps will run again: %s",
                    len(group),
                    error,
                )
                for one in group:
                    self.fence(one)
                return
            await self._clock.sleep(DATABASE_BACKOFF.delay(attempt))

    def _leases_ran_out(self, attempt: int) -> bool:
        lease_seconds = lease_us(None, self._settings.time_budget_ms) / 1_000_000
        return DATABASE_BACKOFF.total(attempt) > lease_seconds

    async def _try(self, group: list[Settlement]) -> Exception | None:
        """Write a group; the error if that is not possible now. What the database can never store fails its step (S1)."""
        try:
            settled = await self._written(group)
        except Exception as error:
            if not is_unstorable(error):
                return error
            await self._isolate(group, error)
            return None
        self._count(len(group))
        self._followed.add(group, settled, soon=bool(self._settlements or self._creates))
        return None

    async def _written_in_parts(self, group: list[Settlement], error: Exception, parts: int) -> bool:
        """Try a group in parts, if the database is there and refuses it; whether some were written.

        The others are written apart, as soon as that is possible.
        """
        if len(group) == 1 or (isinstance(error, Unavailable) and not isinstance(error, StatementRefused)):
            return False
        size = -(-len(group) // parts)
        pieces = [group[at : at + size] for at in range(0, len(group), size)]
        refused = [piece for piece in pieces if await self._try(piece) is not None]
        if len(refused) == len(pieces):
            return False
        for piece in refused:
            apart = asyncio.create_task(self._write_apart(piece), name="dwarf-held-results")
            self._apart.add(apart)
            apart.add_done_callback(self._apart.discard)
        return True

    async def _write_apart(self, group: list[Settlement]) -> None:
        try:
            await self._commit_settlements(group, alone=True)
        except asyncio.CancelledError:
            for one in group:
                self.fence(one)
            raise

    async def _written(self, group: list[Settlement]) -> SettleResult:
        if arriving := [one for one in group if one.arrives or one.links]:
            await self._step_ids.ensure(2 * max(len(group), sum(1 for one in arriving for _ in one.chain())))
        began = time.perf_counter_ns()
        settled = await self._steps.settle(group, self._settings.time_budget_ms, self._step_ids.new, self._limits)
        if self._on_written is not None:
            self._on_written((time.perf_counter_ns() - began) // 1000)
        return settled

    def _refuse_waiting(self, error: Unavailable) -> None:
        """Refuse the creations that wait: while the database is away, callers get their 503 at once (B6)."""
        while self._creates:
            _refuse(self._creates.popleft()[1], error)

    async def _isolate(self, group: list[Settlement], error: Exception) -> None:
        """Find the settlement that the database refuses by halving; it fails alone, with the database's reason."""
        if len(group) > 1 or group[0].links:
            for part in parted(group):
                await self._commit_settlements(part)
            return
        one = group[0]
        reason = " ".join(str(error.__cause__ or error).split())
        self._log.error(
            "the database refused the result of step %s: %s", one.step.public_id, reason, extra=one.step.log_fields
        )
        try:
            refused = fail(one.step, ErrorInfo(f"the result of task {one.step.url} cannot be stored: {reason}", 500))
            assert refused.error is not None
            refused.error_json = refused.error.stored()
        except Exception as again:
            self._left_to_its_lease(one, again)
        else:
            await self._fail_refused(one, refused)

    async def _fail_refused(self, one: Settlement, refused: Settlement) -> None:
        for attempt in count():
            try:
                settled = await self._written([refused])
            except Exception as again:
                if not is_unstorable(again) and not self._leases_ran_out(attempt):
                    await self._clock.sleep(DATABASE_BACKOFF.delay(attempt))
                    continue
                self._left_to_its_lease(one, again)
                return
            self._followed.add([refused], settled, soon=False)
            return

    def _left_to_its_lease(self, one: Settlement, error: Exception) -> None:
        self._log.error(
            "step %s cannot be failed either, it is left to its lease: %s",
            one.step.public_id,
            error,
            extra=one.step.log_fields,
        )
        self.fence(one)

    def fence(self, settlement: Settlement) -> None:
        """Drop a settlement: its step was taken away, or is left to its lease."""
        assert self._listener is not None
        self._listener.fenced(settlement)

    def _count_outage(self) -> None:
        self.outages += 1
        self._availability.count_outage()

    def _count(self, members: int) -> None:
        self._linger.note(members)
        self.groups += 1
        self.members += members


def is_unstorable(error: Exception) -> bool:
    """Tell whether an error says that the value can never be written (semantics: database-errors). All else may pass."""
    if isinstance(error, DwarfError):
        return not isinstance(error, Unavailable)
    return isinstance(error, ValueError | TypeError | OverflowError | RecursionError)


def _away(error: Exception) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(f"results cannot be written, try again: {error!r}")


def _stopping() -> Unavailable:
    return Unavailable("this replica is stopping: ask again")


def _refuse(future: asyncio.Future[int | None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
