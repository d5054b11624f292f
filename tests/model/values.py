"""Values of the model: JSON as plain Python, the plain merge, the reducers, and errors by their class (S2-S5)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

State = dict[str, Any]


def canonical(value: Any) -> str:
    """The same text for the same JSON value; 1 and 1.0 are told apart, the order of keys is not."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def merged(state: Mapping[str, Any], changes: Mapping[str, Any]) -> State:
    """The plain merge: changes win, a null removes (S2, S3). A null that nobody changed stays."""
    result = dict(state)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result


# -- reducers (S4)


class CannotMerge(Exception):
    """Values of the wrong type; `problems` are the texts S4 asks for, one per value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def type_of(value: Any) -> str:
    """The JSON name of a type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {int: "number", float: "number", str: "string", list: "array", dict: "object"}[type(value)]


_WANTED = {
    "append": "array",
    "union": "array",
    "add": "number",
    "min": "number",
    "max": "number",
    "merge": "object",
    "and": "boolean",
    "or": "boolean",
    "concat": "string",
}


def reduced(reducers: Mapping[str, str], state: Mapping[str, Any], deltas: Iterable[Mapping[str, Any]]) -> State:
    """`state`, and then the deltas in their order: fields with a reducer through it, others as in a plain merge."""
    result = dict(state)
    gathered: dict[str, list[Any]] = {
        name: [state[name]] for name, kind in reducers.items() if kind != "replace" and name in state
    }
    for delta in deltas:
        for name, value in delta.items():
            if reducers.get(name, "replace") == "replace":
                result = merged(result, {name: value})
            else:
                gathered.setdefault(name, []).append(value)
    problems: list[str] = []
    for name, values in gathered.items():
        present = [value for value in values if value is not None]
        wanted = _WANTED[reducers[name]]
        article = "an" if wanted in ("array", "object") else "a"
        problems += [
            f"`{reducers[name]}` reducer on field `{name}` requires {article} {wanted}, got {type_of(value)}"
            for value in present
            if type_of(value) != wanted
        ]
        if present and not problems:
            result[name] = _fold(reducers[name], present)
    if problems:
        raise CannotMerge(problems)
    return result


def _fold(kind: str, values: list[Any]) -> Any:
    result = _union([], values[0]) if kind == "union" else values[0]
    for value in values[1:]:
        result = _TOGETHER[kind](result, value)
    return result


def _union(left: list[Any], right: list[Any]) -> list[Any]:
    result: list[Any] = []
    for value in [*left, *right]:
        if not any(_same(value, other) for other in result):
            result.append(value)
    return result


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0 and differs from true."""
    if type_of(left) != type_of(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


_TOGETHER: dict[str, Callable[[Any, Any], Any]] = {
    "append": lambda left, right: [*left, *right],
    "union": _union,
    "add": lambda left, right: left + right,
    "min": lambda left, right: right if right < left else left,
    "max": lambda left, right: right if right > left else left,
    "merge": lambda left, right: {**left, **right},
    "and": lambda left, right: left and right,
    "or": lambda left, right: left or right,
    "concat": lambda left, right: left + right,
}


# -- errors


@dataclass(frozen=True)
class Error:
    """An error of a step. What the engine finds itself has a class in guillemets for a message, and no code."""

    message: str
    code: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def value(self, task: str) -> dict[str, Any]:
        """As it stands in `onErr` (X4)."""
        return {**self.extra, "message": self.message, "code": self.code, "task": task}

    def shown(self) -> str:
        """For comparing: the error of a flow."""
        own = _own(classified(self.message))
        return canonical([classified(self.message), None if own else self.code, dict(self.extra)])


STUCK = "«cannot reach the fan-in»"
NO_GOTO = "«no such goto»"
CLASH = "«asked for two things»"
SECOND_PARK = "«parked twice»"
NO_ARRAY = "«for_each over no array»"
UNSTORABLE = "«cannot be stored»"
NO_WORKFLOW = "«no such workflow»"
TEMPLATE = "«template without a value»"
MISPLACED = "«more than a compensation can»"
TIMED_OUT = "«no event in time»"


def exhausted(tries: int) -> str:
    """The error of a retry that is not granted: it says how often the step was tried (X5)."""
    return f"«tried {tries}»"


_CLASSES: list[tuple[str, str]] = [
    (r"cannot reach its fan-in", STUCK),
    (r"asked to go to .*(no goto edge|does not hold)", NO_GOTO),
    (r"asked for .* together", CLASH),
    (r"a step waits once", SECOND_PARK),
    (r"no workflow '", NO_WORKFLOW),
    (r"requires an array, got", NO_ARRAY),
    (r"has an integer beyond signed 64 bits", UNSTORABLE),
    (r"the expression .* (cannot be evaluated|must give a text)", TEMPLATE),
    (r"needs a number of milliseconds", TEMPLATE),
    (r"it can only change the state, or fail|asked for another attempt: no retry left", MISPLACED),
    (r"event 'never' did not come within", TIMED_OUT),
]


def classified(message: str) -> str:
    """The class of an error's text: texts of tasks and of reducers stand for themselves. Stable on its own results."""
    if message.startswith(("«", "boom")) or re.match(r"`\w+` reducer on field `", message):
        return message
    tried = re.search(r"was tried (\d+) time", message)
    if tried is not None:
        return exhausted(int(tried.group(1)))
    for pattern, name in _CLASSES:
        if re.search(pattern, message):
            return name
    return f"unknown: {message}"


def normalised(value: Any) -> Any:
    """A value in which every error object has its class for a message; errors the engine found lose their code."""
    if isinstance(value, list):
        return [normalised(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() >= {"message", "code", "task"}:
        message = classified(str(value["message"]))
        code = None if _own(message) else value["code"]
        return {**value, "message": message, "code": code}
    return {name: normalised(one) for name, one in value.items()}


def _own(message: str) -> bool:
    """Whether the engine wrote it: its codes are nobody's contract."""
    return not message.startswith("boom")
