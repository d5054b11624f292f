"""O8, D1: how a history is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dwarf_nats.render.history import history_mermaid
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, StepPause
from tests.render.diagrams import Diagram, read
from tests.render.stories import DAWN, Story


def drawn(steps: Sequence[Step], workflow: str = "") -> Diagram:
    return read(history_mermaid(steps, workflow))


def payment(at: int = 5_000, *, last: Status = Status.COMPLETED) -> Story:
    """A child flow of two steps."""
    story = Story(at, 100)
    story.after(story.first("authorize"), "capture", status=last)
    return story


# -- nodes and edges


def test_n8_a_step_without_a_service_is_shown_by_its_kind() -> None:
    story = Story()
    first = story.first("note", took=1, waited=0)
    story.after(first, "paid", took=2000, waited=0)
    note, paid = story.steps
    note.kind, paid.kind, paid.status = NodeKind.SET, NodeKind.WAIT, Status.RUNNING
    diagram = drawn(story.steps)
    assert diagram.labels[diagram.node("note")] == ["note", "set · 1 ms"]
    assert diagram.labels[diagram.node("paid")] == ["paid", "wait · running"]
    assert diagram.shapes[diagram.node("paid")] == "hexagon"


def test_d1_a_line_from_start_to_end_with_own_times_and_waiting_times() -> None:
    story = Story()
    first = story.first("reserve", took=12, waited=3)
    second = story.after(first, "charge", took=1500, waited=0.4)
    story.after(second, "ship", took=0, waited=0)
    diagram = drawn(story.steps, "acme.order")
    assert diagram.pairs() == [("START", "reserve"), ("reserve", "charge"), ("charge", "ship"), ("ship", "END")]
    assert [edge.text for edge in diagram.edges] == ["3 ms", "0.4 ms", "0 ms", ""]
    assert [*diagram.labels.values()] == [
        ["START", "acme.order"],
        ["reserve", "12 ms"],
        ["charge", "1.5 s"],
        ["ship", "0 ms"],
        ["END"],
    ]


@pytest.mark.parametrize("status", list(Status))
def test_d1_the_colour_is_the_status_and_every_one_but_completed_is_written_too(status: Status) -> None:
    story = Story()
    step = story.first("charge", status=status)
    diagram = drawn(story.steps)
    node = diagram.node("charge")
    assert diagram.looks[node] == status.value
    time = "10 ms" if step.started_at is not None and status.stopped else ""
    word = "" if status is Status.COMPLETED else status.value
    assert diagram.labels[node][1] == " · ".join(filter(None, (word, time)))


def test_d1_an_error_and_the_attempts_are_shown() -> None:
    story = Story()
    story.first("charge", status=Status.FAILED, attempt=2, error="`add` reducer on field `total` requires a number")
    assert drawn(story.steps).labels["n2"] == [
        "charge", "failed · 10 ms · attempt 3", "'add' reducer on field 'total' requires a number",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_d1_end_has_the_status_of_a_flow_that_is_over(status: Status) -> None:
    story = Story()
    story.after(story.first("a"), "b", status=status)
    diagram = drawn(story.steps)
    assert diagram.looks[diagram.node("END")] == status.value
    assert diagram.pairs()[-1] == ("b", "END")


@pytest.mark.parametrize("status", [Status.CREATED, Status.PENDING, Status.RUNNING, Status.INTERRUPTED])
def test_d1_a_flow_that_goes_on_has_no_end_yet(status: Status) -> None:
    story = Story()
    story.after(story.first("a"), "b", status=status)
    diagram = drawn(story.steps)
    assert diagram.nodes("END") == []
    assert diagram.edge("a", "b").text == ("1 ms" if status in (Status.RUNNING, Status.INTERRUPTED) else "")


def test_d1_no_steps_are_a_start() -> None:
    assert [*drawn([], "w").labels.values()] == [["START", "w"]]


# -- fan-outs


def test_f7_branches_stand_in_one_box_between_the_spawn_step_and_the_fan_in() -> None:
    story = Story()
    spawn = story.first("split")
    left, right = story.branches(spawn, "left", "right", took=20)
    crop = story.after(left, "crop", took=40)
    story.join([crop, right], "meet")
    diagram = drawn(story.steps)
    box = diagram.inside[diagram.node("left")]
    assert box
    assert {diagram.inside[diagram.node(name)] for name in ("left", "right", "crop")} == {box}
    assert {diagram.inside[diagram.node(name)] for name in ("START", "split", "meet", "END")} == {""}
    assert diagram.pairs() == [
        ("START", "split"),
        ("split", "left"),
        ("split", "right"),
        ("left", "crop"),
        ("right", "meet"),
        ("crop", "meet"),
        ("meet", "END"),
    ]
    assert diagram.shapes[diagram.node("meet")] == "funnel"
    # What each branch waited for the last one, and one height for both beginnings.
    assert (diagram.edge("right", "meet").text, diagram.edge("crop", "meet").text) == ("42 ms", "1 ms")
    assert (diagram.edge("right", "meet").ranks, diagram.edge("crop", "meet").ranks) == (2, 1)


def test_f6_nested_fan_outs_are_boxes_in_boxes() -> None:
    story = Story()
    outer = story.branches(story.first("a"), "b", "b")
    inner = story.branches(outer[0], "c", "d")
    meet = story.join(inner, "meet")
    story.join([meet, outer[1]], "all")
    diagram = drawn(story.steps)
    box = diagram.inside[diagram.node("c")]
    assert diagram.inside[box] == diagram.inside[diagram.node("b 1/2")] == diagram.inside[diagram.node("meet")] != ""
    assert diagram.inside[diagram.node("all")] == ""


def test_d1_branches_of_one_task_are_numbered_others_are_not() -> None:
    story = Story()
    story.branches(story.first("a"), "x", "x", "y")
    assert [lines[0] for lines in drawn(story.steps).labels.values()][2:5] == ["x 1/3", "x 2/3", "y 3/3"]
    story = Story()
    story.branches(story.first("a"), "x", "y")
    assert [lines[0] for lines in drawn(story.steps).labels.values()][2:4] == ["x", "y"]


def test_f7_a_fan_out_of_one_branch_is_drawn_as_a_line() -> None:
    story = Story()
    (only,) = story.branches(story.first("a"), "b")
    story.join([only], "meet")
    diagram = drawn(story.steps)
    assert diagram.titles == {}
    assert diagram.pairs() == [("START", "a"), ("a", "b"), ("b", "meet"), ("meet", "END")]


def test_f4_a_failed_cohort_ends_at_its_failed_branches() -> None:
    story = Story()
    branches = story.branches(story.first("a"), "b", "c", "d")
    branches[1].status = Status.FAILED
    diagram = drawn(story.steps)
    assert [pair for pair in diagram.pairs() if pair[1] == "END"] == [("c", "END")]
    assert diagram.labels[diagram.node("END")] == ["END", "failed"]


def test_p3_a_cohort_that_goes_on_has_no_end_though_a_branch_failed() -> None:
    story = Story()
    branches = story.branches(story.first("a"), "b", "c", "d")
    branches[0].status, branches[1].status = Status.FAILED, Status.INTERRUPTED
    diagram = drawn(story.steps)
    assert diagram.nodes("END") == []
    assert [diagram.looks[diagram.node(name)] for name in "bcd"] == ["failed", "interrupted", "completed"]


def test_o10_a_cancelled_flow_ends_at_its_cancelled_steps() -> None:
    story = Story()
    branches = story.branches(story.first("a"), "b", "c", "d")
    branches[0].status = Status.FAILED
    branches[2].status = Status.CANCELLED
    diagram = drawn(story.steps)
    assert [pair for pair in diagram.pairs() if pair[1] == "END"] == [("d", "END")]
    assert diagram.looks[diagram.node("END")] == "cancelled"


# -- subgraphs


def test_p1_the_flow_a_step_called_is_a_box_with_its_name_below_the_step_and_before_the_next() -> None:
    story = Story()
    caller = story.first("charge", took=50, workflow="acme.payment", child=payment())
    story.after(caller, "ship")
    diagram = drawn(story.steps)
    (box,) = diagram.titles
    assert diagram.titles[box] == "acme.payment"
    assert {diagram.labels[name][0] for name, around in diagram.inside.items() if around == box} == {
        "START", "authorize", "capture", "END",
    }  # fmt: skip
    assert diagram.edge("charge", box).line == "dotted"
    assert diagram.edge(box, "ship").text == "1 ms"
    assert ("charge", "ship") not in diagram.pairs()


def test_p1_calls_within_calls_and_within_branches() -> None:
    inner = Story(5_000, 200)
    inner.first("ask", workflow="deep", child=payment())
    story = Story()
    branches = story.branches(story.first("plan"), "left", "right")
    branches[0].sub_workflow, branches[0].sub_history = "inner", inner.steps
    story.join(branches, "meet")
    diagram = drawn(story.steps)
    titles = {title: box for box, title in diagram.titles.items()}
    assert diagram.inside[titles["deep"]] == titles["inner"]
    assert diagram.inside[titles["inner"]] == titles[""] == diagram.inside[diagram.node("left")]
    assert diagram.edge(titles["inner"], "meet").text == "1 ms"


def test_p1_a_step_whose_child_goes_on_is_waiting_and_the_flow_has_no_end() -> None:
    story = Story()
    story.first("charge", status=Status.RUNNING, workflow="pay", child=payment(last=Status.INTERRUPTED))
    diagram = drawn(story.steps)
    assert diagram.labels[diagram.node("charge")] == ["charge", "waiting"]
    assert diagram.looks[diagram.node("capture")] == "interrupted"
    assert diagram.nodes("END") == []


def test_p1_a_child_that_failed_shows_it_at_both_ends() -> None:
    story = Story()
    caller = story.first("charge", status=Status.FAILED, workflow="pay", child=payment(last=Status.FAILED))
    caller.error = ErrorInfo("subgraph pay failed")
    diagram = drawn(story.steps)
    assert [diagram.looks[node] for node in diagram.nodes("END")] == ["failed", "failed"]
    assert diagram.pairs()[-1] == ("pay", "END")


def test_p1_a_child_without_a_history_is_a_framed_node() -> None:
    story = Story()
    story.after(story.first("charge", workflow="pay"), "ship")
    diagram = drawn(story.steps)
    assert diagram.shapes[diagram.node("pay")] == "framed"
    assert diagram.pairs() == [("charge", "pay"), ("START", "charge"), ("pay", "ship"), ("ship", "END")]


def test_p4_calls_nested_deeply_become_a_node_that_counts_them() -> None:
    story = Story(0, 10_000)
    story.line("up", "and away")
    for depth in range(3000):
        outer = Story(0, depth + 1)
        outer.first("down", workflow=f"level{depth}", child=story)
        story = outer
    diagram = drawn(story.steps)
    (folded,) = [name for name, shape in diagram.shapes.items() if shape == "framed"]
    assert len(diagram.titles) == 5
    assert diagram.labels[folded] == ["level2994", "2,996 steps"]


# -- more than anybody can look at


def cohort(size: int) -> tuple[Story, list[Step]]:
    story = Story()
    return story, story.branches(story.first("split"), *["resize"] * size)


def test_f6_of_10_000_branches_a_few_are_drawn_and_the_others_counted() -> None:
    story, branches = cohort(10_000)
    story.join([story.after(branch, "crop") for branch in branches], "meet")
    diagram = drawn(story.steps)
    assert [lines[0] for lines in diagram.labels.values() if "resize" in lines[0]] == [
        f"resize {at}/10,000" for at in range(1, 7)
    ]
    assert diagram.labels[diagram.node("… 9,994 more")][1] == "9,994 completed"
    assert diagram.edge("split", "… 9,994 more").text == ""
    assert diagram.edge("… 9,994 more", "meet").ranks == 2
    assert len(diagram.edges) == 1 + 3 * 6 + 2 + 1


def test_d1_branches_that_failed_or_wait_are_drawn_before_others() -> None:
    story, branches = cohort(5_000)
    for at in (4_000, 17):
        branches[at].status = Status.FAILED
    branches[99].status = Status.INTERRUPTED
    branches[101].status, branches[101].sub_history = Status.RUNNING, payment(last=Status.INTERRUPTED).steps
    for branch in branches[200:]:
        if branch.status is Status.COMPLETED:
            branch.status = Status.RUNNING
    diagram = drawn(story.steps)
    shown = [lines[0] for lines in diagram.labels.values() if "resize" in lines[0]]
    assert shown == [f"resize {at}/5,000" for at in ("1", "2", "18", "100", "102", "4,001")]
    assert diagram.labels[diagram.node("… 4,994 more")][1] == "4,799 running, 195 completed"


def test_d1_one_branch_more_than_the_bound_is_drawn_rather_than_counted() -> None:
    story, _ = cohort(7)
    assert not any(lines[0].startswith("…") for lines in drawn(story.steps).labels.values())
    story, _ = cohort(8)
    assert ["… 2 more", "2 completed"] in drawn(story.steps).labels.values()


def test_d1_of_a_long_line_the_beginning_and_the_end_are_drawn() -> None:
    story = Story()
    story.line(*(f"lap{at}" for at in range(1000)))
    diagram = drawn(story.steps)
    names = [lines[0] for lines in diagram.labels.values()]
    assert names == [
        "START", *(f"lap{at}" for at in range(15)), "… 970 more steps", *(f"lap{at}" for at in range(985, 1000)), "END",
    ]  # fmt: skip
    assert diagram.edge("lap14", "… 970 more steps").text == diagram.edge("… 970 more steps", "lap985").text == ""
    assert len(diagram.edges) == len(names) - 1


def test_d1_a_step_that_is_folded_takes_the_cohort_it_spawned_along() -> None:
    story = Story()
    last = story.first("round")
    for _ in range(40):
        last = story.join(story.branches(last, "x", "y", "z"), "meet")
    diagram = drawn(story.steps)
    names = [lines[0] for lines in diagram.labels.values()]
    (folded,) = [name for name in names if name.startswith("…")]
    line = names.count("round") + names.count("meet")
    assert folded == f"… {(41 - line) * 4} more steps"
    assert names.count("x") == len(diagram.titles) == line - 1
    assert [pair[0] for pair in diagram.pairs() if pair[1] == folded] == ["x", "y", "z"]
    assert [pair[1] for pair in diagram.pairs() if pair[0] == folded] == ["meet"]


def test_d1_wide_and_deep_at_once_still_fits() -> None:
    """The bounds tighten until Mermaid takes it; the reader asserts its limits."""
    story = Story()
    layer = [story.first("\U0001f600" * 300)]
    for _ in range(4):
        layer = [one for spawn in layer for one in story.branches(spawn, *["\U0001f600" * 300] * 8)]
    for step in story.steps[:2000]:
        step.sub_workflow, step.sub_history = "\U0001f600" * 300, payment().steps
    assert len(drawn(story.steps).labels) <= 160


def test_d1_a_diagram_does_not_depend_on_the_order_of_the_rows() -> None:
    story, branches = cohort(50)
    story.join(branches, "meet")
    assert history_mermaid(story.steps[::-1]) == history_mermaid(story.steps)


# -- error edges, branches, waits (Q3)


def test_q3_an_error_edge_that_was_taken_is_dotted_and_names_the_error() -> None:
    story = Story()
    charge = story.first("charge")
    charge.handled_error = ErrorInfo("card `visa` declined", 402)
    story.after(story.after(charge, "refund"), "mail")
    diagram = drawn(story.steps)
    assert diagram.labels[diagram.node("charge")] == ["charge", "10 ms", "handled: card 'visa' declined"]
    edges = {(edge.source, edge.target): edge for edge in diagram.edges}
    taken = edges[diagram.node("charge"), diagram.node("refund")]
    assert (taken.line, taken.style, taken.text) == ("dotted", "stroke:#d9534f", "on error\n1 ms")
    assert edges[diagram.node("refund"), diagram.node("mail")].line == "solid"


def test_q3_an_error_edge_to_the_end_is_dotted() -> None:
    story = Story()
    story.first("charge").handled_error = ErrorInfo("declined", 402)
    edge = drawn(story.steps).edges[-1]
    assert (edge.line, edge.style, edge.text) == ("dotted", "stroke:#d9534f", "on error")


def test_q3_a_branch_has_the_number_of_its_element_also_where_others_are_missing() -> None:
    story = Story()
    for index, step in zip((1, 3), story.branches(story.first("split"), "work", "work"), strict=True):
        step.branch = Branch(index=index, count=5, of="split")
    labels = [lines[0] for lines in drawn(story.steps).labels.values()]
    assert labels[2:4] == ["work 2/5", "work 4/5"]


def test_l3_a_step_that_waits_for_its_next_attempt_shows_when_it_is_due() -> None:
    story = Story()
    step = story.first("charge", status=Status.PENDING, attempt=1, error="the bank is away")
    step.due_at = DAWN
    assert drawn(story.steps).labels["n2"] == [
        "charge",
        "pending · attempt 2",
        "the bank is away",
        "due 2025-06-15 15:06:40 UTC",
    ]


def test_p6_a_paused_step_shows_its_deadline() -> None:
    story = Story()
    step = story.first("approve", status=Status.INTERRUPTED)
    step.pause = StepPause(kind="interrupt", since=DAWN, until=DAWN + 60_000_000, payload_json=b"1")
    assert drawn(story.steps).labels["n2"][-1] == "until 2025-06-15 15:07:40 UTC"
