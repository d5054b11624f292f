"""Every legal change of a status, in one table (semantics: section 1). Code looks changes up; the docs draw them."""

from __future__ import annotations

from dwarf_nats.workflow.status import Status

FLOW_CHANGES: dict[tuple[Status, Status], str] = {
    (Status.CREATED, Status.RUNNING): "start",
    (Status.CREATED, Status.CANCELLED): "cancel",
    (Status.RUNNING, Status.COMPLETED): "last step completed",
    (Status.RUNNING, Status.FAILED): "a step failed",
    (Status.RUNNING, Status.CANCELLED): "cancel",
    (Status.RUNNING, Status.INTERRUPTED): "a step paused",
    (Status.INTERRUPTED, Status.RUNNING): "resume",
    (Status.INTERRUPTED, Status.CANCELLED): "cancel",
    (Status.INTERRUPTED, Status.FAILED): "a cohort with a failure resolved",
}
"""(from, to) → what causes it. Restarts, which leave any stopped status but cancelled, are not in the table."""

STEP_CHANGES: dict[tuple[Status, Status], str] = {
    (Status.CREATED, Status.PENDING): "start",
    (Status.CREATED, Status.CANCELLED): "cancel",
    (Status.PENDING, Status.RUNNING): "claim",
    (Status.PENDING, Status.CANCELLED): "cancel",
    (Status.PENDING, Status.FAILED): "its flow failed",
    (Status.RUNNING, Status.PENDING): "retry, bounce, given back or recovered",
    (Status.RUNNING, Status.COMPLETED): "answer",
    (Status.RUNNING, Status.FAILED): "error",
    (Status.RUNNING, Status.INTERRUPTED): "interrupt or breakpoint",
    (Status.RUNNING, Status.CANCELLED): "cancel",
    (Status.INTERRUPTED, Status.PENDING): "resume",
    (Status.INTERRUPTED, Status.CANCELLED): "cancel",
}


def flow_may(old: Status, new: Status) -> bool:
    """Whether a flow may go from `old` to `new`."""
    return (old, new) in FLOW_CHANGES


def flow_sources(new: Status) -> list[Status]:
    """The statuses from which a flow may become `new`."""
    return [old for old, to in FLOW_CHANGES if to is new]


def step_sources(new: Status) -> list[Status]:
    """The statuses from which a step may become `new`."""
    return [old for old, to in STEP_CHANGES if to is new]


def step_may(old: Status, new: Status) -> bool:
    """Whether a step may go from `old` to `new`."""
    return (old, new) in STEP_CHANGES


def state_diagram(changes: dict[tuple[Status, Status], str]) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {old} --> {new}: {cause}" for (old, new), cause in changes.items()]
    return "\n".join(lines) + "\n"
