"""Graphs to JSON and back (G8): the round trip is exact, and unknown keys are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import END, closest
from dwarf_nats.workflow.reducers import ReducerKind
from dwarf_nats.workflow.state import check_json, json_type

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder

G = TypeVar("G", bound="GraphBuilder")
"""The kind of graph that is read into: `make` makes one of a name."""
_GRAPH_KEYS = ("name", "entryPoint", "tasks", "transitions", "reducers", "annotations", "fanOutToFanIn")
_TASK_KEYS = ("name", "url", "fanIn")
_EDGE_KEYS = ("from", "to", "when", "switch", "withGoto", "forEach", "as", "onError")


def to_values(graph: GraphBuilder) -> dict[str, Any]:
    """The graph in the shape of its JSON; default values are left out."""
    values: dict[str, Any] = {"name": graph.name, "entryPoint": graph.entry_point}
    values["tasks"] = [
        {"name": node.name, "url": node.url, **({"fanIn": True} if node.fan_in else {})}
        for node in graph.nodes.values()
    ]
    values["transitions"] = [
        {"from": edge.source, "to": edge.target}
        | {
            key: value
            for key, value in (
                ("when", edge.when),
                ("switch", edge.switch),
                ("withGoto", edge.goto),
                ("forEach", edge.for_each),
                ("as", edge.as_),
                ("onError", edge.on_error),
            )
            if value
        }
        for edge in graph.transitions
    ]
    if graph.reducers:
        values["reducers"] = {field: str(kind) for field, kind in sorted(graph.reducers.items())}
    if graph.annotations:
        values["annotations"] = dict(sorted(graph.annotations.items()))
    return values


def to_json(graph: GraphBuilder) -> bytes:
    """Write canonical JSON. Raises `BadRequest` for a name that is no Unicode text (a lone surrogate)."""
    try:
        return orjson.dumps(to_values(graph))
    except TypeError as error:
        raise BadRequest(f"graph {graph.name!r} cannot be written as JSON: {error}") from None


def from_json(text: bytes | str, make: Callable[[str], G]) -> G:
    """Read a graph. Raises `BadRequest` that names the problem, and for an unknown key the nearest known one."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    return from_values(check_json(text, "graph"), make)


def from_values(values: Any, make: Callable[[str], G]) -> G:
    """Read a graph from parsed JSON or YAML. A null counts as absent; `fanOutToFanIn` is recomputed, never read."""
    if not isinstance(values, Mapping):
        raise BadRequest(f"a graph must be a JSON object, got {json_type(values)}")
    name = values.get("name")
    where = f"graph {name!r}" if isinstance(name, str) else "graph"
    _check_keys(values, _GRAPH_KEYS, where)
    graph = make(_text(values, "name", where))
    for at, task in enumerate(_objects(values, "tasks", where)):
        _read_task(graph, task, f"{where}, tasks[{at}]")
    for at, edge in enumerate(_objects(values, "transitions", where)):
        _read_edge(graph, edge, f"{where}, transitions[{at}]")
    entry = _text(values, "entryPoint", where)
    if entry:
        if entry not in graph.nodes:
            raise BadRequest(f"{where}: entryPoint {entry!r} is not declared in tasks: {closest(entry, graph.nodes)}")
        graph.set_entry_point(entry)
    for field, kind in _table(values, "reducers", where).items():
        if kind not in list(ReducerKind):
            raise BadRequest(
                f"{where}: unknown reducer {kind!r} for state field {field!r}: {closest(kind, list(ReducerKind))}"
            )
        graph.reducers[field] = ReducerKind(kind)
    for node, note in _table(values, "annotations", where).items():
        if node not in graph.nodes:
            raise BadRequest(
                f"{where}: annotation on {node!r}, which is not declared in tasks: {closest(node, graph.nodes)}"
            )
        graph.annotations[node] = note
    return graph


def _read_task(graph: GraphBuilder, task: Mapping[str, Any], where: str) -> None:
    _check_keys(task, _TASK_KEYS, where)
    name = _text(task, "name", where)
    if name in graph.nodes:
        raise BadRequest(f"{where}: node {name!r} is declared twice: keep one, or give the second another name")
    graph.add_task(name, _text(task, "url", where) or None)
    if _flag(task, "fanIn", where):
        graph.set_fan_in(name)


def _read_edge(graph: GraphBuilder, edge: Mapping[str, Any], where: str) -> None:
    _check_keys(edge, _EDGE_KEYS, where)
    ends = {key: _text(edge, key, where) for key in ("from", "to")}
    for key, name in ends.items():
        if name not in graph.nodes and name != END:
            raise BadRequest(
                f"{where}: {key!r} is {name!r}, which is not declared in tasks: {closest(name, graph.nodes)}"
            )
    graph.add_transition(
        ends["from"],
        ends["to"],
        when=_text(edge, "when", where),
        switch=_flag(edge, "switch", where),
        goto=_flag(edge, "withGoto", where),
        for_each=_text(edge, "forEach", where),
        as_=_text(edge, "as", where),
        on_error=_flag(edge, "onError", where),
    )


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise BadRequest(f"{where}: unknown key {key!r}: {closest(str(key), known)}")


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{where}: {key!r} must be a string, got {json_type(value)}")
    return value


def _flag(values: Mapping[str, Any], key: str, where: str) -> bool:
    value = values.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{where}: {key!r} must be true or false, got {json_type(value)}")
    return value


def _objects(values: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{where}: {key!r} must be an array, got {json_type(value)}")
    for at, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise BadRequest(f"{where}: {key}[{at}] must be an object, got {json_type(item)}")
    return value


def _table(values: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadRequest(f"{where}: {key!r} must be an object, got {json_type(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise BadRequest(f"{where}: {key!r} must map strings to strings, but {name!r} has {json_type(text)}")
    return dict(value)
