"""Runs steps: asks their tasks, or carries out their nodes, within their time budgets (X3, L1, N1-N7)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import claimed_budget_ms, node_of, own_budget_ms, time_budget_ms
from dwarf_nats.engine.execution.invoker import TaskInvoker
from dwarf_nats.engine.execution.service_nodes import ServiceNodes
from dwarf_nats.rules import node_actions
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.children import ChildPreparer
    from dwarf_nats.engine.execution.progress import ReportedProgress
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.ports import StepStore
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.answer import Answer
    from dwarf_nats.workflow.graph import Graph, Node


class StepRunner:
    """Gets the answers of the steps of one shard, and prepares the children that they ask for."""

    def __init__(self, shared: Shared, steps: StepStore, children: ChildPreparer, progress: ReportedProgress) -> None:
        self.invoker = TaskInvoker(shared, progress.report)
        self.services = ServiceNodes(shared)
        self.children = children
        self._settings = shared.settings
        self._clock = shared.clock
        self._traces = shared.traces
        self._steps = steps

    def run(self, step: ClaimedStep, graph: Graph) -> Awaitable[Answer]:
        """The answer of a step. Raises what `TaskInvoker.ask` does."""
        node = node_of(step, graph)
        if node is not None and node.action is not None:
            return self._carry_out(step, node)
        budget_ms = own_budget_ms(node, graph)
        if budget_ms is None:
            return self.invoker.ask(step, claimed_budget_ms(step, self._settings))
        return self._ask_within(step, budget_ms)

    def carry_out_at_once(self, step: ClaimedStep, node: Node) -> Answer:
        """The answer of a step whose node the engine carries out without a service."""
        self._trace(step)
        answer = node_actions.answer_of(step, node, self._clock.now(), self._settings.max_depth)
        if step.span is not None and answer.error is not None:
            step.span.failed(answer.error.message)
        return answer

    async def _ask_within(self, step: ClaimedStep, budget_ms: int) -> Answer:
        """Ask the task, whose node has a budget of its own."""
        await self._extend_lease(step, budget_ms)
        return await self.invoker.ask(step, budget_ms)

    async def _carry_out(self, step: ClaimedStep, node: Node) -> Answer:
        """Do what the node says; a request or message is sent within the budget of the step."""
        if not isinstance(node.action, SendRequest | PublishMessage):
            return self.carry_out_at_once(step, node)
        budget_ms = time_budget_ms(step, self._settings)
        await self._extend_lease(step, budget_ms)
        return await self.services.send(step, node, budget_ms=budget_ms)

    async def _extend_lease(self, step: ClaimedStep, budget_ms: int) -> None:
        """Make the lease of a step outlast the budget of its node, if the claim did not (B2).

        A step that was taken away meanwhile runs in vain, like any other: its result is fenced off (X1).
        """
        if budget_ms > claimed_budget_ms(step, self._settings):
            await self._steps.extend_lease(step.step_id, step.lease_seq, lease_us(budget_ms, budget_ms))

    def _trace(self, step: ClaimedStep) -> None:
        """Begin the span of an execution, if its flow is traced (T2)."""
        flow = step.flow
        if self._traces.listening or flow.trace:
            step.span = self._traces.dispatch(
                flow.trace,
                flow_id=flow.public_id,
                step_id=step.public_id,
                workflow=flow.workflow,
                task=step.node,
                url=step.url,
                attempt=step.attempt,
            )
