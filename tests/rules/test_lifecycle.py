"""The table of status changes (semantics: section 1), visited cell by cell."""

from __future__ import annotations

import itertools

import pytest

from dwarf_nats.rules.lifecycle import (
    FLOW_CHANGES,
    STEP_CHANGES,
    flow_may,
    flow_sources,
    state_diagram,
    step_may,
    step_sources,
)
from dwarf_nats.workflow.status import Status

C, P, R, I, D, F, X = (
    Status.CREATED,
    Status.PENDING,
    Status.RUNNING,
    Status.INTERRUPTED,
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
)
FLOW_LEGAL = {(C, R), (C, X), (R, D), (R, F), (R, X), (R, I), (I, R), (I, X), (I, F)}
STEP_LEGAL = {(C, P), (C, X), (P, R), (P, X), (P, F), (R, P), (R, D), (R, F), (R, I), (R, X), (I, P), (I, X)}
CELLS = list(itertools.product(Status, Status))


@pytest.mark.parametrize(("old", "new"), CELLS)
def test_a_flow_changes_only_as_the_contract_says(old: Status, new: Status) -> None:
    assert flow_may(old, new) is ((old, new) in FLOW_LEGAL)


@pytest.mark.parametrize(("old", "new"), CELLS)
def test_a_step_changes_only_as_the_contract_says(old: Status, new: Status) -> None:
    assert step_may(old, new) is ((old, new) in STEP_LEGAL)


@pytest.mark.parametrize("status", list(Status))
def test_nothing_leaves_a_terminal_status(status: Status) -> None:
    leaves = any(flow_may(status, new) or step_may(status, new) for new in Status)
    assert leaves is not status.terminal


@pytest.mark.parametrize("new", list(Status))
def test_sources_agree_with_the_table(new: Status) -> None:
    assert set(flow_sources(new)) == {old for old in Status if flow_may(old, new)}
    assert set(step_sources(new)) == {old for old in Status if step_may(old, new)}


def test_the_diagram_draws_every_change_with_its_cause() -> None:
    for changes in (FLOW_CHANGES, STEP_CHANGES):
        lines = state_diagram(changes).splitlines()
        assert lines[0] == "stateDiagram-v2"
        assert [line.strip() for line in lines[1:]] == [
            f"{old} --> {new}: {cause}" for (old, new), cause in changes.items()
        ]
