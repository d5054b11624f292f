"""Forms for answers: the fields to show, and the value that was filled in.

A form comes from the `form` of a pause's payload, a JSON Schema of an object; else from the field of the graph in which the
answer is kept; else it is one field for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dwarf_nats.console.views.graph import DrawnGraph
from dwarf_nats.console.views.text import to_json
from dwarf_nats.console.views.wire import Pause
from dwarf_nats.errors import BadRequest

WHOLE = "data"
"""Name of the one field of an answer that is no object of fields."""
PREFIX = "f."
"""Beginning of the names of fields in the page, so that none is taken for a field of the console."""
LONG = 120
"""Greatest length from which a text gets several lines."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form. `kind`: text, long, integer, number, boolean, choice or json."""

    name: str
    label: str
    kind: str
    required: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()
    """The values of a choice, as JSON."""
    value: str = ""
    least: float | None = None
    most: float | None = None
    longest: int | None = None

    @property
    def input(self) -> str:
        """Its name in the page."""
        return PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of one answer. `whole`: the answer is the value of its only field, not an object of fields."""

    fields: list[Field]
    title: str = ""
    whole: bool = False


def answer_form(pause: Pause, graph: DrawnGraph) -> Form:
    """The form for the answer to a pause."""
    node = graph.nodes.get(pause.task)
    into = (node.into or node.name) if node is not None and node.kind == "ask" else ""
    return form_of(pause.payload, into=into, fields=graph.fields)


def form_of(payload: Any, *, into: str = "", fields: Mapping[str, Any] | None = None) -> Form:
    """The form for the answer to a pause. `into`: the field of the graph that takes it; `fields`: those it declares."""
    schema = payload.get("form") if isinstance(payload, Mapping) else None
    if isinstance(schema, Mapping) and isinstance(schema.get("properties"), Mapping):
        required = schema.get("required") or ()
        found = [_field(str(name), one, required=name in required) for name, one in schema["properties"].items()]
        return Form(found, title=str(schema.get("title") or ""))
    declared = (fields or {}).get(into) if into else None
    if (
        isinstance(declared, Mapping)
        and isinstance(declared.get("type"), str)
        and declared["type"] not in ("object", "array")
    ):
        label = str(declared.get("description") or into)
        return Form([_field(WHOLE, {**declared, "title": label, "description": ""}, required=True)], whole=True)
    return Form([Field(WHOLE, "Answer", "json", help='JSON, for example true, "text" or {"ok": true}')], whole=True)


def _field(name: str, schema: Any, *, required: bool) -> Field:
    schema = schema if isinstance(schema, Mapping) else {}
    default = schema.get("default")
    kind = _kind(schema)
    value = (
        ""
        if default is None
        else default
        if isinstance(default, str) and kind in ("text", "long")
        else to_json(default)
    )
    return Field(
        name,
        str(schema.get("title") or name),
        kind,
        required=required,
        help=str(schema.get("description") or ""),
        choices=tuple(to_json(one) for one in schema.get("enum") or ()),
        value=value,
        least=_number(schema.get("minimum")),
        most=_number(schema.get("maximum")),
        longest=schema["maxLength"] if isinstance(schema.get("maxLength"), int) else None,
    )


def _kind(schema: Mapping[str, Any]) -> str:
    if isinstance(schema.get("enum"), list):
        return "choice"
    kind = schema.get("type")
    if kind == "string":
        longest = schema.get("maxLength")
        is_long = schema.get("format") == "multiline" or (isinstance(longest, int) and longest > LONG)
        return "long" if is_long else "text"
    return str(kind) if kind in ("integer", "number", "boolean") else "json"


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def answer(form: Form, given: Mapping[str, str]) -> Any:
    """The value that was filled in. Raises `BadRequest` that names every field with a mistake, and the mistake."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in form.fields:
        text = given.get(field.input, "")
        if field.kind == "boolean":
            values[field.name] = text in ("true", "on")
            continue
        if not text.strip():
            if field.required:
                problems.append(f"{field.label}: fill it in")
            continue
        value, problem = _value(field, text)
        if problem:
            problems.append(f"{field.label}: {problem}")
        else:
            values[field.name] = value
    if problems:
        raise BadRequest("; ".join(problems))
    return values.get(WHOLE) if form.whole else values


def _value(field: Field, text: str) -> tuple[Any, str]:
    """The value of a text, or why it is none."""
    if field.kind in ("text", "long"):
        too_long = field.longest is not None and len(text) > field.longest
        return text, f"at most {field.longest:,} characters" if too_long else ""
    if field.kind == "choice" and text not in field.choices:
        return None, "choose one of the values"
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        return None, "must be a number" if field.kind in ("integer", "number") else f"not JSON: {error}"
    if field.kind in ("integer", "number"):
        return value, _number_problem(field, value)
    return value, ""


def _number_problem(field: Field, value: Any) -> str:
    number = _number(value)
    if number is None:
        return "must be a number"
    if field.kind == "integer" and number != int(number):
        return "must be a whole number"
    if field.least is not None and number < field.least:
        return f"at least {field.least:g}"
    if field.most is not None and number > field.most:
        return f"at most {field.most:g}"
    return ""
