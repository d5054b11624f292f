"""Debug lines about the flows and steps of a shard (T3)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import Logger
    from dwarf_nats.rules.steps import ClaimedStep, FlowContext
    from dwarf_nats.workflow.records import Outcome


class DebugLog:
    """Writes a line for each flow that is created or stops, and two for each step.

    Callers look at `enabled` first. It is read from the logger at each heartbeat, because asking the logger at every step
    takes measurable time.
    """

    def __init__(self, shard: int, logger: Logger) -> None:
        self.enabled = False
        self._shard = shard
        self._log = logger

    def refresh(self) -> None:
        """Read from the logger whether debug lines are wanted."""
        self.enabled = self._log.isEnabledFor(logging.DEBUG)

    def created(self, flow: FlowContext) -> None:
        self._log.debug(
            "flow %s of workflow %s is created",
            flow.key,
            flow.workflow,
            extra={"flow_id": flow.public_id, "workflow": flow.workflow, "flow_key": flow.key},
        )

    def stopped(self, flow_id: int, outcome: Outcome) -> None:
        self._log.debug(
            "flow %s is %s",
            outcome.flow_key,
            outcome.status,
            extra={
                "flow_id": f"{self._shard}-{flow_id}",
                "workflow": outcome.workflow,
                "flow_key": outcome.flow_key,
            },
        )

    def dispatched(self, step: ClaimedStep) -> None:
        self._log.debug(
            "step %s of flow %s goes to task %s",
            step.key,
            step.flow.key,
            step.url,
            extra={**step.log_fields, "flow_key": step.flow.key, "step_key": step.key},
        )

    def settled(self, step: ClaimedStep, outcome: str) -> None:
        self._log.debug(
            "step %s of flow %s: %s",
            step.key,
            step.flow.key,
            outcome,
            extra={**step.log_fields, "flow_key": step.flow.key, "step_key": step.key, "outcome": outcome},
        )
