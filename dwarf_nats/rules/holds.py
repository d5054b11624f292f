"""Holds: a person stops a task or a workflow by hand (K2). Pure. Times are microseconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name, check_task_name

KIND = "hold"
"""The kind of definition."""
MAX_REASON_CHARS = 1_000
"""Length of the reason of a hold, which each explanation of a held step shows."""
_TASK, _WORKFLOW = "task:", "workflow:"


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hold on a task, by its url, or on a workflow. `until`: when it ends by itself, `None` if it does not.

    `actor`: who put it, as far as that is known (M3).
    """

    task: str = ""
    workflow: str = ""
    reason: str = ""
    since: int = 0
    until: int | None = None
    actor: str = ""

    @property
    def name(self) -> str:
        """Its name among the holds: what it stops."""
        return name_of(self.task, self.workflow)

    def lasts(self, now: int) -> bool:
        """True unless it has ended by itself."""
        return self.until is None or self.until > now


class HoldCandidate(NamedTuple):
    """A ready step that may have to be put on hold."""

    step_id: int
    url: str
    workflow: str
    priority: int
    fairness_key: str
    not_before: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Hold).decode


def write_hold(hold: Hold) -> str:
    """A hold as it is kept."""
    return _encode(hold).decode()


def read_hold(body: str) -> Hold:
    """A hold that was kept. Raises `ValueError`."""
    return _decode(body.encode())


def name_of(task: str, workflow: str) -> str:
    """The name of the hold on a task or on a workflow. Raises `BadRequest` unless exactly one of them is given."""
    if bool(task) == bool(workflow):
        given = "both" if task else "neither"
        raise BadRequest(
            f"a hold stops a task or a workflow, and {given} is given: send `task`, its url, or `workflow`, its name"
        )
    if task:
        return f"{_TASK}{check_task_name(task)}"
    return f"{_WORKFLOW}{check_subject_name(workflow, 'workflow')}"


def new_hold(task: str, workflow: str, *, reason: str, until: int | None, now: int) -> Hold:
    """A hold that begins now. Raises `BadRequest`."""
    name_of(task, workflow)
    if len(reason) > MAX_REASON_CHARS:
        raise BadRequest(f"the reason has {len(reason)} characters: at most {MAX_REASON_CHARS}")
    if until is not None and until <= now:
        raise BadRequest(
            "the hold would have ended already: `until` must lie in the future; leave it out for a hold without end"
        )
    return Hold(task=task, workflow=workflow, reason=" ".join(reason.split()), since=now, until=until)


@dataclass(slots=True, frozen=True)
class Holds:
    """The holds of a deployment, by the tasks and the workflows that they stop."""

    tasks: Mapping[str, Hold] = field(default_factory=dict)
    workflows: Mapping[str, Hold] = field(default_factory=dict)

    @classmethod
    def of(cls, holds: Iterable[Hold]) -> Holds:
        """These holds."""
        found = list(holds)
        return cls({one.task: one for one in found if one.task}, {one.workflow: one for one in found if one.workflow})

    def find(self, url: str, workflow: str, now: int) -> Hold | None:
        """The hold that stops a step of this task, in a flow of this workflow; `None` if it may be dispatched."""
        for hold in (self.tasks.get(url), self.workflows.get(workflow)):
            if hold is not None and hold.lasts(now):
                return hold
        return None

    def lasting(self, now: int) -> list[Hold]:
        """Those that have not ended, the oldest first."""
        found = [one for one in (*self.tasks.values(), *self.workflows.values()) if one.lasts(now)]
        return sorted(found, key=lambda one: (one.since, one.name))

    def next_end(self, now: int) -> int | None:
        """When the next of them ends by itself; `None` if none does."""
        return min((one.until for one in self.lasting(now) if one.until is not None), default=None)


NO_HOLDS = Holds()
