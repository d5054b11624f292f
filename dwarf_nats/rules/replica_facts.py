"""What only a replica knows about steps and tasks, for an explanation (Q2). Times are microseconds on that replica's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.progress import Progress


class StepPhase(StrEnum):
    """How far a replica is with a step that it has claimed."""

    ASKING = "asking"
    """Its task is asked, or is about to be."""
    QUEUED = "queued"
    """Its worker has it in its own queue, and has not begun (K3). The deadline is when it is given back."""
    HELD = "held"
    """It is held until the connection to the task services is back."""
    WRITING = "writing"
    """Its answer is there and is being written."""


@dataclass(slots=True, frozen=True)
class Question:
    """What is asked of replicas: steps of a shard that they may have, and tasks."""

    shard: int
    step_ids: Sequence[int] = ()
    urls: Sequence[str] = ()


@dataclass(slots=True, frozen=True, kw_only=True)
class StepFacts:
    """A step that a replica has. `worker`: the one that runs it, if it has named itself."""

    phase: StepPhase
    worker: str = ""
    deadline: int | None = None
    progress: Progress | None = None
    """Its last progress (B7)."""


@dataclass(slots=True, frozen=True, kw_only=True)
class TaskFacts:
    """A task that a replica holds back. `rate`: requests per second that it may send it; `None`: any number.

    `opens_at`: when the next one may go out, if its rate is limited. `probe_at`: when the next probe may, if it is held for
    `cause`.
    `at_share`: its steps have as many slots as one task may have while steps of others wait.
    """

    rate: float | None = None
    opens_at: int | None = None
    probe_at: int | None = None
    cause: str = ""
    at_share: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class ReplicaFacts:
    """One replica: its worker slots, and what it knows of the steps and tasks asked about."""

    name: str
    workers: int
    in_use: int
    draining: bool = False
    holds_steps: bool = False
    """Its connection to the task services is away: it holds its steps."""
    steps: Mapping[int, StepFacts] = field(default_factory=dict)
    tasks: Mapping[str, TaskFacts] = field(default_factory=dict)
