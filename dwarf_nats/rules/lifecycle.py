"""Every legal change of a status, in one table (semantics: statuses).

Statements and refusals look changes up here, tests visit every cell, and the diagrams in the docs are drawn from it:
`python -m dwarf_nats.rules.lifecycle > docs/states.md`.
"""

from __future__ import annotations

from dwarf_nats.workflow.status import STOPPED, Status

Changes = dict[tuple[Status, Status], tuple[str, ...]]

FLOW_CHANGES: Changes = {
    (Status.CREATED, Status.RUNNING): ("start",),
    (Status.CREATED, Status.CANCELLED): ("cancel",),
    (Status.RUNNING, Status.COMPLETED): ("last step completed", "compensated with its caller"),
    (Status.RUNNING, Status.FAILED): ("a step failed", "compensated"),
    (Status.RUNNING, Status.CANCELLED): ("cancel", "compensated"),
    (Status.RUNNING, Status.INTERRUPTED): ("a step paused",),
    (Status.INTERRUPTED, Status.RUNNING): (
        "resume",
        "deadline of an interrupt",
        "restart",
        "restart_from",
        "cancel, if steps are compensated first",
    ),
    (Status.INTERRUPTED, Status.CANCELLED): ("cancel",),
    (Status.COMPLETED, Status.RUNNING): ("restart", "restart_from", "its caller is compensated"),
    (Status.FAILED, Status.RUNNING): ("restart", "restart_from"),
    (Status.CANCELLED, Status.RUNNING): ("restart",),
}
"""(from, to) → what causes it. A flow that was forked begins as running."""

STEP_CHANGES: Changes = {
    (Status.CREATED, Status.PENDING): ("start", "its turn to compensate"),
    (Status.CREATED, Status.CANCELLED): ("cancel",),
    (Status.PENDING, Status.RUNNING): ("claim",),
    (Status.PENDING, Status.CANCELLED): ("cancel",),
    (Status.RUNNING, Status.PENDING): (
        "retry, bounce, given back, recovered or its child ended",
        "restart",
        "restart_from",
    ),
    (Status.RUNNING, Status.COMPLETED): ("answer",),
    (Status.RUNNING, Status.FAILED): ("error",),
    (Status.RUNNING, Status.INTERRUPTED): ("interrupt or breakpoint",),
    (Status.RUNNING, Status.CANCELLED): ("cancel",),
    (Status.INTERRUPTED, Status.PENDING): ("resume", "its deadline", "restart", "restart_from"),
    (Status.INTERRUPTED, Status.CANCELLED): ("cancel",),
    (Status.COMPLETED, Status.PENDING): ("restart", "restart_from"),
    (Status.FAILED, Status.PENDING): ("restart", "restart_from"),
    (Status.CANCELLED, Status.PENDING): ("restart",),
    (Status.COMPLETED, Status.RUNNING): ("its child runs again",),
    (Status.FAILED, Status.RUNNING): ("its child runs again",),
}
"""(from, to) → what causes it. A step that waits for its child stays running, parked; it can be restarted while its child is
paused. Steps are inserted as created, pending or running. A fork copies steps as they were; those that a cancel cut off become
pending."""

FLOW_LIVE = frozenset({Status.RUNNING, Status.INTERRUPTED})
"""A flow that has begun and not ended: its steps are claimed and settled."""
FLOW_UNSTOPPED = frozenset({Status.CREATED, Status.RUNNING})
"""A flow that can be waited for: it is not stopped."""
STEP_UNDER_WAY = frozenset({Status.PENDING, Status.RUNNING})
"""A compensation that has begun and not ended."""
STEP_UNBEGUN = frozenset({Status.CREATED, Status.PENDING})
"""A step that has not been dispatched yet, or waits for its next attempt."""


def flow_sources(new: Status, cause: str = "") -> list[Status]:
    """The statuses from which a flow may become `new`, by `cause` if one is given."""
    return _sources(FLOW_CHANGES, new, cause)


def step_sources(new: Status, cause: str = "") -> list[Status]:
    """The statuses from which a step may become `new`, by `cause` if one is given."""
    return _sources(STEP_CHANGES, new, cause)


def _sources(changes: Changes, new: Status, cause: str) -> list[Status]:
    return [old for (old, to), causes in changes.items() if to is new and (not cause or cause in causes)]


def state_diagram(changes: Changes) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {old} --> {new}: {' or '.join(causes)}" for (old, new), causes in changes.items()]
    return "\n".join(lines) + "\n"


def document() -> str:
    """`docs/states.md`."""
    *stopped, last = (f"`{status}`" for status in Status if status in STOPPED)
    return f"""# Statuses

For everyone who writes or operates workflows. This page shows every change of status that a flow or a step can make, and its
cause. A change that is not drawn cannot happen. The diagrams are generated from the table in `dwarf_nats/rules/lifecycle.py`.
*Stopped* means {", ".join(stopped)} or {last}.

## Of a flow

```mermaid
{state_diagram(FLOW_CHANGES)}```

A flow is `interrupted` while one of its steps, or a flow that it called, is paused. A forked flow begins as `running`.

## Of a step

```mermaid
{state_diagram(STEP_CHANGES)}```

A step that waits for its sub-workflow stays `running`. `attempt` counts retries only.
"""


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
