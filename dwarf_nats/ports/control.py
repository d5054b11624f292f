"""The port to operations that change flows which exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import FlowRow, StepRow, TimedOutWaits, TreeChange
    from dwarf_nats.rules.steps import NewFlow, ReadyStep
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.limits import Limits
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.state import State
    from dwarf_nats.workflow.tags import TagChanges

FinalState: TypeAlias = "Callable[[FlowRow, list[StepRow]], bytes]"
"""Makes the final state of a flow that ends on the way, as JSON text, from its steps (X9)."""
GraphOf: TypeAlias = "Callable[[FlowRow], Graph]"
"""Returns the graph of a flow; an exception it raises rolls the transaction back and reaches the caller."""


Compensates: TypeAlias = "Callable[[FlowRow], bool]"
"""True if the graph of a flow has nodes that are compensated (N9); raises what `GraphOf` raises."""


class Started(NamedTuple):
    """A flow that was started: `at` this time, with these pending `steps`."""

    at: int
    steps: list[ReadyStep]


class ControlStore(Protocol):
    """Changes flows that exist, each operation one transaction on a whole tree (O2, O9-O15).

    Raises `Conflict` for a flow in the wrong status, `NotFound` for one that was deleted meanwhile, `TooLarge` if a state would
    grow beyond `limits`.
    """

    async def start(self, flow_id: int, notify: str) -> Started:
        """Make a created flow running and its steps pending (O2); an empty `notify` keeps the one it has."""
        ...

    async def cancel(
        self, flow: FlowRow, reason: str, final_state: FinalState, compensates: Compensates = ...
    ) -> TreeChange:
        """Cancel a flow with every flow above and below it and their live steps; each gets a final state (O10).

        If completed steps of the tree have to be compensated, that begins, and its flows run until it is over (N9). By default
        nothing is compensated.
        """
        ...

    async def resume(self, flow: FlowRow, data: str, step_id: int | None = None) -> TreeChange:
        """Continue the oldest interrupt of the flow, or of one it called, with `data`; or just that of a step (O11)."""
        ...

    async def resume_break(
        self, flow: FlowRow, overrides: State, limits: Limits = ..., step_id: int | None = None
    ) -> TreeChange:
        """Continue the oldest breakpoint of the flow, or of one it called, with `overrides`; or just that of a step (O11)."""
        ...

    async def time_out_waits(self, limit: int) -> TimedOutWaits:
        """Continue up to `limit` steps that wait for a resume or an event, and whose deadline has passed (P6, E2)."""
        ...

    async def break_before(self, flow: FlowRow, task: str, *, enabled: bool) -> None:
        """Set or clear a breakpoint on the flow and on the flows it called that are not terminal (O12)."""
        ...

    async def tag(self, flow: FlowRow, changes: TagChanges) -> str | None:
        """Set and remove tags of the tree of the flow; return all it has then, as they are stored (Q1).

        Raises `BadRequest` if they would be too many.
        """
        ...

    async def restart(self, flow: FlowRow, overrides: State, limits: Limits = ...) -> TreeChange:
        """Run a stopped root flow again from its entry step, in place (O13)."""
        ...

    async def restart_from(
        self, step: StepRow, flow: FlowRow, overrides: State, graph_of: GraphOf, limits: Limits = ...
    ) -> TreeChange:
        """Run a flow again from a step, in place; steps that waited for the flow wait again (O13).

        `graph_of` is asked for a fan-in whose input could not be merged.
        """
        ...

    async def insert_fork(self, root: FlowRow, forked: Forked) -> TreeChange:
        """Insert the copy of a tree that has ended (O14). Raises `Conflict` if `root` has changed since it was read."""
        ...

    async def create_next(self, latest: FlowRow, new: NewFlow) -> int | None:
        """Insert the next flow of a thread (O15); return its creation time.

        `None` if nothing was inserted: the idempotency key or the reserved id was used, the number of shards has changed, or
        `latest` is not the latest flow of its thread any more, or has changed.
        """
        ...

    async def create_placed(self, new: NewFlow) -> int | None:
        """Create a flow whose key is reserved on another shard; return when, `None` if it is to be looked for again.

        That is so if its reserved id was used, the number of shards has changed, or its graph is not kept any more.
        """
        ...

    async def delete(self, flow_id: int) -> None:
        """Remove a root flow with its tree (O9). Raises `Conflict` while it runs."""
        ...

    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int:
        """Remove at most `limit` flows that match and are not running, oldest first, with their trees; return how many (O9)."""
        ...

    async def remove_completed(self, age_ms: int, limit: int) -> bool:
        """Remove up to `limit` flows marked `delete_on_completion` that completed `age_ms` ago, with their trees (O1).

        Return whether there may be more.
        """
        ...
