"""Replies that fit the bus (wire: large-replies): what is too large is left out and says so, nothing is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import messages as m
from dwarf_nats.wire import truncation
from dwarf_nats.workflow import cursors
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.bulk import BulkFailure, BulkPage
from dwarf_nats.workflow.explanation import Explanation, Reason, Wait
from dwarf_nats.workflow.records import FlowSummary, GraphInfo, Outcome, Pause, Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import FailedAttempt, StepPause

KEY, STEP = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"
LEAST = 600
"""Bytes into which any single outcome, step or flow must fit."""


def text(size: int) -> bytes:
    return json.dumps({"x": "y" * size}).encode()


def outcome_within(outcome: Outcome, room: int) -> dict[str, Any]:
    body = truncation.outcome(outcome, room)
    assert len(body) <= room
    told: dict[str, Any] = json.loads(body)
    return told


def test_an_outcome_that_fits_is_whole() -> None:
    whole = Outcome(KEY, "order", Status.INTERRUPTED, text(100), interrupt_json=text(100))
    told = outcome_within(whole, 1_000)
    assert "truncated" not in told
    assert (len(told["state"]["x"]), len(told["interruptPayload"]["x"])) == (100, 100)


@pytest.mark.parametrize(
    ("state", "payload", "left"),
    [(5_000, 100, "interruptPayload"), (100, 5_000, "state"), (700, 700, "interruptPayload"), (5_000, 5_000, "")],
    ids=["the state", "the payload", "one of the two: the state", "both"],
)
def test_of_an_outcome_only_what_is_too_large_is_left_out(state: int, payload: int, left: str) -> None:
    """Wire: large-replies; the other member stays, also where the payload alone is too large."""
    told = outcome_within(Outcome(KEY, "w", Status.INTERRUPTED, text(state), interrupt_json=text(payload)), 1_200)
    assert told["truncated"] is True
    assert bool(told["state"]) == (left == "state")
    assert ("interruptPayload" in told) == (left == "interruptPayload")
    assert told["flowKey"] == KEY


def paused(count: int, size: int) -> list[Pause]:
    return [Pause(step_key=STEP, task="ask", kind="interrupt", since=1, payload_json=text(size)) for _ in range(count)]


def test_the_payloads_of_pauses_are_left_out_first() -> None:
    """P5: the oldest one is in the outcome itself, too, and the keys are what a caller needs."""
    whole = Outcome(KEY, "w", Status.INTERRUPTED, text(100), interrupt_json=text(500), pauses=paused(5, 500))
    told = outcome_within(whole, 3_000)
    assert (len(told["pauses"]), told["truncated"]) == (5, True)
    assert {"payload" in one for one in told["pauses"]} == {False}
    assert (len(told["state"]["x"]), len(told["interruptPayload"]["x"])) == (100, 500)


def test_of_very_many_pauses_the_oldest_stay() -> None:
    whole = Outcome(KEY, "w", Status.INTERRUPTED, text(10), interrupt_json=text(10), pauses=paused(100, 1))
    told = outcome_within(whole, 3_000)
    assert (len(told["pauses"]), told["truncated"]) == (10, True)
    assert (told["state"], told["interruptPayload"]) == (json.loads(text(10)), json.loads(text(10)))
    assert "pauses" not in outcome_within(whole, 200)


def test_a_huge_error_is_cut_and_a_small_state_stays() -> None:
    error = ErrorInfo("“" * 40_000, 402, {"charge": "z" * 5_000})
    told = outcome_within(Outcome(KEY, "w", Status.FAILED, text(10), error=error), 8_000)
    assert (told["state"]["x"], told["truncated"]) == ("y" * 10, True)
    assert (told["error"]["code"], told["error"]["cut"]) == (402, True)
    assert told["error"]["message"].startswith("“““")


@given(
    state=st.integers(0, 5_000),
    payload=st.none() | st.integers(0, 5_000),
    pauses=st.integers(0, 100),
    message=st.none() | st.text(max_size=3_000),
    reason=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3_000),
    room=st.integers(LEAST, 6_000),
)
def test_every_outcome_and_step_fits(
    state: int, payload: int | None, pauses: int, message: str | None, reason: str | None, room: int
) -> None:
    """Wire: large-replies; whatever its members are; one that was whole would have been sent whole."""
    error = None if message is None else ErrorInfo(message.encode("utf-8", "replace").decode(), 500)
    interrupt = None if payload is None else text(payload)
    outcome = Outcome(
        KEY,
        "order",
        Status.FAILED,
        text(state),
        error=error,
        cancel_reason=reason,
        interrupt_json=interrupt,
        pauses=paused(pauses, payload or 0),
    )
    told = outcome_within(outcome, room)
    assert (told["flowKey"], told["status"]) == (KEY, "failed")
    assert ("truncated" in told) == (len(truncation.outcome(outcome, 10**9)) > room)
    step = Step(
        step_key=STEP,
        step_id=43,
        depth=1,
        task="a",
        attempt=0,
        status=Status.FAILED,
        created_at=0,
        updated_at=0,
        started_at=None,
        error=error,
        predecessor_id=None,
        successor_id=None,
        state_json=text(state),
        changes_json=text(state),
        interrupt_json=interrupt,
    )
    body = truncation.step(step, room)
    assert len(body) <= room
    assert ("truncated" in json.loads(body)) == (len(truncation.step(step, 10**9)) > room)


def test_of_a_step_the_state_goes_first_and_then_the_changes() -> None:
    step = Step(
        step_key=STEP,
        step_id=43,
        depth=1,
        task="a",
        attempt=0,
        status=Status.COMPLETED,
        created_at=0,
        updated_at=0,
        state_json=text(700),
        changes_json=text(700),
    )
    told = json.loads(truncation.step(step, 1_200))
    assert (told["truncated"], "state" in told, "changes" in told) == (True, False, True)
    told = json.loads(truncation.step(step, 600))
    assert (told["truncated"], "state" in told, "changes" in told) == (True, False, False)


def step_of(number: int, error: int = 0, below: list[Step] | None = None) -> Step:
    made = Step(
        step_key=f"1-{number}-h8G7f6E5d4C3b2A1",
        step_id=number,
        depth=number,
        task="a",
        attempt=0,
        status=Status.COMPLETED,
        created_at=0,
        updated_at=0,
    )
    if error:
        made.error = ErrorInfo("e" * error)
    if below is not None:
        made.subgraph, made.sub_workflow, made.sub_flow_key, made.sub_history = True, "child", KEY, below
    return made


def read_all(steps: list[Step], room: int) -> list[dict[str, Any]]:
    """All steps by pages that begin where the one before ended, as a service hands them out."""
    found: list[dict[str, Any]] = []
    at: tuple[int, int] = cursors.START
    for _ in range(len(steps) + 1):
        page = [step for step in steps if (step.depth, step.step_id) > at]
        body = truncation.history(page, "", room)
        assert len(body) <= room
        told = json.loads(body)
        assert told["steps"]
        found += told["steps"]
        if "cursor" not in told:
            return found
        at = cursors.place(told["cursor"])
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("room", [900, 1_500, 5_000, 10**6])
def test_a_page_of_a_history_that_does_not_fit_is_shorter_and_nothing_is_missing(room: int) -> None:
    steps = [step_of(number, error=number % 7 * 100) for number in range(50)]
    steps[10] = step_of(10, error=20_000)
    steps[20] = step_of(20, below=[step_of(100 + n, below=[step_of(200 + n)]) for n in range(30)])
    found = read_all(steps, room)
    assert [one["stepId"] for one in found] == list(range(50))
    assert ("truncated" in found[10]) == (room < 20_000)
    assert found[20]["subFlowKey"] == KEY
    if "truncated" not in found[20]:
        assert len(found[20]["subHistory"]) == 30
    elif room == 5_000:
        assert len(found[20]["subHistory"]) > 5


def test_a_page_of_a_list_is_shorter_and_a_flow_that_is_too_large_is_cut() -> None:
    flow = FlowSummary(
        flow_key=KEY,
        thread_key=KEY,
        workflow="order",
        status=Status.FAILED,
        created_at=0,
        updated_at=0,
        priority=100,
        error=ErrorInfo("m" * 300),
    )
    assert truncation.flows([flow] * 3, "c", 10_000, limit=3)[1] == 3
    assert truncation.flows([flow] * 3, "c", 1_300, limit=3)[1] == 2
    large = replace(flow, error=ErrorInfo("m" * 5_000), cancel_reason="r" * 5_000)
    assert truncation.flows([large, flow], "", 1_000, limit=3)[1] == 0
    body, fit = truncation.flows([large], "", 1_000, limit=3)
    assert (fit, len(body) <= 1_000) == (1, True)
    (told,) = json.loads(body)["flows"]
    assert told["error"]["cut"] is True
    assert told["cancelReason"].endswith("…")


def test_of_too_many_graphs_the_first_ones_are_told() -> None:
    graphs = [GraphInfo(f"g{number}", "ab" * 32, 0) for number in range(100)]
    told = json.loads(truncation.graphs(graphs, 10**6))
    assert (len(told["graphs"]), "truncated" in told) == (100, False)
    body = truncation.graphs(graphs, 2_000)
    told = json.loads(body)
    assert len(body) <= 2_000
    assert 5 < len(told["graphs"]) < 20
    assert told["truncated"] is True


def test_of_too_many_warnings_the_first_ones_are_told_and_how_many_more_there_are() -> None:
    """G11: a graph that was registered is never refused for what there is to say about it."""
    warnings = [f"node n{number}: the condition {'x' * 80!r} never holds" for number in range(100)]
    body = truncation.with_warnings(m.GraphPutReply(name="g", digest="ab"), warnings, 10**6)
    assert json.loads(body)["warnings"] == warnings
    for room in (200, 600, 3_000):
        body = truncation.with_warnings(m.GraphPutReply(name="g", digest="ab"), warnings, room)
        assert len(body) <= room
        *shown, last = json.loads(body)["warnings"]
        assert shown == warnings[: len(shown)]
        assert last == f"and {100 - len(shown)} more"
    assert json.loads(truncation.with_warnings(m.GraphValidateReply(), [], 100)) == {}


def test_of_a_step_that_is_too_large_the_problems_go_with_the_end_of_the_error() -> None:
    """G9: the page is answered, and the step is marked."""
    step = step_of(1, error=300)
    step.problems = ["p" * 500] * 20
    (told,) = json.loads(truncation.history([step], "", 900))["steps"]
    assert (told["stepId"], told["truncated"], "problems" in told) == (1, True, False)
    assert "problems" not in json.loads(truncation.step(step, 900))


@pytest.mark.parametrize("cursor", ["x", "====", "MS4y.", "LTEuLTE", "Zm9v", "MS45OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_a_malformed_cursor_is_a_400(cursor: str) -> None:
    with pytest.raises(BadRequest, match="malformed cursor"):
        cursors.place(cursor)


def test_of_a_paused_step_the_payload_of_its_pause_goes_first() -> None:
    """Wire: large-replies; it stands in `interruptPayload` as well."""
    step = Step(
        step_key=STEP,
        step_id=43,
        depth=1,
        task="a",
        attempt=0,
        status=Status.INTERRUPTED,
        created_at=0,
        updated_at=0,
        interrupt_json=text(700),
        pause=StepPause(kind="interrupt", since=0, payload_json=text(700)),
        attempts=[FailedAttempt(attempt=0, started_at=0, ended_at=0, error=ErrorInfo("x" * 300))],
    )
    told = json.loads(truncation.step(step, 1_500))
    assert ("interruptPayload" in told, "payload" in told["pause"], "attempts" in told) == (True, False, True)
    bare = json.loads(truncation.step(step, 600))
    assert ("interruptPayload" in bare, "attempts" in bare, bare["truncated"]) == (False, False, True)
    page = json.loads(truncation.history([step], "", 500))
    assert ("attempts" in page["steps"][0], page["steps"][0]["truncated"]) == (False, True)


def wait(number: int, payload: int = 0, error: int = 0, below: list[Wait] | None = None) -> Wait:
    return Wait(
        step_key=STEP,
        step_id=number,
        task="ask",
        url="ask",
        reason=Reason.INTERRUPT,
        since=number,
        text="Waits until somebody answers.",
        payload_json=text(payload) if payload else None,
        error=ErrorInfo("e" * error, 500) if error else None,
        waits=below or [],
    )


def explained_within(waits: list[Wait], room: int) -> dict[str, Any]:
    whole = Explanation(flow_key=KEY, status=Status.INTERRUPTED, text="Waits.", waits=waits)
    body = truncation.explanation(whole, room)
    assert len(body) <= room
    told: dict[str, Any] = json.loads(body)
    return told


def test_an_explanation_that_fits_is_whole_q2() -> None:
    told = explained_within([wait(1, 100), wait(2, error=100)], 2_000)
    assert "truncated" not in told
    assert len(told["waits"][0]["payload"]["x"]) == 100


def test_an_explanation_loses_payloads_first_then_its_last_waits_q2() -> None:
    """Wire: large-replies; the oldest waits stay, those of sub-workflows with their callers."""
    waits = [wait(number, 1_000, 9_000, [wait(number + 100, 1_000)]) for number in range(100)]
    told = explained_within(waits, 200_000)
    assert told["truncated"] is True
    assert [one["stepId"] for one in told["waits"]] == list(range(100))
    assert not any("payload" in one or "payload" in one["waits"][0] for one in told["waits"])
    told = explained_within(waits, 10_000)
    assert told["waits"]
    assert [one["stepId"] for one in told["waits"]] == list(range(len(told["waits"])))
    assert explained_within(waits, 300)["waits"] == []


def test_a_page_of_a_bulk_operation_is_cut_to_what_fits() -> None:
    """M1: what was done is never refused for the size of its reply."""
    failed = [BulkFailure(f"1-{number}", 409, "no, " * 500) for number in range(1000)]
    page = BulkPage(matched=1000, done=0, failed=failed, cursor="next")
    assert msgspec.json.decode(truncation.bulk(page, 10_000_000), type=m.FlowBulkReply).truncated is msgspec.UNSET
    for room, count in ((200_000, 1000), (20_000, None), (200, None)):
        body = truncation.bulk(page, room)
        assert len(body) <= room
        reply = msgspec.json.decode(body, type=m.FlowBulkReply)
        assert (reply.matched, reply.done, reply.cursor, reply.truncated) == (1000, 0, "next", True)
        assert isinstance(reply.failed, list)
        assert count is None or len(reply.failed) == count
