"""The attempts of a step that failed before the present one, as its row keeps them (L3). Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.step_details import FailedAttempt

MAX_KEPT_ATTEMPTS = 20
"""Failed attempts that are kept, the newest: enough to see a pattern, little enough for a row."""
KEPT_ERROR_MAX_BYTES = 2_048
"""Bytes to which the error of each is cut."""
_decode = msgspec.json.Decoder(list[tuple[int, int, int, dict[str, object]]]).decode
_encode = msgspec.json.Encoder().encode


def read(text: str | None) -> list[FailedAttempt]:
    """The attempts of a row, in their order."""
    if text is None:
        return []
    return [
        FailedAttempt(attempt=attempt, started_at=started_at, ended_at=ended_at, error=ErrorInfo.from_values(error))
        for attempt, started_at, ended_at, error in _decode(text)
    ]


def with_another(before: Sequence[FailedAttempt], failed: FailedAttempt) -> str:
    """The text of a row that had these, with one more."""
    kept = [*before[-(MAX_KEPT_ATTEMPTS - 1) :], failed]
    return _encode([(one.attempt, one.started_at, one.ended_at, _error(one)) for one in kept]).decode()


def _error(failed: FailedAttempt) -> msgspec.Raw:
    # A stored error can always be written, whatever a task put into it.
    return msgspec.Raw(failed.error.within(KEPT_ERROR_MAX_BYTES).stored().encode())
