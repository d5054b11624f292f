"""The table of status changes (semantics: statuses), visited cell by cell."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dwarf_nats.rules.lifecycle import (
    FLOW_CHANGES,
    STEP_CHANGES,
    document,
    flow_sources,
    state_diagram,
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
FLOW_LEGAL = {(C, R), (C, X), (R, D), (R, F), (R, X), (R, I), (I, R), (I, X), (D, R), (F, R), (X, R)}
STEP_LEGAL = {
    (C, P), (C, X), (P, R), (P, X), (R, P), (R, D), (R, F), (R, I), (R, X), (I, P), (I, X),
    (D, P), (F, P), (X, P), (D, R), (F, R),
}  # fmt: skip
CELLS = list(itertools.product(Status, Status))


@pytest.mark.parametrize(("old", "new"), CELLS)
def test_a_flow_changes_only_as_the_contract_says(old: Status, new: Status) -> None:
    assert ((old, new) in FLOW_CHANGES) is ((old, new) in FLOW_LEGAL)


@pytest.mark.parametrize(("old", "new"), CELLS)
def test_a_step_changes_only_as_the_contract_says(old: Status, new: Status) -> None:
    assert ((old, new) in STEP_CHANGES) is ((old, new) in STEP_LEGAL)


@pytest.mark.parametrize("status", [status for status in Status if status.terminal])
def test_only_running_again_leaves_a_terminal_status(status: Status) -> None:
    for changes in (FLOW_CHANGES, STEP_CHANGES):
        causes = {cause for (old, _), why in changes.items() if old is status for cause in why}
        assert causes <= {"restart", "restart_from", "its child runs again", "its caller is compensated"}


@pytest.mark.parametrize("new", list(Status))
def test_sources_agree_with_the_table(new: Status) -> None:
    assert set(flow_sources(new)) == {old for old in Status if (old, new) in FLOW_LEGAL}
    assert set(step_sources(new)) == {old for old in Status if (old, new) in STEP_LEGAL}


def test_the_diagram_draws_every_change_with_its_cause() -> None:
    for changes in (FLOW_CHANGES, STEP_CHANGES):
        lines = state_diagram(changes).splitlines()
        assert lines[0] == "stateDiagram-v2"
        assert [line.strip() for line in lines[1:]] == [
            f"{old} --> {new}: {' or '.join(causes)}" for (old, new), causes in changes.items()
        ]


def test_causes_narrow_the_sources() -> None:
    """O13: a cancelled flow is restarted as a whole only."""
    assert set(flow_sources(R, "restart")) == {I, D, F, X}
    assert set(flow_sources(R, "restart_from")) == {I, D, F}
    assert flow_sources(R, "start") == [C]
    assert set(step_sources(P, "restart_from")) == {I, D, F, R}


def test_the_docs_draw_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs" / "states.md"
    assert docs.read_text() == document(), "python -m dwarf_nats.rules.lifecycle > docs/states.md"
