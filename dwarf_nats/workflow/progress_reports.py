"""What one execution of a task reports of its progress (B7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import DwarfError
from dwarf_nats.workflow.progress import Progress, progress_json, read_progress
from dwarf_nats.workflow.state import encode_value
from dwarf_nats.workflow.task_error import TaskError

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import TaskCall

UNCHANGED = object()
"""Stands for data that was left out."""


class ProgressReports:
    """Checks what a task reports, and hands it on. Data that is left out is that of the report before, or the checkpoint."""

    def __init__(self, call: TaskCall) -> None:
        self._call = call
        self._data_json = None if call.checkpoint is None else bytes(call.checkpoint)

    def report(self, fraction: float | None, text: str | None, data: Any) -> None:
        """Hand on a progress. Raises `TaskError` for one that cannot be told."""
        if fraction is not None and not 0 <= fraction <= 1:
            raise TaskError(f"progress: fraction is a number from 0 to 1, got {fraction}", 400)
        share = None if fraction is None else float(fraction)
        try:
            if data is not UNCHANGED:
                self._data_json = None if data is None else encode_value(data, "progress data")
            told = Progress(at=time.time_ns() // 1000, fraction=share, text=text, data_json=self._data_json)
            read_progress(progress_json(told), told.at)
        except DwarfError as error:
            raise TaskError(f"progress: {error.message}", error.code) from None
        if self._call.report is not None:
            self._call.report(self._call.step_key, told)
