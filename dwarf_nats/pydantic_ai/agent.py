"""Serve a Pydantic AI agent as a workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import UsageLimits

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client, Flow, FlowOptions, Graph, Outcome, Worker

from .graph import ANY_TOOL, MESSAGES, MODEL, OUTPUT, PROMPT, agent_graph
from .model_step import ModelStep
from .outputs import read_output
from .policy import AgentPolicy
from .tool_step import DepsOf, ToolStep

OutputT = TypeVar("OutputT")
DepsT = TypeVar("DepsT")


@dataclass(slots=True, frozen=True, kw_only=True)
class DurableAgent(Generic[DepsT, OutputT]):
    """An agent that is served as the workflow `name`; `graph` is that workflow."""

    name: str
    agent: Agent[DepsT, OutputT]
    graph: Graph

    async def register(self, client: Client) -> None:
        """Register the workflow; the same one again changes nothing. Flows that run keep theirs."""
        await client.put_graph(self.graph)

    async def create(
        self,
        client: Client,
        prompt: str | Sequence[Any],
        *,
        thread: str = "",
        options: FlowOptions | None = None,
        start: bool = True,
        **state: Any,
    ) -> str:
        """Create a flow that answers a prompt; returns its key.

        `thread`: the key of an earlier flow, to go on with its conversation; it must be completed, else `Conflict` is raised.
        `state`: further fields for the flow, for `deps` for example.
        """
        fields = {PROMPT: prompt, **state}
        if thread:
            return await client.continue_(thread, fields, options, start=start)
        return await client.create(self.name, fields, options, start=start)

    def output(self, outcome: Outcome) -> OutputT:
        """The result of a completed flow, as the agent's output type. Raises `BadRequest` if it is not completed."""
        if OUTPUT not in outcome.state:
            raise BadRequest(f"the flow has no output: it is {outcome.status}")
        value = outcome.state[OUTPUT]
        output: OutputT = read_output(self.agent, value)
        return output

    def messages(self, outcome: Outcome) -> list[ModelMessage]:
        """The conversation of a flow that has stopped."""
        return ModelMessagesTypeAdapter.validate_python(outcome.state.get(MESSAGES, []))


def serve_agent(
    worker: Worker,
    agent: Agent[DepsT, OutputT],
    *,
    name: str = "",
    deps: DepsOf = None,
    usage_limits: UsageLimits | None = None,
    policy: AgentPolicy | None = None,
    stream: bool = False,
    register: bool = True,
) -> DurableAgent[DepsT, OutputT]:
    """Serve an agent with a worker: each request to the model and each call of a tool is a step of a flow.

    `name`: of the workflow, by default that of the agent. `deps`: called with the `Flow` of each step; returns dependencies, or
    an asynchronous context manager of them. `usage_limits`: of one flow, over all its steps. Raises `BadRequest` for a name
    that cannot be one. `stream`: ask the model for a stream, and emit its text as it comes; `client.stream` follows it.
    `register`: the worker registers the workflow when it starts, at the prefix `dwarf`; else call `DurableAgent.register`, or
    `worker.graphs(agent.graph, prefix=…)`.

    The worker serves `NAME.model`, `NAME.tool.TOOL` for each tool registered on the agent, and `NAME.tool` for all others.
    """
    policy = policy or AgentPolicy()
    name = name or agent.name or ""
    if not name:
        raise BadRequest("the agent needs a name: serve_agent(worker, agent, name=…)")
    own = {
        tool: one
        for toolset in agent.toolsets
        if isinstance(toolset, FunctionToolset)
        for tool, one in toolset.tools.items()
    }
    graph = agent_graph(name, sorted(own), policy)
    sequential = frozenset(tool for tool, one in own.items() if one.sequential)
    worker.add_task(
        f"{name}.{MODEL}",
        _task(ModelStep(agent=agent, deps=deps, limits=usage_limits, sequential=sequential, stream=stream)),
    )
    step = ToolStep(agent=agent, deps=deps, policy=policy)
    for address in (f"{name}.{ANY_TOOL}", *(f"{name}.{ANY_TOOL}.{tool}" for tool in own)):
        worker.add_task(address, _task(step))
    if register:
        worker.graphs(graph)
    return DurableAgent(name=name, agent=agent, graph=graph)


def _task(step: ModelStep | ToolStep) -> Any:
    async def run(flow: Flow) -> None:
        await step(flow)

    return run
