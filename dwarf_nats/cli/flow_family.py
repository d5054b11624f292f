"""`dwarf-nats flow`: the commands of flows, put together."""

from __future__ import annotations

import typer

from dwarf_nats.cli.command import new_app
from dwarf_nats.cli.lazy_commands import LazyCommand, lazy_family

FLOW_COMMANDS = {
    "create": LazyCommand("dwarf_nats.cli.flow", "Make a flow and print its key."),
    "start": LazyCommand("dwarf_nats.cli.flow", "Start a flow that was created."),
    "run": LazyCommand("dwarf_nats.cli.flow", "Make a flow, start it, print its outcome."),
    "await": LazyCommand("dwarf_nats.cli.flow", "Wait for a flow to stop and print its outcome."),
    "get": LazyCommand("dwarf_nats.cli.flow", "Print where a flow stands, or one step of it."),
    "history": LazyCommand("dwarf_nats.cli.flow", "The steps of a flow and where it is paused."),
    "pauses": LazyCommand("dwarf_nats.cli.flow", "What a flow is paused by."),
    "mermaid": LazyCommand("dwarf_nats.cli.flow", "Print the history of a flow as a Mermaid flowchart."),
    "graph": LazyCommand("dwarf_nats.cli.flow", "The graph that a flow runs, as JSON."),
    "list": LazyCommand("dwarf_nats.cli.flow_list", "List flows, newest first."),
    "count": LazyCommand("dwarf_nats.cli.flow_list", "Count flows by status."),
    "watch": LazyCommand("dwarf_nats.cli.flow", "Print the changes of a flow until it ends."),
    "cancel": LazyCommand("dwarf_nats.cli.removal", "Cancel a flow that has not ended."),
    "delete": LazyCommand("dwarf_nats.cli.removal", "Delete a flow that is not running."),
    "purge": LazyCommand("dwarf_nats.cli.removal", "Delete the flows that match and are not running."),
    "resume": LazyCommand("dwarf_nats.cli.control", "Answer an interrupt."),
    "resume-break": LazyCommand("dwarf_nats.cli.control", "Let a flow go on that a breakpoint paused."),
    "signal": LazyCommand("dwarf_nats.cli.control", "Signal an event to the flows that wait for it."),
    "break": LazyCommand("dwarf_nats.cli.control", "Pause a flow before it runs a task."),
    "restart": LazyCommand("dwarf_nats.cli.control", "Run a stopped flow again, in place."),
    "restart-from": LazyCommand("dwarf_nats.cli.control", "Run a step again, in place, and on from there."),
    "fork": LazyCommand("dwarf_nats.cli.control", "Run a copy of an ended flow from one of its steps on."),
    "continue": LazyCommand("dwarf_nats.cli.control", "Make the next flow of a thread."),
    "find": LazyCommand("dwarf_nats.cli.tags", "Flows by tags, filters or a text."),
    "tag": LazyCommand("dwarf_nats.cli.tags", "Set or remove tags of a flow."),
    "bulk": LazyCommand("dwarf_nats.cli.bulk", "Cancel, restart, resume, delete or tag all flows that match."),
    "explain": LazyCommand("dwarf_nats.cli.explain", "Why a flow stands where it stands."),
    "stream": LazyCommand("dwarf_nats.cli.stream", "Print what a flow's tasks emit."),
}
"""The commands in the order of the help. The line of each is that of the command itself, which a test holds."""
app = new_app("Flows: make, run, look at and steer them.", family=lazy_family(FLOW_COMMANDS))


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="flow")
