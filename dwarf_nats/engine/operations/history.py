"""Pages of a history: steps of a flow, and below them the beginnings of the histories of the flows they called (O7).

A page has at most `limit` steps of the flow itself. Of each flow that one of them called it has at most as many, and so on
down to `MAX_NESTING_LEVELS`; a step below which something is left out is `truncated`, and the rest is read by the key of that
flow. A page with more than `PAGE_MAX_NESTED_STEPS` ends early, so that its cost is bounded, however wide and deep the tree is
(P4).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.projections import bound_payloads, history_step
from dwarf_nats.workflow import cursors

if TYPE_CHECKING:
    from dwarf_nats.ports import HistoryStore
    from dwarf_nats.rules.rows import Called, FanOut, FlowRow, StepRow
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.records import Step

GraphOf = Callable[[str], Awaitable["Graph | None"]]
"""Gives the graph of a digest; nothing if it cannot be read."""
MAX_NESTING_LEVELS = 16
"""Deepest nesting of histories in a page. A level is two levels of JSON, and some parsers take no more than 64."""
PAGE_MAX_NESTED_STEPS = 5_000
"""Most steps nested in one page, beside its own: bounds its memory and the statements it takes."""
FLOWS_PER_READ = (64, 8, 1)
"""Flows whose steps are read in one statement: the largest number whose steps cannot be far more than a page has room for."""


async def page(
    histories: HistoryStore, flow: FlowRow, cursor: str, limit: int, *, graph_of: GraphOf
) -> tuple[list[Step], str]:
    """Return at most `limit` steps after the cursor, and the cursor of the next page, empty on the last one.

    `graph_of`: gives the graphs of flows, which know the kinds of their nodes.
    """
    rows = await histories.page(flow.flow_id, cursors.place(cursor), limit + 1)
    graph = await graph_of(flow.graph_digest)
    fan_outs = await fan_outs_of(histories, rows[:limit])
    steps = [history_step(histories.shard, row, graph, fan_outs) for row in rows[:limit]]
    bound_payloads(steps)
    kept = await _Nesting(histories, flow.root_id, steps, limit, graph_of=graph_of).fill()
    more = kept < len(rows)
    return steps[:kept], cursors.after(steps[kept - 1]) if more else ""


async def fan_outs_of(histories: HistoryStore, rows: Sequence[StepRow]) -> Mapping[int, FanOut | StepRow]:
    """Return the steps that fanned out to those of these rows which are in a branch."""
    found: dict[int, FanOut | StepRow] = {row.step_id: row for row in rows}
    missing = {row.spawn_id for row in rows if row.spawn_id} - found.keys()
    if missing:
        found.update(await histories.fan_outs(sorted(missing)))
    return found


class _Nesting:
    """Nests the histories of sub-workflows below the steps of a page, level by level."""

    def __init__(
        self, histories: HistoryStore, root_id: int, steps: Sequence[Step], limit: int, *, graph_of: GraphOf
    ) -> None:
        self._graph_of = graph_of
        self._histories = histories
        self._root_id = root_id
        self._limit = limit
        self._left = PAGE_MAX_NESTED_STEPS
        self._kept = len(steps)
        """Steps of the page that stay; the histories below those after them found no room."""
        self._level = [(at, step) for at, step in enumerate(steps)]
        """The steps of the level reached, each with the index of the step of the page that it is below."""

    async def fill(self) -> int:
        """Nest what has room; return how many steps of the page stay."""
        for _ in range(MAX_NESTING_LEVELS):
            callers = await self._callers()
            if not callers:
                return self._kept
            self._level = []
            size = next((one for one in FLOWS_PER_READ if one * self._limit <= 2 * PAGE_MAX_NESTED_STEPS), 1)
            for at in range(0, len(callers), size):
                await self._descend(callers[at : at + size])
        for _, step, _ in await self._callers():
            step.truncated = True
        return self._kept

    async def _callers(self) -> list[tuple[int, Step, Called]]:
        """Return the steps of the level that called a flow, and that flow."""
        level = [(at, step) for at, step in self._level if at < self._kept]
        if not level:
            return []
        called = await self._histories.called(self._root_id, [step.step_id for _, step in level])
        callers = [(at, step, called[step.step_id]) for at, step in level if step.step_id in called]
        for _, step, child in callers:
            step.subgraph, step.sub_workflow = True, child.workflow
            step.sub_flow_key = f"{self._histories.shard}-{child.flow_id}-{child.token}"
        return callers

    async def _descend(self, callers: Sequence[tuple[int, Step, Called]]) -> None:
        """Read the beginnings of these flows, and nest them below the steps that called them."""
        callers = [one for one in callers if one[0] < self._kept]
        flow_ids = [child.flow_id for _, _, child in callers]
        found = await self._histories.first_steps(flow_ids, self._limit + 1)
        for at, step, child in callers:
            if at < self._kept:
                self._nest(at, step, found[child.flow_id], await self._graph_of(child.graph_digest))

    def _nest(self, at: int, caller: Step, rows: Sequence[StepRow], graph: Graph | None) -> None:
        room = min(self._limit, self._left)
        if len(rows) > self._left and at > 0:
            self._kept = at
            return
        caller.truncated = len(rows) > room
        fan_outs = {row.step_id: row for row in rows}  # a step stands before its branches
        caller.sub_history = [history_step(self._histories.shard, row, graph, fan_outs) for row in rows[:room]]
        bound_payloads(caller.sub_history)
        self._left -= len(caller.sub_history)
        self._level += [(at, step) for step in caller.sub_history]
