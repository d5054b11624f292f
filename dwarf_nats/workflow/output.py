"""The output of running tasks: what a task emits, and what a follower of its flow receives (B8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

MAX_OUTPUT_BYTES = 256 * 1024
"""Longest piece of output: larger results belong into the state, where they are kept."""
TEXT, JSON, BYTES = "", "application/json", "application/octet-stream"
"""The content types of a piece; a text has none, so that a plain publish is one."""


@dataclass(slots=True, frozen=True)
class Output:
    """A piece of output as it travels."""

    body: bytes
    content_type: str = TEXT


class OutputEnd(StrEnum):
    """The end of an execution, as its output tells it."""

    DONE = "done"
    """The task has answered."""
    PAUSED = "paused"
    """It waits for a person, an event or another workflow, and is run again from its beginning after that."""
    FAILED = "failed"
    """It failed, or was cancelled; it may be run again."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Chunk:
    """A piece of output as a follower receives it.

    `step_id`, `flow_id` and `execution` say where it comes from; `flow_id` is a sub-workflow's if that emitted it. A field is
    empty if the service, one without the SDK, says nothing.
    """

    data: Any
    """A text, bytes or a JSON value; `None` at the end of an execution."""
    step_id: str
    flow_id: str = ""
    task: str = ""
    """The name of the node."""
    attempt: int = 0
    execution: str = ""
    number: int = 0
    """Its place in the output of this execution, from 1."""
    missed: int = 0
    """The number of chunks of this execution that were lost before this one, or emitted before anybody followed."""
    restarted: bool = False
    """The step runs again, and this is the first chunk of it: the output before may come again."""
    end: OutputEnd | None = None
    """Set on the last chunk of an execution, which has no data."""

    @property
    def text(self) -> str:
        """The data as a text, to print: JSON as one line, nothing at an end."""
        if isinstance(self.data, str):
            return self.data
        if self.end is not None:
            return ""
        if isinstance(self.data, bytes):
            return self.data.decode("utf-8", "replace")
        return msgspec.json.encode(self.data).decode()


def data_of(body: bytes, content_type: str) -> object:
    """Return what a piece holds: a text, bytes or a JSON value. What cannot be read as its type stays text or bytes."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    if kind == BYTES:
        return body
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body
