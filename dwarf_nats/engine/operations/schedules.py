"""The operations on schedules (R3). `engine.schedule_api` documents the methods."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import check_options, checked_limit
from dwarf_nats.engine.operations.schedule_runs import schedule_store
from dwarf_nats.errors import BadRequest, Conflict, DwarfError, NotFound, TooLarge, Unavailable
from dwarf_nats.rules import schedules as rules
from dwarf_nats.rules.schedules import SHOWN_NEXT, ScheduleRow
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.limits import over
from dwarf_nats.workflow.schedule_flows import check_schedule, flow_of
from dwarf_nats.workflow.schedules import (
    RunOutcome,
    Schedule,
    ScheduleInfo,
    ScheduleRun,
    body_of,
    check_schedule_name,
    rfc3339_short,
)
from dwarf_nats.workflow.state import Raw

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard

MAX_BACKFILL = 1_000
"""Most due times of one backfill."""
BACKFILL_AT_ONCE = 20
"""Flows of a backfill that are created at the same time."""
MAX_LISTED = 1_000
MAX_TRIES = 50
"""Most attempts at a schedule that others change."""


class ScheduleRegister:
    """Puts, reads and steers schedules."""

    def __init__(
        self, shards: Mapping[int, Shard], replica: Replica, *, creator: Creator, keys: IdempotencyKeys
    ) -> None:
        self._shards = shards
        self._creator = creator
        self._keys = keys
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()
        self._alarm = replica.schedule_alarm
        self._counters = replica.counters
        self._tokens = replica.tokens

    # -- reading

    async def get(self, name: str) -> ScheduleInfo:
        row, _ = await self._row(name)
        return _info(row)

    async def list(self, limit: int | None, cursor: str, workflow: str | None) -> tuple[Sequence[ScheduleInfo], str]:
        count = checked_limit(limit, 100, MAX_LISTED)
        if cursor:
            check_schedule_name(cursor)
        rows = await schedule_store(self._shards).page(cursor, count + 1, workflow)
        shown = rows[:count]
        return [_summary(row) for row in shown], shown[-1].name if len(rows) > count else ""

    # -- changing

    async def put(self, schedule: Schedule) -> ScheduleInfo:
        check_schedule(schedule)
        body = body_of(schedule)
        self._limits.check_bytes(len(body), "the schedule")
        _, options = flow_of(schedule, 0, 0, key="key", limits=self._limits)
        check_options(options)
        warnings = await self._warnings(schedule)
        store = schedule_store(self._shards)
        for _ in range(MAX_TRIES):
            before, now = await store.get(schedule.name)
            row = rules.new_row(schedule, now) if before is None else rules.replaced(before, schedule, now)
            if await (store.add(row) if before is None else store.save(row)):
                self._note(row, now)
                return replace(_info(row), warnings=warnings)
        raise _busy(schedule.name)

    async def pause(self, name: str) -> ScheduleInfo:
        return await self._change(name, rules.paused)

    async def resume(self, name: str) -> ScheduleInfo:
        return await self._change(name, rules.resumed)

    async def delete(self, name: str) -> None:
        store = schedule_store(self._shards)
        for _ in range(MAX_TRIES):
            row, now = await self._row(name)
            left = rules.removed(row, now)
            if await (store.remove(row) if left is None else store.save(left)):
                return
        raise _busy(name)

    # -- runs out of turn

    async def trigger(self, name: str, request: str | None) -> ScheduleInfo:
        """Start a flow now. `request`: the id of the request; repeated, it starts no second flow."""
        row, now = await self._row(name)
        schedule, at = row.schedule, now // 1000 * 1000
        key = f"schedule:{name}:trigger:{_digest(request) if request is not None else self._tokens()}"
        state, options = flow_of(schedule, at, at, key=key, limits=self._limits)
        flow_key = await self._keys.key_of(key, options.fairness_key)
        if flow_key is None:
            flow_key = (await self._creator.create(schedule.workflow, state, options, start=True)).key
        flow_id = without_tokens(flow_key)
        if any(run.flow_id == flow_id for run in row.last):  # the same request again
            return _info(row)
        run = ScheduleRun(due_at=at, outcome=RunOutcome.STARTED, fired_at=at, flow_id=flow_id)
        self._counters.schedule_runs.add(run.outcome.value)
        return await self._change(name, lambda one, _: rules.with_runs(one, [run], flow_key))

    async def backfill(self, name: str, first: int, last: int) -> int:
        """Start the flows of all due times of a range that have none; return how many."""
        row, now = await self._row(name)
        schedule = row.schedule
        being_fired = (row.due_at, row.queued_at, row.flow_due) if row.firing else ()
        due = [one for one in _range(schedule, first, last, now) if one not in being_fired]
        fired: list[tuple[int, str]] = []
        try:
            for at in range(0, len(due), BACKFILL_AT_ONCE):
                group = due[at : at + BACKFILL_AT_ONCE]
                keys = await asyncio.gather(*(self._backfilled(schedule, one, now) for one in group))
                fired += [(one, key) for one, key in zip(group, keys, strict=True) if key is not None]
        except DwarfError as error:
            message = f"{error.message} ({len(fired)} of {len(due)} due times were started; the same request goes on)"
            raise type(error)(message) from None
        finally:
            await self._record(name, now, fired)
        return len(fired)

    async def _backfilled(self, schedule: Schedule, due: int, now: int) -> str | None:
        """Start the flow of a due time; return its key, or `None` if it has one already."""
        key = schedule.key_of(due)
        state, options = flow_of(schedule, due, now, key=key, limits=self._limits)
        if await self._keys.key_of_any(key, options.fairness_key) is not None:
            return None
        try:
            return (await self._creator.create(schedule.workflow, state, options, start=True)).key
        except Conflict:  # fired this moment
            return None

    async def _record(self, name: str, now: int, fired: Sequence[tuple[int, str]]) -> None:
        if not fired:
            return
        runs = [
            ScheduleRun(due_at=due, outcome=RunOutcome.STARTED, fired_at=now, flow_id=without_tokens(key))
            for due, key in fired
        ]
        for run in runs:
            self._counters.schedule_runs.add(run.outcome.value)
        await self._change(name, lambda one, _: rules.with_runs(one, runs[-rules.KEPT_RUNS :], None))

    # -- parts

    async def _row(self, name: str) -> tuple[ScheduleRow, int]:
        check_schedule_name(name)
        row, now = await schedule_store(self._shards).get(name)
        if row is None or row.gone:
            raise NotFound(f"no schedule {name!r}: list what there is with dwarf.schedule.list, or put it")
        return row, now

    async def _change(self, name: str, change: Callable[[ScheduleRow, int], ScheduleRow]) -> ScheduleInfo:
        for _ in range(MAX_TRIES):
            before, now = await self._row(name)
            row = change(before, now)
            if await schedule_store(self._shards).save(row):
                self._note(row, now)
                return _info(row)
        raise _busy(name)

    def _note(self, row: ScheduleRow, now: int) -> None:
        if row.wake_at is not None:
            self._alarm.note(row.wake_at - now)

    async def _warnings(self, schedule: Schedule) -> Sequence[str]:
        """Tell what looks like a mistake: the workflow may be served later, so it is not asked for now."""
        try:
            await self._graphs.find(schedule.workflow, Raw(b"{}"))
        except DwarfError as error:
            return [
                f"a flow of workflow {schedule.workflow!r} cannot be made now ({error.message});"
                " runs of this schedule fail until it can"
            ]
        return []


def _range(schedule: Schedule, first: int, last: int, now: int) -> list[int]:
    """Return the due times of a range. Raises `BadRequest` if there are too many, or it is not past."""
    if last < first:
        raise BadRequest("to is before from: give the earlier time as from")
    if last > now:
        raise BadRequest(f"to must not lie in the future, got {rfc3339_short(last)}: what is due then fires by itself")
    found: list[int] = []
    for due in schedule.between(first, last):
        if len(found) == MAX_BACKFILL:
            raise TooLarge(
                over(
                    "the range has more due times than one backfill starts",
                    "max_backfill",
                    MAX_BACKFILL,
                    f"backfill up to {rfc3339_short(found[-1])} first, then the rest",
                )
            )
        found.append(due)
    return found


def _info(row: ScheduleRow) -> ScheduleInfo:
    schedule = row.schedule
    following: list[int] = []
    if not row.paused:
        following = [] if row.due_at is None else [row.due_at, *schedule.following(row.due_at, SHOWN_NEXT - 1)]
    return ScheduleInfo(
        schedule=schedule,
        last=row.last,
        next=following,
        description=schedule.description(),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _summary(row: ScheduleRow) -> ScheduleInfo:
    return ScheduleInfo(
        schedule=row.schedule,
        last=row.last[:1],
        next=[] if row.due_at is None else [row.due_at],
        description=row.schedule.description(),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _digest(request: str) -> str:
    return hashlib.sha256(request.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _busy(name: str) -> Unavailable:
    return Unavailable(f"schedule {name!r} is being changed by others again and again: ask again")
