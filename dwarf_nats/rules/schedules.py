"""Decisions about schedules: from one row of the database to the next (R3). Pure; times are microseconds.

A row that is due is claimed, which sets `fired_at` and leaves it to the claimer for a while. What is done then survives the end
of the process after each step, because each step can be repeated:

1. A flow is created with an idempotency key made of schedule and due time. It is not started, so nothing removes it.
2. Its key is written into the row.
3. It is started. Repeating that changes nothing.
4. The row moves on to the next due time, which records the run.

If the home of that key is away at the first attempt, the row decides instead of the key: a flow on another shard is planned,
its key is written into the row, marked as planned, and then the flow is created with that id, which is used once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, Conflict, DwarfError, Forbidden, NotFound, TooLarge, Unavailable
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.schedules import (
    Overlap,
    RunOutcome,
    Schedule,
    ScheduleRun,
    body_of,
    rfc3339_short,
    schedule_of,
)

KEPT_RUNS = 10
"""Runs that a schedule remembers."""
SHOWN_NEXT = 10
"""Next due times that are shown."""
ON_TIME_US = 1_000_000
"""Lateness at which a due time still counts as on time, however short `catchUpMs` is: no timer is exact."""
COUNTED_MISSED = 1_000
"""Missed due times that are counted for one record."""
RETRY = Backoff(0.25, 2, 10.0)
"""Pauses between attempts to create the flow of a due time."""
POLL_US, LONGEST_POLL_US = 500_000, 10_000_000
"""Time between two looks at the flow that a queued run waits for: a tenth of the time it has waited, within these bounds."""
_PLANNED = "planned "
"""Stands before the key of a flow that may not be created yet."""
_FINAL = (BadRequest, NotFound, Forbidden, Conflict, TooLarge)
"""Refusals that trying again does not change."""
_RUNS = msgspec.json.Decoder(list[ScheduleRun])


@dataclass(slots=True, frozen=True, kw_only=True)
class ScheduleRow:
    """One row of `dwarf_schedules`, its columns in this order.

    `due_at`: the due time that fires next, `fire_at` with its jitter. `wake_at`: when a replica must look at it.
    `fired_at`: since when its due time is being fired, `attempts` how often that was begun, `flow_key` the flow that was
    created, or planned, for `flow_due`. `last_due`: the youngest due time that is done with. `queued_at`: a due time that
    waits for the last flow to end. `gone`: it is removed once nothing is being fired. `claim` rises with each claim,
    `version` with each change.
    """

    name: str
    workflow: str
    body: str
    paused: int = 0
    gone: int = 0
    due_at: int | None = None
    fire_at: int | None = None
    wake_at: int | None = None
    fired_at: int | None = None
    attempts: int = 0
    flow_key: str | None = None
    flow_due: int | None = None
    last_due: int | None = None
    queued_at: int | None = None
    last_flow: str | None = None
    runs: str = "[]"
    claim: int = 0
    version: int = 1
    created_at: int = 0
    updated_at: int = 0

    @property
    def schedule(self) -> Schedule:
        return schedule_of(self.body)

    @property
    def last(self) -> list[ScheduleRun]:
        """Its last runs, the newest first."""
        return _RUNS.decode(self.runs)

    @property
    def planned_flow(self) -> str | None:
        """The key of a flow that is to be created for `flow_due`, and may be there."""
        return self.flow_key.removeprefix(_PLANNED) if self.flow_key and self.flow_key.startswith(_PLANNED) else None

    @property
    def firing(self) -> bool:
        """A due time is being fired: until that is done, it stays the one to be fired."""
        return self.fired_at is not None


@dataclass(slots=True, frozen=True)
class Fire:
    """A due time is to be fired. `cancels`: the last flow is cancelled first."""

    due: int
    cancels: bool = False


# -- what a person changes


def new_row(schedule: Schedule, now: int) -> ScheduleRow:
    """Return the row of a new schedule."""
    row = ScheduleRow(name=schedule.name, workflow=schedule.workflow, body="", created_at=now)
    return replaced(row, schedule, now)


def replaced(row: ScheduleRow, schedule: Schedule, now: int) -> ScheduleRow:
    """Return the row with another definition. A due time that has been fired, or is being fired, is not fired again."""
    before = None if not row.body or row.gone else row.schedule
    new = replace(
        row,
        workflow=schedule.workflow,
        body=body_of(schedule),
        paused=int(schedule.paused),
        gone=0,
        queued_at=None if schedule.paused else row.queued_at,
        updated_at=now,
    )
    if row.gone:
        new = replace(new, runs="[]", created_at=now)
    if new.firing or (before is not None and not row.paused and not new.paused and _same_times(before, schedule)):
        return new
    return _advanced(new, max(now, row.last_due or 0), now)


def paused(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row with no due time to come. What is being fired is finished; what is queued is skipped."""
    schedule = msgspec.structs.replace(row.schedule, paused=True)
    if row.queued_at is not None:
        row = _with_run(
            row, ScheduleRun(due_at=row.queued_at, outcome=RunOutcome.SKIPPED, message="the schedule was paused")
        )
    return replaced(row, schedule, now)


def resumed(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row with its due times from now on: what was due while it was paused does not fire."""
    return replaced(row, msgspec.structs.replace(row.schedule, paused=False), now)


def removed(row: ScheduleRow, now: int) -> ScheduleRow | None:
    """Return the row to be removed later, because a due time is being fired; `None` if it can be removed at once."""
    return replace(row, gone=1, queued_at=None, updated_at=now) if row.firing else None


def with_runs(row: ScheduleRow, runs: Sequence[ScheduleRun], last_flow: str | None) -> ScheduleRow:
    """Return the row with runs out of turn: triggered or backfilled, the newest last."""
    for run in runs:
        row = _with_run(row, run)
    return replace(row, last_flow=last_flow if last_flow is not None else row.last_flow)


# -- what a replica does with a row that it has claimed


def decided(row: ScheduleRow, now: int, *, last_lives: bool) -> Fire | ScheduleRow:
    """Decide what is to be done with a claimed row: fire a due time, or write the row returned."""
    schedule = row.schedule
    if row.queued_at is not None and not last_lives:
        return Fire(row.queued_at)
    if row.due_at is None or row.fire_at is None or row.fire_at > now or (row.paused and row.attempts <= 1):
        return _idle(row, now)
    if row.attempts <= 1 and now - row.fire_at > _tolerance(schedule):
        return _missed(row, now)
    if not last_lives or schedule.overlap is Overlap.ALLOW:
        return Fire(row.due_at)
    if schedule.overlap is Overlap.CANCEL:
        return Fire(row.due_at, cancels=True)
    if schedule.overlap is Overlap.QUEUE and row.queued_at is None:
        return _done(replace(row, queued_at=row.due_at), row.due_at, now, queues=True)
    flow_id = without_tokens(row.last_flow or "")
    why = f"flow {flow_id} of an earlier run still runs" + (
        ", and another run is queued behind it" if row.queued_at is not None else ""
    )
    skipped = ScheduleRun(due_at=row.due_at, outcome=RunOutcome.SKIPPED, message=why)
    return _done(_with_run(row, skipped), row.due_at, now)


def created(row: ScheduleRow, due: int, flow_key: str) -> ScheduleRow:
    """Return the row with the flow that was created for a due time."""
    return replace(row, flow_key=flow_key, flow_due=due)


def planned(row: ScheduleRow, due: int, flow_key: str) -> ScheduleRow:
    """Return the row with a flow that is to be created for a due time, on another shard than the home of its key."""
    return created(row, due, f"{_PLANNED}{flow_key}")


def may_plan(row: ScheduleRow, error: DwarfError) -> bool:
    """Tell whether a flow may be planned elsewhere: no attempt can have made one, since the first one found a database away."""
    return row.attempts == 1 and isinstance(error, Unavailable) and not error.undecided


def started(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row once the flow that was created runs."""
    flow_key, due = row.flow_key or "", row.flow_due or 0
    run = ScheduleRun(
        due_at=due, outcome=RunOutcome.STARTED, fired_at=fired_at(row, due), flow_id=without_tokens(flow_key)
    )
    return _done(replace(_with_run(row, run), last_flow=flow_key), due, now)


def failed(row: ScheduleRow, due: int, error: DwarfError, now: int) -> ScheduleRow:
    """Return the row once the flow of a due time could not be created."""
    message = f"{error.code}: {without_tokens(error.message)}"[:1000]
    run = ScheduleRun(due_at=due, outcome=RunOutcome.FAILED, fired_at=fired_at(row, due), message=message)
    return _done(_with_run(row, run), due, now)


def postponed(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row to be looked at again at once."""
    return replace(_idle(row, now), wake_at=now)


def next_version(row: ScheduleRow) -> ScheduleRow:
    """Return the row as the database has it once it was saved."""
    return replace(row, version=row.version + 1)


def retried(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row to be looked at again after a pause."""
    return replace(row, wake_at=now + round(RETRY.delay(row.attempts) * 1_000_000))


def may_retry(row: ScheduleRow, due: int, error: DwarfError, now: int) -> bool:
    """Tell whether creating the flow is to be tried again: not after a refusal for good, nor beyond `catchUpMs`."""
    since = row.fire_at if due == row.due_at and row.fire_at is not None else row.fired_at
    return not isinstance(error, _FINAL) and now - (since or now) <= _tolerance(row.schedule)


def fired_at(row: ScheduleRow, due: int) -> int:
    """Return when a due time was fired first; the same however often that is begun again."""
    return max(row.fired_at or 0, due)


# -- parts


def _tolerance(schedule: Schedule) -> int:
    return max(schedule.catch_up_ms * 1000, ON_TIME_US)


def _same_times(one: Schedule, other: Schedule) -> bool:
    fields = ("cron", "every_ms", "timezone", "jitter_ms", "from_", "until")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def _with_run(row: ScheduleRow, run: ScheduleRun) -> ScheduleRow:
    runs = [run, *row.last][:KEPT_RUNS]
    return replace(row, runs=msgspec.json.encode(runs).decode())


def _done(row: ScheduleRow, due: int, now: int, *, queues: bool = False) -> ScheduleRow:
    """Return the row once a due time is done with: the one that was queued, or the one that fires next."""
    row = replace(row, last_due=max(due, row.last_due or 0))
    if due == row.queued_at and not queues:
        return _idle(replace(row, queued_at=None), now)
    return _advanced(row, max(due, row.last_due or 0), now)


def _advanced(row: ScheduleRow, after: int, now: int) -> ScheduleRow:
    """Return the row with its first due time after a moment as the next to fire."""
    schedule = row.schedule
    due = None if row.paused else schedule.after(after)
    return _idle(replace(row, due_at=due, fire_at=None if due is None else schedule.fires_at(due)), now)


def _idle(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row with nothing being fired, to be looked at when that is due."""
    if row.paused:
        row = replace(row, due_at=None, fire_at=None)
    wakes = [] if row.fire_at is None else [row.fire_at]
    if row.queued_at is not None:
        wakes.append(now + min(max(POLL_US, (now - row.queued_at) // 10), LONGEST_POLL_US))
    return replace(row, wake_at=min(wakes, default=None), fired_at=None, attempts=0, flow_key=None, flow_due=None)


def _missed(row: ScheduleRow, now: int) -> ScheduleRow:
    """Return the row without the due times that are too old to fire, and with a record of them."""
    schedule, first, oldest = row.schedule, row.due_at or 0, now - _tolerance(row.schedule)
    count, last = 1, first
    for due in schedule.following(first, COUNTED_MISSED):
        if schedule.fires_at(due) >= oldest:
            break
        count, last = count + 1, due
    after = last
    if count > COUNTED_MISSED:  # too many to be counted
        after = max(last, oldest - schedule.jitter_ms * 1000 - 1)
    number = f"more than {COUNTED_MISSED:,}" if count > COUNTED_MISSED else f"{count:,}"
    times = "due time" if count == 1 else "due times"
    message = (
        f"{number} {times} from {rfc3339_short(first)} on passed while nothing could fire,"
        f" and are older than catchUpMs ({schedule.catch_up_ms}); `backfill` runs them"
    )
    run = ScheduleRun(due_at=first, outcome=RunOutcome.MISSED, message=message)
    row = replace(_with_run(row, run), last_due=max(after, row.last_due or 0))
    return _advanced(row, after, now)
