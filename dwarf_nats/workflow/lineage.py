"""The lineage check (G7): every fan-out must converge at exactly one fan-in.

The walk carries a stack of open fan-outs from node to node, as a step carries its lineage at run time. Edges that
bypass a fan-out (its source's goto and on_error edges) are checked last, because their check needs the fan-in of its branches.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NoReturn

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import END

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Transition

Stack = tuple[str, ...]
"""The sources of the fan-outs that are open at a node, outermost first."""


def walk(graph: GraphBuilder) -> dict[str, str]:
    """Map each fan-out source to its fan-in. Raises `BadRequest` if the branches of a fan-out do not converge."""
    return _Walk(graph).run()


class _Walk:
    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self._stacks: dict[str, Stack] = {}
        self._from: dict[str, str] = {}
        self._fan_ins: dict[str, str] = {}
        self._pending: deque[str] = deque()
        self._bypasses: deque[Transition] = deque()

    def run(self) -> dict[str, str]:
        self._enter("", self._graph.entry_point, ())
        self._drain()
        while self._bypasses:
            self._bypass(self._next_bypass())
            self._drain()
        for source in self._stacks:
            if self._graph.is_fan_out(source) and source not in self._fan_ins:
                self._refuse_open(source)
        return self._fan_ins

    def _drain(self) -> None:
        while self._pending:
            name = self._pending.popleft()
            stack = self._stacks[name]
            fans_out = self._graph.is_fan_out(name)
            for edge in self._graph.leaving(name):
                if not fans_out:
                    self._enter(name, edge.target, stack)
                elif edge.branches:
                    self._enter(name, edge.target, (*stack, name))
                else:
                    self._bypasses.append(edge)

    def _enter(self, source: str, target: str, stack: Stack) -> None:
        if target == END:
            if stack:
                self._refuse(
                    f"{END} is reached from {source!r} while the fan-out of {stack[-1]!r} is open:"
                    " lead its branches through one fan-in first (set_fan_in)"
                )
            return
        node = self._graph.nodes[target]
        if node.fan_in:
            if not stack:
                how = f"from {source!r}" if source else "as the entry point"
                self._refuse(
                    f"fan-in {target!r} is entered {how} with no fan-out open:"
                    " remove its fan-in mark, or reach it from the branches only"
                )
            self._converge(stack[-1], target)
            stack = stack[:-1]
        if target not in self._stacks:
            self._stacks[target] = stack
            self._from[target] = source
            self._pending.append(target)
        elif self._stacks[target] != stack:
            self._refuse(
                f"node {target!r} is reached {self._origin(target)} with {_shown(self._stacks[target])}"
                f" and from {source!r} with {_shown(stack)}:"
                " give one of the two paths an alias node of its own with the same url"
            )

    def _origin(self, name: str) -> str:
        source = self._from[name]
        return f"from {source!r}" if source else "as the entry point"

    def _converge(self, source: str, fan_in: str) -> None:
        known = self._fan_ins.setdefault(source, fan_in)
        if known != fan_in:
            self._refuse(
                f"the branches of {source!r} converge on two fan-ins, {known!r} and {fan_in!r}:"
                " lead them all to one of them"
            )

    def _next_bypass(self) -> Transition:
        """The next bypass whose fan-out has a known fan-in; inner ones are known before the outer ones that need them."""
        ready = next((edge for edge in self._bypasses if edge.source in self._fan_ins), None)
        if ready is None:
            self._refuse_open(self._bypasses[0].source)
        self._bypasses.remove(ready)
        return ready

    def _bypass(self, edge: Transition) -> None:
        source, target = edge.source, edge.target
        fan_in = self._fan_ins[source]
        if target == fan_in:
            # An edge to its own fan-in opens nothing: the fan-in runs as after a fan-out without branches (F5).
            return
        if target != END:
            self._refuse_shortcut(source, target, fan_in)
        self._enter(source, target, self._stacks[source])

    def _refuse_shortcut(self, source: str, target: str, fan_in: str) -> None:
        how = f"the bypass {source!r} -> {target!r} (a goto or on_error edge of a fan-out)"
        inside = self._stacks.get(target, ())[len(self._stacks[source]) :]
        if inside[:1] == (source,):
            self._refuse(
                f"{how} leads into a branch of that fan-out: lead it to {END}, to {fan_in!r},"
                " or to an alias node with the same url outside the branches"
            )
        if fan_in in self._reach_without(target, source):
            self._refuse(
                f"{how} leads to a path that meets the fan-in {fan_in!r} it bypassed:"
                f" lead it to {fan_in!r} itself, back to {source!r}, to {END} or to alias nodes that never meet it"
            )

    def _reach_without(self, start: str, barrier: str) -> set[str]:
        seen: set[str] = set()
        pending = [start]
        while pending:
            name = pending.pop()
            if name not in seen and name != barrier and name != END:
                seen.add(name)
                pending.extend(edge.target for edge in self._graph.leaving(name))
        return seen

    def _refuse_open(self, source: str) -> NoReturn:
        self._refuse(
            f"the fan-out of {source!r} has no fan-in downstream:"
            " mark the node where its branches meet as fan-in (set_fan_in), and lead them there"
        )

    def _refuse(self, problem: str) -> NoReturn:
        raise BadRequest(f"graph {self._graph.name!r}: {problem}")


def _shown(stack: Stack) -> str:
    if not stack:
        return "no fan-out open"
    return f"the fan-out{'s' if len(stack) > 1 else ''} of {', '.join(repr(name) for name in stack)} open"
