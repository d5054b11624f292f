"""Time budgets of steps (X3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import FlowContext
    from dwarf_nats.settings import EngineSettings


def time_budget_ms(flow: FlowContext, settings: EngineSettings) -> int:
    """Milliseconds that each step of the flow has: its own budget, or the engine's."""
    return flow.time_budget_ms if flow.time_budget_ms is not None else settings.time_budget_ms
