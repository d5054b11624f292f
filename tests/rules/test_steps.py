"""The values of steps and flows: by keyword only, their input merged once (S2)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewFlow, NewStep, eager_step, first_step
from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.state import Raw, State, state_from, to_values

GRAPH = Graph("line")
GRAPH.add_chain("a", "b", "END")


def flow() -> FlowContext:
    return FlowContext(
        shard=2,
        flow_id=7,
        token="f" * 16,
        workflow="line",
        digest="d",
        graph=GRAPH,
        baggage=Raw(b"{}"),
        priority=100,
        fairness_key="",
        fairness_weight=1.0,
        time_budget_ms=None,
        notify="",
        thread_id=7,
        created_at=0,
        updated_at=0,
    )


def new_step(state: State, **more: Any) -> NewStep:
    return NewStep(step_id=41, token="s" * 16, node="b", url="charge", depth=2, state=state, state_json=b"{}", **more)


@pytest.mark.parametrize("kind", [ClaimedStep, FlowContext, NewFlow, NewStep, TaskCall])
def test_no_field_is_given_by_position(kind: Any) -> None:
    """Two fields of one type cannot be swapped by mistake."""
    with pytest.raises(TypeError, match="[Ee]xtra positional"):
        kind(1)


def test_an_eager_step_is_claimed_with_all_that_its_row_has() -> None:
    new = new_step(state_from({"n": 1}), spawn_id=40, ordinal=3, refs={"big": 12})
    step = eager_step(flow(), new)
    assert (step.step_id, step.token, step.node, step.url, step.depth) == (41, "s" * 16, "b", "charge", 2)
    assert (step.attempt, step.lease_seq, step.changes) == (0, 1, {})
    assert (step.spawn_id, step.ordinal, step.refs) == (40, 3, {"big": 12})
    assert (step.key, step.public_id) == (f"2-41-{'s' * 16}", "2-41")


def test_the_first_step_of_a_flow_is_claimed_at_depth_one() -> None:
    new = NewFlow(
        flow=flow(),
        state=state_from({"n": 1}),
        state_json=b"{}",
        step_id=9,
        step_token="t" * 16,
        node="a",
        url="a",
        thread_token="f" * 16,
        start=True,
    )
    step = first_step(new)
    assert (step.flow, step.step_id, step.token, step.depth, step.lease_seq) == (new.flow, 9, "t" * 16, 1, 1)
    assert to_values(step.state) == {"n": 1}


def test_the_input_of_a_step_is_its_state_with_its_earlier_changes_merged_once() -> None:
    """S2, S3: a null removes the field."""
    step = eager_step(flow(), new_step(state_from({"kept": 1, "gone": 2})))
    step.changes = state_from({"gone": None, "new": 3})
    merged = step.input
    assert to_values(merged) == {"kept": 1, "new": 3}
    assert step.input is merged


def test_without_changes_the_input_is_the_state_itself() -> None:
    state = state_from({"n": 1})
    assert eager_step(flow(), new_step(state)).input is state
