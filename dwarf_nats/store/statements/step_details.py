"""Write what few steps have beside the columns of their settlement: attempts that failed (L3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules import attempts
from dwarf_nats.store.commands import Cascade, Query, QueryMany
from dwarf_nats.workflow.step_details import FailedAttempt

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement, SettleResult

ATTEMPTS = "select step_id, attempts from dwarf_steps where step_id {in:$1}"
SET_ATTEMPTS = "update dwarf_steps set attempts = $1 where step_id = $2 returning step_id"


def write(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Write the details of steps that were just settled, whose rows this transaction has locked by that."""
    failed = [(one, one.details.attempt_us) for one in group if one.details is not None]
    if failed:
        found = yield Query(ATTEMPTS, ([one.step.step_id for one, _ in failed],))
        before = {step_id: attempts.read(text) for step_id, text in found}
        rows = []
        for one, took_us in failed:
            step, at = one.step, settled.applied[one.step.step_id].at
            assert one.error is not None
            attempt = FailedAttempt(attempt=step.attempt, started_at=at - took_us, ended_at=at, error=one.error)
            rows.append((attempts.with_another(before[step.step_id], attempt), step.step_id))
        yield QueryMany(SET_ATTEMPTS, rows)
