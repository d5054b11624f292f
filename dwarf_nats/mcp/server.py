"""The server: the tools with their hints, and refusals as errors that a model can act on."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from dwarf_nats.errors import Conflict, DwarfError, Forbidden, Internal, NotFound, TimedOut, TooMany, Unavailable
from dwarf_nats.redact import scrubbed
from dwarf_nats.sdk import Client
from dwarf_nats.version import __version__

from .answers import Answers
from .changing import ChangingTools
from .reading import ReadingTools

Tool = Callable[..., Awaitable[str]]

INSTRUCTIONS = """\
dwarf-nats runs durable workflows. A workflow is a graph of tasks; a flow is one run of it, with a JSON state; a step is one
execution of one node. A flow is created, running, interrupted (waits for a person or at a breakpoint), completed, failed or
cancelled. Keys of flows and steps are secrets that allow steering: do not publish them.
To find out why a flow does not go on, call explain_flow first. A remedy names a command of the command line; the tool of the
same verb does it: `flow resume` is resume_flow, `flow restart-from` is restart_step."""
READ_ONLY = """
This server is read-only: it has no tools that change anything."""
HINTS: dict[type[DwarfError], str] = {
    Forbidden: "The NATS user of this server lacks that right. Do not repeat the call; ask the operator to grant it.",
    NotFound: "Check the key or name: find_flows lists flows, list_workflows workflows.",
    Conflict: "Its status does not allow that: explain_flow says where it stands.",
    TimedOut: "Call wait_for_flow.",
    TooMany: "Repeat the call in a few seconds.",
    Unavailable: "Nothing is lost; repeat the call in a few seconds, and tell the operator if it stays so.",
    Internal: "It is a defect of the service: report it to the operator.",
}
"""The remedy for a model by kind of refusal; the message of the service says what was wrong."""


def build_server(client: Client, *, read_only: bool = False, payloads: bool = True) -> MCPServer:
    """Make the server of a client; the client connects at the first call and is not closed.

    `read_only`: only the tools that change nothing. Without `payloads`, states, changes and payloads are not shown.
    """
    answers = Answers(payloads=payloads)
    server: MCPServer = MCPServer(
        "dwarf-nats",
        title="dwarf-nats workflows",
        instructions=INSTRUCTIONS + (READ_ONLY if read_only else ""),
        version=__version__,
        log_level="WARNING",
    )
    reading = ReadingTools(client, answers)
    reads: tuple[Tool, ...] = (
        reading.find_flows,
        reading.count_flows,
        reading.get_flow,
        reading.explain_flow,
        reading.flow_history,
        reading.get_step,
        reading.list_workflows,
        reading.get_workflow,
        reading.wait_for_flow,
    )
    for tool in reads:
        _add(server, tool, ToolAnnotations(read_only_hint=True, open_world_hint=False))
    if read_only:
        return server
    changing = ChangingTools(client, answers)
    adds: tuple[Tool, ...] = (changing.run_workflow, changing.fork_flow, changing.signal_event)
    for tool in adds:
        _add(server, tool, ToolAnnotations(read_only_hint=False, destructive_hint=False))
    steers: tuple[Tool, ...] = (
        changing.resume_flow,
        changing.resume_breakpoint,
        changing.restart_flow,
        changing.restart_step,
        changing.cancel_flow,
    )
    for tool in steers:
        _add(server, tool, ToolAnnotations(read_only_hint=False, destructive_hint=True))
    return server


def _add(server: MCPServer, tool: Tool, hints: ToolAnnotations) -> None:
    description = " ".join((tool.__doc__ or "").split())
    server.add_tool(_telling(tool), description=description, annotations=hints, structured_output=False)


def _telling(tool: Tool) -> Tool:
    """The tool with refusals of the service as errors of the tool, with code, reason and remedy."""

    @functools.wraps(tool)
    async def called(*args: Any, **given: Any) -> str:
        try:
            return await tool(*args, **given)
        except DwarfError as error:
            raise ToolError(told(error)) from error

    return called


def told(error: DwarfError) -> str:
    """A refusal as a model is told: code, message, the flow if there is one, and what to do."""
    flow = f" (flow_key {error.details['flow_key']})" if error.details.get("flow_key") else ""
    return f"{error.code}: {scrubbed(error.message)}{flow}. {HINTS.get(type(error), '')}".strip()
