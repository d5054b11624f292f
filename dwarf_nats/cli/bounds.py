"""The limits of a replica as options (docs/operating/limits.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from dwarf_nats.cli.command import option_group
from dwarf_nats.settings import ServerSettings

_DEFAULT = ServerSettings()


@option_group("Limits")
@dataclass(slots=True, frozen=True)
class Bounds:
    """What may not be exceeded: 413 beyond, or a failed step."""

    max_request_bytes: Annotated[
        int, typer.Option(min=1, envvar="DWARF_MAX_REQUEST_BYTES", help="Payload of one request.")
    ] = _DEFAULT.max_request_bytes
    max_message_bytes: Annotated[
        int,
        typer.Option(
            min=0,
            envvar="DWARF_MAX_MESSAGE_BYTES",
            help="Size of a message it sends, where a leaf node takes less than its NATS server; 0: what that takes.",
        ),
    ] = _DEFAULT.max_message_bytes
    max_state_bytes: Annotated[
        int,
        typer.Option(min=1, envvar="DWARF_MAX_STATE_BYTES", help="JSON text of a state, and of what goes into one."),
    ] = _DEFAULT.max_state_bytes
    max_depth: Annotated[int, typer.Option(min=1, envvar="DWARF_MAX_DEPTH", help="Levels of nesting in a state.")] = (
        _DEFAULT.max_depth
    )
    max_branches: Annotated[int, typer.Option(min=1, envvar="DWARF_MAX_BRANCHES", help="Branches of one fan-out.")] = (
        _DEFAULT.max_branches
    )
    max_fan_out_bytes: Annotated[
        int,
        typer.Option(min=1, envvar="DWARF_MAX_FAN_OUT_BYTES", help="Inputs of the branches of one fan-out together."),
    ] = _DEFAULT.max_fan_out_bytes
    max_steps: Annotated[int, typer.Option(min=1, envvar="DWARF_MAX_STEPS", help="Steps in a row within one flow.")] = (
        _DEFAULT.max_steps
    )
    max_error_bytes: Annotated[
        int, typer.Option(min=1, envvar="DWARF_MAX_ERROR_BYTES", help="An error is cut beyond it.")
    ] = _DEFAULT.max_error_bytes
    max_history: Annotated[int, typer.Option(min=1, envvar="DWARF_MAX_HISTORY", help="Steps in one diagram.")] = (
        _DEFAULT.max_history
    )
    max_graph_bytes: Annotated[
        int, typer.Option(min=1, envvar="DWARF_MAX_GRAPH_BYTES", help="JSON text of a graph.")
    ] = _DEFAULT.max_graph_bytes
    max_nodes: Annotated[int, typer.Option(min=1, envvar="DWARF_MAX_NODES", help="Nodes of a graph.")] = (
        _DEFAULT.max_nodes
    )
    max_transitions: Annotated[
        int, typer.Option(min=1, envvar="DWARF_MAX_TRANSITIONS", help="Transitions of a graph.")
    ] = _DEFAULT.max_transitions

    def settings(self) -> dict[str, int]:
        """As `ServerSettings` takes them."""
        return asdict(self)
