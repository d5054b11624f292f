"""The progress of the steps in flight: kept in memory, and written in groups (B7). Design note 0035."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.progress import progress_json
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.ports import Clock, StepStore
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.progress import Progress
    from dwarf_nats.workflow.records import Step

GROUP_STEPS = 500
"""Steps whose progress is written in one statement; 2 MiB at most."""


class ReportedProgress:
    """The last progress of each step in flight of one shard.

    What is not in the database yet is written by `save`. If a step ends or is released before, the settlement takes it along.
    """

    def __init__(self, steps: StepStore, in_flight: InFlight, clock: Clock) -> None:
        self._steps = steps
        self._in_flight = in_flight
        self._clock = clock
        self._unsaved: dict[int, ClaimedStep] = {}
        self.wanted = asyncio.Event()
        """Set while something is to be written."""

    def report(self, step_key: str, progress: Progress) -> None:
        """Keep a progress of a step, if that is in flight by this key."""
        step = self._in_flight.find(parse_key(step_key, "step").id)
        if step is not None and step.key == step_key:
            step.progress = step.unsaved_progress = replace(progress, at=self._clock.now())
            self._unsaved[step.step_id] = step
            self.wanted.set()

    def show(self, steps: Iterable[Step]) -> None:
        """Put into a history what is newer here than in the database."""
        pending = list(steps)
        while pending:
            one = pending.pop()
            pending += one.sub_history
            if one.status is Status.RUNNING:
                step = self._in_flight.find(one.step_id)
                if step is not None and step.progress is not None:
                    one.progress = step.progress

    async def save(self) -> None:
        """Write what is not in the database. Raises `Unavailable`."""
        while self._unsaved:
            group = [self._unsaved.pop(one) for one in list(self._unsaved)[:GROUP_STEPS]]
            found = [(step, step.unsaved_progress) for step in group if self._in_flight.find(step.step_id) is step]
            rows = [(step, progress) for step, progress in found if progress is not None]
            try:
                await self._write(rows)
            except BaseException:
                for step, _ in rows:
                    self._unsaved.setdefault(step.step_id, step)
                raise
        self.wanted.clear()

    async def _write(self, rows: list[tuple[ClaimedStep, Progress]]) -> None:
        if not rows:
            return
        now = self._clock.now()
        written = await self._steps.save_progress(
            [
                (step.step_id, step.lease_seq, progress_json(progress).decode(), max(0, now - progress.at))
                for step, progress in rows
            ]
        )
        for step, progress in rows:
            # A step that was not written has been taken away, or is just being settled, which takes its progress along.
            if step.step_id in written and step.unsaved_progress is progress:
                step.unsaved_progress = None
