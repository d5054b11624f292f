"""Calls of tasks for which no coroutine waits: most steps need nothing else before they are settled (design note 0062)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import claimed_budget_ms, node_of, own_budget_ms

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.invoker import TaskInvoker
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.answer import Answer


class DirectCalls:
    """Asks the tasks of steps before which nothing has to be awaited, and whose calls are not traced."""

    def __init__(self, shared: Shared, invoker: TaskInvoker) -> None:
        self._begin = shared.capabilities.begin
        self._invoker = invoker
        self._settings = shared.settings
        self._clock = shared.clock
        self._graphs = shared.graphs
        self._instruments = shared.instruments
        self.possible = self._begin is not None and not shared.traces.listening

    def ask(self, step: ClaimedStep, answered: Callable[[Answer | Exception], None]) -> Callable[[], None] | None:
        """Ask the task of a step; `answered` is called once, later, with its answer or with what `Tasks.execute` would raise.

        Call what is returned to wait no longer. `None`: the step is of another kind, or its task cannot be asked like this.
        """
        flow = step.flow
        graph = flow.graph or self._graphs.at_hand(flow.digest)
        if self._begin is None or graph is None or step.unmerged is not None or flow.breakpoints or flow.trace:
            return None
        node = node_of(step, graph)
        if node is not None and node.action is not None:
            return None
        claimed_ms, own_ms = claimed_budget_ms(step, self._settings), own_budget_ms(node, graph)
        if own_ms is not None and own_ms > claimed_ms:  # its lease is to be extended first
            return None
        flow.graph = graph
        try:
            return self._begin(self._invoker.call(step, claimed_ms if own_ms is None else own_ms), answered)
        except Exception:  # the bus is away, or a defect: the execution finds out again, and knows what to do
            return None

    def measure(self, step: ClaimedStep) -> None:
        """Note how long the task of a step took (T1)."""
        if self._instruments.listening:
            now = self._clock.now()
            self._instruments.task_time(step.url, max(0, now - step.dispatched_at), now)
