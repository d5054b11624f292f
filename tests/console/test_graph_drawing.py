"""The drawing of a flow's graph: places from the graph alone, classes and texts from the history."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from dwarf_nats.console.views.graph import EdgeKind, read_graph
from dwarf_nats.console.views.graph_svg import GraphDrawing
from dwarf_nats.console.views.layout import Box, Direction, Layouts, lay_out
from dwarf_nats.console.views.walk import walk
from dwarf_nats.console.views.wire import Step, read_steps
from tests.console import stage

START = datetime(2026, 11, 30, 9, tzinfo=UTC)
DIRECTIONS = pytest.mark.parametrize("direction", Direction)


def step(number: int, task: str, status: str = "completed", **more: Any) -> dict[str, Any]:
    """A step of a history that ran for a second."""
    at = START + timedelta(seconds=number)
    ended = at + timedelta(seconds=1)
    times = {"createdAt": at.isoformat(), "startedAt": at.isoformat(), "updatedAt": ended.isoformat()}
    return {"step": f"1-{number}", "stepId": number, "depth": number, "task": task, "status": status, **times, **more}


def steps(*values: dict[str, Any]) -> list[Step]:
    return read_steps(values)


def line(*names: str) -> dict[str, Any]:
    edges: list[dict[str, Any]] = [{"from": a, "to": b} for a, b in zip(names, [*names[1:], "END"], strict=True)]
    return {"name": "line", "entryPoint": names[0], "tasks": [{"name": name} for name in names], "transitions": edges}


def overlap(one: Box, other: Box) -> bool:
    apart = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not apart and one.y < other.y + other.height and other.y < one.y + one.height


def random_graph(seed: int) -> dict[str, Any]:
    """A graph with loops, edges to the same node, doubled edges and nodes that nothing leads to."""
    chance = random.Random(seed)
    names = [f"n{number}" for number in range(chance.randint(1, 25))]
    edges = []
    for _ in range(chance.randint(0, 50)):
        edge: dict[str, Any] = {"from": chance.choice(names), "to": chance.choice([*names, "END"])}
        edge |= chance.choice(({}, {"withGoto": True}, {"onError": True}, {"when": "a > 1"}))
        edges.append(edge)
    return {"name": "g", "entryPoint": names[0], "tasks": [{"name": name} for name in names], "transitions": edges}


@DIRECTIONS
@pytest.mark.parametrize("seed", range(60))
def test_no_two_nodes_lie_on_each_other_and_every_edge_has_a_course(seed: int, direction: Direction) -> None:
    """Whatever the graph: the library ends the process for a cycle of one node, so it must never see one."""
    graph = read_graph(random_graph(seed))
    layout = lay_out(graph, direction)
    assert layout.boxes.keys() == graph.nodes.keys()
    for one, other in combinations(layout.boxes.values(), 2):
        assert not overlap(one, other)
    for box in layout.boxes.values():
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= layout.width
        assert box.y + box.height <= layout.height
    assert layout.lines.keys() == {edge.number for edge in graph.edges}


@DIRECTIONS
def test_a_chain_goes_one_way(direction: Direction) -> None:
    layout = lay_out(read_graph(line("a", "b", "c")), direction)
    places = [layout.boxes[name] for name in ("START", "a", "b", "c", "END")]
    along = [box.x if direction is Direction.RIGHT else box.y for box in places]
    assert along == sorted(along)
    across = {
        round(box.y + box.height / 2 if direction is Direction.RIGHT else box.x + box.width / 2) for box in places
    }
    assert len(across) == 1


def test_edges_between_the_same_two_nodes_have_courses_of_their_own() -> None:
    graph = line("a", "b")
    graph["transitions"] += [{"from": "a", "to": "b", "onError": True}, {"from": "b", "to": "a", "withGoto": True}]
    lines = lay_out(read_graph(graph)).lines
    assert len({one.path for one in lines.values()}) == len(lines)


def test_a_layout_is_made_once_for_a_digest_and_does_not_depend_on_the_run() -> None:
    layouts = Layouts()
    graph = read_graph(stage.ORDER, "abc")
    assert layouts.of(graph) is layouts.of(read_graph(stage.ORDER, "abc"))
    assert layouts.of(graph).boxes == lay_out(graph).boxes
    assert layouts.of(graph, Direction.RIGHT) is not layouts.of(graph)


def test_a_graph_with_too_many_edges_is_not_drawn() -> None:
    names = [f"n{number}" for number in range(700)]
    assert lay_out(read_graph(line(*names))).too_large


def test_kinds_of_nodes_and_edges_and_short_labels() -> None:
    graph = read_graph(
        {
            "name": "all",
            "entryPoint": "a",
            "tasks": [
                {"name": "a", "url": "x.y"},
                {"name": "b", "ask": {}},
                {"name": "c", "wait": {"event": "paid"}},
                {"name": "d", "sleep": {"ms": 5}},
                {"name": "e", "request": {"subject": "s"}},
                {"name": "f", "publish": {"subject": "s"}},
                {"name": "g", "set": {"n": 1}},
                {"name": "h", "workflow": "w"},
            ],
            "transitions": [
                {"from": "a", "to": "b", "switch": True, "when": "a very long condition of more than it can hold"},
                {"from": "a", "to": "c", "switch": True, "when": "true"},
                {"from": "b", "to": "d", "forEach": "items"},
                {"from": "c", "to": "e", "onError": True},
                {"from": "d", "to": "f", "withGoto": True},
            ],
        }
    )
    assert [node.kind for node in graph.nodes.values()] == [
        *("start", "task", "ask", "wait", "sleep", "request", "publish", "set", "workflow", "end")
    ]
    kinds = [EdgeKind.PLAIN, EdgeKind.SWITCH, EdgeKind.SWITCH, EdgeKind.EACH, EdgeKind.ERROR, EdgeKind.GOTO]
    assert [edge.kind for edge in graph.edges] == kinds
    assert "…" in graph.edges[1].label
    assert graph.edges[1].title == "a very long condition of more than it can hold"
    assert [edge.label for edge in graph.edges[2:]] == ["else", "each item in items", "on error", "goto"]


def test_a_failed_flow_shows_what_it_reached_and_what_it_did_not() -> None:
    graph = read_graph(stage.ORDER)
    history = steps(
        step(1, "reserve", successorId=2), step(2, "charge", "failed", predecessorId=1, error={"message": "no"})
    )
    walked = walk(graph, history, "failed")
    assert [walked.nodes[name].status for name in ("reserve", "charge", "ship")] == ["completed", "failed", ""]
    assert {(graph.edges[number].source, graph.edges[number].target) for number in walked.taken} == {
        ("START", "reserve"),
        ("reserve", "charge"),
    }
    drawing = GraphDrawing(graph, lay_out(graph), flow="1-9").changing(walked)
    charge = f"gn{graph.nodes['charge'].number}"
    assert drawing.classes[charge] == "node task failed"
    assert 'href="?step=1-2"' in drawing.inner[charge]
    assert "<a " not in drawing.inner[f"gn{graph.nodes['ship'].number}"]


def test_an_error_edge_is_taken_with_its_code_and_the_plain_one_beside_it_is_not() -> None:
    graph = read_graph(stage.RESCUED)
    error = {"message": "broken", "code": 402}
    history = steps(step(1, "try", handledError=error, successorId=2), step(2, "rescue", predecessorId=1))
    walked = walk(graph, history, "completed")
    kinds = {edge.kind: edge.number in walked.taken for edge in graph.edges if edge.source == "try"}
    assert kinds == {EdgeKind.PLAIN: False, EdgeKind.ERROR: True}
    assert list(walked.codes.values()) == ["402"]
    assert walked.nodes["END"].status == "completed"
    assert walked.nodes["try"].handled


def test_branches_are_folded_into_counts_and_cells() -> None:
    graph = read_graph(stage.FAN)
    states = ["completed", "running", "failed", "pending"]
    more = [
        step(2 + n, "work", state, predecessorId=1, branch={"index": n, "count": 50, "of": "split"})
        for n, state in enumerate(states)
    ]
    walked = walk(graph, steps(step(1, "split"), *more), "running")
    work = walked.nodes["work"]
    assert work.counted() == "1 done · 1 failed · 1 running · 1 queued of 50"
    assert work.status == "failed"
    assert [(cell.label, cell.status, cell.step) for cell in work.cells] == [
        (str(n + 1), state, f"1-{2 + n}") for n, state in enumerate(states)
    ]


def test_a_loop_shows_its_round_and_a_retried_step_its_attempts() -> None:
    graph = read_graph(stage.LOOP)
    history = [step(1, "begin", successorId=2)]
    history += [step(n, "count", predecessorId=n - 1, successorId=n + 1) for n in range(2, 6)]
    history += [step(6, "done", "running", predecessorId=5, attempt=2)]
    walked = walk(graph, steps(*history), "running")
    assert walked.nodes["count"].rounds == 4
    assert walked.nodes["done"].attempts == 3
    inner = GraphDrawing(graph, lay_out(graph)).changing(walked).inner
    assert "↻4" in inner[f"gn{graph.nodes['count'].number}"]
    assert "×3" in inner[f"gn{graph.nodes['done'].number}"]


def test_what_only_waits_for_its_time_says_so() -> None:
    due = {"dueAt": (START + timedelta(hours=1)).isoformat(), "startedAt": None}
    graph = read_graph(line("again", "nap"))
    history = steps(step(1, "again", "pending", attempt=1, **due), step(2, "nap", "pending", kind="sleep", **due))
    walked = walk(graph, history, "running")
    assert [walked.nodes[name].status for name in ("again", "nap")] == ["pending", "interrupted"]
    inner = GraphDrawing(graph, lay_out(graph)).changing(walked).inner
    assert "next attempt due" in inner["gn1"]
    assert "sleeping" in inner["gn2"]


def test_a_compensation_belongs_to_the_node_it_undoes() -> None:
    graph = read_graph(stage.ORDER)
    history = steps(
        step(1, "reserve", successorId=2),
        step(2, "charge", "failed", predecessorId=1),
        step(3, "reserve:compensate", predecessorId=1),
    )
    walked = walk(graph, history, "failed")
    assert walked.compensations["reserve"].status == "completed"
    assert "undone" in GraphDrawing(graph, lay_out(graph)).changing(walked).inner["gn1"]


def test_while_a_flow_runs_only_classes_and_texts_change() -> None:
    graph = read_graph(line("a", "b"))
    drawn = GraphDrawing(graph, lay_out(graph))
    before = drawn.svg(drawn.changing(walk(graph, [], "created")))
    after = drawn.svg(
        drawn.changing(
            walk(graph, steps(step(1, "a", successorId=2), step(2, "b", "running", predecessorId=1)), "running")
        )
    )
    boxes = re.compile(r'<rect class="box"[^>]*>|<path[^>]* d="[^"]*"')
    assert [re.sub('class="[^"]*"', "", one) for one in boxes.findall(before)] == [
        re.sub('class="[^"]*"', "", one) for one in boxes.findall(after)
    ]
    assert before != after


def test_names_from_outside_are_only_text() -> None:
    evil = '<script>alert(1)</script>" onload="x'
    graph = read_graph(line(evil))
    drawn = GraphDrawing(graph, lay_out(graph), flow="1-1")
    svg = drawn.svg(drawn.changing(walk(graph, steps(step(1, evil, "failed", error={"message": evil})), "failed")))
    assert "<script" not in svg
    assert 'onload="x' not in svg
