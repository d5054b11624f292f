"""Problems of conditions, explained for their author in the terms of the language instead of the library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dwarf_nats.workflow.condition_source import FUNCTIONS, MAX_NESTING
from dwarf_nats.workflow.names import closest

if TYPE_CHECKING:
    from cel_expr_python import cel

_OPERATORS = {
    "_+_": "+",
    "_-_": "-",
    "_*_": "*",
    "_/_": "/",
    "_%_": "%",
    "_==_": "==",
    "_!=_": "!=",
    "_<_": "<",
    "_<=_": "<=",
    "_>_": ">",
    "_>=_": ">=",
    "_&&_": "&&",
    "_||_": "||",
    "_?_:_": "?:",
    "_[_]": "[]",
    "@in": "in",
    "!_": "!",
    "-_": "-",
    "<jump_condition>": "?:",
}
_ENDLESS = "Iteration budget exceeded"
_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in"})
_NUMBER = re.compile(r"\b(?:int|uint|double)\b")
_PLACE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_EXPECTING = re.compile(r",? expecting (\{.*\}|'[^']*'|[A-Z_]+)| \[INVALID_ARGUMENT\]$")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'.*")
_NO_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_NO_OVERLOAD_FOUND = re.compile(
    r"No matching overloads found : (?:\((?P<of>[^)]*)\)\.)?(?P<name>\S+?)(?:\((?P<args>.*)\))?$"
)
_NO_KEY = re.compile(r"Key not found in map : \"(.*)\"$")
_STATUS = re.compile(r"^(?:[A-Z_]+: )+")
_INDEX = re.compile(r"Index error: index=(-?\d+) size=(\d+)")
_TYPES = {"int": "number", "uint": "number", "double": "number", "list": "array", "map": "object", "null": "null"}
_TYPE_WORDS = {
    "int64": "int",
    "uint64": "uint",
    "null_type": "null",
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
}


def compile_problem(text: str, names: frozenset[str] | set[str]) -> str:
    """Say what the library says of a condition it does not compile. `names`: the variables that the condition uses."""
    if "max recursion depth" in text:
        return (
            f"it nests deeper than {MAX_NESTING} (brackets, sums, selections): simplify it, or let a task work it out"
        )
    places = list(_PLACE.finditer(_EXPECTING.sub("", text)))
    found = next((one for one in places if mixed_problem(one[3]) is None), None)
    if found is None:
        return _plain(text)
    line, column, what = found[1], found[2], found[3]
    unknown = _UNDECLARED.fullmatch(what)
    if unknown:
        name = unknown[1]
        if name in FUNCTIONS:
            what = f"{name!r} does not take these arguments: see which ones it takes (docs/conditions.md)"
        elif name in names:
            what = f"there is no function {name!r}: {closest(name, sorted(FUNCTIONS))}"
        else:
            what = f"undeclared reference to {name!r}"
    else:
        no_overload = _NO_OVERLOAD.fullmatch(what)
        if no_overload:
            what = (
                f"{_operator(no_overload[1])} does not take ({_words(no_overload[2])}), there is no such overload:"
                " convert one side, for example with int() or string()"
            )
    return f"at {line}:{column}: {what}"[:300]


def evaluation_problem(text: str) -> str:
    """Say what the library says of a condition it cannot evaluate."""
    if _ENDLESS in text:
        return (
            "its loops would take 10,000 turns or more: an array of 10,000 elements cannot be searched in a condition;"
            " let a task work it out, and leave the result behind"
        )
    return _plain(text)


def _plain(text: str) -> str:
    line = _STATUS.sub("", text.strip()).splitlines()[0] if text.strip() else "cannot be evaluated"
    line = re.sub(r" \[[A-Z_]+\]$", "", line)
    if key := _NO_KEY.search(line):
        return f"no such field {key[1]!r}"
    if missing := _NO_OVERLOAD_FOUND.search(line):
        types = [one for one in (missing["of"], missing["args"]) if one]
        shown = f" ({', '.join(types)})" if types else " these values"
        return f"{_operator(missing['name'])} does not take{_words(shown)}, there is no such overload"[:300]
    if index := _INDEX.fullmatch(line):
        return f"index {index[1]} is out of bounds: the array has {index[2]} elements"
    line = line.replace("divide by zero", "division by zero")
    if line == "Applying SELECT to non-message type":
        return "a field of a value that is no object (null, text, number or list) is read"
    return line[:300]


def printable(text: str) -> str:
    """Replace control characters and line breaks, which a message may quote from a condition or a state."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _operator(name: str) -> str:
    return f"`{_OPERATORS.get(name, name.removesuffix('_') if name.endswith('_') else name)}`"


def type_name(kind: cel.Type) -> str:
    """The name of a type as it is called in JSON."""
    name = kind.name().lower()
    return next((ours for theirs, ours in _TYPES.items() if name.startswith(theirs)), name)


def problems_in(text: str) -> list[str]:
    """The problems in an error of the library's compiler, without their places."""
    return [found[3] for found in _PLACE.finditer(_EXPECTING.sub("", text))]


def mixed_problem(problem: str) -> str | None:
    """Describe a comparison across types; empty for one of numbers. `None` for any other problem."""
    found = _NO_OVERLOAD.fullmatch(problem)
    if found is None or found[1] not in _COMPARISONS:
        return None
    types = _NUMBER.sub("number", found[2])
    middle = len(types) // 2 - 1
    numbers = types == "number, number"
    if found[1] == "@in":
        numbers = re.fullmatch(r"number, (list\(number\)|map\(number, .*\))", types) is not None
        if not numbers and not re.fullmatch(r".*, (list|map)\(.*\)", types):
            return None
    elif found[1] in ("_==_", "_!=_"):
        numbers = types[:middle] == types[middle + 2 :]
    elif not numbers:
        return None
    return "" if numbers else f"compares ({_words(found[2])}) by {_operator(found[1])}, which are never equal"


def _words(types: str) -> str:
    types = re.sub(r"\((?:T%\d+(?:, )?)+\)", "", types)
    for theirs, ours in _TYPE_WORDS.items():
        types = types.replace(theirs, ours)
    return types
