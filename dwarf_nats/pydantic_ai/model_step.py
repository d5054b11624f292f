"""The model step: one request to the model, and the decision what comes next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai import Agent, AgentRun
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelRequest,
    PartDeltaEvent,
    PartStartEvent,
    RetryFeedbackPart,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.tools import DeferredToolRequests, RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_ai.usage import RunUsage, UsageLimits
from pydantic_core import to_jsonable_python

from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.task_error import TaskError

from . import conversation as c
from .failures import step_errors
from .graph import ANY_TOOL, CALLING, DONE, NODES, OUTPUT, PHASE, PROMPT, field_of, node_of
from .outputs import run_output_type
from .tool_step import DepsOf, deps_for

AGAIN = "again"
_WAITING, _FAILED_ANSWERS = "calls_waiting", "failed_answers"


@dataclass
class _Outside(WrapperToolset[Any]):
    """A toolset whose tools run outside of this step: the model may call them, and the run ends with the calls."""

    @property
    def id(self) -> str | None:
        return self.wrapped.id

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        tools = await super().get_tools(ctx)
        return {name: replace(one, tool_def=replace(one.tool_def, kind="external")) for name, one in tools.items()}


@dataclass(slots=True, frozen=True, kw_only=True)
class ModelStep:
    """Serves the model node. `sequential`: tools of which no two calls of a response may run at once. `stream`: the model's
    text is emitted as it comes."""

    agent: Agent[Any, Any]
    deps: DepsOf
    limits: UsageLimits | None
    sequential: frozenset[str]
    stream: bool

    async def __call__(self, flow: Flow) -> None:
        prompt = c.read_prompt(flow)
        messages = c.read_messages(flow)
        usage = RunUsage() if prompt is not None else c.read_usage(flow)
        if prompt is None:
            c.take_results(flow, messages, usage)
            if waiting := flow.get(_WAITING, []):
                self._continue(flow, messages, usage, [c.read_call(one) for one in waiting])
                return
        if prompt is None and not messages:
            raise TaskError("there is nothing to answer: give the flow a `prompt`", 400, final=True)
        with step_errors():
            await self._ask(flow, prompt, messages, usage)

    def _continue(self, flow: Flow, messages: list[ModelMessage], usage: RunUsage, calls: list[ToolCallPart]) -> None:
        """Go on with calls that had to wait for each other."""
        c.write_messages(flow, messages)
        c.write_usage(flow, usage)
        self._call(flow, calls)

    async def _ask(self, flow: Flow, prompt: Any, messages: list[ModelMessage], usage: RunUsage) -> None:
        toolsets: list[AbstractToolset[Any]] = [_Outside(one) for one in self.agent.toolsets]
        if self.limits is not None:
            self.limits.check_before_tool_call(usage)
        run: AgentRun[Any, Any]
        async with deps_for(self.deps, flow) as deps:
            with self.agent.override(toolsets=toolsets, tools=[]):
                async with self.agent.iter(
                    prompt,
                    message_history=messages,
                    output_type=run_output_type(self.agent),
                    deps=deps,
                    usage=usage,
                    usage_limits=self.limits,
                ) as run:
                    repeated = await self._one_request(run, flow)
        flow.delete(PROMPT)
        said = list(run.all_messages())
        c.write_usage(flow, run.usage)
        if repeated is not None:
            c.write_messages(flow, [*said, repeated])
            self._repeat(flow, repeated)
            return
        c.write_messages(flow, said)
        flow.delete(_FAILED_ANSWERS)
        output = run.result.output if run.result is not None else None
        if isinstance(output, DeferredToolRequests):
            self._call(flow, output.calls)
        else:
            flow.set(OUTPUT, to_jsonable_python(output))
            flow.set(PHASE, DONE)

    async def _one_request(self, run: AgentRun[Any, Any], flow: Flow) -> ModelRequest | None:
        """Go on to the end of the run, or to its second request to the model, which is returned: it is a step of its own."""
        node = run.next_node
        asked = False
        while not Agent.is_end_node(node):
            if Agent.is_model_request_node(node):
                if asked:
                    return node.request
                asked = True
                if self.stream:
                    async with node.stream(run.ctx) as events:
                        async for event in events:
                            _emit(flow, event)
            node = await run.next(node)
        return None

    def _repeat(self, flow: Flow, request: ModelRequest) -> None:
        """Let the model answer again, if it may: its answer did not fit the output type, or called unknown tools."""
        failed = flow.get(_FAILED_ANSWERS, 0) + 1
        most = [
            part.retry.max_retries
            for part in request.parts
            if isinstance(part, ToolReturnPart | RetryFeedbackPart)
            and part.retry
            and part.retry.max_retries is not None
        ]
        if failed > max(most, default=1):
            raise TaskError(
                f"the model gave {failed} answers in a row that cannot be used; the last one: {_words(request)}",
                502,
                final=True,
            )
        flow.set(_FAILED_ANSWERS, failed)
        flow.set(PHASE, AGAIN)

    def _call(self, flow: Flow, calls: list[ToolCallPart]) -> None:
        """Let tools run: at once, or one after the other if one of them demands it."""
        in_line = any(call.tool_name in self.sequential for call in calls)
        now, later = (calls[:1], calls[1:]) if in_line else (calls, [])
        nodes = [*flow.get(NODES, []), ANY_TOOL]
        waiting: dict[str, list[dict[str, Any]]] = {node: [] for node in nodes}
        for call in now:
            node = node_of(call.tool_name)
            waiting[node if node in waiting else ANY_TOOL].append(c.call_values(call))
        flow.update({field_of(node): found for node, found in waiting.items()})
        flow.set(_WAITING, [c.call_values(call) for call in later] or None)
        flow.set(PHASE, CALLING)


def _emit(flow: Flow, event: AgentStreamEvent) -> None:
    """Emit the text of an event, if it has some."""
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        text = event.part.content
    elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        text = event.delta.content_delta
    else:
        return
    if text:
        flow.emit(text)


def _words(request: ModelRequest) -> str:
    return "; ".join(str(getattr(part, "content", part))[:300] for part in request.parts)
