"""Runs steps: asks their tasks, or sends what their nodes say, within their time budgets (X3, L1, N3, N4)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import claimed_budget_ms, own_budget_ms, time_budget_ms
from dwarf_nats.engine.execution.invoker import TaskInvoker
from dwarf_nats.engine.execution.service_nodes import ServiceNodes
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.children import ChildPreparer
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.ports import StepStore
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.answer import Answer
    from dwarf_nats.workflow.graph import Node


class StepRunner:
    """Gets the answers of the steps of one shard, and prepares the children that they ask for."""

    def __init__(self, shared: Shared, steps: StepStore, children: ChildPreparer) -> None:
        self.invoker = TaskInvoker(shared)
        self.services = ServiceNodes(shared)
        self.children = children
        self._settings = shared.settings
        self._steps = steps

    def run(self, step: ClaimedStep) -> Awaitable[Answer]:
        """The answer of a step. Raises what `TaskInvoker.ask` does."""
        graph = step.flow.graph
        node = graph.nodes.get(step.node) if graph is not None else None
        if node is not None and isinstance(node.action, SendRequest | PublishMessage):
            return self._send(step, node)
        budget_ms = own_budget_ms(step)
        if budget_ms is None:
            return self.invoker.ask(step)
        return self._run_within(step, budget_ms)

    async def _run_within(self, step: ClaimedStep, budget_ms: int) -> Answer:
        """Ask the task, whose node has a budget of its own."""
        await self._extend_lease(step, budget_ms)
        return await self.invoker.ask(step)

    async def _send(self, step: ClaimedStep, node: Node) -> Answer:
        """Send the request or message of the node."""
        budget_ms = time_budget_ms(step, self._settings)
        await self._extend_lease(step, budget_ms)
        return await self.services.send(step, node, budget_ms=budget_ms)

    async def _extend_lease(self, step: ClaimedStep, budget_ms: int) -> None:
        """Make the lease of a step outlast the budget of its node, if the claim did not (B2).

        A step that was taken away meanwhile runs in vain, like any other: its result is fenced off (X1).
        """
        if budget_ms > claimed_budget_ms(step, self._settings):
            await self._steps.extend_lease(step.step_id, step.lease_seq, lease_us(budget_ms, budget_ms))
