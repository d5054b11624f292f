"""How long a claim holds (B2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import FlowContext

GRACE_MS = 30_000


def lease_us(flow: FlowContext, budget_ms: int) -> int:
    """Microseconds a claim of this flow's steps holds: time budget + 30 s."""
    budget = flow.time_budget_ms if flow.time_budget_ms is not None else budget_ms
    return (budget + GRACE_MS) * 1000
