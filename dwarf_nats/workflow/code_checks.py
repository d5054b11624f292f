"""The check of a workflow in code: what its tasks take is there before them, and of a type that fits.

The fields that may be set at each node are spread along the edges, each with those who may have set it. Only what can never be
right is reported: with a typed state, a field that nobody sets or declares; and two types that have no value in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dwarf_nats.workflow import conditions, node_validation, templates
from dwarf_nats.workflow.code_facts import CodeFacts, Member
from dwarf_nats.workflow.names import END, closest
from dwarf_nats.workflow.nodes import RunWorkflow, SetFields
from dwarf_nats.workflow.schema_clash import clash
from dwarf_nats.workflow.typed_values import ANY, Schema, schema_of

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Node, Transition

ON_ERROR = "onErr"
_NAME = re.compile(r"=([A-Za-z_]\w*)")
_INTEGER, _ERROR = Schema({"type": "integer"}, {}), Schema({"type": "object"}, {})


class Source(NamedTuple):
    """Somebody who may have set a field, in words, and the schema of the value by its identity."""

    words: str
    schema: Schema


Fields = dict[str, dict[str, Source]]
"""For each field those who may have set it, by their words."""


def problems(graph: GraphBuilder, facts: CodeFacts) -> Iterator[str]:
    """The problems of the types of a graph, a sentence each."""
    yield from _Check(graph, facts).problems()


class _Check:
    def __init__(self, graph: GraphBuilder, facts: CodeFacts) -> None:
        self._graph = graph
        self._facts = facts
        self._before: dict[str, Fields] = {name: {} for name in graph.nodes}
        self._gives = {name: self._given(node) for name, node in graph.nodes.items()}

    def problems(self) -> Iterator[str]:
        self._spread()
        for name, node in self._graph.nodes.items():
            yield from self._task_problems(name)
            yield from self._call_problems(node)
            for where, template in node_validation.all_templates(node):
                if ", compensate" not in where:
                    for place, source in templates.expressions(template, where):
                        yield from self._read_problems(place, source, self._before[name])
        for edge in self._graph.transitions:
            if edge.source in self._before:
                yield from self._edge_problems(edge)

    # -- spreading

    def _spread(self) -> None:
        """Spread the fields from the entry point along the edges until nothing is new."""
        state = self._facts.state or {}
        words = f"the state ({self._facts.state_name})"
        entry = self._graph.entry_point
        if entry not in self._before:
            return
        self._before[entry] = {name: {words: Source(words, one.schema)} for name, one in state.items()}
        pending = [entry]
        visited = {entry}
        while pending:
            name = pending.pop()
            for edge in self._graph.leaving(name):
                if edge.target in self._before:
                    fresh = self._merge(edge.target, self._along(edge))
                    if fresh or edge.target not in visited:
                        visited.add(edge.target)
                        pending.append(edge.target)

    def _merge(self, name: str, fields: Fields) -> bool:
        known, fresh = self._before[name], False
        for field, sources in fields.items():
            mine = known.setdefault(field, {})
            for words, source in sources.items():
                if words not in mine:
                    mine[words], fresh = source, True
        return fresh

    def _along(self, edge: Transition) -> Fields:
        """The fields that may be there after an edge was taken."""
        if edge.on_error:  # the changes of a step that fails are dropped
            words = f"node {edge.source!r}, which failed"
            return {**self._before[edge.source], ON_ERROR: {words: Source(words, _ERROR)}}
        fields = self._after(edge.source)
        if edge.for_each:
            fields |= self._element(edge, fields)
        target = self._graph.nodes[edge.target]
        if target.fan_in:
            for field in self._graph.reducers.keys() & fields.keys():
                words = f"the reducer of {field!r}"
                fields[field] = {words: Source(words, ANY)}
        return fields

    def _after(self, name: str) -> Fields:
        return {**self._before[name], **{field: {one.words: one} for field, one in self._gives[name].items()}}

    def _element(self, edge: Transition, fields: Fields) -> Fields:
        words = f"the branch for each of {edge.for_each!r}"
        items = [
            one.schema.at(inner)
            for one in fields.get(edge.for_each, {}).values()
            if isinstance(inner := one.schema.schema.get("items"), Mapping)
        ]
        item = items[0] if len(items) == 1 and len(fields[edge.for_each]) == 1 else ANY
        found = {edge.as_: item, f"{edge.as_}Index": _INTEGER, f"{edge.as_}Count": _INTEGER}
        return {name: {words: Source(words, schema)} for name, schema in found.items()}

    def _given(self, node: Node) -> dict[str, Source]:
        """The fields that a node sets."""
        where = f"node {node.name!r}"
        if (task := self._facts.tasks.get(node.name)) is not None:
            words = _words(node.name, task.place)
            return {name: Source(words, schema) for name, schema in task.gives.items()}
        if isinstance(node.action, SetFields):
            return {
                name: Source(where, _schema_of(value))
                for name, value in node.action.fields.items()
                if value is not None
            }
        if node_validation.brings_back(node.action):
            return {node.field: Source(where, self._facts.returns.get(node.name, ANY))}
        return {}

    # -- reporting

    def _task_problems(self, name: str) -> Iterator[str]:
        task = self._facts.tasks.get(name)
        if task is not None:
            words = _words(name, task.place)
            for field, taken in task.takes.items():
                yield from self._taken_problems(words, field, taken, self._before[name])
        undoing = self._facts.undoing.get(name)
        if undoing is not None:
            words = f"the compensation of {_words(name, undoing.place)}"
            for field, taken in undoing.takes.items():
                yield from self._taken_problems(words, field, taken, self._after(name))

    def _taken_problems(self, words: str, field: str, taken: Member, fields: Fields) -> Iterator[str]:
        sources = fields.get(field)
        if not sources:
            if taken.required and self._facts.state is not None:
                yield f"{words} takes {field!r}, {self._missing(field, fields)}"
            return
        for source in sources.values():
            if problem := clash(source.schema, taken.schema):
                yield f"{words} takes {field!r}, which {source.words} sets to another type: {problem}"

    def _missing(self, field: str, fields: Fields) -> str:
        later = [name for name, given in self._gives.items() if field in given]
        if later:
            return f"which only node {later[0]!r} sets, and not before it: change the order, or give it a default"
        near = closest(field, sorted(fields)) if fields else "declare it in the state"
        return (
            f"which neither {self._facts.state_name} has nor a node before it sets: declare it, or say in its return type"
            f" which task sets it ({near})"
        )

    def _call_problems(self, node: Node) -> Iterator[str]:
        called = self._facts.called.get(node.name)
        if called is None or not isinstance(node.action, RunWorkflow):
            return
        where, state = f"node {node.name!r}, input", called.state
        given = node.action.input
        for name in given.keys() - state.keys():
            yield f"{where}: the workflow {called.name!r} has no field {name!r}: {closest(name, sorted(state))}"
        for name, member in state.items():
            if name not in given:
                if member.required:
                    yield f"{where}: the workflow {called.name!r} needs {name!r} ({called.state_name}): add it"
                continue
            for source in self._sources(given[name], node.name):
                if problem := clash(source.schema, member.schema):
                    yield (
                        f"{where}: {name!r} comes from {source.words}, and is another type in the workflow"
                        f" {called.name!r} ({called.state_name}): {problem}"
                    )

    def _sources(self, template: Any, name: str) -> list[Source]:
        """Those who set the value of a template: of a field that it copies, or the template itself."""
        if isinstance(template, str) and (field := _NAME.fullmatch(template)) is not None:
            return list(self._before[name].get(field[1], {}).values())
        return [Source(f"node {name!r}", _schema_of(template))]

    def _edge_problems(self, edge: Transition) -> Iterator[str]:
        where = f"edge {edge.source!r} -> {edge.target!r}"
        fields = (
            self._along(edge)
            if edge.on_error
            else self._after(edge.source)
            if edge.target == END
            else self._along(edge)
        )
        if edge.when:
            yield from self._read_problems(f"{where}, when", edge.when, fields)
        if not edge.for_each:
            return
        if self._facts.state is not None and edge.for_each not in fields:
            yield f"{where}, for_each: it reads {edge.for_each!r}, {self._missing(edge.for_each, fields)}"
        for source in fields.get(edge.for_each, {}).values():
            if problem := clash(source.schema, Schema({"type": "array"}, {})):
                yield f"{where}, for_each: {source.words} sets {edge.for_each!r} to what is no array: {problem}"

    def _read_problems(self, where: str, expression: str, fields: Fields) -> Iterator[str]:
        if self._facts.state is None:
            return
        for name in sorted(conditions.fields_of(expression)):
            if name not in fields:
                yield f"{where}: it reads {name!r}, {self._missing(name, fields)}"


def _words(name: str, place: str) -> str:
    return f"node {name!r} ({place})" if place else f"node {name!r}"


def _schema_of(template: Any) -> Schema:
    """The schema of the value of a template: of any, if an expression gives it."""
    if isinstance(template, str):
        return ANY if templates.expression_of(template) is not None else Schema({"type": "string"}, {})
    if isinstance(template, bool | int | float):
        return schema_of(type(template))
    return Schema({"type": "array"} if isinstance(template, list) else {"type": "object"}, {})
