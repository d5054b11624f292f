"""The shapes of flows that a load asks for: graph, first state, and the state it must end with. Pure, all but the chance.

| kind | graph | `size` |
|---|---|---|
| `linear` | a straight line of `steps` nodes, each adds one to `n` | |
| `kept` | the same, carrying a text that nobody changes | its length |
| `turned` | the same, and each step changes all of the text | its length |
| `fan-out` | a `for_each` between a first and a last node | branches |
| `held` | one step, answered when the task service is told to | |
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any

from dwarf_nats.workflow.graph import END, Graph

WORKFLOW = "bench"
ADD, ONE, TURN, HOLD = "bench.t", "bench.one", "bench.turn", "bench.hold"
"""Tasks: `n` and one more; the delta 1; `n` and one more with the text turned by a letter; as `ADD`, but later."""
KINDS = ("linear", "pipelined", "kept", "turned", "fan-out", "held")
PAD = "x" * 100


@dataclass(slots=True, frozen=True)
class Shape:
    """One kind of flow. `length`: steps of a straight line."""

    kind: str = "linear"
    length: int = 10
    size: int = 0

    @property
    def steps(self) -> int:
        """In a flow of this shape."""
        if self.kind == "fan-out":
            return self.size + 2
        return 1 if self.kind == "held" else self.length

    @property
    def arguments(self) -> tuple[str, ...]:
        """For the command line of `load`."""
        return ("--kind", self.kind, "--steps", str(self.length), "--size", str(self.size))

    def graph(self) -> Graph:
        """The graph that is registered."""
        graph = Graph(WORKFLOW)
        if self.kind == "pipelined":
            graph.set_durability("pipelined")
        if self.kind == "fan-out":
            graph.add_task("split", ADD)
            graph.add_task("branch", ONE)
            graph.add_task("join", ADD)
            graph.set_fan_in("join")
            graph.set_reducer("n", "add")
            graph.add_transition_for_each("split", "branch", "items")
            graph.add_chain("branch", "join", END)
            return graph
        task = {"turned": TURN, "held": HOLD}.get(self.kind, ADD)
        names = [f"t{number}" for number in range(1, self.steps + 1)]
        for name in names:
            graph.add_task(name, task)
        for source, target in zip(names, [*names[1:], END], strict=True):
            graph.add_transition(source, target)
        return graph

    def first_state(self) -> dict[str, Any]:
        """The state that a flow starts with. The text does not compress: stored small it would say nothing."""
        state: dict[str, Any] = {"name": "ada", "n": 0, "pad": PAD}
        if self.kind in ("kept", "turned"):
            state["text"] = base64.b64encode(os.urandom(self.size * 3 // 4 + 3)).decode()[: self.size]
        elif self.kind == "fan-out":
            state["items"] = list(range(self.size))
        return state

    def last_state(self, first: dict[str, Any]) -> dict[str, Any]:
        """The state that it must end with."""
        last = {**first, "n": self.steps}
        if self.kind == "turned":
            last["text"] = first["text"][self.steps % self.size :] + first["text"][: self.steps % self.size]
        return last


def add(state: dict[str, Any]) -> dict[str, Any]:
    """The changes of `ADD`."""
    return {"n": state["n"] + 1}


def one(_state: dict[str, Any]) -> dict[str, Any]:
    """The changes of `ONE`."""
    return {"n": 1}


def turn(state: dict[str, Any]) -> dict[str, Any]:
    """The changes of `TURN`."""
    return {"n": state["n"] + 1, "text": state["text"][1:] + state["text"][:1]}
