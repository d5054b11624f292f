"""Conditions: CEL over the merged state (G9). The library and the bounds: `docs/design/0002-conditions.md`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import cel

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.condition_cost import BUDGET, Profile, longest_in, profile, weight
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.state import State, decode_value, json_type, to_values

MAX_LENGTH = 1000
"""Characters of a condition. The parser recurses; within these two bounds it stays inside a 512 KiB stack."""
MAX_NESTING = 32
"""Open brackets at any point of a condition."""

_STRINGS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
# fmt: off
_FUNCTIONS = frozenset(
    {
        "bytes", "contains", "double", "duration", "dyn", "endsWith", "getDate", "getDayOfMonth",
        "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes",
        "getMonth", "getSeconds", "hasValue", "int", "matches", "none", "of", "ofNonZeroValue", "or",
        "orValue", "size", "startsWith", "string", "timestamp", "type", "uint", "value",
    }
)
# fmt: on


class Verdict(NamedTuple):
    """Whether the edge is taken; `problem` is why the condition could not be evaluated, empty if it could."""

    taken: bool
    problem: str = ""


class _Condition(NamedTuple):
    program: cel.Program
    fields: tuple[tuple[str, str], ...]
    """The variable's name in the expression and the state field it reads."""
    whole: tuple[str, ...]
    cost: Profile
    weighed: bool
    """Whether it depends on the state if it takes too long."""


def problem_of(source: str) -> str:
    """What is wrong with a condition, in one line; empty for a valid one (G6)."""
    try:
        _compile(source)
    except BadRequest as error:
        return error.message
    return ""


def evaluate(source: str, state: State) -> Verdict:
    """Evaluate a condition on a merged state.

    What cannot be evaluated on this state, or yields no boolean, is not taken. An absent field reads as null; `state`
    is the whole. Raises `BadRequest` for a condition that `problem_of` refuses.
    """
    condition = _compile(source)
    variables: dict[str, Any] = {}
    weights: dict[str, int] = {}
    for name, field in condition.fields:
        value = state.get(field)
        variables[name] = None if value is None else decode_value(value)
        if condition.weighed:
            weights[field] = 1 if value is None else weight(bytes(value))
    if condition.whole:
        variables.update(dict.fromkeys(condition.whole, to_values(state)))
        weights["state"] = 1 + sum(weight(bytes(value)) for value in state.values())
    if condition.weighed and not _affordable(condition.cost, weights, variables):
        return Verdict(
            False, "takes too long on a state of this size: let a task work it out, and leave the result behind"
        )
    try:
        result = condition.program.execute(variables)
    except BaseException as error:
        if not _from_library(error):
            raise
        return Verdict(False, _one_line(error))
    if result is True or result is False:
        return Verdict(result)
    return Verdict(False, f"yields {json_type(result)}, not a boolean")


def _affordable(cost: Profile, weights: dict[str, int], variables: dict[str, Any]) -> bool:
    if cost.cost(weights, sum(weights.values())) <= BUDGET:  # nothing is longer than all together
        return True
    return cost.loops and cost.cost(weights, longest_in(variables)) <= BUDGET


def holds(source: str, state: State) -> bool:
    """Whether the condition is taken on this state."""
    return evaluate(source, state).taken


@lru_cache(maxsize=4096)
def _compile(source: str) -> _Condition:
    if len(source) > MAX_LENGTH:
        raise BadRequest(
            f"it has {len(source)} characters: keep it within {MAX_LENGTH}, and let a task work out the rest"
        )
    if _nesting(source) > MAX_NESTING:
        raise BadRequest(f"its brackets are nested deeper than {MAX_NESTING}: simplify it")
    try:
        program = cel.compile(source)
    except BaseException as error:
        if not _from_library(error):
            raise
        raise BadRequest(_one_line(error)) from None
    called = [name for name in program.functions() if name.isidentifier()]
    for name in called:
        if name not in _FUNCTIONS:
            raise BadRequest(f"there is no function {name!r}: {closest(name, sorted(_FUNCTIONS))}")
    fields, whole = [], []
    for name in program.variables():
        field = name.removeprefix(".")
        if field == "state":
            whole.append(name)
        elif not (field in _TYPES and "type" in called) and not (field == "optional" and _OPTIONAL & set(called)):
            fields.append((name, field))
    cost = profile(source)
    if cost.cost({}, 0) > BUDGET:
        raise BadRequest("it takes too long on any state: use fewer maps, sums and literals inside each other")
    return _Condition(program, tuple(fields), tuple(whole), cost, not cost.harmless)


_OPTIONAL = frozenset({"of", "none", "ofNonZeroValue"})


def _nesting(source: str) -> int:
    """The most brackets open at once, those in string literals aside."""
    deepest = depth = 0
    for char in _STRINGS.sub("", source):
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    return deepest


def _from_library(error: BaseException) -> bool:
    """A panic of the extension is no `Exception`, and must not stop a replica either."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _one_line(error: BaseException) -> str:
    """The first line of the library's message that tells something, without its picture of the source."""
    text = str(error).strip()
    if "ERROR: <input>:" in text:
        text = "at " + text.split("ERROR: <input>:", 1)[1]
    line = text.splitlines()[0] if text else type(error).__name__
    return f"no such field {line}" if isinstance(error, KeyError) else line[:300]
