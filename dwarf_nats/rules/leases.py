"""The lease of a claimed step: the time after which another replica may take it (B2). Pure."""

from __future__ import annotations

LEASE_GRACE_MS = 30_000
"""Milliseconds a lease lasts beyond the time budget of the task: for the way there and back, and for the commit."""


def lease_us(time_budget_ms: int | None, default_budget_ms: int) -> int:
    """Microseconds a claim holds: the time budget of the flow, or the default if it has none, and the grace."""
    return ((default_budget_ms if time_budget_ms is None else time_budget_ms) + LEASE_GRACE_MS) * 1000
