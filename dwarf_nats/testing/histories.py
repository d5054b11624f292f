"""A history as lines that a test compares."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.workflow.records import Step

_INDENT = "  "


def history_lines(steps: Sequence[Step]) -> list[str]:
    """Write a history as one line a step, in the order of the graph and of the branches; called workflows are indented.

    `charge`: it completed in its first attempt. `charge (attempt 3)`: in its third. `work[1]`: in branch 1 of a fan-out,
    counted from 0. `ship failed: no stock`, `approve interrupted`: any other status. `charge handled: declined`: its error
    edge was taken.
    """
    lines: list[str] = []
    for step in sorted(steps, key=_place):
        lines.append(_line(step))
        lines += [_INDENT + line for line in history_lines(step.sub_history)]
    return lines


def assert_history(steps: Sequence[Step], expected: str | Iterable[str], heading: str = "") -> None:
    """Compare a history with the lines that `history_lines` should give; a text has one line a step.

    What follows the status may be left out of an expected line: `ship failed` fits `ship failed (attempt 3): no stock`. Raises
    `AssertionError` with both, side by side.
    """
    lines = textwrap.dedent(expected).strip().splitlines() if isinstance(expected, str) else list(expected)
    wanted = [line.rstrip() for line in lines if line.strip()]
    found = history_lines(steps)
    if len(wanted) == len(found) and all(_fits(one, other) for one, other in zip(wanted, found, strict=True)):
        return
    marked = _marked(wanted, _as_wanted(wanted, found))
    raise AssertionError("\n".join([f"{heading}the history is another one (- expected, + found):", *marked]))


def _place(step: Step) -> tuple[int, int, str, int]:
    return step.depth, -1 if step.branch is None else step.branch.index, step.task, step.step_id


def _line(step: Step) -> str:
    parts = [step.task if step.branch is None else f"{step.task}[{step.branch.index}]"]
    if step.handled_error is not None:
        parts.append("handled")
    elif step.status is not Status.COMPLETED:
        parts.append(str(step.status))
    if step.attempt:
        parts.append(f"(attempt {step.attempt + 1})")
    error = step.error if step.error is not None else step.handled_error
    return " ".join(parts) + (f": {error.message}" if error is not None else "")


def _fits(wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    said, _, _ = found.partition(": ")
    if wanted == said:
        return True
    status, _, _ = said.partition(" (attempt ")
    return wanted == status and (" " in status.strip())


def _as_wanted(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    """The lines found, those that fit an expected line as it is written: so only what differs is marked."""
    shown: list[str] = []
    for line in found:
        shown.append(next((one for one in wanted if _fits(one, line)), line))
    return shown


def _marked(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    """Both, line by line: what is only expected after `-`, what is only found after `+`."""
    marked: list[str] = []
    for kind, first, last, start, end in difflib.SequenceMatcher(a=wanted, b=found, autojunk=False).get_opcodes():
        if kind == "equal":
            marked += [f"  {line}" for line in found[start:end]]
            continue
        marked += [f"- {line}" for line in wanted[first:last]]
        marked += [f"+ {line}" for line in found[start:end]]
    return marked
