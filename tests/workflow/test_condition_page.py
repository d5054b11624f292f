"""The page about conditions says what is so: its examples, its functions, its bounds (G9)."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from dwarf_nats.workflow.condition_source import FUNCTIONS, MAX_LENGTH, MAX_NESTING
from dwarf_nats.workflow.conditions import evaluate, problem_of
from dwarf_nats.workflow.state import state_from
from dwarf_nats.workflow.validation import MAX_CONDITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "conditions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| `(.*)` \| `(\{.*\})` \| (yes|no) \|$", PAGE, re.MULTILINE)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) > 15


@pytest.mark.parametrize(("source", "state", "taken"), EXAMPLES)
def test_every_example_is_taken_or_not_as_the_page_says(source: str, state: str, taken: str) -> None:
    source = source.replace("\\|", "|")
    assert problem_of(source) == ""
    assert evaluate(source, state_from(orjson.loads(state))).taken is (taken == "yes")


def test_every_function_is_on_the_page() -> None:
    table = PAGE.split("## Operators, functions and macros")[1].split("Not supported")[0]
    assert {name for name in FUNCTIONS if not re.search(rf"\b{name}\b", table)} == set()


@pytest.mark.parametrize(
    "source",
    ["optional.none() == x", "x.?y == 1", "cel.bind(q, 1, q == x)", "x.all(i, v, v > 0)", "math.greatest(1, x) == 1",
     "x.lowerAscii() == 'a'", "x.replace('a', 'b') == 'b'", "x.split(',') == []", "'%d'.format([x]) == '1'"],
)  # fmt: skip
def test_what_the_page_calls_not_supported_is_refused(source: str) -> None:
    assert problem_of(source)


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"| {MAX_LENGTH:,} characters, and {MAX_CONDITIONS:,} for all different" in PAGE
    assert f"| {MAX_NESTING} |" in PAGE
