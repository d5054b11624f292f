"""Time budgets of steps (X3, L1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.workflow.graph import Graph, Node


def time_budget_ms(step: ClaimedStep, settings: EngineSettings) -> int:
    """Milliseconds that one execution of the step has: its node's, its graph's, its flow's, or the engine's (L1)."""
    graph = step.flow.graph
    own = None if graph is None else own_budget_ms(node_of(step, graph), graph)
    return own if own is not None else claimed_budget_ms(step, settings)


def own_budget_ms(node: Node | None, graph: Graph) -> int | None:
    """The budget that a node has, or the defaults of its graph; `None` if neither has one."""
    if node is not None and node.timeout_ms is not None:
        return node.timeout_ms
    return graph.defaults.timeout_ms


def queue_timeout_ms(step: ClaimedStep, settings: EngineSettings, service_timeout_ms: int | None = None) -> int:
    """Milliseconds that a step may wait at a worker: as its node says, its service, its graph, or its time budget (K3)."""
    graph = step.flow.graph
    node = None if graph is None else node_of(step, graph)
    if node is not None and node.queue_timeout_ms is not None:
        return node.queue_timeout_ms
    if service_timeout_ms is not None:
        return service_timeout_ms
    own = None if graph is None else graph.defaults.queue_timeout_ms
    return own if own is not None else time_budget_ms(step, settings)


def node_of(step: ClaimedStep, graph: Graph) -> Node | None:
    """The node of a step; of a compensation, the one that says how it is done (N9)."""
    return (graph.nodes if step.compensating is None else graph.compensations).get(step.node)


def claimed_budget_ms(step: ClaimedStep, settings: EngineSettings) -> int:
    """The budget with which the step was claimed, whatever its graph says: its lease is as long, and a grace (B2)."""
    own = step.flow.time_budget_ms
    return own if own is not None else settings.time_budget_ms
