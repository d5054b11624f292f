"""Flows of nodes that need no service of ours, flows that wait for events, and flows that are undone (N1-N9, E1-E3, L1-L3)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX, RetryPolicy, SendRequest, SetFields
from dwarf_nats.workflow.task_error import SubgraphError, TaskError
from tests.chaos.plain_services import CHARGE, QUOTE, REFUND, TICK
from tests.chaos.shapes import SHAPES, URLS, Expected, Mark, Shape, State

PAID, RACE, HERD = "chaos.paid", "chaos.race", "chaos.herd"
RACE_SECONDS = 0.6
UNDONE = "undone_"
"""Fields that compensations leave begin so."""
PATIENT = RetryPolicy(initial_delay_ms=50, max_delay_ms=500)
"""No bound: a worker that dies costs an attempt, and the flow nothing."""


def _without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names and not name.startswith(UNDONE)}


class Kinds(Shape):
    """Each kind of node once, in a line, with a chain of sets; the request may be refused for good."""

    name = "kinds"
    linger = 0.1
    forkable = True

    def graphs(self) -> list[Graph]:
        graph = Graph(self.name)
        graph.add_task("begin", URLS[0])
        graph.add_set("plan", {"total": "=n * 2", "draft": None, "list": ["=n", {"n": "=n"}]})
        graph.add_set("twice", {"total": "=total + 1", "size": "=size(list)"})
        graph.add_sleep("nap", "=nap")
        graph.add_request("quote", f"='{QUOTE}'", {"n": "=total", "shy": "=shy"})
        graph.set_retry("quote", 4, 0.02, jitter=0.5, codes=[418])
        graph.add_publish("tell", TICK, {"n": "=n"})
        graph.add_ask("person", {"n": "=n"}, into="answer")
        graph.add_workflow("child", "kinds-child", {"n": "=total", "fails": "=shy"}, into="below")
        graph.add_task("closing", URLS[1])
        graph.add_chain("begin", "plan", "twice", "nap", "quote", "tell", "person", "child", "closing", END)
        graph.add_task("sorry", URLS[2])
        graph.add_transition_on_error("quote", "sorry", "onErr.code == 418")
        graph.add_transition("sorry", END)
        child = Graph("kinds-child")
        child.add_set("one", {"sum": "=n"})
        child.add_set("two", {"sum": "=sum + 1"})
        child.add_task("shaky", URLS[2])
        child.add_set("last", {"n": None, "fails": None})
        child.add_chain("one", "two", "shaky", "last", END)
        child.set_timeout("shaky", 2)
        child.set_defaults(retry=PATIENT)
        return [graph, child]

    def draw(self, rng: random.Random) -> State:
        return {
            "n": rng.randrange(100),
            "nap": rng.choice([0, 30, 400]),
            "shy": rng.choice([0, 0, 1, 2, 3, 4]),
            "draft": 1,
        }

    def perform(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "shaky":
                mark.total()
                if flow.attempt < flow.get("fails"):
                    raise TaskError("once more", 500)
            case "closing":
                below = flow.get("below")
                mark.total(*below["trace"])
                flow.set("sum", below["sum"])
                flow.set("below", None)
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        found = {**state, "total": state["n"] * 2 + 1, "list": [state["n"], {"n": state["n"]}], "size": 2}
        found.pop("draft", None)
        shy = state["shy"]
        if shy > 3:
            return Expected("completed", {**found, "trace": ["begin", "sorry"]}, attempts={"quote": 3})
        found |= {"answer": {"answer": 7}, "sum": found["total"] + 1, "trace": ["begin", "shaky", "closing"]}
        return Expected("completed", found, attempts={"quote": shy})

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:
        expected = self.expected(state).state
        yield from super().differences(
            _without(state, "quote", "onErr"), status, _without(final, "quote", "onErr"), error
        )
        if status != "completed":
            return
        if state["shy"] > 3:
            if final.get("onErr") != {"message": "too shy (tried 4 times)", "code": 418, "task": "quote"}:
                yield f"its error edge brought {final.get('onErr')}"
        elif final["quote"].get("of") != {"n": expected["total"], "shy": state["shy"]}:
            yield f"the service answered {final['quote']}"


class Waits(Shape):
    """Two events of one name and key in a row, for a node and for a task, and then a race of an event and a timeout.

    `way`: when the event of the race is signalled, once the wait begins; `early`: events signalled before the flow is made.
    What came is checked against what was signalled: see `tests.chaos.heard`.
    """

    name = "waits"
    linger = 0.1
    events = (PAID,)

    def graphs(self) -> list[Graph]:
        graph = Graph(self.name)
        graph.add_task("begin", URLS[0])
        graph.add_wait("first", PAID, "=key")
        graph.add_task("second", URLS[1])
        graph.add_publish("tick", TICK, {"key": "=key", "way": "=way"})
        graph.add_wait("race", RACE, "=key", timeout=RACE_SECONDS)
        graph.add_task("end", URLS[2])
        graph.add_task("late", URLS[0])
        graph.add_chain("begin", "first", "second", "tick", "race", "end", END)
        graph.add_transition_on_error("race", "late", "onErr.code == 408")
        graph.add_transition("late", "end")
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {
            "key": f"{rng.getrandbits(64):x}",
            "early": rng.choice([0, 0, 1, 2]),
            "way": rng.choice(["never", "soon", "before", "before", "race", "race", "race"]),
        }

    def perform(self, flow: Flow, mark: Mark) -> None:
        mark.total()
        if flow.task == "second":
            flow.set("second", flow.wait_for(PAID, flow.get("key")))

    def heard(self, flow: Flow) -> str:
        found = flow.changes.get("second")
        return found["id"] if found else ""

    def expected(self, state: State) -> Expected:
        return Expected("completed", {**state, "trace": ["begin", "second", "end"]})

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:
        late = "onErr" in final
        plain = _without(final, "first", "second", "race", "onErr")
        if late:
            plain["trace"] = [one for one in plain.get("trace", []) if not one.startswith("late/")]
        yield from super().differences(state, status, plain, error)
        if status != "completed":
            return
        if late == ("race" in final) or late != any(one.startswith("late/") for one in final["trace"]):
            yield f"event and timeout: {final}"
        if state["way"] == "never" and not late:
            yield f"an event came that nobody signalled: {final.get('race')}"
        if late and (final["onErr"]["code"], final["onErr"]["task"]) != (408, "race"):
            yield f"its error edge brought {final['onErr']}"


class Herd(Shape):
    """Branches that wait for the same event: those that wait receive it together, those that come later the next one."""

    name = "herd"
    linger = 0.1
    events = (HERD,)

    def graphs(self) -> list[Graph]:
        graph = Graph(self.name)
        graph.add_task("split", URLS[0])
        graph.add_wait("wait", HERD, "=key", into="got")
        graph.add_task("note", URLS[1])
        graph.add_task("meet", URLS[2])
        graph.set_fan_in("meet")
        graph.add_transition_for_each("split", "wait", "items")
        graph.add_chain("wait", "note", "meet", END)
        graph.set_reducer("trace", "append")
        graph.set_reducer("heard", "append")
        graph.set_defaults(retry=PATIENT)
        return [graph]

    def draw(self, rng: random.Random) -> State:
        return {
            "key": f"{rng.getrandbits(64):x}",
            "items": list(range(rng.randint(1, 5))),
            "early": rng.choice([0, 0, 2]),
        }

    def perform(self, flow: Flow, mark: Mark) -> None:
        if flow.task == "note":
            mark.delta()
            flow.set("heard", [flow.get("got")["id"]])
        else:
            mark.total()

    def expected(self, state: State) -> Expected:
        return Expected("completed", {**state, "trace": ["split", *["note"] * len(state["items"]), "meet"]})

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:
        yield from super().differences(state, status, _without(final, "got", "heard"), error)
        if status == "completed" and len(final.get("heard", [])) != len(state["items"]):
            yield f"its branches heard {final.get('heard')}"


class Saga(Shape):
    """A flow that is undone when it fails or is cancelled: tasks, sets, requests, branches, and a sub-workflow of its own.

    What was undone, and in which order, is checked by `tests.chaos.undone`.
    """

    name = "saga"
    linger = 0.1
    cancel_odds = 0.25
    forkable = True
    continuable = False
    undone: ClassVar[tuple[str, ...]] = ("reserve", "call", "split", "work", "meet", "risky", "ship")

    def graphs(self) -> list[Graph]:
        graph = Graph(self.name)
        for at, node in enumerate(self.undone):
            graph.add_task(node, URLS[at % 3])
            graph.compensate(node, URLS[(at + 1) % 3])
        graph.add_set("book", {"booked": True, "n": "=n + 1"})
        graph.compensate("book", SetFields({"booked": None, f"{UNDONE}book": "=changes.n"}))
        graph.add_request("charge", CHARGE, {"n": "=n", "shy": "=shy"}, into="paid")
        graph.compensate("charge", SendRequest(subject=REFUND, payload={"of": "=changes.paid.receipt"}))
        graph.set_fan_in("meet")
        graph.add_chain("reserve", "book", "charge", "call", "split")
        graph.add_transition_for_each("split", "work", "items")
        graph.add_chain("work", "meet", "risky", "ship", END)
        graph.add_transition_on_error("risky", "ship")
        graph.set_reducer("trace", "append")
        graph.set_defaults(retry=PATIENT)
        child = Graph("saga-child")
        for at, node in enumerate(("enter", "leave")):
            child.add_task(node, URLS[at])
            child.compensate(node, URLS[2])
        child.add_set("grab", {"grabbed": 1})
        child.compensate("grab", SetFields({"grabbed": None, f"{UNDONE}grab": "=changes.grabbed"}))
        child.add_chain("enter", "grab", "leave", END)
        child.set_defaults(retry=PATIENT)
        return [graph, child]

    def draw(self, rng: random.Random) -> State:
        return {
            "n": rng.randrange(100),
            "items": [rng.randrange(12) for _ in range(rng.randrange(5))],
            "shy": rng.choice([0, 0, 1, 2]),
            "child": rng.choice(["well", "well", "well", "fails"]),
            "risky": rng.random() < 0.5,
            "fail": rng.random() < 0.7,
            "grudge": rng.choice([0, 0, 1, 2]),
            "hopeless": rng.random() < 0.3,
        }

    def perform(self, flow: Flow, mark: Mark) -> None:
        if flow.compensating is not None:
            self._undo(flow, mark)
        elif flow.workflow == "saga-child":
            mark.total()
            if flow.task == "leave" and flow.get("fails"):
                raise TaskError("no way out", 418, final=True)
        else:
            self._do(flow, mark)

    def _undo(self, flow: Flow, mark: Mark) -> None:
        node = flow.task.removesuffix(COMPENSATION_SUFFIX)
        if node == "meet" and flow.get("hopeless"):
            raise TaskError("it cannot be undone", 500, final=True)
        if flow.attempt < flow.get("grudge", 0):
            raise TaskError("not yet", 500)
        branch = flow.get("itemIndex")
        flow.set(f"{UNDONE}{node}" if branch is None else f"{UNDONE}{node}_{branch}", mark.entry)

    def _do(self, flow: Flow, mark: Mark) -> None:
        match flow.task:
            case "call":
                try:
                    below = flow.subgraph(
                        "saga-child", {"fails": flow.get("child") == "fails", "grudge": flow.get("grudge")}
                    )
                except SubgraphError:
                    mark.total()
                    flow.set("caught", True)
                else:
                    mark.total(*below["trace"])
            case "work":
                mark.delta()
                if flow.get("item") > 10:
                    raise TaskError("too heavy", 418, final=True)
            case "risky" if flow.get("risky"):
                raise TaskError("bad luck", 418, final=True)
            case "ship" if flow.get("fail"):
                raise TaskError("no ship", 418, final=True)
            case _:
                mark.total()

    def expected(self, state: State) -> Expected:
        found = {**state, "n": state["n"] + 1}
        trace = ["reserve"]
        if state["child"] == "fails":
            found["caught"] = True
        else:
            trace += ["enter", "leave"]
        good = [item for item in state["items"] if item <= 10]
        trace += ["call", "split", *["work"] * len(good)]
        if len(good) < len(state["items"]):
            return Expected("failed", {**found, "trace": trace}, "too heavy")
        trace += ["meet"] if state["risky"] else ["meet", "risky"]
        if state["fail"]:
            return Expected("failed", {**found, "trace": trace}, "no ship")
        return Expected("completed", {**found, "trace": [*trace, "ship"]})

    def differences(self, state: State, status: str, final: State, error: str | None) -> Iterator[str]:
        yield from super().differences(
            _without(state, "booked", "paid", "onErr"), status, _without(final, "booked", "paid", "onErr"), error
        )


NODE_SHAPES: tuple[Shape, ...] = (Kinds(), Waits(), Herd(), Saga())
ALL_SHAPES = (*SHAPES, *NODE_SHAPES)
BY_WORKFLOW: dict[str, Shape] = {graph.name: shape for shape in ALL_SHAPES for graph in shape.graphs()}
