"""Facts about the tasks of a workflow in code: what they take and give, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dwarf_nats.workflow.schema_clash import alternatives
from dwarf_nats.workflow.task_parameters import Filled, Parameter, parameters_of, place_of, result_of
from dwarf_nats.workflow.typed_values import Schema, schema_of


class Member(NamedTuple):
    """A field that is taken, or a field of a type. `required`: it must be there."""

    schema: Schema
    required: bool


class TaskFacts(NamedTuple):
    """A task function: what it takes and gives. `place`: its file and line. `gives`: the fields that its result type has."""

    place: str
    takes: dict[str, Member]
    gives: dict[str, Schema]


class Called(NamedTuple):
    """A workflow that another one calls: its name, the fields of its state, and the name of their type."""

    name: str
    state: dict[str, Member]
    state_name: str


@dataclass(slots=True)
class CodeFacts:
    """The types of a workflow, by node: of its tasks, of what other nodes bring back, and of the workflows it calls."""

    state: dict[str, Member] | None = None
    state_name: str = ""
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    undoing: dict[str, TaskFacts] = field(default_factory=dict)
    returns: dict[str, Schema] = field(default_factory=dict)
    called: dict[str, Called] = field(default_factory=dict)


def describe_task(function: Callable[..., Any]) -> TaskFacts:
    """Read what a task function takes and gives from its annotations. Raises `TypeError` as `bind` does."""
    takes: dict[str, Member] = {}
    for parameter in parameters_of(function):
        takes |= _taken(parameter)
    return TaskFacts(place=place_of(function), takes=takes, gives=_given(result_of(function)))


def members_of(schema: Schema) -> dict[str, Member] | None:
    """The fields of a record type; `None` for any other type."""
    found = list(alternatives(schema))
    if len(found) != 1 or "properties" not in found[0].schema:
        return {} if _is_empty_record(found) else None
    record = found[0]
    required = record.schema.get("required", ())
    return {name: Member(record.at(one), name in required) for name, one in record.schema["properties"].items()}


def _is_empty_record(found: list[Schema]) -> bool:
    return len(found) == 1 and found[0].schema.get("title") is not None and found[0].schema.get("type") == "object"


def _taken(parameter: Parameter) -> dict[str, Member]:
    if parameter.filled is Filled.STATE:
        return members_of(schema_of(parameter.hint)) or {}
    if parameter.filled is Filled.FIELD:
        needed = parameter.required and not parameter.optional
        return {parameter.name: Member(schema_of(parameter.hint), needed)}
    return {}


def _given(hint: Any) -> dict[str, Schema]:
    """The fields that a result of this type has; none for a mapping, whose keys are not known."""
    found: dict[str, Schema] = {}
    for one in alternatives(schema_of(hint, written=True)):
        for name, schema in (one.schema.get("properties") or {}).items():
            found[name] = one.at({}) if name in found else one.at(schema)
    return found
