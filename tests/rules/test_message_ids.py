"""The ids of what steps send (N3, N4)."""

from __future__ import annotations

from dwarf_nats.rules.steps import ClaimedStep, FlowContext
from dwarf_nats.workflow.state import Raw


def step(step_id: int = 42, token: str = "a1B2c3D4e5F6g7H8", **more: object) -> ClaimedStep:
    flow = FlowContext(
        shard=1, flow_id=7, token="h8G7f6E5d4C3b2A1", workflow="w", digest="", graph=None, baggage=Raw(b"null"), priority=1,
        fairness_key="", fairness_weight=1.0, time_budget_ms=None, notify="", thread_id=7, created_at=0, updated_at=0,
    )  # fmt: skip
    values: dict[str, object] = {
        "flow": flow, "step_id": step_id, "token": token, "node": "n", "url": "u", "depth": 1, "attempt": 0, "lease_seq": 1,
        "state": {}, "changes": {},
    }  # fmt: skip
    return ClaimedStep(**{**values, **more})  # type: ignore[arg-type]


def test_the_id_stays_for_retries_and_new_claims_and_changes_when_the_step_is_run_again() -> None:
    """N3."""
    first = step().message_id
    assert first.startswith("1-42-")
    assert first.removeprefix("1-42-").isdigit()
    assert step(attempt=3, lease_seq=9).message_id == first
    assert step(reruns=1).message_id != first
    assert step(43).message_id != first


def test_steps_of_two_databases_never_share_an_id() -> None:
    """N4: a stream would take the second message for a copy of the first."""
    assert step(token="0000000000000000").message_id != step().message_id


def test_the_id_holds_no_key() -> None:
    """Wire section 5."""
    assert "a1B2c3D4e5F6g7H8" not in step().message_id
