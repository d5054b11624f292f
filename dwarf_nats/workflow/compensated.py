"""The completed step that a compensation is for, as its task function sees it (N9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dwarf_nats.workflow.state import decode_state, to_values

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Compensating, ErrorInfo


@dataclass(slots=True, frozen=True, kw_only=True)
class CompensatedStep:
    """The step that is compensated. `step_key` is the idempotency key that its task had; `changes` what it had changed.

    `error` of the flow if that fails, `cancel_reason` if it is cancelled.
    """

    step_key: str
    changes: Mapping[str, Any]
    error: ErrorInfo | None
    cancel_reason: str | None


def compensated_step(step: Compensating | None) -> CompensatedStep | None:
    """Return the step with its changes as Python values."""
    if step is None:
        return None
    return CompensatedStep(
        step_key=step.step_key,
        changes=MappingProxyType(to_values(decode_state(bytes(step.changes)))),
        error=step.error,
        cancel_reason=step.cancel_reason,
    )
