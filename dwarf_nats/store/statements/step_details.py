"""Write what few steps have beside the columns of their settlement: attempts that failed, and progress (L3, B7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dwarf_nats.rules import attempts
from dwarf_nats.store.columns import columns, numbered, unnest
from dwarf_nats.store.commands import Cascade, Query, QueryMany
from dwarf_nats.store.dialect import NOW
from dwarf_nats.workflow.step_details import FailedAttempt

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.store.database import PostgresSession, SqliteSession

ATTEMPTS = "select step_id, attempts from dwarf_steps where step_id {in:$1}"
SET_ATTEMPTS = "update dwarf_steps set attempts = $1 where step_id = $2 returning step_id"
SET_PROGRESS = "update dwarf_steps set progress = $1, progress_at = {now} - $2 where step_id = $3 returning step_id"
PROGRESS = "select step_id, progress from dwarf_steps where step_id {in:$1} and progress is not null"


class ProgressRow(NamedTuple):
    """A progress to be written of a step that is in flight. `age`: microseconds since it was reported."""

    step_id: Annotated[int, "bigint"]
    lease_seq: Annotated[int, "int"]
    progress: Annotated[str, "text"]
    age: Annotated[int, "bigint"]


# Fenced by the lease generation. A row that is locked is being settled, and the settlement takes the progress along.
# Only the primary key has this order, so no plan reads the table.
SAVE_PROGRESS = f"""
update dwarf_steps s set progress = r.progress, progress_at = {NOW} - r.age
from (
  select r.*, l.place from {unnest(ProgressRow)} cross join lateral (
    select ctid as place from dwarf_steps
    where step_id between r.step_id and r.step_id and lease_seq = r.lease_seq and status || '' = 'running'
    order by step_id limit 1 for update skip locked) l) r
where s.ctid = r.place returning s.step_id
"""
_ROW = numbered(ProgressRow)
SAVE_PROGRESS_SQLITE = f"""
update dwarf_steps set progress = {_ROW.progress}, progress_at = dwarf_now() - {_ROW.age}
where step_id = {_ROW.step_id} and lease_seq = {_ROW.lease_seq} and status = 'running' returning step_id
"""


@dataclass(slots=True)
class SaveProgress:
    """Write the progress of steps in flight, in one statement; return the ids of those that were written."""

    rows: Sequence[ProgressRow]

    async def on_postgres(self, session: PostgresSession) -> set[int]:
        return {step_id for (step_id,) in await session.fetch(SAVE_PROGRESS, *columns(self.rows))}

    def on_sqlite(self, session: SqliteSession) -> set[int]:
        return {step_id for row in self.rows for (step_id,) in session.connection.execute(SAVE_PROGRESS_SQLITE, row)}


def write(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Write the details of steps that were just settled, whose rows this transaction has locked by that."""
    details = [(one, one.details) for one in group if one.details is not None]
    failed = [(one, found.attempt_us) for one, found in details if found.attempt_us is not None]
    if failed:
        rows = yield Query(ATTEMPTS, ([one.step.step_id for one, _ in failed],))
        before = {step_id: attempts.read(text) for step_id, text in rows}
        texts = [
            (attempts.with_another(before[one.step.step_id], _attempt(one, took_us, settled)), one.step.step_id)
            for one, took_us in failed
        ]
        yield QueryMany(SET_ATTEMPTS, texts)
    progress = [
        (found.progress_json, found.progress_age_us, one.step.step_id)
        for one, found in details
        if found.progress_json is not None
    ]
    if progress:
        yield QueryMany(SET_PROGRESS, progress)


def _attempt(one: Settlement, took_us: int, settled: SettleResult) -> FailedAttempt:
    at = settled.applied[one.step.step_id].at
    assert one.error is not None
    return FailedAttempt(attempt=one.step.attempt, started_at=at - took_us, ended_at=at, error=one.error)
