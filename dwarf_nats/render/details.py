"""What a history tells of a step beside status, times and error, in short lines for people (Q3, L3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.progress import Progress
    from dwarf_nats.workflow.records import Step

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def more_details(step: Step) -> list[str]:
    """The lines of a node below its error: what it handled, failed with before, waits for, and how far it has come."""
    lines = []
    if step.handled_error is not None:
        lines.append(f"handled: {_plain(step.handled_error.message)}")
    elif step.attempts and step.error is None:
        last = step.attempts[-1]
        lines.append(f"attempt {last.attempt + 1:,} failed: {_plain(last.error.message)}")
    if step.due_at is not None:
        lines.append(f"due {utc(step.due_at)}")
    if step.pause is not None and step.pause.until is not None:
        lines.append(f"until {utc(step.pause.until)}")
    if step.progress is not None:
        lines.append(progress_line(step.progress))
    return lines


def progress_line(progress: Progress) -> str:
    """A progress in one line: `40 %, page 40 of 100`."""
    share = None if progress.fraction is None else f"{progress.fraction * 100:.4g} %"
    return ", ".join(part for part in (share, progress.text) if part) or "in progress"


def utc(micros: int) -> str:
    """A time to the second, in UTC."""
    return (_EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%d %H:%M:%S UTC")


def _plain(text: str) -> str:
    return text.replace("`", "'")  # some versions of Mermaid cannot show text in backticks
