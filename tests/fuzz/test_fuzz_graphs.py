"""Random graphs, put and run, and random conditions: a refusal that says why, or flows that end (G6-G9, X7-X9)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.workflow.conditions import evaluate, problem_of
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.state import state_from
from tests.fuzz.fuzz_rig import FuzzRig, opened
from tests.fuzz.random_requests import OBJECTS, PLAIN, TEXTS, bent, examples, packed

_numbers = itertools.count(1)
BATCH = 12

# -- conditions

ATOMS = st.one_of(
    st.sampled_from(["n", "x", "items", "item", "a", "b", "state", "onErr", "state.n", "a.b", "items[0]", "x.y.z", "null",
                     "true", "false", "1", "1u", "1.5", "-9223372036854775808", "9223372036854775807", "1e308", "'a'", "b'a'",
                     '"é"',
                     "[]", "{}", "[1, 2]", "{'k': 1}", "r'\\'", "'''x'''", "type", "optional.none()", "duration('1h')",
                     "timestamp('2026-01-01T00:00:00Z')"]),
    st.integers(-5, 5).map(str),
)  # fmt: skip
BINARY = ["==", "!=", "<", ">=", "&&", "||", "+", "-", "*", "/", "%", "in"]
CALLS = ["size", "int", "string", "double", "type", "has", "bytes", "uint", "dyn", "timestamp", "duration", "nothing"]
MACROS = ["all", "exists", "exists_one", "map", "filter", "contains", "matches", "startsWith", "orValue"]


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(BINARY), inner).map(lambda it: f"{it[0]} {it[1]} {it[2]}"),
        st.tuples(st.sampled_from(["!", "-", "!!", "("]), inner).map(
            lambda it: f"({it[1]})" if it[0] == "(" else "".join(it)
        ),
        st.tuples(st.sampled_from(CALLS), inner).map(lambda it: f"{it[0]}({it[1]})"),
        st.tuples(inner, st.sampled_from(MACROS), st.sampled_from(["v", "w"]), inner).map(
            lambda it: f"{it[0]}.{it[1]}({it[2]}, {it[3]})" if it[1] in MACROS[:5] else f"{it[0]}.{it[1]}({it[3]})"
        ),
        st.tuples(inner, inner, inner).map(lambda it: f"{it[0]} ? {it[1]} : {it[2]}"),
        st.lists(inner, max_size=3).map(lambda them: "[" + ", ".join(them) + "]"),
        st.tuples(inner, inner).map(lambda it: f"{{{it[0]}: {it[1]}}}"),
        st.tuples(inner, inner).map(lambda it: f"({it[0]})[{it[1]}]"),
    )


WRITTEN = st.recursive(st.one_of(ATOMS, st.sampled_from(["v", "w", "v.k", "v + v", "[v, v]"])), _larger, max_leaves=12)
PATHOLOGICAL = st.one_of(
    st.tuples(st.sampled_from(["[1]", "['ab']", "items", "state.items", "[x, x]"]),
              st.sampled_from([".map(v, v + v)", ".map(v, [v, v])", ".filter(v, true)", ".map(v, items)",
                               ".map(v, {'k': v})"]),
              st.integers(1, 40), st.sampled_from([" == [1]", ".size() > 1", ""])
              ).map(lambda it: it[0] + it[1] * it[2] + it[3]),
    st.tuples(st.sampled_from(["items.all(v, ", "items.exists(v, ", "(", "[", "!", "-", "{1: ", "size(", "true ? ", "a."]),
              st.integers(1, 200), st.sampled_from(["true", "v == n", "1", ")"]),
              st.sampled_from([")", "]", "}", ": 1", ""])).map(lambda it: it[0] * it[1] + it[2] + it[3] * it[1]),
    st.tuples(st.sampled_from(["x + ", "1 + ", "n == ", "'ab' + ", "n in ", "true && "]), st.integers(1, 400)).map(
        lambda it: it[0] * it[1] + "1"
    ),
    st.sampled_from(["'a'.matches('(a{1000}){1000}')", "'a'.matches('" + "(" * 400 + "')", "x.matches(x)",
                     "duration('99999999999999999999h') > duration('1s')", "timestamp(9223372036854775807) > timestamp(0)",
                     "int('9' + '9') == 99", "string(1e308 * 10.0) == ''", "0.0 / 0.0 == 0.0", "1 % 0 == 0", "[1][5] == 1",
                     "{'a': 1, 'a': 2}.a == 1", "\x00", "é == 1", "`a` == 1", "a" * 999]),
)  # fmt: skip
CONDITIONS = st.one_of(WRITTEN, WRITTEN, PATHOLOGICAL, TEXTS)
STATES = st.one_of(
    OBJECTS,
    st.builds(
        lambda items, n, x: {"items": items, "n": n, "x": x},
        st.one_of(st.lists(PLAIN, max_size=6), st.integers(0, 3_000).map(lambda size: list(range(size)))),
        st.integers(0, 9),
        st.one_of(PLAIN, st.integers(0, 50_000).map(lambda size: "ab" * size)),
    ),
)


@pytest.mark.slow
@examples(750)
@given(CONDITIONS, STATES)
def test_any_condition_is_refused_or_evaluated_in_time(source: str, state: dict[str, Any]) -> None:
    """G9: nothing is raised, nothing hangs, the process lives."""
    values = state_from(state)
    problem = problem_of(source)
    if problem:
        assert len(problem.splitlines()) == 1
        verdict = evaluate(source, values)  # as for a graph that another version accepted (G10)
        assert not verdict.taken
        assert problem in verdict.problem
    else:
        verdict = evaluate(source, values)
        assert verdict.taken in (True, False)
        assert not (verdict.taken and verdict.problem)


# -- graphs

NODES = ["a", "b", "c", "d"]
PLAUSIBLE = st.sampled_from(["n > 1", "n < 3", "true", "false", "x == null", "items.size() > 2", "has(state.onErr)"])


@st.composite
def edges(draw: st.DrawFn, nodes: list[str]) -> dict[str, Any]:
    edge: dict[str, Any] = {
        "from": draw(st.sampled_from(nodes)),
        "to": draw(st.sampled_from([*nodes, "END", "END"])),
    }
    kind = draw(st.sampled_from(["plain", "plain", "when", "switch", "goto", "each", "error"]))
    if kind in ("when", "switch") or draw(st.integers(0, 5)) == 0:
        edge["when"] = draw(st.one_of(PLAUSIBLE, PLAUSIBLE, CONDITIONS))
    if kind == "each":
        edge["forEach"] = draw(st.sampled_from(["items", "x", "none"]))
        edge["as"] = draw(st.sampled_from(["item", "x", "items", "v"]))
    names = {"switch": "switch", "goto": "withGoto", "error": "onError"}
    return edge | ({names[kind]: True} if kind in names else {})


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly a line from the first node to END that something was done to, so that many are sound."""
    nodes = NODES[: draw(st.integers(1, 4))]
    fan_in = draw(st.one_of(st.none(), st.sampled_from(nodes)))
    transitions = [{"from": one, "to": two} for one, two in zip(nodes, [*nodes[1:], "END"], strict=True)]
    for edge in transitions:
        if draw(st.integers(0, 3)) == 0:
            edge |= {"forEach": "items", "as": "item"}
    transitions += draw(st.lists(edges(nodes), max_size=2))
    tasks = [{"name": node, "url": f"t.{node}", "fanIn": node == fan_in} for node in nodes]
    kinds = st.sampled_from(["add", "append", "union", "merge", "min", "max", "and", "or", "concat", "replace"])
    return {
        "name": "g",
        "tasks": tasks,
        "transitions": transitions,
        "reducers": draw(st.dictionaries(st.sampled_from(["n", "items", "x", "a"]), kinds, max_size=2)),
    }


class Tasks:
    """Every task changes something; what, the example says."""

    def __init__(self, rig: FuzzRig) -> None:
        self.rig = rig
        self.changes: list[dict[str, Any]] = [{}]
        self.ran = 0

    async def start(self) -> None:
        async def answer(message: Msg) -> None:
            self.ran += 1
            await message.respond(packed({"changes": self.changes[self.ran % len(self.changes)]}))

        await self.rig.client.subscribe(f"{self.rig.prefix}task.>", cb=answer)
        await self.rig.client.flush()

    async def put_and_run(self, batch: list[bytes], states: list[dict[str, Any]]) -> None:
        rig = self.rig
        sound = 0
        for body in batch:
            refused = rig.checked("graph.validate", await rig.ask("graph.validate", body))
            message = await rig.ask("graph.put", body)
            assert rig.checked("graph.put", message) == refused
            if refused:
                continue
            sound += 1
            name = json.loads(message.data)["name"]
            kept = await rig.ask("graph.get", packed({"name": name}))
            assert Graph.from_json(kept.data) == Graph.from_json(body)
            assert rig.checked("graph.mermaid", await rig.ask("graph.mermaid", packed({"name": name}))) == 0
            for state in states:
                made = await rig.ask("flow.create", packed({"workflow": name, "state": state, "start": True}))
                assert rig.checked("flow.create", made) == 0, made.data
            assert rig.checked("graph.delete", await rig.ask("graph.delete", packed({"name": name}))) == 0
        await rig.at_rest()
        left = await rig.fetch("select flow_id, status from dwarf_flows where status not in ('completed', 'failed')")
        assert not left, [tuple(row) for row in left]
        ended = await rig.fetch("select count(*) from dwarf_flows")
        assert ended[0][0] == sound * len(states)
        await rig.well()
        await rig.clear()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("sqlite_dsn", 40), ("pg_dsn", 6)])
def test_whatever_graph_is_put_and_run(
    request: pytest.FixtureRequest, nats_server: NatsServer, kind: str, count: int
) -> None:
    dsn: str = request.getfixturevalue(kind)
    with opened(nats_server.url, dsn, f"graphs{next(_numbers)}") as rig:
        tasks = Tasks(rig)
        rig.run(tasks.start())

        @examples(count)
        @given(
            st.lists(
                st.one_of(graphs().map(packed), graphs().map(packed), bent(graphs())), min_size=BATCH, max_size=BATCH
            ),
            st.lists(STATES, min_size=2, max_size=2),
            st.lists(OBJECTS, min_size=1, max_size=4),
        )
        def put_and_run(batch: list[bytes], states: list[dict[str, Any]], changes: list[dict[str, Any]]) -> None:
            tasks.changes = changes
            rig.run(tasks.put_and_run(batch, states))

        put_and_run()
        assert tasks.ran > count
