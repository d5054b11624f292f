"""Arguments of the client's methods as fields of requests, and refusals of values of the wrong type.

Type checkers find such values, too, but not everybody runs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.codec import filter_fields
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.state import check_state, encode_value, json_type
from dwarf_nats.workflow.typed_values import Record, is_record

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph

Values: TypeAlias = Mapping[str, Any] | Record | bytes | None
"""A state or overrides: a mapping, a dataclass, a msgspec struct, a pydantic model, or the JSON text of an object."""


def json_object(values: Values, what: str) -> Raw | UnsetType:
    """A state or overrides as JSON text. `what` names them in messages.

    Raises `BadRequest` for values that are no object, or that cannot be written as JSON.
    """
    if values is None:
        return UNSET
    if isinstance(values, bytes):
        check_state(values, what)
        return Raw(values)
    if is_record(values):
        text = encode_value(values, what)
        check_state(text, what)
        return Raw(text)
    if not isinstance(values, Mapping):
        raise BadRequest(
            f"{what} must be a mapping (or a dataclass, a struct, a pydantic model, JSON text as bytes),"
            f" got {json_type(values)}"
        )
    return Raw(encode_value(dict(values), what))


def workflow_fields(workflow: str | Graph) -> tuple[str | UnsetType, Raw | UnsetType]:
    """The fields `workflow` and `graph` of a request: one of them is set. Raises `BadRequest` for any other type."""
    if isinstance(workflow, str):
        return workflow, UNSET
    return UNSET, Raw(graph_json(workflow))


def graph_json(graph: Graph) -> bytes:
    """A graph as JSON text. Raises `BadRequest` for a value of another type."""
    from dwarf_nats.workflow.graph import Graph

    if not isinstance(graph, Graph):
        raise BadRequest(f"a graph must be a Graph, got {type(graph).__name__}: read JSON text with Graph.from_json")
    graph.check()
    return graph.to_json()


def check_options(options: FlowOptions | None) -> None:
    """Raise `BadRequest` unless the options are `FlowOptions`, or none."""
    if options is not None and not isinstance(options, FlowOptions):
        raise BadRequest(f"options must be FlowOptions, got {type(options).__name__}: write FlowOptions(priority=1)")


def query_fields(query: Query) -> dict[str, Any]:
    """The filters of a list or purge request; filters that are not set are left out. Raises `BadRequest` for another type."""
    if not isinstance(query, Query):
        raise BadRequest(f'a query must be a Query, got {type(query).__name__}: write Query(status="failed")')
    return filter_fields(query)
