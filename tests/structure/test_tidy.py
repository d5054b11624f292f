"""Sizes and habits of the code. `tidy.toml` lists what is over a limit; the list may only shrink."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dwarf_nats"
LIMITS = {
    "module": 400,  # lines
    "class": 300,  # lines
    "function": 60,  # lines
    "parameters": 8,  # without self
    "positional": 4,  # arguments of one call
    "row_by_number": 0,  # subscripts of a row
    "format_skip": 0,  # comments that keep the formatter away
}
"""The most that is allowed of each measure."""
ROWS = {"row", "rows", "r", "found", "record"}
"""Names that rows of a database go by."""
LIBRARY_CALLS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "run_in_executor", "_process_msg"}
"""Calls of libraries that take their arguments by position."""
VARIADIC = {"listed", "scalars", "max", "min", "print", "join", "zip"}
"""Functions that take a list of values as their arguments."""


@cache
def measures() -> dict[str, dict[str, int]]:
    """The measure of each place over its limit: measure → place → value."""
    found: dict[str, dict[str, int]] = {name: {} for name in LIMITS}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        module = path.relative_to(PACKAGE).as_posix()
        for measure, place, value in _measured(module, text):
            if value > LIMITS[measure]:
                found[measure][place] = max(value, found[measure].get(place, 0))
    return found


def _measured(module: str, text: str) -> Iterator[tuple[str, str, int]]:
    yield "module", module, len(text.splitlines())
    yield "format_skip", module, text.count("# fmt: " + "skip")
    tree = ast.parse(text)
    yield "row_by_number", module, sum(_is_row_by_number(node) for node in ast.walk(tree))
    yield "positional", module, max((_positional(node) for node in ast.walk(tree)), default=0)
    yield from _definitions(module, tree, "")


def _definitions(module: str, parent: ast.AST, within: str) -> Iterator[tuple[str, str, int]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef):
            place = f"{module}:{within}{node.name}"
            yield "class", place, _lines(node)
            yield from _definitions(module, node, f"{within}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{module}:{within}{node.name}"
            yield "function", place, _lines(node)
            yield "parameters", place, _parameters(node)
            yield from _definitions(module, node, f"{within}{node.name}.")
        else:
            yield from _definitions(module, node, within)


def _lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in arguments if one.arg not in ("self", "cls")])


def _positional(node: ast.AST) -> int:
    """The positional arguments of a call; starred ones do not count, nor those of drivers and `print`-like calls."""
    if not isinstance(node, ast.Call):
        return 0
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in LIBRARY_CALLS | VARIADIC or _is_log_call(node):
        return 0
    return len([one for one in node.args if not isinstance(one, ast.Starred)])


def _is_log_call(node: ast.Call) -> bool:
    """A log call: its text is a format, and the arguments are the values for it."""
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in ("debug", "info", "warning", "error", "exception", "log")
        and any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.args[:2])
    )


def _is_row_by_number(node: ast.AST) -> bool:
    if not (
        isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int)
    ):
        return False
    value = node.value
    if isinstance(value, ast.Subscript):  # rows[0][1]
        value = value.value
        return isinstance(value, ast.Name) and value.id in ROWS
    return isinstance(value, ast.Name) and value.id in ROWS - {"rows", "found"}


@cache
def exceptions() -> dict[str, dict[str, int]]:
    listed: dict[str, dict[str, int]] = tomllib.loads(Path(__file__).with_name("tidy.toml").read_text())
    return listed


@pytest.mark.parametrize("measure", LIMITS)
def test_nothing_is_over_its_limit(measure: str) -> None:
    """A place over the limit is cut, not listed. A place listed in `tidy.toml` may not grow."""
    listed = exceptions().get(measure, {})
    over = {place: value for place, value in measures()[measure].items() if value > listed.get(place, LIMITS[measure])}
    assert not over, f"{measure}: at most {LIMITS[measure]} is allowed; cut these"


@pytest.mark.parametrize("measure", LIMITS)
def test_the_list_of_exceptions_only_shrinks(measure: str) -> None:
    """A place that became better is listed with its new value, or not at all."""
    found = measures()[measure]
    better = {
        place: f"listed {value}, now {found.get(place, 'within the limit')}"
        for place, value in exceptions().get(measure, {}).items()
        if found.get(place, LIMITS[measure]) < value
    }
    assert not better, f"{measure}: lower or remove these in tests/structure/tidy.toml"


def test_exceptions_are_of_known_measures() -> None:
    assert set(exceptions()) <= set(LIMITS)


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        ("row_by_number", "a = row[3]", 1),
        ("row_by_number", "a = rows[0][1]", 1),
        ("row_by_number", "a = row['step_id'] or rows[0]", 0),
        ("positional", "f(1, 2, 3, 4, 5)", 5),
        ("positional", "f(1, 2, 3, *more, key=4)", 3),
        ("positional", "log.info('%s %s %s %s', 1, 2, 3, 4)", 0),
        ("parameters", "class A:\n    def b(self, a, *, c=1): ...", 2),
        ("function", "def a():\n    b()\n    c()", 3),
        ("class", "class A:\n    b = 1", 2),
        ("format_skip", "a = 1  # fmt: " + "skip", 1),
    ],
)
def test_the_measures_measure(measure: str, text: str, value: int) -> None:
    assert max(found for name, _, found in _measured("m.py", text) if name == measure) == value
