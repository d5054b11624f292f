"""The graph of an agent: a model node, a node for each tool, and a loop.

    begin → model ─┬─ calls ─┬─ search ─┬─ results → model …
                   │         ├─ refund ─┤
                   │         └─ tool ───┘
                   └─ END

The model node writes the calls that it wants into one field a node. `calls` fans out over them, `results` is the fan-in.
"""

from __future__ import annotations

from collections.abc import Sequence

from dwarf_nats.workflow.graph import END, Graph

from .policy import AgentPolicy

MODEL, CALLS, RESULTS, ANY_TOOL = "model", "calls", "results", "tool"
"""Nodes of every agent; `ANY_TOOL` serves tools that have no node of their own, such as those of an MCP server."""
NODES = "tool_nodes"
"""The field with the tools that have a node in the graph of this flow, whatever the worker of today has."""
PHASE, DONE, CALLING = "phase", "done", "calls"
"""The field by which the model node says what comes next, and two of its values; any other one asks the model again."""
PROMPT, MESSAGES, OUTPUT, TOOL_RESULTS = "prompt", "messages", "output", "tool_results"
RETRIED_CODES = (408, 500, 502)
"""Errors of a model that another attempt may mend; rate limits and overload are held back by the engine itself."""
RESERVED = frozenset({"begin", MODEL, CALLS, RESULTS, ANY_TOOL, END})


def node_of(tool: str) -> str:
    """The name of a tool's node."""
    return f"{tool}_tool" if tool in RESERVED else tool


def field_of(node: str) -> str:
    """The field with the calls of a node."""
    return f"calls_{node}"


def agent_graph(name: str, tools: Sequence[str], policy: AgentPolicy) -> Graph:
    """The graph of an agent with a node for each of these tools. Raises `BadRequest` if names do not fit."""
    graph = Graph(name)
    nodes = [*(node_of(tool) for tool in tools), ANY_TOOL]
    graph.declare_field(PROMPT, "string", "array", description="What the user says: a text, or parts.")
    graph.declare_field("deps", description="Dependencies of the agent as JSON, if it takes them from the state.")
    graph.declare_field(MESSAGES, "array", description="The conversation so far, as Pydantic AI writes it.")
    graph.declare_field(OUTPUT, description="The result.")
    graph.declare_field(PHASE, "string")
    graph.declare_field(TOOL_RESULTS, "array")
    for node in nodes:
        graph.declare_field(field_of(node), "array")
    graph.set_reducer(TOOL_RESULTS, "append")
    graph.add_set("begin", {NODES: nodes[:-1]})
    graph.add_task(MODEL, f"{name}.model")
    graph.add_set(CALLS, {TOOL_RESULTS: []})
    graph.add_set(RESULTS, {field_of(node): None for node in nodes})
    graph.set_fan_in(RESULTS)
    graph.add_transition("begin", MODEL)
    graph.add_switch(MODEL, END, f"{PHASE} == '{DONE}'")
    graph.add_switch(MODEL, CALLS, f"{PHASE} == '{CALLING}'")
    graph.add_switch(MODEL, MODEL, "true")
    for tool, node in zip([*tools, ""], nodes, strict=True):
        graph.add_task(node, f"{name}.tool.{tool}" if tool else f"{name}.tool")
        graph.add_for_each(CALLS, node, field_of(node), "call")
        graph.add_transition(node, RESULTS)
        graph.set_retry(node, policy.tool_attempts, 1.0)
        if policy.tool_timeout is not None:
            graph.set_timeout(node, policy.tool_timeout)
    graph.add_transition(RESULTS, MODEL)
    graph.set_retry(MODEL, policy.model_attempts, 1.0, jitter=0.2, codes=RETRIED_CODES)
    if policy.model_timeout is not None:
        graph.set_timeout(MODEL, policy.model_timeout)
    graph.validate()
    return graph
