"""Conditions: CEL over the merged state (G9). The library and the bounds: `docs/design/0002-conditions.md`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dwarf_nats.workflow import condition_functions as functions
from dwarf_nats.workflow.condition_cost import BUDGET, affordable_everywhere, cost, longest_in, weight
from dwarf_nats.workflow.condition_library import library
from dwarf_nats.workflow.condition_messages import (
    compile_problem,
    evaluation_problem,
    mixed_problem,
    printable,
    problems_in,
    type_name,
)
from dwarf_nats.workflow.condition_source import (
    MAX_LENGTH,
    MAX_NESTING,
    RESERVED,
    TYPE_NAMES,
    Token,
    field_of,
    joined,
    nesting,
    own_functions,
    tokens_of,
    type_names_as_fields,
)
from dwarf_nats.workflow.condition_tree import Call, Literal, Name, Node, Select, free_names, parts, tree_of, walk
from dwarf_nats.workflow.state import State, decode_value, to_values

if TYPE_CHECKING:
    from cel_expr_python import cel


class Verdict(NamedTuple):
    """The verdict on an edge: taken or not. `problem`: why the condition could not be evaluated, empty if it could."""

    taken: bool
    problem: str = ""


_EACH = 100
"""Cost of an expression of a template, however small it is, in units of the budget."""
_VALUE = 5
"""Cost of writing a value of a result as JSON, in units of the budget."""
_TOO_LONG = "takes too long on a state of this size: let a task work it out, and leave the result behind"
_TAKEN, _NOT_TAKEN = Verdict(taken=True), Verdict(taken=False)


class Condition(NamedTuple):
    """A compiled condition."""

    program: cel.Expression
    fields: tuple[tuple[str, str], ...]
    """The variable's name in the expression and the state field it reads."""
    whole: bool
    """It reads `state`."""
    parts: tuple[str, ...] | None
    """The fields that it reads through `state`; `None` for all."""
    tree: Node
    cheap_bytes: int
    """Bytes that each of its fields may have before its cost is worked out."""
    bounded: bool
    """It has regular expressions, which have a budget of their own."""
    yields: str
    """The type of its value where it is known not to be a boolean."""
    mixed: str
    """A comparison of values that are never equal."""
    path: tuple[str, ...]
    """The way to the value that it does nothing but name, from a field of the state or from `state`."""
    constant: Verdict | None
    """The verdict of one that reads nothing of the state, such as `true`."""


def problem_of(source: str) -> str:
    """Say in one line what is wrong with a condition; empty for a valid one (G6)."""
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
        return Verdict(taken=False, problem=f"this condition is never taken, as it is not valid: {condition}")
    if condition.constant is not None:
        return condition.constant
    variables = _variables(condition, state)
    if variables is None:
        return Verdict(taken=False, problem=_TOO_LONG)
    return _verdict(condition.program, condition.bounded, variables)


class CannotEvaluate(Exception):
    """An expression has no value on this state; the text says why."""


class Spending:
    """The cost that the expressions of one template may have together: as much as one condition (about 25 ms)."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left: float = BUDGET
        functions.begin()

    def take(self, amount: float) -> None:
        """Take what an expression costs. Raises `CannotEvaluate` if it is more than what is left."""
        self.left -= amount
        if self.left < 0:
            raise CannotEvaluate(_TOO_LONG)


def value_of(source: str, state: State, spending: Spending) -> Any:
    """Evaluate an expression of a template to a plain Python value (semantics: templates). Raises `CannotEvaluate`.

    Variables and bounds are those of conditions. Times are `datetime` and `timedelta` values.
    """
    condition = compiled(source)
    if isinstance(condition, str):
        raise CannotEvaluate(condition)
    read = _read(condition, state)
    spending.take(_EACH + _cost(condition, read, of_value=_VALUE, most=spending.left))
    try:
        result = condition.program.eval(data=_parsed(condition, read))
        if result.type() != library().Type.ERROR:
            return result.plain_value()
        problem = str(result.value())
    except Exception as error:
        problem = str(error)
    raise CannotEvaluate(printable(evaluation_problem(problem)))


def path_of(source: str) -> tuple[str, ...]:
    """The way to the value that an expression does nothing but name, such as `quote.total`; empty for any other expression.

    The first name is a field of the state. The text of such a value can be copied.
    """
    condition = compiled(source)
    return () if isinstance(condition, str) else condition.path


def _path(root: Node, tokens: list[Token]) -> tuple[str, ...]:
    names: list[str] = []
    node = root
    while not isinstance(node, Name):
        match node:
            case Select(operand, field) if ("other", "(") not in tokens:  # `has(…)` is a selection, too
                names.append(field)
                node = operand
            case Call("_[_]", [operand, Literal(str(field))]):
                names.append(field)
                node = operand
            case _:
                return ()
    names.append(field_of(node.name))
    return tuple(reversed(names))


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
        return Verdict(taken=False, problem=printable(evaluation_problem(str(error))))
    if kind == library().Type.ERROR:
        return Verdict(taken=False, problem=printable(evaluation_problem(str(value))))
    return Verdict(taken=False, problem=f"yields {type_name(kind)}, not a boolean")


def _variables(condition: Condition, state: State) -> dict[str, Any] | None:
    """The values of a condition's variables; nothing if it would take too long on them."""
    variables: dict[str, Any] = {}
    for name, field in condition.fields:
        value = state.get(field)
        if value is None:
            variables[name] = None
        elif len(value) <= condition.cheap_bytes:
            variables[name] = decode_value(value)
        else:
            return _weighed(condition, state)
    if condition.whole:
        read = _read(condition, state)
        if sum(map(len, read.values())) > condition.cheap_bytes:
            return _weighed(condition, state)
        variables["state"] = to_values(read)
    return variables


def _weighed(condition: Condition, state: State) -> dict[str, Any] | None:
    read = _read(condition, state)
    return _parsed(condition, read) if _affordable(condition, read) else None


def _read(condition: Condition, state: State) -> State:
    """The part of the state that a condition reads."""
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
    return _cost(condition, read, of_value=0, most=BUDGET) <= BUDGET


def _cost(condition: Condition, read: State, *, of_value: float, most: float) -> float:
    """The bound of an evaluation; worked out more closely if a quick one is beyond `most`."""
    weights = {name: weight(bytes(read[field])) for name, field in condition.fields if field in read}
    if condition.whole:
        weights["state"] = 1 + sum(weight(bytes(value)) for value in read.values())
    total = sum(weights.values())
    least = cost(condition.tree, weights, 1, of_value=of_value) if total <= most else total
    if least > most:
        return least
    quick = cost(condition.tree, weights, total, of_value=of_value)  # nothing is longer than all together
    if quick <= most:
        return quick
    return cost(condition.tree, weights, longest_in(_parsed(condition, read)), of_value=of_value)


def holds(source: str, state: State) -> bool:
    """Evaluate a condition; true if it is taken on this state."""
    return evaluate(source, state).taken


@lru_cache(maxsize=4096)
def compiled(source: str) -> Condition | str:
    """Compile a condition; if it is invalid, the text says what is wrong with it."""
    if len(source) > MAX_LENGTH:
        return f"it has {len(source)} characters: keep it within {MAX_LENGTH}, and let a task work out the rest"
    tokens = tokens_of(source)
    if nesting(tokens) > MAX_NESTING:
        return f"its brackets are nested deeper than {MAX_NESTING}: simplify it"
    if not tokens:
        return "it is empty: write one, or leave it out"
    condition = _compiled(source, tokens)
    return printable(condition) if isinstance(condition, str) else condition


def _compiled(source: str, tokens: list[Token]) -> Condition | str:
    as_fields = type_names_as_fields(tokens)
    if as_fields != tokens:
        source, tokens = joined(as_fields), as_fields
    names = {text for kind, text in tokens if kind == "name"} - RESERVED - TYPE_NAMES
    cel = library()
    variables = dict.fromkeys(names, cel.Type.DYN)
    try:
        program, mixed = _checked(cel.NewEnv(variables=variables), source)
        root = tree_of(program)
        problem = _argument_problem(root)
        if problem:
            return problem
        if cost(root, {}, 1) > BUDGET:
            return "it takes too long on any state: use fewer maps, sums and literals inside each other"
        own = own_functions(tokens)
        if own != tokens:
            program, _ = _checked(cel.NewEnv(variables=variables, functions=functions.declarations()), joined(own))
        result = program.return_type()
    except Exception as error:
        return compile_problem(str(error), names)
    used = frozenset(free_names(root)) & names
    return Condition(
        program=program,
        fields=tuple((name, field_of(name)) for name in sorted(used - {"state"})),
        whole="state" in used,
        parts=_through_state(root),
        tree=root,
        cheap_bytes=affordable_everywhere(root, used),
        bounded=own != tokens,
        yields="" if result in (cel.Type.BOOL, cel.Type.DYN) else type_name(result),
        mixed=mixed,
        path=_path(root, tokens) if used else (),
        constant=None if used else _verdict(program, own != tokens, {}),
    )


def _checked(environment: cel.Env, source: str) -> tuple[cel.Expression, str]:
    """Compile with types checked; with it the comparison in it that never holds, if one is known.

    Numbers of different types may be compared (`size(items) > 2.5`), and values of any types for equality, as the language
    has it at run time, although the library's check refuses that.
    """
    try:
        return environment.compile(source), ""
    except RuntimeError as error:
        mixed = list(map(mixed_problem, problems_in(str(error))))
        if not mixed or None in mixed:
            raise
        return environment.compile(source, disable_check=True), next(filter(None, mixed), "")


def _argument_problem(root: Node) -> str:
    """Say what is wrong with regular expressions and time zones that are written out; empty if nothing is."""
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
    """Say why a condition, or a part of it, never holds on any state; empty if nothing is known (a warning, G11)."""
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
