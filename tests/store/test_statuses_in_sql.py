"""Statements take lists of statuses and what `parked` means from one place, and misspell no status."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dwarf_nats.store
from dwarf_nats.rules.lifecycle import step_sources
from dwarf_nats.store.dialect import CANCELLABLE, LIVE, PARKED, UNFINISHED, listed
from dwarf_nats.workflow.status import Parked, Status

HOME = Path(dwarf_nats.store.__file__).parent
NAMES = "|".join(Status)
LIST = re.compile(rf"\('({NAMES})'")
NUMBER = re.compile(r"\bparked\s*(=|<>|in)\s*\(?\d")
COMPARED = re.compile(r"\bstatus\b\s*(?:=|<>|\|\| ''\s*=)\s*'(\w+)'")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The pieces of text in a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.py")), ids=lambda path: str(path.relative_to(HOME)))
def test_no_statement_spells_out_a_list_of_statuses_or_a_number_of_parked(path: Path) -> None:
    found = [(line, text) for line, text in texts(path) if LIST.search(text) or NUMBER.search(text)]
    assert not found, "use the names of store/dialect.py and workflow.status.Parked"


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.py")), ids=lambda path: str(path.relative_to(HOME)))
def test_a_statement_compares_with_a_status_that_there_is(path: Path) -> None:
    words = {word for _, text in texts(path) for word in COMPARED.findall(text)}
    assert words <= set(Status)


def test_the_lists_are_those_of_the_lifecycle() -> None:
    assert LIVE == "('running', 'interrupted')"
    assert UNFINISHED == listed(step_sources(Status.CANCELLED)) == "('created', 'pending', 'running', 'interrupted')"
    assert CANCELLABLE == "('created', 'running', 'interrupted')"
    assert f"then {Parked.BREAKER:d} else {Parked.NO:d} end" in PARKED
    assert (Parked.NO, Parked.CHILD, Parked.BREAKER) == (0, 1, 2), "databases have these numbers"
