"""Histories written by hand, with edges recorded as the engine records them (F7). Times in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status

DAWN = 1_750_000_000_000_000
_NO_END = (Status.CREATED, Status.PENDING, Status.RUNNING)


class Story:
    """The steps of one flow, in the order they were written down."""

    def __init__(self, at: int = 0, first_id: int = 1) -> None:
        self.steps: list[Step] = []
        self._at = at
        self._id = first_id

    def first(self, task: str, **how: Any) -> Step:
        """The entry step."""
        return self._write(task, 1, self._at, None, **how)

    def after(self, before: Step, task: str, **how: Any) -> Step:
        """The step that follows another: both rows say so."""
        step = self._write(task, before.depth + 1, _end(before), before.step_id, **how)
        before.successor_id = step.step_id
        return step

    def branches(self, spawn: Step, *tasks: str, **how: Any) -> list[Step]:
        """The first steps of a cohort: each names its spawn step, which names none of them."""
        return [self._write(task, spawn.depth + 1, _end(spawn), spawn.step_id, **how) for task in tasks]

    def join(self, members: Sequence[Step], task: str, **how: Any) -> Step:
        """The fan-in: every exit member names it, it names the last to arrive."""
        last = max(members, key=lambda step: step.updated_at)
        step = self._write(task, max(one.depth for one in members) + 1, _end(last), last.step_id, **how)
        for member in members:
            member.successor_id = step.step_id
        return step

    def line(self, *tasks: str, **how: Any) -> list[Step]:
        """A chain from the entry on."""
        steps = [self.first(tasks[0], **how)]
        for task in tasks[1:]:
            steps.append(self.after(steps[-1], task, **how))
        return steps

    def _write(
        self,
        task: str,
        depth: int,
        at: int,
        predecessor: int | None,
        *,
        took: float = 10,
        waited: float = 1,
        status: Status = Status.COMPLETED,
        error: str = "",
        attempt: int = 0,
        workflow: str | None = None,
        child: Story | None = None,
    ) -> Step:
        started = None if status in (Status.CREATED, Status.PENDING) else at + int(waited * 1000)
        ended = at if started is None else started + (0 if status in _NO_END else int(took * 1000))
        step = Step(
            step_key=f"1-{self._id}-a1B2c3D4e5F6g7H8",
            step_id=self._id,
            depth=depth,
            task=task,
            attempt=attempt,
            status=status,
            created_at=DAWN + at,
            updated_at=DAWN + ended,
            started_at=None if started is None else DAWN + started,
            error=ErrorInfo(error) if error else None,
            predecessor_id=predecessor,
            subgraph=workflow is not None,
            sub_workflow=workflow,
            sub_history=child.steps if child is not None else [],
        )
        self._id += 1
        self.steps.append(step)
        return step


def _end(step: Step) -> int:
    return step.updated_at - DAWN
