"""Statuses of flows and steps (semantics: statuses)."""

from __future__ import annotations

from difflib import get_close_matches
from enum import IntEnum, StrEnum

from dwarf_nats.errors import BadRequest


class Status(StrEnum):
    """The status of a flow or a step. A flow is never `pending`."""

    CREATED = "created"
    PENDING = "pending"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True for a status that only a restart changes."""
        return self in TERMINAL

    @property
    def stopped(self) -> bool:
        """True unless created, pending or running."""
        return self in STOPPED

    @classmethod
    def of(cls, text: str) -> Status:
        """The status of that name. Raises `BadRequest`, which names the nearest one."""
        try:
            return cls(text)
        except ValueError:
            near = get_close_matches(str(text).lower(), list(cls), n=1, cutoff=0.5)
            hint = f"did you mean {str(near[0])!r}?" if near else f"use one of {', '.join(cls)}"
            raise BadRequest(f"there is no status {str(text)[:80]!r}: {hint}") from None


class Parked(IntEnum):
    """The reason why a step is parked: it is not claimed, and if it is running, no replica holds its lease."""

    NO = 0
    CHILD = 1
    """It is running and waits for the flow it called (P1)."""
    BREAKER = 2
    """It is pending, and the circuit breaker of its task is tripped (V4)."""
    EVENT = 3
    """It is running and waits for an event (E2)."""
    LIMIT = 4
    """It is pending, and a limit lets no more begin (K1)."""
    HOLD = 5
    """It is pending, and its task or its workflow is on hold (K2)."""


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
STOPPED = TERMINAL | {Status.INTERRUPTED}
