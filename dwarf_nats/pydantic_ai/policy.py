"""The policies of an agent's steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True, kw_only=True)
class AgentPolicy:
    """Time and attempts of an agent's steps. Times are seconds; `None` leaves the time budget of the flow.

    `model_attempts` and `tool_attempts` count the first try. A tool that raises is tried once unless you say more: tools have
    effects. A step whose worker was lost runs again in any case, so give effects the step's key as idempotency key.
    `approval_timeout`: how long a person may take; after that the call is denied.
    """

    model_timeout: float | None = 300.0
    model_attempts: int = 5
    tool_timeout: float | None = None
    tool_attempts: int = 1
    approval_timeout: float | None = None
