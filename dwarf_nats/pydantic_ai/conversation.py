"""The messages, the usage and the tool calls of an agent, as JSON in the state of its flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
)
from pydantic_ai.usage import RunUsage

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.task_error import TaskError

from .graph import MESSAGES, PROMPT, TOOL_RESULTS

_USAGE = TypeAdapter(RunUsage)
_CONTENT: TypeAdapter[str | list[UserContent]] = TypeAdapter(str | list[UserContent])
_CALL = TypeAdapter(ToolCallPart)
USAGE = "usage"


def read_messages(flow: Flow) -> list[ModelMessage]:
    """The conversation so far."""
    text = flow.raw(MESSAGES)
    return [] if text is None else ModelMessagesTypeAdapter.validate_json(bytes(text))


def write_messages(flow: Flow, messages: Sequence[ModelMessage]) -> None:
    flow.set(MESSAGES, Raw(ModelMessagesTypeAdapter.dump_json(list(messages))))


def read_prompt(flow: Flow) -> str | list[UserContent] | None:
    """The words of the user, if the model has not heard them yet."""
    text = flow.raw(PROMPT)
    if text is None or bytes(text) == b"null":
        return None
    try:
        return _CONTENT.validate_json(bytes(text))
    except ValueError as error:
        raise TaskError(f"state field `prompt` must be a text or a list of parts: {error}", 400, final=True) from None


def read_usage(flow: Flow) -> RunUsage:
    text = flow.raw(USAGE)
    return RunUsage() if text is None else _USAGE.validate_json(bytes(text))


def write_usage(flow: Flow, usage: RunUsage) -> None:
    flow.set(USAGE, Raw(_USAGE.dump_json(usage)))


def call_values(call: ToolCallPart) -> dict[str, Any]:
    """A tool call as an element of the state."""
    values: dict[str, Any] = _CALL.dump_python(call, mode="json")
    return values


def read_call(values: Any) -> ToolCallPart:
    return _CALL.validate_python(values)


def result_values(call: ToolCallPart, parts: Sequence[ModelRequestPart], usage: RunUsage) -> dict[str, Any]:
    """The result of a tool call as an element of the state."""
    (message,) = ModelMessagesTypeAdapter.dump_python([ModelRequest(parts=list(parts))], mode="json")
    return {"id": call.tool_call_id, "parts": message["parts"], "usage": _USAGE.dump_python(usage, mode="json")}


def take_results(flow: Flow, messages: list[ModelMessage], usage: RunUsage) -> None:
    """Answer the calls of the last response with the results in the state, in the order of the calls; adds to `usage`."""
    given = {one["id"]: one for one in flow.get(TOOL_RESULTS, [])}
    if not given:
        return
    ids = [call.tool_call_id for call in last_response(messages)[1].tool_calls]
    parts: list[ModelRequestPart] = []
    for one in sorted(given.values(), key=lambda one: ids.index(one["id"])):
        (message,) = ModelMessagesTypeAdapter.validate_python([{"kind": "request", "parts": one["parts"]}])
        parts += message.parts if isinstance(message, ModelRequest) else ()
        usage.incr(_USAGE.validate_python(one["usage"]))
    flow.set(TOOL_RESULTS, [])
    last = messages[-1]
    if isinstance(last, ModelRequest):  # answers that no tool had to give, to a call of an unknown tool for example
        messages[-1] = replace(last, parts=[*last.parts, *parts])
    else:
        messages.append(ModelRequest(parts=parts))


def last_response(messages: Sequence[ModelMessage]) -> tuple[int, ModelResponse]:
    """The last response of the model, and its place. Raises `TaskError` if there is none."""
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        if isinstance(message, ModelResponse):
            return at, message
    raise TaskError("the conversation has no response of the model, so there is no call to answer", 400, final=True)


def failures_before(messages: Sequence[ModelMessage], tool: str) -> int:
    """The number of times in a row that this tool has asked the model to call it again."""
    failed = 0
    for part in _answers_backwards(messages, tool):
        if part.outcome != "retried":
            break
        failed += 1
    return failed


def _answers_backwards(messages: Sequence[ModelMessage], tool: str) -> Iterator[ToolReturnPart]:
    for message in reversed(messages):
        if isinstance(message, ModelRequest):
            yield from (part for part in message.parts if isinstance(part, ToolReturnPart) and part.tool_name == tool)
