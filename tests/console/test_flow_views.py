"""The timeline, differences, forms, consequences, log and headline of a flow, on values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dwarf_nats.console.views import consequences, diff, forms, wire
from dwarf_nats.console.views.headline import headline
from dwarf_nats.console.views.log import log
from dwarf_nats.console.views.timeline import PAGE_ROWS, timeline
from dwarf_nats.errors import BadRequest
from tests.console.stage import FORM
from tests.console.test_graph_drawing import START, step, steps

NOW = START + timedelta(seconds=60)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def outcome(status: str, **more: Any) -> wire.Outcome:
    return wire.read(wire.Outcome, {"flow": "1-1", "workflow": "w", "status": status, **more})


# --- timeline ---


def test_a_row_has_a_bar_for_each_attempt_and_for_the_time_between() -> None:
    retried = step(1, "a", attempt=1, startedAt=at(6), updatedAt=at(8), createdAt=at(0))
    retried["attempts"] = [
        {"attempt": 0, "startedAt": at(1), "endedAt": at(3), "error": {"message": "away", "code": 503}}
    ]
    (row,) = timeline(steps(retried), NOW).rows
    assert [bar.kind for bar in row.bars] == ["queued", "failed", "queued", "completed"]
    assert "away (503)" in row.bars[1].title
    lefts = [bar.left for bar in row.bars]
    assert lefts == sorted(lefts)


def test_time_in_the_queue_is_told_from_the_time_before_a_step_is_due() -> None:
    """Q3."""
    scheduled = step(1, "a", createdAt=at(0), queuedAt=at(10), claimedAt=at(12), startedAt=at(12), updatedAt=at(13))
    (row,) = timeline(steps(scheduled), NOW).rows
    assert [bar.title for bar in row.bars] == ["not due yet, 10.0 s", "queued 2.0 s", "completed, 1.0 s"]
    retried = step(2, "b", attempt=1, createdAt=at(0), startedAt=at(0), queuedAt=at(4), updatedAt=at(9))
    retried["attempts"] = [{"attempt": 0, "startedAt": at(0), "endedAt": at(1), "error": {"message": "away"}}]
    (row,) = timeline(steps(retried), NOW).rows
    assert [bar.title for bar in row.bars][1:] == ["before the next attempt, 3.0 s", "completed, 5.0 s"]
    (row,) = timeline(steps(retried | {"claimedAt": at(6)}), NOW).rows
    assert [bar.title for bar in row.bars][2:] == ["queued 2.0 s", "completed, 3.0 s"]
    resumed = step(3, "c", createdAt=at(0), startedAt=at(1), queuedAt=at(5), updatedAt=at(9))
    (row,) = timeline(steps(resumed), NOW).rows
    assert [bar.title for bar in row.bars] == ["queued 1.0 s", "completed, 8.0 s"]
    assert [entry.detail for entry in log(steps(scheduled)) if entry.kind == "running"] == ["after 2.0 s in the queue"]


def test_a_running_step_reaches_to_now_and_a_pause_is_told_from_work() -> None:
    running = step(1, "a", "running")
    paused = step(2, "b", "interrupted", predecessorId=1, pause={"kind": "interrupt", "since": at(2)})
    first, second = timeline(steps(running, paused), NOW).rows
    assert first.bars[-1].left + first.bars[-1].width == pytest.approx(100, abs=0.1)
    assert second.bars[-1].kind == "interrupted"
    assert second.note == "paused: interrupt"


def test_a_stretch_without_work_is_cut_short_and_says_how_long_it_was() -> None:
    late = step(2, "b", predecessorId=1, createdAt=at(3600), startedAt=at(3600), updatedAt=at(3601))
    drawn = timeline(steps(step(1, "a"), late), NOW + timedelta(days=1))
    (cut,) = drawn.cuts
    assert "59 min" in cut.title
    assert cut.width < 10
    assert all(bar.width > 20 for row in drawn.rows for bar in row.bars if bar.kind == "completed")


def test_many_branches_are_one_row_until_they_are_opened() -> None:
    many = steps(step(1, "split"), *(step(2 + n, "work", predecessorId=1) for n in range(50)))
    folded = timeline(many, NOW)
    assert [row.label for row in folded.rows] == ["split", "work × 50"]
    assert folded.rows[1].folded == "1-1"
    opened = timeline(many, NOW, opened=frozenset({"1-1"}))
    assert len(opened.rows) == 51
    assert opened.rows[3].label == "work 3/50"
    assert opened.rows[3].level == 1


def test_a_child_stands_below_its_caller() -> None:
    caller = step(1, "pay", "running", subFlow="1-9", subHistory=[step(2, "quote"), step(3, "confirm", "interrupted")])
    rows = timeline(steps(caller), NOW).rows
    assert [(row.label, row.level) for row in rows] == [("pay", 0), ("quote", 1), ("confirm", 1)]
    assert rows[0].bars[-1].kind == "waited interrupted"


def test_ten_thousand_steps_are_paged_and_only_what_is_shown_is_drawn() -> None:
    many = steps(*(step(n, "loop", predecessorId=n - 1 or None, successorId=n + 1) for n in range(1, 10_001)))
    drawn = timeline(many, NOW, page=49)
    assert len(drawn.rows) == PAGE_ROWS
    assert (drawn.total, drawn.pages) == (10_000, 50)
    assert drawn.rows[-1].step == "1-10000"


def test_many_waits_of_instant_steps_are_a_bounded_number_of_cuts() -> None:
    many = [step(1, "tick")]
    for n in range(2, 300):
        many.append(
            step(
                n, "tick", createdAt=at(60 * n), startedAt=at(60 * n), updatedAt=at(60 * n + 0.001), predecessorId=n - 1
            )
        )
    drawn = timeline(steps(*many), NOW)
    assert 0 < len(drawn.cuts) <= 40


# --- differences ---


def test_a_difference_names_what_was_added_changed_and_removed_by_its_path() -> None:
    before = {"order": {"id": 1, "lines": [{"n": 1}, {"n": 2}]}, "draft": True, "same": [1]}
    after = {"order": {"id": 1, "lines": [{"n": 1}, {"n": 3}, {"n": 4}]}, "paid": True, "same": [1]}
    found = diff.diff(before, after)
    assert [(one.kind, one.path) for one in found.changes] == [
        ("changed", "order.lines[1].n"),
        ("added", "order.lines[2]"),
        ("removed", "draft"),
        ("added", "paid"),
    ]
    assert found.same == 1


def test_one_and_true_differ_and_null_removes_a_field() -> None:
    assert [one.kind for one in diff.diff({"a": 1}, {"a": True}).changes] == ["changed"]
    assert diff.after_changes({"a": 1, "b": 2}, {"a": None, "c": 3}) == {"b": 2, "c": 3}
    assert diff.after_changes({"a": None}, {}) == {"a": None}, "a null that was there stays"


def test_large_values_are_folded_with_their_size_and_sealed_ones_are_locked() -> None:
    (large,) = diff.tree({"text": "x" * 5000})
    assert large.value.body == "x" * 5000
    assert large.value.size == "5.0 kB"
    assert len(large.value.head) < 100
    (locked,) = diff.diff({"token": "a"}, {"token": "b"}, frozenset({"token"})).changes
    assert locked.sealed


# --- forms ---


def test_a_form_of_the_payload_has_its_fields_and_reads_their_values() -> None:
    form = forms.form_of({"form": FORM})
    assert [(one.name, one.kind, one.required) for one in form.fields] == [
        ("approved", "boolean", False),
        ("limit", "integer", True),
        ("speed", "choice", False),
        ("note", "long", False),
    ]
    given = {"f.approved": "true", "f.limit": "7", "f.speed": '"express"', "f.note": "soon"}
    assert forms.answer(form, given) == {"approved": True, "limit": 7, "speed": "express", "note": "soon"}
    assert forms.answer(form, {"f.limit": "7"}) == {"approved": False, "limit": 7}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Limit: fill it in"),
        ({"f.limit": "many"}, "Limit: must be a number"),
        ({"f.limit": "1.5"}, "Limit: must be a whole number"),
        ({"f.limit": "0"}, "Limit: at least 1"),
        ({"f.limit": "501"}, "Limit: at most 500"),
        ({"f.limit": "true"}, "Limit: must be a number"),
        ({"f.limit": "1", "f.speed": '"slow"'}, "Speed: choose one"),
        ({"f.limit": "1", "f.note": "x" * 401}, "Note: at most 400 characters"),
    ],
)
def test_a_wrong_answer_names_the_field_and_the_mistake(given: dict[str, str], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        forms.answer(forms.form_of({"form": FORM}), given)


def test_without_a_form_the_declared_field_or_json_is_asked_for() -> None:
    declared = forms.form_of("ok?", into="ok", fields={"ok": {"type": "boolean", "description": "Is it all right?"}})
    assert [(one.kind, one.label) for one in declared.fields] == [("boolean", "Is it all right?")]
    assert forms.answer(declared, {"f.data": "true"}) is True
    free = forms.form_of({"question": "ok?"})
    assert forms.answer(free, {"f.data": '{"ok": true}'}) == {"ok": True}
    assert forms.answer(free, {}) is None
    with pytest.raises(BadRequest, match="not JSON"):
        forms.answer(free, {"f.data": "{"})


def test_a_form_that_is_no_schema_is_not_one() -> None:
    for payload in ({"form": 1}, {"form": {"properties": [1]}}, None, [1], {"form": {"properties": {"a": 1}}}):
        assert forms.form_of(payload).fields


# --- what an action will do ---


def test_a_restart_says_what_runs_again_what_goes_and_what_stays() -> None:
    history = steps(
        step(1, "reserve", successorId=2),
        step(2, "charge", predecessorId=1, successorId=3),
        step(3, "ship", "failed", predecessorId=2, subFlow="1-9"),
    )
    words = consequences.restart_from(history, history[1])
    assert words == "charge runs again; ship with 1 child flow is removed; reserve stays."
    assert consequences.restart_from(history, history[2]).startswith("ship runs again, and its child flow is removed; ")
    assert "with 1 step before charge" in consequences.fork(history, history[1])


def test_many_nodes_are_counted_not_listed() -> None:
    history = steps(*(step(n, f"node{n}", predecessorId=n - 1 or None, successorId=n + 1) for n in range(1, 9)))
    assert "and 3 more are removed" in consequences.restart_from(history, history[0])


# --- headline ---


def test_the_headline_of_a_failed_flow_names_step_and_error_and_offers_to_restart_there() -> None:
    history = steps(step(1, "charge", "failed", error={"message": "card declined", "code": 402}))
    found = headline(outcome("failed", error={"message": "card declined", "code": 402}), wire.Explanation(), history)
    assert found.text == "Failed at charge: card declined (402)"
    assert (found.do, found.step) == ("rerun", "1-1")


def test_the_headline_of_a_pause_asks_its_question() -> None:
    pauses = [{"step": "1-2", "task": "approve", "payload": {"question": "May it go?"}, "since": at(0)}]
    found = headline(outcome("interrupted", pauses=pauses), wire.Explanation(), [])
    assert found.text == "Waits for a person at approve: May it go?"
    assert (found.do, found.step) == ("answer", "1-2")
    held = headline(outcome("interrupted", pauses=[{**pauses[0], "kind": "breakpoint"}]), wire.Explanation(), [])
    assert held.do == "continue"


def test_the_headline_of_a_wait_is_the_reason_of_the_innermost_flow_with_its_remedy() -> None:
    inner = {
        "reason": "no_responders",
        "text": "Nobody serves task billing.charge.",
        "task": "charge",
        "remedy": "start one",
    }
    waits = [{"reason": "subgraph", "text": "in a child", "waits": [inner]}, {"reason": "queued", "text": "queued"}]
    found = headline(outcome("running"), wire.read(wire.Explanation, {"waits": waits}), [])
    assert found.text == "Nobody serves task billing.charge."
    assert (found.remedy, found.more) == ("start one", 1)


# --- log ---


def test_the_log_has_attempts_pauses_and_problems_in_order_newest_first() -> None:
    one = step(1, "a", problems=["a -> b: no such field"])
    one["attempts"] = [{"attempt": 0, "startedAt": at(1), "endedAt": at(1.5), "error": {"message": "away"}}]
    two = step(5, "b", "interrupted", predecessorId=1, pause={"kind": "interrupt", "since": at(6)})
    entries = log(steps(one, two))
    assert [entry.at for entry in entries] == sorted((entry.at for entry in entries), reverse=True)
    assert {(entry.task, entry.kind) for entry in entries} == {
        *(("a", kind) for kind in ("running", "attempt", "problem", "completed")),
        *(("b", kind) for kind in ("running", "interrupted")),
    }
