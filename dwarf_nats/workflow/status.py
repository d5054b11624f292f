"""Statuses of flows and steps (semantics: section 1)."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a flow or a step is. A flow is never `pending`."""

    CREATED = "created"
    PENDING = "pending"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """No further change without a restart."""
        return self in TERMINAL

    @property
    def stopped(self) -> bool:
        """Not created, pending or running."""
        return self in STOPPED


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
STOPPED = TERMINAL | {Status.INTERRUPTED}
