"""Transactions that need the graphs flows were created with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from dwarf_nats.engine.projections import final_state_of

if TYPE_CHECKING:
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.limits import Limits

GraphOf: TypeAlias = "Callable[[FlowRow], Graph]"
"""Gives the graph a flow was created with."""
FinalState: TypeAlias = "Callable[[FlowRow, list[StepRow]], bytes]"
"""Gives the final state of a flow that ends with these steps, as JSON text."""


async def with_graphs(graphs: GraphBook, shard: int, work: Callable[[GraphOf], Awaitable[TreeChange]]) -> TreeChange:
    """Run a transaction that asks for graphs; again whenever one has to be read from the database first."""
    known: dict[str, Graph] = {}

    def graph_of(flow: FlowRow) -> Graph:
        graph = known.get(flow.graph_digest)
        if graph is None:
            raise _MissingGraph(flow.graph_digest)
        return graph

    while True:
        try:
            return await work(graph_of)
        except _MissingGraph as missing:
            known[missing.digest] = await graphs.frozen(shard, missing.digest)


async def with_final_states(
    graphs: GraphBook, shard: int, limits: Limits, work: Callable[[FinalState], Awaitable[TreeChange]]
) -> TreeChange:
    """Run a transaction that makes final states of steps (X9), with the graphs it needs for them."""
    return await with_graphs(
        graphs,
        shard,
        lambda graph_of: work(lambda flow, steps: final_state_of(graph_of(flow), list(steps), limits)),
    )


class _MissingGraph(Exception):
    """A transaction needs a graph that has to be read first."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest
