"""The model against outcomes worked out by hand: a yardstick has to be right itself."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.workflow.graph import END, Graph
from tests.model import values
from tests.model.behaviours import (
    Act,
    Answered,
    Ask,
    Await,
    Behaviour,
    Child,
    Copy,
    Done,
    Ending,
    Fail,
    Lit,
    Loop,
    Retry,
)
from tests.model.example import Example
from tests.model.interpreter import Expected, Model, TooLong, Twist
from tests.model.records import effects_from, identity
from tests.model.values import CannotMerge, reduced


def done(**writes: Any) -> Act:
    """It completes with these fields."""
    return Act(Done(), {name: Lit(value) for name, value in writes.items()})


def ends(end: Ending) -> Act:
    return Act(end)


def run(graph: Graph, state: dict[str, Any], *children: Graph, **acts: Act | list[Act]) -> Expected:
    """Tasks that are not mentioned do nothing."""
    behaviours = {
        one.name: {
            name: Behaviour([given] if isinstance(given := acts.get(name, done()), Act) else given)
            for name in one.nodes
        }
        for one in (graph, *children)
    }
    return Model(Example(graph.to_values(), behaviours, state, [child.to_values() for child in children])).run()


def grid() -> Graph:
    """rows → row per row → cell per cell → inner → outer → END."""
    graph = Graph("grid")
    graph.add_for_each("rows", "row", "matrix", "cells")
    graph.add_for_each("row", "cell", "cells", "value")
    graph.add_chain("cell", "inner", "outer", END)
    graph.set_fan_in("inner")
    graph.set_fan_in("outer")
    graph.set_reducer("sum", "add")
    graph.set_reducer("sums", "append")
    return graph


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*nodes, END)
    return graph


def statuses(expected: Expected) -> list[tuple[str, str, int]]:
    return [(record.task, record.status, record.attempt) for record in expected.run.history]


def test_f3_nested_cohorts_merge_inward_and_outward() -> None:
    expected = run(
        grid(),
        {"matrix": [[1, 2], [], [3]], "sum": 10},
        cell=Act(Done(), {"sum": Copy("value")}),
        inner=Act(Done(), {"sums": Copy("cells"), "sum": Copy("sum"), "value": Lit(0)}),
    )
    assert expected.status == "completed"
    assert expected.state == {"matrix": [[1, 2], [], [3]], "sum": 10 + 13 + 10 + 13, "sums": [1, 2, 3], "value": 0}
    assert [record.task for record in expected.run.history].count("inner") == 3


def test_x8_siblings_go_on_and_the_failed_branch_contributes_nothing() -> None:
    graph = Graph("g")
    graph.add_fan_out("a", "b", "c")
    graph.add_transition("b", "b2")
    graph.add_fan_out("b2", "m")
    graph.add_chain("c", "m", END)
    graph.set_fan_in("m")
    expected = run(graph, {"x": 1}, b=done(left=1), b2=ends(Fail("boom", 402)), c=done(right=2))
    assert (expected.status, expected.state) == ("failed", {"x": 1, "right": 2})
    assert [error.code for error in expected.errors] == [402]
    assert statuses(expected) == [
        ("a", "completed", 0),
        ("b", "completed", 0),
        ("b2", "failed", 0),
        ("c", "completed", 0),
    ]


def test_x5_changes_of_earlier_attempts_stay_and_an_exhausted_retry_says_how_often() -> None:
    tries = [Act(Retry(3), {"kept": Lit(attempt)}) for attempt in range(3)]
    expected = run(line("g", "a"), {}, a=tries)
    assert (expected.status, expected.state) == ("failed", {"kept": 1})
    assert [error.message for error in expected.errors] == [values.exhausted(3)]
    assert statuses(expected) == [("a", "failed", 2)]


def test_x4_a_second_park_is_an_error_and_the_changes_of_the_first_stay() -> None:
    again = Act(Ask(Lit(2), done()), {"second": Answered()})
    expected = run(line("g", "a"), {}, a=Act(Ask(Lit(1), again), {"first": Lit(1)}))
    assert (expected.status, expected.state, expected.effects.pauses) == ("failed", {"first": 1}, 1)
    assert [error.message for error in expected.errors] == [values.SECOND_PARK]


def test_p1_a_child_gets_its_input_only_and_its_final_state_comes_back() -> None:
    calls = Act(Child("child", {"n": Copy("n")}, Act(Done(), {"result": Answered()})))
    expected = run(line("g", "a"), {"n": 1, "x": 2}, line("child", "c"), a=calls, c=done(deep=True))
    assert expected.state == {"n": 1, "x": 2, "result": {"n": 1, "deep": True}}


def test_x4_an_error_edge_carries_the_error_on() -> None:
    graph = line("g", "a", "z")
    graph.add_on_error("a", "mend", "onErr.code == 402")
    graph.add_transition("mend", "z")
    expected = run(graph, {}, a=ends(Fail("boom", 402, {"card": 1})))
    assert expected.state == {"onErr": {"message": "boom", "code": 402, "task": "a", "card": 1}}
    assert run(graph, {}, a=ends(Fail("boom", 500))).status == "failed"


def test_s4_reducers() -> None:
    reducers = {"n": "add", "l": "union", "f": "or", "s": "concat", "o": "merge", "m": "min"}
    state = {"n": 1, "l": [1, 1], "o": {"a": 1}, "gone": 1}
    deltas: list[dict[str, Any]] = [
        {"n": 2, "l": [1.0, True], "f": False, "s": "a", "o": {"a": 2}, "m": 3, "gone": None},
        {"n": None, "f": True, "s": "b", "m": 2.5, "other": [1]},
    ]
    assert reduced(reducers, state, deltas) == {
        "n": 3, "l": [1, True], "f": True, "s": "ab", "o": {"a": 2}, "m": 2.5, "other": [1],
    }  # fmt: skip
    with pytest.raises(CannotMerge, match="`add` reducer on field `n` requires a number, got string"):
        reduced(reducers, state, [{"n": "x"}])


def test_s4_a_union_removes_duplicates_of_what_passes_alone_and_a_wrong_type_is_none_either() -> None:
    assert reduced({"l": "union"}, {"l": [1, 1.0, True]}, []) == {"l": [1, True]}
    assert reduced({"l": "union"}, {}, [{"l": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}]) == {"l": [{"a": 1, "b": 2}]}
    with pytest.raises(CannotMerge):
        reduced({"l": "union"}, {"l": 1}, [{}])


def diamond() -> Graph:
    graph = Graph("g")
    graph.add_fan_out("a", "b", "c")
    for name in ("b", "c"):
        graph.add_transition(name, "m")
    graph.add_transition("m", END)
    graph.set_fan_in("m")
    graph.set_reducer("n", "add")
    return graph


def test_s6_a_retry_that_is_granted_keeps_the_changes_beside_its_error() -> None:
    tries = [Act(Retry(2, error=Fail("boom 1")), {"kept": Lit(attempt)}) for attempt in range(2)]
    expected = run(line("g", "a"), {}, a=tries)
    assert (expected.status, expected.state, expected.errors[0].message) == ("failed", {"kept": 0}, "boom 1")


def test_f3_an_error_stays_in_its_branch_unless_its_edge_leads_into_the_fan_in() -> None:
    graph = diamond()
    graph.add_on_error("b", "mend")
    graph.add_transition("mend", "m")
    fails = ends(Fail("boom 1"))
    assert run(graph, {"onErr": 1}, b=fails, c=done(onErr=2)).state == {"onErr": 1}
    graph = diamond()
    graph.add_on_error("b", "m")
    assert run(graph, {"onErr": 1}, b=fails, c=done(onErr=2)).state == {
        "onErr": {"message": "boom 1", "code": 500, "task": "b"}
    }


def test_o13_a_fan_in_that_could_not_merge_meets_the_same_values_again() -> None:
    graph = diamond()
    behaviours = {"g": {name: Behaviour([done()]) for name in graph.nodes}}
    behaviours["g"]["b"] = Behaviour([done(n="text", plain="b")])
    behaviours["g"]["c"] = Behaviour([done(n=2)])
    example = Example(graph.to_values(), behaviours, {"n": 1})
    assert Model(example).run().state == {"n": 1}
    unmerged = identity("g", "m", {"n": 1})
    still = Model(example, Twist(unmerged, {"x": 1})).run()
    assert (still.status, still.state, len(still.errors)) == ("failed", {"n": 1, "x": 1}, 1)
    mended = Model(example, Twist(unmerged, {"n": 5})).run()
    assert (mended.status, mended.state) == ("completed", {"n": 5, "plain": "b"})


def test_o13_what_is_rewound_runs_again_and_nothing_else() -> None:
    """A step of a child: the child's steps from there on, its caller once woken, and what that led to."""
    calls = Act(Child("child", {}, Act(Done(), {"result": Answered()})))
    graph, child = line("g", "p", "a", "z"), line("child", "c", "d")
    behaviours = {
        "g": {name: Behaviour([calls if name == "a" else done()]) for name in graph.nodes},
        "child": {name: Behaviour([Act(Done(), {name: Copy("x")})]) for name in child.nodes},
    }
    example = Example(graph.to_values(), behaviours, {}, [child.to_values()])
    expected = Model(example, Twist(identity("child", "d", {}), {"x": 5})).run()
    assert expected.state == {"result": {"x": 5, "d": 5}}
    assert expected.twisted is not None
    assert effects_from(expected.twisted).log == [
        '["call", "child", "d", 0, {"x": 5}]',
        '["call", "g", "a", 0, {}]',
        '["call", "g", "z", 0, {"result": {"d": 5, "x": 5}}]',
        '["child", "g", "a", {"d": 5, "x": 5}]',
    ]


def test_n9_what_was_done_is_undone_from_the_last_step_back_and_a_child_before_its_caller() -> None:
    """Neither the step that failed nor the one that took its error edge; a compensation that fails changes nothing."""
    graph, child = line("g", "a", "b", "c", "d", "e"), line("child", "x", "y")
    graph.add_on_error("c", "d")
    for one in (graph, child):
        for name in list(one.nodes):
            one.compensate(name, f"undo.{name}")
    done_by = {"b": Act(Child("child", {}, done())), "c": ends(Fail("boom 1")), "e": ends(Fail("boom 2"))}
    behaviours = {
        one.name: {
            **{name: Behaviour([done_by.get(name, done(**{name: 1}))]) for name in one.nodes},
            **{f"{name}:compensate": Behaviour([done(last=name)]) for name in one.nodes},
        }
        for one in (graph, child)
    }
    behaviours["g"]["a:compensate"] = Behaviour([Act(Fail("boom 1", 500, {"final": True}), {"last": Lit("a")})])
    expected = Model(Example(graph.to_values(), behaviours, {}, [child.to_values()])).run()
    assert (expected.status, [error.message for error in expected.errors]) == ("failed", ["boom 2"])
    assert expected.state["last"] == "b"  # the last but one to be undone
    assert expected.open == set()
    names = [record.task for record in expected.run.history]
    assert names == ["a", "b", "c", "d", "e", "d:compensate", "b:compensate", "a:compensate"]
    assert expected.run.history[-1].status == "failed"
    called = expected.run.history[1].child
    assert called is not None
    assert [record.task for record in called.history] == ["x", "y", "y:compensate", "x:compensate"]
    assert '["undo", "child", "x:compensate", {"x": 1}]' in expected.effects.log


def test_n9_which_of_two_branches_is_undone_last_is_open() -> None:
    graph = Graph("g")
    graph.add_fan_out("a", "b", "c")
    graph.set_fan_in("m")
    for name in ("b", "c"):
        graph.add_transition(name, "m")
        graph.compensate(name, f"undo.{name}")
    graph.compensate("a", "undo.a")
    graph.add_transition("m", END)
    acts = {"b": done(), "c": done(), "a": done(), "m": ends(Fail("boom 1"))}
    undo = {f"{name}:compensate": Behaviour([done(who=name)]) for name in "abc"}
    behaviours = {"g": {name: Behaviour([act]) for name, act in acts.items()} | undo}
    expected = Model(Example(graph.to_values(), behaviours, {})).run()
    assert expected.open == set()  # the step before both is undone last
    behaviours["g"]["a:compensate"] = Behaviour([done()])
    assert Model(Example(graph.to_values(), behaviours, {})).run().open == {"who"}


def test_e2_a_step_that_waits_runs_again_with_the_event() -> None:
    graph = line("g", "w", "a")
    graph.nodes.pop("w")
    graph.add_wait("w", "paid", "=string(n)", into="got")
    graph.set_entry_point("w")
    expected = run(graph, {"n": 7}, a=Act(Await("k", Act(Done(), {"a": Answered()}))))
    assert expected.state == {"n": 7, "got": {"for": "7"}, "a": {"for": "k"}}
    assert '["event", "g", "a", {"for": "k"}]' in expected.effects.log


def test_an_example_without_end_is_given_up() -> None:
    graph = line("g", "a")
    graph.add_goto("a", "a")
    with pytest.raises(TooLong):
        run(graph, {}, a=ends(Loop("a", "rounds", 1_000_000)))
