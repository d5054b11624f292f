"""The order of what executions emit, for those who follow a flow, and how an execution ends (B8)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.workflow.output import Chunk, OutputEnd

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Answer


class Order:
    """Finds out what was lost, what runs again, and what comes from executions that were replaced.

    `all_ended` is set while no execution that has emitted something goes on.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}
        self._replaced: set[tuple[str, str]] = set()
        self._going_on: set[str] = set()
        self.all_ended = asyncio.Event()
        self.all_ended.set()

    def placed(self, chunk: Chunk) -> Chunk | None:
        """The chunk with what its place among the others tells; `None` for one of an execution that was replaced."""
        if not chunk.execution or not chunk.number:
            return chunk
        step, execution = chunk.step_id, chunk.execution
        if (step, execution) in self._replaced:
            return None
        before, number = self._last.get(step, ("", 0))
        again = bool(before) and before != execution
        if again:
            self._replaced.add((step, before))
            number = 0
        self._last[step] = (execution, chunk.number)
        if chunk.end is None:
            self._going_on.add(step)
            self.all_ended.clear()
        else:
            self._going_on.discard(step)
            if not self._going_on:
                self.all_ended.set()
        return replace(chunk, missed=max(0, chunk.number - number - 1), restarted=again)


def end_of(answer: Answer | bytes) -> OutputEnd:
    """The end of an execution that answers so."""
    if isinstance(answer, bytes):  # just its changes
        return OutputEnd.DONE
    if answer.error is not None or answer.retry is not None:
        return OutputEnd.FAILED
    if answer.interrupt is not None or answer.wait is not None or answer.subgraph is not None:
        return OutputEnd.PAUSED
    return OutputEnd.DONE
