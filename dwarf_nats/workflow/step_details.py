"""Details of a step in a history (Q3, L3). Times are microseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from dwarf_nats.workflow.answer import ErrorInfo

_parse = msgspec.json.Decoder().decode


@dataclass(slots=True, frozen=True, kw_only=True)
class Branch:
    """The place of a step in a fan-out: branch `index`, from 0, of the `count` branches of the node `of`."""

    index: int
    count: int
    of: str

    @property
    def label(self) -> str:
        """The place as people write it: `2/5` is the second of five."""
        return f"{self.index + 1:,}/{self.count:,}"


@dataclass(slots=True, frozen=True, kw_only=True)
class FailedAttempt:
    """An earlier attempt of a step, which failed; `attempt` counts from 0."""

    attempt: int
    started_at: int
    ended_at: int
    error: ErrorInfo


@dataclass(slots=True, frozen=True, kw_only=True)
class StepPause:
    """The pause of a step: since when, and the deadline of an interrupt that has one.

    `payload_json` is absent at a breakpoint, and if it was left out because it is too large; `step` then reads it.
    """

    kind: Literal["interrupt", "breakpoint"]
    since: int
    until: int | None = None
    payload_json: bytes | None = None

    @property
    def payload(self) -> Any:
        """The payload of the interrupt as a Python value."""
        return None if self.payload_json is None else _parse(self.payload_json)
