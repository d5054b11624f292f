"""The output of a task, as it travels (B8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import DwarfError
from dwarf_nats.workflow.output import BYTES, JSON, MAX_OUTPUT_BYTES, Output
from dwarf_nats.workflow.state import check_json, encode_value
from dwarf_nats.workflow.task_error import TaskError

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import TaskCall


def emit_output(call: TaskCall, data: Any) -> None:
    """Hand on what a task emits. Raises `TaskError` for what cannot be sent."""
    output = _encoded(data)
    if len(output.body) > MAX_OUTPUT_BYTES:
        raise TaskError(
            f"emit: the output is {len(output.body)} bytes, over {MAX_OUTPUT_BYTES}: emit smaller pieces, or return it",
            413,
        )
    if call.emit is not None:
        call.emit(output)


def _encoded(data: Any) -> Output:
    if isinstance(data, bytes | bytearray | memoryview):
        return Output(bytes(data), BYTES)
    if isinstance(data, str):
        return Output(data.encode("utf-8", "replace"))
    try:
        text = encode_value(data, "output")
        check_json(text, "output")
    except DwarfError as error:
        raise TaskError(f"emit: {error.message}", error.code) from None
    return Output(text, JSON)
