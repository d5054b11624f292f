"""Fan-in: the state that a resolved cohort hands on (F2-F4, X8, X9). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.rules.branching import element_fields
from dwarf_nats.rules.routing import ON_ERROR
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.limits import UNLIMITED, Limits, over
from dwarf_nats.workflow.reducers import combine
from dwarf_nats.workflow.state import Raw, State, decode_state, decode_value, encode_state, merge

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dwarf_nats.workflow.graph import Graph


@dataclass(slots=True)
class Member:
    """A step of a branch, as the cohort sees it. `arrived`: it is the last of its branch, which reached the fan-in or failed.

    `changes` is `None` where those of the cohort together are more than `max_fan_out_bytes`.
    """

    step_id: int
    node: str
    ordinal: int
    depth: int
    completed: bool
    arrived: bool
    changes: bytes | str | None
    resume_at: int


@dataclass(slots=True)
class Spawn:
    """The step that fanned out."""

    step_id: int
    spawn_id: int
    ordinal: int
    depth: int
    node: str
    state: State
    changes: bytes | str

    def merged(self) -> State:
        """Its `state + changes`, a plain merge."""
        return merge(self.state, decode_state(self.changes))


def merged_input(
    graph: Graph,
    spawn: Spawn,
    members: Sequence[Member],
    limits: Limits = UNLIMITED,
    *,
    without: Collection[str] = (),
) -> State:
    """The fan-in's input: what the spawn step had, then through the reducers the changes of every completed step of each
    branch that arrived, branches in ordinal order, the steps of a branch in the order they ran (F3).

    What carried the elements and what carried an error belongs to the branches: such a field is as it was before the fan-out.
    Independent of the order in which branches finished. Fields in `without` are left out.

    Raises `BadRequest` for a value that cannot be merged, `TooLarge` for more than a fan-in may receive.
    """
    succeeded = {one.ordinal for one in members if one.arrived and one.completed}
    private = element_fields(graph, spawn.node).union(without)
    taking_part = sorted(
        (one for one in members if one.completed and one.ordinal in succeeded),
        key=lambda one: (one.ordinal, one.depth, one.step_id),
    )
    if any(one.changes is None for one in taking_part):
        raise TooLarge(
            over(
                f"what the branches of node {spawn.node!r} changed is too much together",
                "max_fan_out_bytes",
                limits.max_fan_out_bytes,
                "let each write less, or fan out to fewer at a time",
            )
        )
    deltas = (
        {name: value for name, value in _brought(graph, graph.fan_ins[spawn.node], one).items() if name not in private}
        for one in taking_part
    )
    before = spawn.merged()
    for name in without:
        before.pop(name, None)
    return combine(graph.reducers, before, deltas)


def _brought(graph: Graph, fan_in: str, member: Member) -> State:
    """The changes of a step, without `onErr` unless its error edge led into the fan-in (F3)."""
    changes = decode_state(member.changes or "{}")
    if ON_ERROR in changes and not (member.arrived and _error_led_into(graph, fan_in, member.node, changes[ON_ERROR])):
        del changes[ON_ERROR]
    return changes


def _error_led_into(graph: Graph, fan_in: str, node: str, error: Raw) -> bool:
    """True if the last step of a branch took an error edge into the fan-in.

    Then `onErr` is the error of this very node (X4). A task may write that field as well; such a value stays in the branch.
    """
    if not any(edge.on_error and edge.target == fan_in for edge in graph.leaving(node)):
        return False
    value = decode_value(error)
    return isinstance(value, dict) and value.get("task") == node and value.keys() >= {"message", "code"}


def merged_text(graph: Graph, spawn: Spawn, members: Sequence[Member], limits: Limits) -> tuple[State, bytes]:
    """As `merged_input`, with its JSON text."""
    state = merged_input(graph, spawn, members, limits)
    text = encode_state(state)
    limits.check_bytes(len(text), f"what the branches of node {spawn.node!r} merge to")
    return state, text


def problem_of(error: BadRequest | TooLarge) -> ErrorInfo:
    """The error of a fan-in whose input cannot be merged."""
    return ErrorInfo(error.message, 413 if isinstance(error, TooLarge) else 500)


def final_state(graph: Graph, spawn: Spawn, members: Sequence[Member], limits: Limits = UNLIMITED) -> bytes:
    """The final state of a flow that ends inside a fan-out: what the fan-in would have received (X9), if it can be had."""
    try:
        return merged_text(graph, spawn, members, limits)[1]
    except (BadRequest, TooLarge):
        return encode_state(spawn.merged())
