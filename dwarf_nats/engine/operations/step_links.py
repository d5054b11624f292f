"""The neighbours of a step: the one before and the one after it, across the borders of sub-workflows (O7).

Forward leads from a step into the flow it called, back leads out of the last step of that flow; the step that waits for
the flow is skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import FlowStore, HistoryStore
    from dwarf_nats.rules.rows import Called, StepRow


class StepLinks:
    """Reads the neighbours of steps of one tree of flows."""

    def __init__(self, flows: FlowStore, histories: HistoryStore, root_id: int) -> None:
        self._flows = flows
        self._histories = histories
        self._root_id = root_id

    async def following(self, step: StepRow) -> StepRow | None:
        """Return the step after `step`: the first one of the flow it called, else the next one of its own flow, else the one
        after the step that waited for its flow."""
        child = await self.child(step)
        if child is not None:
            return await self._into(await self._histories.entry(child.flow_id))
        return await self._after(step)

    async def preceding(self, step: StepRow) -> StepRow | None:
        """Return the step before `step`: its predecessor, or the last step of the flow that one called; for the first step of a
        called flow, the one before the step that waits for it."""
        while step.predecessor_id is None:
            caller = await self._caller(step)
            if caller is None:
                return None
            step = caller
        before = await self._flows.step_by_id(step.predecessor_id)
        return None if before is None else await self._out_of(before)

    async def child(self, step: StepRow) -> Called | None:
        """Return the flow that `step` called."""
        return (await self._histories.called(self._root_id, [step.step_id])).get(step.step_id)

    async def _after(self, step: StepRow) -> StepRow | None:
        while True:
            following = (
                await self._flows.step_by_id(step.successor_id)
                if step.successor_id is not None
                else await self._histories.first_branch(step.step_id)
            )
            if following is not None:
                return await self._into(following)
            flow = await self._flows.by_id(step.flow_id)
            caller = await self._caller(step)
            if flow is None or not flow.status.terminal or caller is None:
                return None
            step = caller

    async def _into(self, step: StepRow | None) -> StepRow | None:
        while step is not None:
            child = await self.child(step)
            if child is None:
                return step
            step = await self._histories.entry(child.flow_id)
        return None

    async def _out_of(self, step: StepRow) -> StepRow:
        while True:
            child = await self.child(step)
            last = await self._histories.last(child.flow_id) if child is not None else None
            if last is None:
                return step
            step = last

    async def _caller(self, step: StepRow) -> StepRow | None:
        flow = await self._flows.by_id(step.flow_id)
        if flow is None or flow.surgraph_step_id is None:
            return None
        return await self._flows.step_by_id(flow.surgraph_step_id)
