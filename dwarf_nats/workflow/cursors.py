"""Cursors of a history: the step after which the next page begins (O7). Callers pass them back unchanged."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest

if TYPE_CHECKING:
    from dwarf_nats.workflow.records import Step

Place = tuple[int, int]
"""Depth and id of a step: its place in the history of its flow, which never changes."""
START: Place = (-1, -1)
"""The place before the first step."""


def after(step: Step) -> str:
    """The cursor of the page that begins after this step."""
    return base64.urlsafe_b64encode(f"{step.depth}.{step.step_id}".encode()).decode().rstrip("=")


def place(cursor: str) -> Place:
    """Decode a cursor; the empty cursor is the first page. Raises `BadRequest` for a malformed one."""
    if not cursor:
        return START
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        depth, step_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split(".")
        numbers = int(depth), int(step_id)
    except (ValueError, binascii.Error):
        numbers = START
    if 0 <= numbers[0] < 2**31 and 0 <= numbers[1] < 2**63:
        return numbers
    raise BadRequest("malformed cursor: pass back the one of the previous page, unchanged")
