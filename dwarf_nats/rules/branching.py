"""From a route to steps: one, none, or the branches of a fan-out (X7, F1, F5). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from dwarf_nats.rules.routing import StepError
from dwarf_nats.workflow.graph import END
from dwarf_nats.workflow.limits import UNBOUNDED, over
from dwarf_nats.workflow.state import NULL, Raw, State, decode_value, json_type

if TYPE_CHECKING:
    from dwarf_nats.rules.routing import Route
    from dwarf_nats.workflow.graph import Graph, Transition

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(slots=True)
class Next:
    """The place a completed step leads to: `target` (a node or `END`), or `branches`, or its cohort's fan-in."""

    target: str = END
    arrives: bool = False
    """The target is the fan-in of the cohort the step is a member of: it has arrived (F2)."""
    branches: list[tuple[str, State]] = field(default_factory=list)
    """(node, input) of each branch; the position is its ordinal."""


def follow(graph: Graph, node: str, route: Route, state: State, *, member: bool, max_branches: int = UNBOUNDED) -> Next:
    """Follow a route out of `node`; `member`: the step belongs to a cohort.

    Raises `StepError` for a for_each over what is no array, for a member that can go nowhere (X7), and for more branches than
    `max_branches`.
    """
    fans_out = graph.is_fan_out(node) and all(edge.branches for edge in route.edges)
    if fans_out:
        own = graph.fan_ins[node]
        branches: list[tuple[str, State]] = []
        for edge in route.edges:
            expanded = expand(edge, state, max_branches)
            if edge.target != own:
                _check_width(node, len(branches) + len(expanded), max_branches)
                branches += [(edge.target, branch) for branch in expanded]
        return Next(branches=branches) if branches else Next(own)
    if not route.edges:
        if member:
            raise StepError(f"nothing follows node {node!r} inside its fan-out, so the branch cannot reach its fan-in")
        return Next()
    target = route.edges[0].target
    arrives = member and target != END and graph.nodes[target].fan_in and graph.fan_ins.get(node) != target
    return Next(target, arrives)


def _check_width(node: str, width: int, most: int) -> None:
    if width > most:
        raise StepError(
            over(
                f"node {node!r} fans out to {width} branches",
                "max_branches",
                most,
                "hand each branch a batch of elements instead of one",
            ),
            413,
        )


def expand(edge: Transition, state: State, max_branches: int = UNBOUNDED) -> list[State]:
    """The inputs of the branches of one edge: one, or one per element of a for_each (X7)."""
    if not edge.for_each:
        return [state]
    source = state.get(edge.for_each, NULL)
    if bytes(source) == b"null":
        return []
    if bytes(source).count(b",") >= max_branches:  # before each element becomes a value of its own
        found = decode_value(source)
        if isinstance(found, list):
            _check_width(edge.source, len(found), max_branches)
    try:
        elements = _elements(source)
    except msgspec.ValidationError:
        kind = json_type(decode_value(source))
        raise StepError(f"for_each over field {edge.for_each!r} requires an array, got {kind}") from None
    base = dict(state)
    base.pop(edge.for_each, None)
    count = Raw(str(len(elements)).encode())
    return [
        {**base, edge.as_: element, f"{edge.as_}Index": Raw(str(index).encode()), f"{edge.as_}Count": count}
        for index, element in enumerate(elements)
    ]


def element_fields(graph: Graph, node: str) -> frozenset[str]:
    """The fields that carry the elements of a fan-out's for_each: changes to them do not reach its fan-in (F3)."""
    return frozenset(
        name
        for edge in graph.leaving(node)
        if edge.for_each
        for name in (edge.as_, f"{edge.as_}Index", f"{edge.as_}Count")
    )
