"""The parts of a workflow in code, and the operator that joins them: `reserve >> charge >> ship >> END` (G2).

A part has nodes at which it is entered, and exits from which edges leave. `a >> b` makes the edges, and is a part again that is
entered where `a` is and left where `b` is. So parts can be joined in any number, and nested in lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Joinable: TypeAlias = "Part | Callable[..., Any] | str | Sequence[Joinable]"
"""Parts of a workflow: a node, a chain, a registered task function, a node's name or `END`, and a list of them."""


@dataclass(slots=True)
class Exit:
    """A place from which edges leave: the node, and the options of the edge (those of `add_transition`)."""

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    used: bool = False

    @property
    def exclusive(self) -> bool:
        """True for an edge that cannot be one of several branches."""
        return bool(self.options.keys() & {"switch", "goto", "on_error"})

    @property
    def label(self) -> str:
        """The edge as it was written: `check.switch('total > 100')`."""
        kinds = ("switch", "goto", "on_error", "for_each")
        kind = next((one for one in kinds if self.options.get(one)), "when")
        shown = self.options.get("for_each") or self.options.get("when", "")
        return f"{self.source}.{kind}({shown!r})" if shown else f"{self.source}.{kind}()"


class Joining(Protocol):
    """A graph that joins its parts: a `Workflow`."""

    name: str

    def part(self, thing: Joinable) -> Part: ...

    def join(self, left: Part, target: Joinable) -> Part: ...

    def begun(self, exit_: Exit) -> Exit: ...

    def set_fan_in(self, name: str) -> None: ...


class Part:
    """A part of a workflow. `entries`: the nodes that an edge to it leads to. `exits`: what edges leave from."""

    def __init__(self, graph: Joining, entries: Sequence[str], exits: Sequence[Exit], *, forks: bool = False) -> None:
        self.graph = graph
        self.entries = tuple(entries)
        self.exits = tuple(exits)
        self.forks = forks
        """True if several branches are open at its end, so that the next node is their fan-in (G4)."""

    def __rshift__(self, target: Joinable) -> Part:
        """Lead the exits of this part to the target. A list makes branches, and the node after a list is their fan-in."""
        return self.graph.join(self, target)

    def __rrshift__(self, sources: Sequence[Joinable]) -> Part:
        """Lead each part of a list here: paths that meet, without a fan-in."""
        return self.graph.join(self.graph.part(sources), self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.entries) or 'start'} of {self.graph.name!r}>"


class WorkflowNode(Part):
    """A node of a workflow in code. Its methods begin an edge with a condition or of another kind: follow them by `>>`."""

    def __init__(self, graph: Joining, name: str) -> None:
        super().__init__(graph, (name,), (Exit(name),))
        self.name = name

    def when(self, condition: str) -> Part:
        """Begin an edge that is taken if the condition holds; other edges may be taken beside it.

        Example: `paid.when("total > 1000") >> "alarm"`
        """
        return self._edge(when=condition)

    def switch(self, condition: str) -> Part:
        """Begin an edge of which the first is taken whose condition holds: `check.switch("total > 100") >> approve`.

        Example: `paid.switch("total > 1000") >> "alarm"`
        """
        return self._edge(when=condition, switch=True)

    def otherwise(self) -> Part:
        """Begin the last `switch` edge, which is taken if no other is.

        Example: `paid.otherwise() >> END`
        """
        return self._edge(when="true", switch=True)

    def for_each(self, field: str, as_: str = "item", when: str = "") -> Part:
        """Begin a branch for each element of the array in a field: `prepare.for_each("lines") >> pack >> total.join()`.

        Example: `paid.for_each("lines", as_="line") >> "alarm"`
        """
        return self._edge(for_each=field, as_=as_, when=when)

    def on_error(self, when: str = "") -> Part:
        """Begin an edge that is taken if the node fails; the error is in the field `onErr`.

        Example: `paid.on_error("onErr.code == 402") >> "alarm"`
        """
        return self._edge(on_error=True, when=when)

    def goto(self, when: str = "") -> Part:
        """Begin an edge that is taken only if the task asks for it with `flow.goto`.

        Example: `paid.goto() >> "alarm"`
        """
        return self._edge(goto=True, when=when)

    def join(self) -> WorkflowNode:
        """Mark this node as the one at which branches meet; returns it, so that it can end a chain.

        Example: `["charge"] >> order.part("alarm").join()`
        """
        self.graph.set_fan_in(self.name)
        return self

    def _edge(self, **options: Any) -> Part:
        exit_ = self.graph.begun(Exit(self.name, {name: value for name, value in options.items() if value}))
        return Part(self.graph, (self.name,), (exit_,))
