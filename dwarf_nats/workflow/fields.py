"""Declared fields of a state (G11): optional types, defaults, and the names that expressions may read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec
import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import conditions, node_validation, templates
from dwarf_nats.workflow.claims import CLAIM_TEXT, is_claim
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.nodes import Field, SetFields
from dwarf_nats.workflow.sealed import MARK_TEXT, is_sealed
from dwarf_nats.workflow.state import Raw, State

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder

ON_ERROR, CHANGES = "onErr", "changes"
_BY_FIRST = {ord('"'): "string", ord("{"): "object", ord("["): "array", ord("t"): "boolean", ord("f"): "boolean"}


def type_of(value: bytes) -> str:
    """The JSON Schema type of a value's text: `integer` for a number without a fraction, `null` for null."""
    text = bytes(value).lstrip()
    known = _BY_FIRST.get(text[0]) if text else "null"
    if known is not None:
        return known
    if text.startswith(b"n"):
        return "null"
    number = orjson.loads(text)
    return "integer" if isinstance(number, int) or number.is_integer() else "number"


def type_problem(field: Field, value: bytes) -> str:
    """Say why a value is not of the declared type; empty if it is, or if it is null, which stands for absence."""
    if field.sealed and MARK_TEXT in value and is_sealed(orjson.loads(value)):
        return ""  # of which type it is, only those who have the key can tell (B9)
    if CLAIM_TEXT in value and is_claim(orjson.loads(value)):
        return ""  # it is in the object store (B10)
    found = type_of(value)
    if not field.types or found == "null" or found in field.types:
        return ""
    if found == "integer" and "number" in field.types:
        return ""
    wanted = " or ".join(field.types)
    return f"must be {'an' if wanted[0] in 'aio' else 'a'} {wanted}, got {found}"


def value_problems(graph: GraphBuilder, values: Mapping[str, Raw]) -> Iterator[str]:
    """The values that are not of the declared types, a sentence each."""
    for name, value in values.items():
        field = graph.fields.get(name)
        if field is not None and (problem := type_problem(field, bytes(value))):
            yield f"field {name!r} {problem}"


def check_values(graph: GraphBuilder, values: Mapping[str, Raw], what: str) -> None:
    """Raise `BadRequest` for a value that is not of its declared type. `what` names the values."""
    if graph.fields:
        for problem in value_problems(graph, values):
            raise BadRequest(f"graph {graph.name!r}: {what}: {problem}")


def initial_state(graph: GraphBuilder, state: State) -> State:
    """The state of a new flow, with the defaults of what is absent.

    Raises `BadRequest` for a required field that is absent, and for a value of a wrong type.
    """
    if not graph.fields:
        return state
    check_values(graph, state, "the initial state")
    filled = dict(state)
    for name, field in graph.fields.items():
        if name in state and type_of(bytes(state[name])) != "null":
            continue
        if field.default is not msgspec.UNSET:
            filled[name] = Raw(orjson.dumps(field.default))
        elif field.required:
            near = closest(name, [one for one in state if one not in graph.fields]) if state else ""
            raise BadRequest(
                f"graph {graph.name!r}: the initial state lacks the field {name!r}, which is required: add it"
                + (f" ({near})" if near.startswith("did you mean") else "")
            )
    return filled


# -- validation


def problems(graph: GraphBuilder) -> Iterator[str]:
    """Defaults of a wrong type, and expressions that read what nobody declares or writes, or what is sealed (G6, G11)."""
    for name, field in graph.fields.items():
        if not name:
            yield "fields: a field has an empty name: name it"
        if field.default is not msgspec.UNSET and (problem := type_problem(field, orjson.dumps(field.default))):
            yield f"field {name!r}, default: it {problem}"
    if not graph.fields:
        return
    known = known_fields(graph)
    for where, name in fields_read(graph):
        if name in graph.fields and graph.fields[name].sealed:
            yield (
                f"{where}: it reads the field {name!r}, which is sealed, so the engine cannot read it: let a task decide, and"
                " write what it finds into another field"
            )
        elif name not in known:
            yield (
                f"{where}: it reads the field {name!r}, which is neither declared in fields nor written by a node:"
                f" {closest(name, sorted(known))}"
            )


def fields_read(graph: GraphBuilder) -> Iterator[tuple[str, str]]:
    """The fields that conditions, templates and for_each edges read, each with its place."""
    for where, source, beside in expressions(graph):
        yield from ((where, name) for name in conditions.fields_of(source) if name != beside)
    for edge in graph.transitions:
        if edge.for_each:
            yield f"edge {edge.source!r} -> {edge.target!r}, forEach", edge.for_each


def known_fields(graph: GraphBuilder) -> set[str]:
    """The fields that are declared, or written by a node of the graph itself."""
    known = {ON_ERROR, *graph.fields}
    for node in graph.nodes.values():
        if isinstance(node.action, SetFields):
            known |= node.action.fields.keys()
        elif node_validation.brings_back(node.action):
            known.add(node.field)
    for edge in graph.transitions:
        if edge.for_each:
            item = edge.as_ or "item"
            known |= {item, f"{item}Index", f"{item}Count"}
    return known


def expressions(graph: GraphBuilder) -> Iterator[tuple[str, str, str]]:
    """Each condition and each expression of a template: its place, its text, and a variable that it has beside the state."""
    for edge in graph.transitions:
        if edge.when:
            yield f"edge {edge.source!r} -> {edge.target!r}, when", edge.when, ""
    for node in graph.nodes.values():
        for where, template in node_validation.all_templates(node):
            beside = CHANGES if ", compensate" in where else ""
            for place, source in templates.expressions(template, where):
                yield place, source, beside
