"""The tool step: one call of one tool, with approval if the tool asks for it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic_ai import Agent, AgentRun
from pydantic_ai.messages import ModelMessage, ModelRequestPart, ToolCallPart, ToolReturnPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.usage import RunUsage
from pydantic_core import to_jsonable_python

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.task_error import TaskError, WaitTimeout

from . import conversation as c
from .failures import step_errors
from .graph import TOOL_RESULTS
from .outputs import run_output_type
from .policy import AgentPolicy

DepsOf: TypeAlias = Callable[[Flow], Any] | None
"""Makes the dependencies of a step: a value, an awaitable of one, or an asynchronous context manager."""
_FLOW: ContextVar[Flow] = ContextVar("dwarf_nats_agent_flow")
APPROVAL_FORM = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean", "title": "The tool may run"},
        "message": {"type": "string", "title": "What the model is told if it may not"},
    },
    "required": ["approved"],
}
"""The answer to an approval, as the console asks for it."""


def current_flow() -> Flow:
    """The flow of the tool call that runs: its `step_key` is the idempotency key for effects, `progress` and `emit` tell more.

    Raises `LookupError` outside of a tool of a served agent.
    """
    try:
        return _FLOW.get()
    except LookupError:
        raise LookupError("current_flow() is for tools of an agent that serve_agent serves") from None


@asynccontextmanager
async def deps_for(make: DepsOf, flow: Flow) -> AsyncIterator[Any]:
    """The dependencies of a step; a context manager is left with the step."""
    made: Any = None if make is None else make(flow)
    if inspect.isawaitable(made):
        made = await made
    if hasattr(made, "__aenter__") and hasattr(made, "__aexit__"):
        async with made as entered:
            yield entered
    else:
        yield made


@dataclass(slots=True, frozen=True, kw_only=True)
class ToolStep:
    """Serves the nodes of tools."""

    agent: Agent[Any, Any]
    deps: DepsOf
    policy: AgentPolicy

    async def __call__(self, flow: Flow) -> None:
        call = c.read_call(flow.get("call"))
        messages = c.read_messages(flow)
        token = _FLOW.set(flow)
        try:
            with step_errors():
                async with deps_for(self.deps, flow) as deps:
                    found, usage = await self._run(messages, call, deps)
                    if isinstance(found, DeferredToolRequests):
                        results = self._ask_person(flow, call, found)
                        found, usage = await self._run(messages, call, deps, results)
        finally:
            _FLOW.reset(token)
        if isinstance(found, DeferredToolRequests):
            raise TaskError(f"tool {call.tool_name!r} waits twice; one call can wait for one answer", 400, final=True)
        parts = [self._counted(messages, part) for part in found]
        flow.set(TOOL_RESULTS, [c.result_values(call, parts, usage)])

    async def _run(
        self, messages: list[ModelMessage], call: ToolCallPart, deps: Any, results: DeferredToolResults | None = None
    ) -> tuple[Sequence[ModelRequestPart] | DeferredToolRequests, RunUsage]:
        """Run the call as an agent does that goes on after a response with just this call."""
        at, response = c.last_response(messages)
        run: AgentRun[Any, Any]
        async with self.agent.iter(
            message_history=[*messages[:at], replace(response, parts=[call])],
            deferred_tool_results=results,
            output_type=run_output_type(self.agent),
            deps=deps,
            usage=RunUsage(),
        ) as run:
            node: Any = run.next_node
            while not Agent.is_end_node(node):
                if Agent.is_model_request_node(node):
                    return node.request.parts, run.usage
                node = await run.next(node)
        output = None if run.result is None else run.result.output
        if not isinstance(output, DeferredToolRequests):
            raise TaskError(f"tool {call.tool_name!r} ended the run instead of answering", 500, final=True)
        return output, run.usage

    def _ask_person(self, flow: Flow, call: ToolCallPart, asked: DeferredToolRequests) -> DeferredToolResults:
        """Pause until somebody approves the call, or gives the result that the tool leaves to others."""
        is_approval = bool(asked.approvals)
        payload: dict[str, Any] = {
            "kind": "approval" if is_approval else "result",
            "question": f"May the agent call {call.tool_name}?"
            if is_approval
            else f"What does {call.tool_name} return?",
            "tool": call.tool_name,
            "arguments": call.args_as_dict(),
        }
        if details := asked.metadata.get(call.tool_call_id):
            payload["details"] = to_jsonable_python(details)
        if is_approval:
            payload["form"] = APPROVAL_FORM
        try:
            answer = flow.interrupt(payload, self.policy.approval_timeout)
        except WaitTimeout:
            denied = ToolDenied("Nobody answered in time, so the call was not made.")
            if not is_approval:
                raise
            return DeferredToolResults(approvals={call.tool_call_id: denied})
        if not is_approval:
            return DeferredToolResults(calls={call.tool_call_id: answer})
        return DeferredToolResults(approvals={call.tool_call_id: approval(answer)})

    def _counted(self, messages: Sequence[ModelMessage], part: ModelRequestPart) -> ModelRequestPart:
        """The answer with the true number of the attempt. Raises `TaskError` if the tool has none left."""
        if not isinstance(part, ToolReturnPart) or part.outcome != "retried" or part.retry is None:
            return part
        attempt = c.failures_before(messages, part.tool_name) + 1
        most = part.retry.max_retries
        if most is not None and attempt > most:
            raise TaskError(
                f"tool {part.tool_name!r} asked {attempt} times in a row to be called again,"
                f" {most} are allowed: {part.content}",
                502,
                final=True,
            )
        return replace(part, retry=replace(part.retry, attempt=attempt))


def approval(answer: Any) -> ToolApproved | ToolDenied:
    """The decision in the data of a resume: true or false, or `{"approved", "message", "override_args"}`."""
    given = {"approved": answer} if isinstance(answer, bool) else answer
    if not isinstance(given, dict) or not isinstance(given.get("approved"), bool):
        raise TaskError(
            'an approval is answered with true or false, or with {"approved": true}: resume this step again with that',
            400,
            final=True,
        )
    if given["approved"]:
        return ToolApproved(override_args=given.get("override_args"))
    message = given.get("message")
    return ToolDenied(str(message)) if message else ToolDenied()
