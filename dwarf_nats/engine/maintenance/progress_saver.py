"""Writes the progress of steps in flight every few seconds, while there is any (B7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.progress import ReportedProgress

INTERVAL_SECONDS = 2.0
"""Pause between two writes: a progress is in the database well before it is five seconds old."""


class ProgressSaver(Duty):
    """Has the progress of a shard written."""

    def __init__(self, progress: ReportedProgress) -> None:
        self._progress = progress
        self.wanted = progress.wanted

    def interval(self) -> float:
        return INTERVAL_SECONDS

    async def run_once(self) -> None:
        await self._progress.save()
