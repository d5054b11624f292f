"""Conditions: CEL over the merged state (G9). The library and the bounds: `docs/design/0002-conditions.md`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from cel_expr_python import cel

from dwarf_nats.workflow import condition_functions as functions
from dwarf_nats.workflow.condition_cost import BUDGET, affordable_everywhere, cost, longest_in, weight
from dwarf_nats.workflow.condition_tree import Call, Literal, Name, Node, Select, free_names, parts, tree_of, walk
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.state import State, decode_value, to_values

MAX_LENGTH = 1000
"""Characters of a condition."""
MAX_NESTING = 32
"""Open brackets at any point of a condition; the library's parser has the same bound for whatever it nests."""

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<text>(?:[rR][bB]?|[bB][rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      |`[^`\n]*`)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][A-Za-z0-9.]*)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
TYPE_NAMES = frozenset({"bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"})
# fmt: off
FUNCTIONS = frozenset(
    {
        "all", "bool", "bytes", "contains", "double", "duration", "dyn", "endsWith", "exists", "exists_one", "filter",
        "has", "int", "map", "matches", "size", "startsWith", "string", "timestamp", "type", "uint",
    }
) | functions.ACCESSORS
"""Functions, conversions and macros."""
_RESERVED = frozenset(
    {
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
        "namespace", "null", "package", "return", "true", "var", "void", "while",
    }
)
_OPERATORS = {
    "_+_": "+", "_-_": "-", "_*_": "*", "_/_": "/", "_%_": "%", "_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=",
    "_>_": ">", "_>=_": ">=", "_&&_": "&&", "_||_": "||", "_?_:_": "?:", "_[_]": "[]", "@in": "in", "!_": "!", "-_": "-",
    "<jump_condition>": "?:",
}
# fmt: on
_FIELD = "__field"
_ENDLESS = "Iteration budget exceeded"


Token = tuple[str | None, str]


class Verdict(NamedTuple):
    """Whether the edge is taken; `problem` is why the condition could not be evaluated, empty if it could."""

    taken: bool
    problem: str = ""


_TAKEN, _NOT_TAKEN = Verdict(True), Verdict(False)


class Condition(NamedTuple):
    """A compiled condition."""

    program: cel.Expression
    fields: tuple[tuple[str, str], ...]
    """The variable's name in the expression and the state field it reads."""
    whole: bool
    """Whether it reads `state`."""
    parts: tuple[str, ...] | None
    """The fields that it reads through `state`; `None` for all."""
    tree: Node
    careless: int
    """Bytes which each of its fields may have without a closer look at the cost."""
    bounded: bool
    """Whether it has regular expressions, which have a budget of their own."""
    yields: str
    """The type of its value where it is known not to be a boolean."""
    mixed: str
    """A comparison of values that are never equal."""
    constant: Verdict | None
    """The verdict of one that reads nothing of the state, such as `true`."""


def problem_of(source: str) -> str:
    """What is wrong with a condition, in one line; empty for a valid one (G6)."""
    condition = compiled(source)
    return condition if isinstance(condition, str) else ""


def evaluate(source: str, state: State) -> Verdict:
    """Evaluate a condition on a merged state.

    What cannot be evaluated on this state, or yields no boolean, is not taken. An absent field reads as null; `state`
    is the whole. A condition that `problem_of` refuses is never taken: a graph that was stored when another version
    accepted it still runs (G10).
    """
    condition = compiled(source)
    if isinstance(condition, str):
        return Verdict(False, f"this condition is never taken, as it is not valid: {condition}")
    if condition.constant is not None:
        return condition.constant
    variables = _variables(condition, state)
    if variables is None:
        return Verdict(
            False, "takes too long on a state of this size: let a task work it out, and leave the result behind"
        )
    return _verdict(condition.program, condition.bounded, variables)


def _verdict(program: cel.Expression, bounded: bool, variables: dict[str, Any]) -> Verdict:
    if bounded:
        functions.begin()
    try:
        result = program.eval(data=variables)
        value = result.value()
        if value is True:
            return _TAKEN
        if value is False:
            return _NOT_TAKEN
        kind = result.type()
    except Exception as error:
        return Verdict(False, _printable(_evaluation_problem(str(error))))
    if kind == cel.Type.ERROR:
        return Verdict(False, _printable(_evaluation_problem(str(value))))
    return Verdict(False, f"yields {_type_name(kind)}, not a boolean")


def _variables(condition: Condition, state: State) -> dict[str, Any] | None:
    """The values of a condition's variables; nothing if it would take too long on them."""
    variables: dict[str, Any] = {}
    for name, field in condition.fields:
        value = state.get(field)
        if value is None:
            variables[name] = None
        elif len(value) <= condition.careless:
            variables[name] = decode_value(value)
        else:
            return _weighed(condition, state)
    if condition.whole:
        read = _read(condition, state)
        if sum(map(len, read.values())) > condition.careless:
            return _weighed(condition, state)
        variables["state"] = to_values(read)
    return variables


def _weighed(condition: Condition, state: State) -> dict[str, Any] | None:
    read = _read(condition, state)
    return _parsed(condition, read) if _affordable(condition, read) else None


def _read(condition: Condition, state: State) -> State:
    """What of the state a condition reads."""
    if condition.whole and condition.parts is None:
        return state
    names = [*(field for _, field in condition.fields), *(condition.parts or ())]
    return {name: state[name] for name in names if name in state}


def _parsed(condition: Condition, read: State) -> dict[str, Any]:
    variables: dict[str, Any] = {
        name: decode_value(read[field]) if field in read else None for name, field in condition.fields
    }
    if condition.whole:
        variables["state"] = to_values(read)
    return variables


def _affordable(condition: Condition, read: State) -> bool:
    weights = {name: weight(bytes(read[field])) for name, field in condition.fields if field in read}
    if condition.whole:
        weights["state"] = 1 + sum(weight(bytes(value)) for value in read.values())
    most = sum(weights.values())
    if most > BUDGET or cost(condition.tree, weights, 1) > BUDGET:
        return False
    if cost(condition.tree, weights, most) <= BUDGET:  # nothing is longer than all together
        return True
    return cost(condition.tree, weights, longest_in(_parsed(condition, read))) <= BUDGET


def holds(source: str, state: State) -> bool:
    """Whether the condition is taken on this state."""
    return evaluate(source, state).taken


@lru_cache(maxsize=4096)
def compiled(source: str) -> Condition | str:
    """The compiled condition, or what is wrong with it."""
    if len(source) > MAX_LENGTH:
        return f"it has {len(source)} characters: keep it within {MAX_LENGTH}, and let a task work out the rest"
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(source) if match.lastgroup != "skip"]
    if _nesting(tokens) > MAX_NESTING:
        return f"its brackets are nested deeper than {MAX_NESTING}: simplify it"
    if not tokens:
        return "it is empty: write one, or leave it out"
    condition = _compiled(source, tokens)
    return _printable(condition) if isinstance(condition, str) else condition


def _compiled(source: str, tokens: list[Token]) -> Condition | str:
    as_fields = _type_names_as_fields(tokens)
    if as_fields != tokens:
        source, tokens = _joined(as_fields), as_fields
    names = {text for kind, text in tokens if kind == "name"} - _RESERVED - TYPE_NAMES
    variables = dict.fromkeys(names, cel.Type.DYN)
    try:
        program, mixed = _checked(cel.NewEnv(variables=variables), source)
        root = tree_of(program)
        problem = _argument_problem(root)
        if problem:
            return problem
        if cost(root, {}, 1) > BUDGET:
            return "it takes too long on any state: use fewer maps, sums and literals inside each other"
        own = _own_functions(tokens)
        if own != tokens:
            program, _ = _checked(cel.NewEnv(variables=variables, functions=functions.declarations()), _joined(own))
        result = program.return_type()
    except Exception as error:
        return _compile_problem(str(error), names)
    used = frozenset(free_names(root)) & names
    return Condition(
        program,
        tuple((name, name.removesuffix(_FIELD)) for name in sorted(used - {"state"})),
        "state" in used,
        _through_state(root),
        root,
        affordable_everywhere(root, used),
        own != tokens,
        "" if result in (cel.Type.BOOL, cel.Type.DYN) else _type_name(result),
        mixed,
        None if used else _verdict(program, own != tokens, {}),
    )


def _checked(environment: cel.Env, source: str) -> tuple[cel.Expression, str]:
    """Compile with types checked; with it the comparison in it that never holds, if one is known.

    Numbers of different types may be compared (`size(items) > 2.5`), and values of any types for equality, as the language
    has it at run time, although the library's check refuses that.
    """
    try:
        return environment.compile(source), ""
    except RuntimeError as error:
        mixed = list(map(_mixed, _problems_in(str(error))))
        if not mixed or None in mixed:
            raise
        return environment.compile(source, disable_check=True), next(filter(None, mixed), "")


def _problems_in(text: str) -> list[str]:
    return [found[3] for found in _PLACE.finditer(_EXPECTING.sub("", text))]


def _mixed(problem: str) -> str | None:
    """Of a comparison across types: empty for one of numbers, what it says for others. `None` for any other problem."""
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


def _type_names_as_fields(tokens: list[Token]) -> list[Token]:
    """`int`, `list`, `type`, … are names of types only in a condition that calls `type(…)`; else they are fields, and the
    library, which knows such names already, is given others for them."""
    if any(text == "type" and tokens[at + 1 : at + 2] == [("other", "(")] for at, (_, text) in enumerate(tokens)):
        return tokens
    found = []
    for at, (kind, text) in enumerate(tokens):
        if kind == "name" and text in TYPE_NAMES:
            selected = at > 1 and tokens[at - 1][1] == "." and _ends_value(tokens[at - 2])
            called = tokens[at + 1 : at + 2] == [("other", "(")]
            if not selected and not called:
                text += _FIELD
        found.append((kind, text))
    return found


def _ends_value(token: Token) -> bool:
    kind, text = token
    return kind in ("name", "text", "number") if kind != "other" else text in ")]}"


def _nesting(tokens: list[Token]) -> int:
    """The most brackets open at once, those in string literals aside."""
    deepest = depth = 0
    for kind, text in tokens:
        if kind != "other":
            continue
        if text in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif text in ")]}":
            depth -= 1
    return deepest


def _own_functions(tokens: list[Token]) -> list[Token]:
    """The condition with calls of the functions which this package carries out itself."""
    found = []
    for at, (kind, text) in enumerate(tokens):
        following = [one for _, one in tokens[at + 1 : at + 3]]
        if kind == "name" and following[:1] == ["("]:
            method = at > 0 and tokens[at - 1][1] == "."
            if text == "matches" or (method and text in functions.ACCESSORS and following != ["(", ")"]):
                text += "_"
        found.append((kind, text))
    return found


def _joined(tokens: list[Token]) -> str:
    """Tokens as a text again: a space wherever two of them might become one."""
    out: list[str] = []
    before = ""
    for _, text in tokens:
        if (before.isalnum() or before == "_") and (text[0].isalnum() or text[0] in "_'\"."):
            out.append(" ")
        out.append(text)
        before = text[-1]
    return "".join(out)


def _argument_problem(root: Node) -> str:
    """What is wrong with regular expressions and time zones that are written out."""
    patterns, zones = set(), set()
    for node in walk(root):
        if isinstance(node, Call) and len(node.args) == 2 and isinstance(node.args[1], Literal):
            text = node.args[1].text
            if isinstance(text, str) and node.function == "matches":
                patterns.add(text)
            elif isinstance(text, str) and node.function in functions.ACCESSORS:
                zones.add(text)
    return functions.patterns_problem(patterns) or next(filter(None, map(functions.zone_problem, zones)), "")


def _through_state(root: Node) -> tuple[str, ...] | None:
    """The fields that are read through `state`, if no use of it needs all of them."""
    found: set[str] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        match node:
            case Name("state"):
                return None
            case Select(Name("state"), field):
                found.add(field)
            case Call("_[_]", [Name("state"), Literal(str(field))]) | Call("@in", [Literal(str(field)), Name("state")]):
                found.add(field)
            case _:
                pending.extend(parts(node))
    return tuple(sorted(found))


def fields_of(source: str) -> tuple[str, ...]:
    """The state fields that a condition reads by name, through `state` as well; none of an invalid one."""
    condition = compiled(source)
    if isinstance(condition, str):
        return ()
    return tuple(dict.fromkeys([*(field for _, field in condition.fields), *(condition.parts or ())]))


def literal_problem(source: str) -> str:
    """Why a condition, or a part of it, never holds, whatever the state; empty if nothing is known (a warning, G11)."""
    condition = compiled(source)
    if isinstance(condition, str):
        return condition
    if condition.yields:
        return f"yields {condition.yields}, never a boolean: compare the value with something"
    if condition.mixed:
        return condition.mixed
    if condition.fields or condition.whole:
        return ""
    problem = evaluate(source, {}).problem
    return f"cannot be evaluated ({problem})" if problem else ""


# -- messages


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
_TYPE_WORDS = {"int64": "int", "uint64": "uint", "null_type": "null", "google.protobuf.Timestamp": "timestamp",
               "google.protobuf.Duration": "duration"}  # fmt: skip


def _compile_problem(text: str, names: frozenset[str] | set[str]) -> str:
    if "max recursion depth" in text:
        return (
            f"it nests deeper than {MAX_NESTING} (brackets, sums, selections): simplify it, or let a task work it out"
        )
    places = list(_PLACE.finditer(_EXPECTING.sub("", text)))
    found = next((one for one in places if _mixed(one[3]) is None), None)
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


def _evaluation_problem(text: str) -> str:
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


def _printable(text: str) -> str:
    """Without control characters and line breaks, which a message may quote from a condition or a state."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _operator(name: str) -> str:
    return f"`{_OPERATORS.get(name, name.removesuffix('_') if name.endswith('_') else name)}`"


def _type_name(kind: cel.Type) -> str:
    name = kind.name().lower()
    return next((ours for theirs, ours in _TYPES.items() if name.startswith(theirs)), name)
