"""Graphs to JSON and back (G8): the round trip is exact, and unknown keys are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import node_json, shapes
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.names import END, closest
from dwarf_nats.workflow.nodes import Defaults
from dwarf_nats.workflow.reducers import ReducerKind
from dwarf_nats.workflow.state import check_json, json_type

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Node

G = TypeVar("G", bound="GraphBuilder")
"""The kind of graph that is read into: `make` makes one of a name."""
_GRAPH_KEYS = (
    "name",
    "entryPoint",
    "fields",
    "defaults",
    "durability",
    "tasks",
    "transitions",
    "reducers",
    "annotations",
    "fanOutToFanIn",
)
_EDGE_KEYS = ("from", "to", "when", "switch", "withGoto", "forEach", "as", "onError")


def to_values(graph: GraphBuilder) -> dict[str, Any]:
    """The graph in the shape of its JSON; default values are left out."""
    values: dict[str, Any] = {"name": graph.name, "entryPoint": graph.entry_point}
    if graph.fields:
        values["fields"] = node_json.write_fields(graph.fields)
    if graph.defaults != Defaults():
        defaults = graph.defaults
        values["defaults"] = node_json.write_policies(
            defaults.timeout_ms, defaults.retry, queue_timeout_ms=defaults.queue_timeout_ms
        )
    if graph.pipelined:
        values["durability"] = Durability.PIPELINED.value
    values["tasks"] = [_task(node) for node in graph.nodes.values()]
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


def _task(node: Node) -> dict[str, Any]:
    values: dict[str, Any] = {"name": node.name}
    values |= {"url": node.url} if node.action is None else node_json.write_action(node.action)
    if node.into:
        values["into"] = node.into
    if node.fan_in:
        values["fanIn"] = True
    return values | node_json.write_policies(
        node.timeout_ms, node.retry, node.compensate, queue_timeout_ms=node.queue_timeout_ms
    )


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
    shapes.check_keys(values, _GRAPH_KEYS, where)
    graph = make(shapes.text(values, "name", where))
    graph.fields.update(node_json.read_fields(values, where))
    graph.defaults = node_json.read_defaults(values, where)
    graph.pipelined = _read_durability(values, where) is Durability.PIPELINED
    for at, task in enumerate(shapes.objects(values, "tasks", where)):
        _read_task(graph, task, where, at)
    for at, edge in enumerate(shapes.objects(values, "transitions", where)):
        _read_edge(graph, edge, f"{where}, transitions[{at}]")
    entry = shapes.text(values, "entryPoint", where)
    if entry:
        if entry not in graph.nodes:
            raise BadRequest(f"{where}: entryPoint {entry!r} is not declared in tasks: {closest(entry, graph.nodes)}")
        graph.set_entry_point(entry)
    for field, kind in shapes.table(values, "reducers", where).items():
        if kind not in list(ReducerKind):
            raise BadRequest(
                f"{where}: unknown reducer {kind!r} for state field {field!r}: {closest(kind, list(ReducerKind))}"
            )
        graph.reducers[field] = ReducerKind(kind)
    for node, note in shapes.table(values, "annotations", where).items():
        if node not in graph.nodes:
            raise BadRequest(
                f"{where}: annotation on {node!r}, which is not declared in tasks: {closest(node, graph.nodes)}"
            )
        graph.annotations[node] = note
    return graph


def _read_durability(values: Mapping[str, Any], where: str) -> Durability:
    given = shapes.text(values, "durability", where)
    try:
        return Durability(given or Durability.COMMITTED)
    except ValueError:
        raise BadRequest(f"{where}, durability: {given!r} is not known: {closest(given, list(Durability))}") from None


def _read_task(graph: GraphBuilder, task: Mapping[str, Any], graph_place: str, at: int) -> None:
    where = f"{graph_place}, tasks[{at}]"
    shapes.check_keys(task, node_json.TASK_KEYS, where)
    name = shapes.text(task, "name", where)
    if name in graph.nodes:
        raise BadRequest(f"{where}: node {name!r} is declared twice: keep one, or give the second another name")
    if name:
        where = f"{graph_place}, node {name!r}"
    action = node_json.read_action(task, where)
    if action is None:
        graph.add_task(name, shapes.text(task, "url", where) or None)
    else:
        graph.add_action(name, action, into=shapes.text(task, "into", where))
    node = graph.nodes.get(name)
    if node is None:  # END, a defect
        return
    node.into = shapes.text(task, "into", where)
    node.fan_in = shapes.flag(task, "fanIn", where)
    node.timeout_ms = shapes.integer(task, "timeoutMs", where)
    node.queue_timeout_ms = shapes.integer(task, "queueTimeoutMs", where)
    node.retry = node_json.read_retry(task, where)
    node.compensate = node_json.read_compensation(task, where)


def _read_edge(graph: GraphBuilder, edge: Mapping[str, Any], where: str) -> None:
    shapes.check_keys(edge, _EDGE_KEYS, where)
    ends = {key: shapes.text(edge, key, where) for key in ("from", "to")}
    for key, name in ends.items():
        if name not in graph.nodes and name != END:
            raise BadRequest(
                f"{where}: {key!r} is {name!r}, which is not declared in tasks: {closest(name, graph.nodes)}"
            )
    graph.add_transition(
        ends["from"],
        ends["to"],
        when=shapes.text(edge, "when", where),
        switch=shapes.flag(edge, "switch", where),
        goto=shapes.flag(edge, "withGoto", where),
        for_each=shapes.text(edge, "forEach", where),
        as_=shapes.text(edge, "as", where),
        on_error=shapes.flag(edge, "onError", where),
    )
