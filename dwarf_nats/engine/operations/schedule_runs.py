"""Firing of schedules: what is done with a schedule that a replica has claimed (R3).

`rules.schedules` says in which order, and why no step is lost or done twice if the process ends after any of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import check_options
from dwarf_nats.errors import Conflict, DwarfError, NotFound, Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.rules import schedules as rules
from dwarf_nats.rules.schedules import Fire, ScheduleRow
from dwarf_nats.workflow.keys import parse_key, without_tokens
from dwarf_nats.workflow.schedule_flows import flow_of
from dwarf_nats.workflow.schedules import Overlap, RunOutcome, rfc3339_short

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.control import FlowControl
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import ScheduleStore
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.state import State

Change = Callable[[ScheduleRow], ScheduleRow]


def schedule_store(shards: Mapping[int, Shard]) -> ScheduleStore:
    """Return the store of the schedules. Raises `Unavailable` if this replica does not know its shard."""
    shard = shards.get(HOME)
    if shard is None:
        raise Unavailable("shard 1 keeps the schedules, and this replica does not know it: start it with all DSNs")
    return shard.store.schedules


class ScheduleRunner:
    """Creates the flows of schedules."""

    def __init__(
        self,
        shards: Mapping[int, Shard],
        replica: Replica,
        *,
        placement: Placement,
        keys: IdempotencyKeys,
        creator: Creator,
        control: FlowControl,
    ) -> None:
        self._shards = shards
        self._placement = placement
        self._keys = keys
        self._creator = creator
        self._control = control
        self._limits = replica.settings.limits()
        self._clock = replica.clock
        self._alarm = replica.schedule_alarm
        self._ahead_us = 0
        """Microseconds that the database's clock is ahead of the clock here."""
        self._log = replica.logger
        self._counters = replica.counters

    async def run(self, row: ScheduleRow, now: int) -> None:
        """Do what is due for a claimed schedule. `now`: the time of the database when it was claimed. Raises `Unavailable`."""
        self._ahead_us = now - self._clock.now()
        if row.flow_key is None and row.attempts > 1 and row.due_at is not None:
            row = await self._created_before(row, row.due_at) or row
        if row.flow_key is None:
            decision = rules.decided(row, now, last_lives=await self._last_lives(row))
            if isinstance(decision, ScheduleRow):
                await self._decide_again(row, now, decision)
                return
            created = await self._created(row, decision)
            if created is None:
                return
            row = created
        elif row.planned_flow is not None:
            made = await self._created_as_planned(row)
            if made is None:
                return
            row = made
        await self._start(row.flow_key or "")
        if await self._save(row, lambda one: rules.started(one, self._now())) is not None:
            self._counters.schedule_runs.add(RunOutcome.STARTED.value)

    def _now(self) -> int:
        """The time of the database."""
        return self._clock.now() + self._ahead_us

    async def _created_before(self, row: ScheduleRow, due: int) -> ScheduleRow | None:
        """Find the flow that an earlier attempt has created for a due time, and could not note."""
        found = await self._keys.key_of(row.schedule.key_of(due), self._fairness_key(row, due))
        return None if found is None else await self._save(row, lambda one: rules.created(one, due, found))

    async def _decide_again(self, row: ScheduleRow, now: int, decision: ScheduleRow) -> None:
        """Write what was decided without firing; decided again if the schedule was changed meanwhile."""
        store = schedule_store(self._shards)
        while not await store.save(decision):
            fresh, _ = await store.get(row.name)
            if fresh is None or fresh.claim != row.claim:
                return
            decided = rules.decided(fresh, now, last_lives=await self._last_lives(fresh))
            # What was changed may be due now: it is looked at again at once.
            decision = rules.postponed(fresh, now) if isinstance(decided, Fire) else decided
        self._tell(row, decision)
        await self._written(decision)

    async def _created(self, row: ScheduleRow, fire: Fire) -> ScheduleRow | None:
        """Create the flow of a due time, not started, and write its key; `None` if that is not possible now, or any more."""
        key = row.schedule.key_of(fire.due)
        try:
            if fire.cancels:
                await self._cancel(row)
            flow_key = (await self._creator.create(*self._flow(row, fire.due), start=False)).key
        except DwarfError as error:
            if rules.may_plan(row, error) and (planned := await self._planned(row, fire)) is not None:
                return await self._created_as_planned(planned)
            found = await self._found(row, fire, key, error)
            if found is None:
                return None
            flow_key = found
        return await self._save(row, lambda one: rules.created(one, fire.due, flow_key))

    async def _planned(self, row: ScheduleRow, fire: Fire) -> ScheduleRow | None:
        """Plan the flow of a due time on another shard, and write down which it is; `None` if that is not possible."""
        try:
            new = await self._creator.prepare_elsewhere(*self._flow(row, fire.due))
        except DwarfError:
            return None
        return None if new is None else await self._save(row, lambda one: rules.planned(one, fire.due, new.flow.key))

    async def _created_as_planned(self, row: ScheduleRow) -> ScheduleRow | None:
        """Create the flow that was planned for a due time, once however often this is begun. Raises `Unavailable`."""
        due, flow_key = row.flow_due or 0, row.planned_flow or ""
        try:
            new = await self._creator.prepare_elsewhere(*self._flow(row, due), planned=parse_key(flow_key))
        except Unavailable:
            raise
        except DwarfError as error:  # the schedule was changed meanwhile, or its workflow is gone
            key = parse_key(flow_key)
            if await self._placement.shard_of(key).store.keys.is_placed(key.id) is None:
                await self._give_up(row, due, error)
                return None
            new = None
        if new is not None and not await self._creator.create_prepared(new):
            raise Unavailable("the flow that was planned could not be created this moment")
        return await self._save(row, lambda one: rules.created(one, due, flow_key))

    def _flow(self, row: ScheduleRow, due: int) -> tuple[str, State, FlowOptions]:
        """Return workflow, state and options of the flow of a due time. Raises `BadRequest`, `TooLarge`."""
        schedule, fired = row.schedule, rules.fired_at(row, due)
        state, options = flow_of(schedule, due, fired, key=schedule.key_of(due), limits=self._limits)
        check_options(options)
        return schedule.workflow, state, options

    async def _found(self, row: ScheduleRow, fire: Fire, key: str, error: DwarfError) -> str | None:
        """Return the key of the flow if an earlier attempt created it after all; else note the failure."""
        now = self._now()
        if rules.may_retry(row, fire.due, error, now):
            await self._save(row, lambda one: rules.retried(one, now))
            self._log.debug("schedule %s: %s", row.name, without_tokens(error.message))
            return None
        try:
            found = await self._keys.key_of(key, self._fairness_key(row, fire.due))
        except DwarfError:  # nothing may be given up before it is certain that there is no flow
            await self._save(row, lambda one: rules.retried(one, now))
            return None
        if found is None:
            await self._give_up(row, fire.due, error)
        return found

    async def _give_up(self, row: ScheduleRow, due: int, error: DwarfError) -> None:
        """Note that the flow of a due time cannot be created, once it is certain that there is none."""
        now = self._now()
        written = await self._save(row, lambda one: rules.failed(one, due, error, now))
        if written is not None:
            self._tell(row, written)

    async def _save(self, row: ScheduleRow, change: Change) -> ScheduleRow | None:
        """Write a change of a claimed schedule, made anew if somebody else changed the schedule meanwhile.

        `None` if another replica has claimed it, or it is gone. Raises `Unavailable`.
        """
        store = schedule_store(self._shards)
        while True:
            changed = change(row)
            if await store.save(changed):
                await self._written(changed)
                return rules.next_version(changed)
            fresh, _ = await store.get(row.name)
            if fresh is None or fresh.claim != row.claim:
                return None
            row = fresh

    async def _written(self, row: ScheduleRow) -> None:
        """Follow up on a change: be there at the next due time, and remove what was deleted while it was being fired."""
        if row.gone and not row.firing:
            await schedule_store(self._shards).remove(rules.next_version(row))
        elif row.wake_at is not None and row.flow_key is None:
            self._alarm.note(max(0, row.wake_at - self._now()))

    def _fairness_key(self, row: ScheduleRow, due: int) -> str:
        """Return the fairness key of the flow of a due time, to which its idempotency key belongs."""
        try:
            return flow_of(row.schedule, due, rules.fired_at(row, due), key="key", limits=self._limits)[1].fairness_key
        except DwarfError:  # then no flow was made
            return ""

    async def _start(self, flow_key: str) -> None:
        """Start the flow that was created. Once it runs, or has run and is gone, there is nothing to do."""
        with contextlib.suppress(Conflict, NotFound):
            await self._control.start(flow_key, "")

    async def _cancel(self, row: ScheduleRow) -> None:
        with contextlib.suppress(Conflict, NotFound):
            await self._control.cancel(row.last_flow or "", f"schedule {row.name}: its next run is due")

    async def _last_lives(self, row: ScheduleRow) -> bool:
        """Tell whether the flow of the last run has not ended. Raises `Unavailable`."""
        if row.last_flow is None or (row.schedule.overlap is Overlap.ALLOW and row.queued_at is None):
            return False
        key = parse_key(row.last_flow)
        flow = await self._placement.shard_of(key).store.flows.by_id(key.id)
        return flow is not None and not flow.status.terminal

    def _tell(self, before: ScheduleRow, after: ScheduleRow) -> None:
        """Count and log what was not started: nothing is lost silently."""
        if before.runs == after.runs or not after.last:
            return
        run = after.last[0]
        self._counters.schedule_runs.add(run.outcome.value)
        self._log.warning(
            "schedule %s, due %s: %s: %s",
            before.name,
            rfc3339_short(run.due_at),
            run.outcome.value,
            run.message or "",
            extra={"schedule": before.name},
        )
