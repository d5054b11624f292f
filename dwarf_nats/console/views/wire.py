"""The replies that the flow page reads, as types. They have ids in place of keys, as the source of the console gives them.

They are read more loosely than by the SDK: an unknown field is ignored, an absent one has a default. So the page works with an
older or a newer service, and shows what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Base(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """Base of all: names in camelCase, unknown fields ignored."""


class Branch(Base):
    """The place of a step among the branches of the fan-out `of`: `index` of `count`, from 0."""

    index: int
    count: int
    of: Any = None


class Progress(Base):
    """What the task of a running step told last."""

    fraction: float | None = None
    text: str = ""
    at: datetime | None = None


class Attempt(Base):
    """An earlier execution of a step, which failed."""

    attempt: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: dict[str, Any] | None = None


class Pause(Base):
    """Something that pauses a flow."""

    step: str = ""
    task: str = ""
    kind: str = "interrupt"
    payload: Any = None
    since: datetime | None = None
    until: datetime | None = None


class Step(Base):
    """One step of a history; with `state` and `changes` if it was read alone. `step`: its id, `1-57`."""

    step: str
    step_id: int
    depth: int
    task: str
    status: str
    created_at: datetime
    updated_at: datetime
    attempt: int = 0
    started_at: datetime | None = None
    error: dict[str, Any] | None = None
    handled_error: dict[str, Any] | None = None
    predecessor_id: int | None = None
    successor_id: int | None = None
    kind: str = "task"
    due_at: datetime | None = None
    queued_at: datetime | None = None
    claimed_at: datetime | None = None
    branch: Branch | None = None
    problems: list[str] = []
    progress: Progress | None = None
    attempts: list[Attempt] = []
    pause: Pause | None = None
    worker: str = ""
    deadline: datetime | None = None
    subgraph: bool = False
    sub_workflow: str | None = None
    sub_flow: str | None = None
    sub_history: list[Step] = []
    state: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None
    interrupt_payload: Any = None
    truncated: bool = False
    prev: str = ""
    next: str = ""

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def failure(self) -> dict[str, Any] | None:
        """The error it ended with, or whose error edge it took."""
        return self.error or self.handled_error


OVER = frozenset(("completed", "failed", "cancelled"))


class Wait(Base):
    """One reason for which a flow stands still."""

    reason: str
    text: str = ""
    step: str = ""
    step_id: Any = None
    task: str = ""
    url: str = ""
    payload: Any = None
    flow: str = ""
    workflow: str = ""
    since: datetime | None = None
    until: datetime | None = None
    remedy: str = ""
    worker: str = ""
    deadline: datetime | None = None
    waits: list[Wait] = []


class Explanation(Base):
    """Why a flow stands where it stands."""

    status: str = ""
    text: str = ""
    remedy: str = ""
    counts: dict[str, int] = {}
    waits: list[Wait] = []


class Outcome(Base):
    """Where a flow stands."""

    flow: str
    workflow: str
    status: str
    state: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    cancel_reason: str | None = None
    pauses: list[Pause] = []
    tags: dict[str, Any] = {}
    breakpoints: list[str] = []
    compensating: bool = False
    truncated: bool = False


class Summary(Base):
    """A flow as a list has it."""

    flow: str
    workflow: str
    status: str
    created_at: datetime
    updated_at: datetime
    thread: str = ""
    started_at: datetime | None = None
    priority: int = 0
    fairness_key: str | None = None
    tags: dict[str, Any] = {}


def read(kind: type[T], values: Any) -> T:
    """Read a reply. Raises `msgspec.ValidationError` for what cannot be one."""
    return msgspec.convert(values, kind)


def read_steps(values: Sequence[Any]) -> list[Step]:
    """Read the steps of a page of a history."""
    return msgspec.convert(values, list[Step])
