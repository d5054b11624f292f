"""The flows that run while things break: each shape is graphs, what their tasks do, and what has to come out.

Every execution leaves a mark in the field `trace`: node, step id, and the number of the execution, `b/42/9f3c…`. So the
final state itself tells which steps took effect, how often, in which order, and by which of their executions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.task_error import SubgraphError, TaskError

State = dict[str, Any]
URLS = ("chaos.one", "chaos.two", "chaos.three")


@dataclass(frozen=True)
class Expected:
    """What has to come out. In `state["trace"]` stand the names of the nodes, in order; of a failed flow the error contains
    `error`. `attempts`: how often steps of a node were retried (X5)."""

    status: str
    state: State
    error: str = ""
    attempts: dict[str, int] = field(default_factory=dict)


class Mark:
    """Leaves the mark of one execution in `trace`; a repeated execution of the step replaces its earlier mark."""

    def __init__(self, flow: Flow, execution: str) -> None:
        step_id = flow.step_key.split("-")[1]
        self._flow = flow
        self._entry = f"{flow.task}/{step_id}/{execution}"
        self._others = [one for one in flow.get("trace", []) if one.split("/")[1] != step_id]

    @property
    def entry(self) -> str:
        """The mark itself."""
        return self._entry

    def total(self, *within: str) -> None:
        """Outside a fan-out: all that was, and this."""
        self._flow.set("trace", [*self._others, *within, self._entry])

    def delta(self, *within: str) -> None:
        """In a branch: this alone, the reducer adds it to the rest (S5)."""
        self._flow.set("trace", [*within, self._entry])

    def gather(self) -> None:
        """At the fan-in of a cohort within a branch: what came of it goes on outward, but for the mark of the step that
        fanned out, which goes by itself (F3)."""
        self._flow.set("trace", [*self._others[1:], self._entry])


class Shape:
    """One kind of flow. `linger`: the longest a task takes, in seconds, but for the rare slow one."""

    name: ClassVar[str]
    linger: ClassVar[float] = 0.3
    forkable: ClassVar[bool] = False
    """A copy from any step comes to the same end."""
    continuable: ClassVar[bool] = True
    """So does a flow that goes on from its end; never with marks that are appended."""
    marked: ClassVar[bool] = True
    """Its tasks leave marks."""
    cancel_odds: ClassVar[float] = 0.1
    events: ClassVar[tuple[str, ...]] = ()
    """Events that are signalled until it has ended."""
    awaited: tuple[str, ...] = ()
    """Keys for which the model's event is signalled until it has ended: always with the same data."""
    breakpoints: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = MappingProxyType({})
    """What breakpoints are passed with: always the same, so that a resume that arrives late or twice changes nothing."""

    @property
    def workflow(self) -> str | Graph:
        """What a caller asks for."""
        return self.name

    @property
    def baggage(self) -> State:
        """What its tasks need to know."""
        return {}

    def graphs(self) -> list[Graph]:
        """What goes into the registry: the workflow itself, named as the shape, and those it calls."""
        raise NotImplementedError

    def draw(self, rng: random.Random) -> State:
        """An initial state."""
        raise NotImplementedError

    def answer(self, payload: Any) -> Any:  # noqa: ARG002
        """What an interrupt is resumed with: the same for all, for the same reason."""
        return {"answer": 7}

    def perform(self, flow: Flow, mark: Mark) -> None:
        """The task of every node."""
        raise NotImplementedError

    def heard(self, flow: Flow) -> str:  # noqa: ARG002
        """The id of the event that an execution has received, for the account."""
        return ""

    def expected(self, state: State) -> Expected:
        """What has to come out of this initial state."""
        raise NotImplementedError

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:
        """In what an end is not the one expected."""
        expected = self.expected(state)
        if status != expected.status:
            yield f"it is {status}, should be {expected.status}; error {error}"
            return
        if expected.error and expected.error not in (error or ""):
            yield f"its error is {error}, should say {expected.error!r}"
        plain = {**final, "trace": [one.split("/")[0] for one in final.get("trace", [])]}
        if plain != expected.state:
            yield f"its final state is {plain}, should be {expected.state}"


def made(
    name: str, reducers: dict[str, str] | None = None, fan_ins: Sequence[str] = (), chain: Sequence[str] = ()
) -> Graph:
    """A graph with a chain to begin with; its tasks are spread over the urls."""
    graph = Graph(name)
    for node in chain:
        _add(graph, node)
    for source, target in zip(chain, chain[1:], strict=False):
        graph.add_transition(source, target)
    for node in fan_ins:
        _add(graph, node)
        graph.set_fan_in(node)
    for name_, kind in (reducers or {}).items():
        graph.set_reducer(name_, kind)
    return graph


def _add(graph: Graph, node: str) -> None:
    if node != END:
        graph.add_task(node, URLS[len(graph.nodes) % len(URLS)])


class Line(Shape):
    """One after the other, with naps in between."""

    name = "line"
    forkable = True

    def graphs(self) -> list[Graph]:
        return [made(self.name, chain=["a", "b", "c", "d", "e", END])]

    def draw(self, rng: random.Random) -> State:
        return {"n": rng.randrange(1000), "nap": rng.choice([0, 0, 30, 400])}

    def perform(self, flow: Flow, mark: Mark) -> None:
        mark.total()
        flow.set("count", flow.get("count", 0) + 1)
        if flow.task in ("a", "c"):
            flow.sleep(flow.get("nap") / 1000)

    def expected(self, state: State) -> Expected:
        return Expected("completed", {**state, "count": state.get("count", 0) + 5, "trace": list("abcde")})


class Choice(Shape):
    """A switch, and a goto past it."""

    name = "choice"
    forkable = True

    def graphs(self) -> list[Graph]:
        graph = made(self.name, chain=["pick"])
        for at, target in enumerate(("left", "middle", "right")):
            _add(graph, target)
            graph.add_transition_switch("pick", target, "true" if target == "right" else f"k == {at}")
        _add(graph, "join")
        for target in ("left", "middle", "right"):
            graph.add_transition(target, "join")
        graph.add_transition_goto("pick", "join")
        graph.add_transition("join", END)
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"k": rng.randrange(5)}

    def perform(self, flow: Flow, mark: Mark) -> None:
        mark.total()
        if flow.task == "pick" and flow.get("k") == 3:
            flow.goto("join")

    def expected(self, state: State) -> Expected:
        way = {0: ["left"], 1: ["middle"], 3: []}.get(state["k"], ["right"])
        return Expected("completed", {**state, "trace": ["pick", *way, "join"]})


class Rounds(Shape):
    """A loop by goto with a fan-out in it."""

    name = "rounds"

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add"}, ["meet"], ["top"])
        _add(graph, "each")
        graph.add_transition_for_each("top", "each", "items")
        graph.add_transition("each", "meet")
        graph.add_transition("meet", END)
        graph.add_transition_goto("meet", "top")
        graph.set_entry_point("top")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"rounds": rng.randint(1, 3), "items": list(range(rng.randrange(4))), "sum": rng.randrange(9)}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "top":
                mark.total()
                flow.set("round", flow.get("round", 0) + 1)
            case "each":
                mark.delta()
                flow.set("sum", flow.get("item") + 1)
            case _:
                mark.total()
                if flow.get("round") < flow.get("rounds"):
                    flow.goto("top")

    def expected(self, state: State) -> Expected:
        rounds, items = state["rounds"], state["items"]
        total = state["sum"] + rounds * sum(item + 1 for item in items)
        trace = ["top", *["each"] * len(items), "meet"] * rounds
        return Expected("completed", {**state, "round": rounds, "sum": total, "trace": trace})


class Each(Shape):
    """for_each with two steps a branch."""

    name = "each"

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add", "doubled": "append"}, ["meet"], ["split"])
        _add(graph, "first")
        _add(graph, "second")
        _add(graph, "after")
        graph.add_transition_for_each("split", "first", "items")
        graph.add_transition("first", "second")
        graph.add_transition("second", "meet")
        graph.add_transition("meet", "after")
        graph.add_transition("after", END)
        graph.set_entry_point("split")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"items": [rng.randrange(100) for _ in range(rng.randrange(7))], "nap": rng.choice([0, 0, 200])}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "first":
                mark.delta()
                flow.set("sum", flow.get("item"))
                flow.sleep(flow.get("nap") / 1000)
            case "second":
                mark.delta()
                flow.set("sum", 1)
                flow.set("doubled", [flow.get("item") * 2])
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        items = state["items"]
        found = {**state, "trace": ["split", *["first", "second"] * len(items), "meet", "after"]}
        if items:
            found |= {"sum": sum(items) + len(items), "doubled": [2 * item for item in items]}
        return Expected("completed", found)


class Wide(Each):
    """Many short branches."""

    name = "wide"
    linger = 0.02

    def draw(self, rng: random.Random) -> State:
        return {"items": [rng.randrange(100) for _ in range(rng.randint(30, 60))], "nap": 0}


class Nested(Shape):
    """A fan-out in a branch of a fan-out, by for_each and by plain edges."""

    name = "nested"
    linger = 0.15

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add"}, ["close", "meet"], ["split"])
        for node in ("open", "leaf", "side"):
            _add(graph, node)
        graph.add_transition_for_each("split", "open", "groups", "group")
        graph.add_transition_for_each("open", "leaf", "group", "leaf")
        graph.add_transition_when("open", "side", "groupIndex != 1")
        graph.add_transition("leaf", "close")
        graph.add_transition("side", "close")
        graph.add_transition("close", "meet")
        graph.add_transition("meet", END)
        graph.set_entry_point("split")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"groups": [[rng.randrange(50) for _ in range(rng.randrange(4))] for _ in range(rng.randrange(4))]}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "open":
                mark.delta()
                flow.set("sum", 0)
            case "leaf":
                mark.delta()
                flow.set("sum", flow.get("leaf"))
            case "side":
                mark.delta()
                flow.set("sum", 1000)
            case "close":
                mark.gather()
                flow.set("sum", flow.get("sum"))
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        trace = ["split"]
        total = 0
        for at, group in enumerate(state["groups"]):
            side = at != 1
            trace += ["open", *["leaf"] * len(group), *["side"] * side, "close"]
            total += sum(group) + 1000 * side
        found = {**state, "trace": [*trace, "meet"]}
        return Expected("completed", found | ({"sum": total} if state["groups"] else {}))


class Shaky(Shape):
    """A step that asks for retries, and may ask once too often."""

    name = "shaky"

    def graphs(self) -> list[Graph]:
        return [made(self.name, chain=["before", "shaky", "after", END])]

    def draw(self, rng: random.Random) -> State:
        return {"fails": rng.randrange(4), "most": rng.choice([4, 4, 4, 2]), "delay": rng.choice([0, 20, 200])}

    def perform(self, flow: Flow, mark: Mark) -> None:
        mark.total()
        if flow.task == "shaky" and flow.attempt < flow.get("fails"):
            flow.set("tries", flow.get("tries", 0) + 1)
            flow.retry(flow.get("most"), flow.get("delay") / 1000, 2)

    def expected(self, state: State) -> Expected:
        fails, most = state["fails"], state["most"]
        if fails < most:
            tried = {"tries": fails} if fails else {}
            found = {**state, **tried, "trace": ["before", "shaky", "after"]}
            return Expected("completed", found, attempts={"shaky": fails})
        found = {**state, "tries": most - 1, "trace": ["before", "shaky"]}
        return Expected("failed", found, f"was tried {most} times", {"shaky": most - 1})


class ShakyBranches(Shape):
    """Branches that retry, by raising."""

    name = "shaky_branches"

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append"}, ["meet"], ["split"])
        _add(graph, "shaky")
        graph.add_transition_for_each("split", "shaky", "fails", "fail")
        graph.add_transition("shaky", "meet")
        graph.add_transition("meet", END)
        graph.set_entry_point("split")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"fails": [rng.randrange(3) for _ in range(rng.randint(1, 5))]}

    def perform(self, flow: Flow, mark: Mark) -> None:
        if flow.task != "shaky":
            mark.total()
            return
        mark.delta()
        if flow.attempt < flow.get("fail"):
            flow.retry(5, 0.05)
            raise TaskError("once more", 500)

    def expected(self, state: State) -> Expected:
        return Expected("completed", {**state, "trace": ["split", *["shaky"] * len(state["fails"]), "meet"]})


class Handled(Shape):
    """Errors with an edge of their own, in branches and outside."""

    name = "handled"

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append"}, ["meet"], ["split"])
        for node in ("risky", "rescue", "last", "mend"):
            _add(graph, node)
        graph.add_transition_for_each("split", "risky", "items")
        graph.add_transition("risky", "meet")
        graph.add_transition_on_error("risky", "rescue", "onErr.code == 402")
        graph.add_transition("rescue", "meet")
        graph.add_transition("meet", "last")
        graph.add_transition("last", END)
        graph.add_transition_on_error("last", "mend")
        graph.add_transition("mend", END)
        graph.set_entry_point("split")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"items": [rng.randrange(10) for _ in range(rng.randrange(5))], "bad": rng.random() < 0.5}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "risky":
                mark.delta()
                if flow.get("item") % 2:
                    raise TaskError("no funds", 402, item=flow.get("item"))
            case "rescue":
                mark.delta()
            case "last":
                mark.total()
                if flow.get("bad"):
                    raise TaskError("bad end", 402)
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        found = dict(state)
        trace = ["split"]
        for item in state["items"]:
            trace.append("rescue" if item % 2 else "risky")
        trace.append("meet")
        if state["bad"]:
            trace.append("mend")
            found["onErr"] = {"message": "bad end", "code": 402, "task": "last"}
        else:
            trace.append("last")
        return Expected("completed", {**found, "trace": trace})


class Doomed(Shape):
    """Branches that fail: the siblings go on, and then the flow fails (X8)."""

    name = "doomed"

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add"}, ["meet"], ["split"])
        for node in ("before", "work"):
            _add(graph, node)
        graph.add_transition_for_each("split", "before", "items")
        graph.add_transition("before", "work")
        graph.add_transition("work", "meet")
        graph.add_transition("meet", END)
        graph.set_entry_point("split")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {"items": [rng.randrange(10) for _ in range(rng.randint(1, 6))]}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "before":
                mark.delta()
            case "work":
                mark.delta()
                flow.set("sum", flow.get("item"))
                if flow.get("item") > 7:
                    raise TaskError("doomed", 418)
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        good = [item for item in state["items"] if item <= 7]
        trace = ["split", *["before", "work"] * len(good)]
        found = {**state, **({"sum": sum(good)} if good else {})}
        if len(good) < len(state["items"]):
            return Expected("failed", {**found, "trace": trace}, "doomed")
        return Expected("completed", {**found, "trace": [*trace, "meet"]})


class Calls(Shape):
    """A flow that calls one that calls itself, so deep; at the bottom it may fail."""

    name = "calls"

    def graphs(self) -> list[Graph]:
        return [
            made(self.name, chain=["begin", "ask", "finish", END]),
            made("calls-deep", chain=["enter", "dive", END]),
        ]

    def draw(self, rng: random.Random) -> State:
        return {"depth": rng.randrange(4), "fail": rng.random() < 0.3}

    def perform(self, flow: Flow, mark: Mark) -> None:
        below = {"depth": flow.get("depth") - 1, "fail": flow.get("fail")}
        match flow.task:
            case "ask":
                try:
                    result = flow.subgraph("calls-deep", {**below, "depth": flow.get("depth")})
                except SubgraphError as error:
                    mark.total()
                    flow.set("caught", "bottom" in error.message)
                else:
                    mark.total(*result["trace"])
                    flow.set("sum", result["sum"])
            case "dive" if below["depth"] >= 0:
                result = flow.subgraph("calls-deep", below)
                mark.total(*result["trace"])
                flow.set("sum", result["sum"] + 1)
            case "dive":
                mark.total()
                flow.set("sum", 1)
                if flow.get("fail"):
                    raise TaskError("bottom", 418)
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        if state["fail"]:
            return Expected("completed", {**state, "caught": True, "trace": ["begin", "ask", "finish"]})
        deep = state["depth"] + 1
        trace = ["begin", *["enter"] * deep, *["dive"] * deep, "ask", "finish"]
        return Expected("completed", {**state, "sum": deep, "trace": trace})


class Crowd(Shape):
    """A child with a fan-out of its own in every branch; some children fail."""

    name = "crowd"
    linger = 0.15

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add", "caught": "add"}, ["meet"], ["split"])
        _add(graph, "call")
        graph.add_transition_for_each("split", "call", "sizes", "size")
        graph.add_transition("call", "meet")
        graph.add_transition("meet", END)
        graph.set_entry_point("split")
        [child] = Doomed().graphs()
        child.name = "crowd-child"
        return [graph, child]

    def draw(self, rng: random.Random) -> State:
        return {"sizes": [rng.choice([0, 1, 2, 3, 9]) for _ in range(rng.randint(1, 4))]}

    def perform(self, flow: Flow, mark: Mark) -> None:
        if flow.workflow == "crowd-child":
            Doomed().perform(flow, mark)
        elif flow.task != "call":
            mark.total()
        else:
            size = flow.get("size")
            try:
                result = flow.subgraph("crowd-child", {"items": list(range(size))})
            except SubgraphError:
                mark.delta()
                flow.set("caught", 1)
            else:
                mark.delta(*result["trace"])
                flow.set("sum", result.get("sum", 0))

    def expected(self, state: State) -> Expected:
        trace = ["split"]
        found: State = dict(state)
        for size in state["sizes"]:
            if size > 8:
                found["caught"] = found.get("caught", 0) + 1
            else:
                trace += ["split", *["before", "work"] * size, "meet"]
                found["sum"] = found.get("sum", 0) + sum(range(size))
            trace.append("call")
        return Expected("completed", {**found, "trace": [*trace, "meet"]})


class Asks(Shape):
    """Interrupts: alone, in branches, and in a child of a branch."""

    name = "asks"
    linger = 0.15

    def graphs(self) -> list[Graph]:
        graph = made(self.name, {"trace": "append", "sum": "add"}, ["meet"], ["ask", "split"])
        for node in ("each", "call"):
            _add(graph, node)
        graph.add_transition_for_each("split", "each", "items")
        graph.add_transition("split", "call")
        graph.add_transition("each", "meet")
        graph.add_transition("call", "meet")
        graph.add_transition("meet", END)
        graph.set_entry_point("ask")
        return [graph, made("asks-child", chain=["enter", "ask", END])]

    def draw(self, rng: random.Random) -> State:
        return {"items": [rng.randrange(2) for _ in range(rng.randrange(4))], "child": rng.random() < 0.6, "sum": 1}

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "ask":
                mark.total()
                answer = flow.interrupt({"from": flow.workflow})
                flow.set("sum", flow.get("sum", 0) + answer["answer"])
            case "each":
                mark.delta()
                flow.set("sum", flow.interrupt({"item": 1})["answer"] if flow.get("item") else 1)
            case "call" if flow.get("child"):
                result = flow.subgraph("asks-child")
                mark.delta(*result["trace"])
                flow.set("sum", result["sum"])
            case "call":
                mark.delta()
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        items = state["items"]
        child = ["enter", "ask"] if state["child"] else []
        trace = ["ask", "split", *["each"] * len(items), *child, "call", "meet"]
        total = state["sum"] + 7 + sum(7 if item else 1 for item in items) + 7 * state["child"]
        # In a branch the field holds what the branch has written; where it wrote nothing it is no delta.
        return Expected("completed", {**state, "sum": total, "trace": trace})


class Breaks(Shape):
    """Breakpoints, in the flow and in the one it calls."""

    name = "breaks"
    breakpoints = ("b", "deep")
    overrides = MappingProxyType({"bonus": 1})

    def graphs(self) -> list[Graph]:
        return [made(self.name, chain=["a", "b", "c", END]), made("breaks-child", chain=["deep", "deeper", END])]

    def draw(self, rng: random.Random) -> State:
        return {"n": rng.randrange(9)}

    def perform(self, flow: Flow, mark: Mark) -> None:
        if flow.task == "c":
            result = flow.subgraph("breaks-child")
            mark.total(*result["trace"])
            flow.set("below", result["bonus"])
        else:
            mark.total()

    def expected(self, state: State) -> Expected:
        return Expected("completed", {**state, "bonus": 1, "below": 1, "trace": ["a", "b", "deep", "deeper", "c"]})


SHAPES: tuple[Shape, ...] = (
    Line(), Choice(), Rounds(), Each(), Wide(), Nested(), Shaky(), ShakyBranches(), Handled(), Doomed(), Calls(), Crowd(),
    Asks(), Breaks(),
)  # fmt: skip
