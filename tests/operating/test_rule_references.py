"""Every rule that code, tests and design notes cite is in `docs/semantics.md`; users read sentences, not codes."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operating.command_lines import OPERATING, ROOT

RULES = ROOT / "docs" / "semantics.md"
WIRE = ROOT / "docs" / "wire-protocol.md"
SOURCES = sorted(
    path
    for folder in ("dwarf_nats", "tests", "bench", "migrations", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if "node_modules" not in path.parts
)
NOTES = sorted((ROOT / "docs" / "design").glob("*.md"))
FOR_USERS = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *OPERATING.rglob("*.md")} - {RULES})
SCHEMAS = sorted((ROOT / "schemas").rglob("*.json"))

_CODE = re.compile(r"\b[A-Z][1-9]\d?\b")
_SQL_COMMENT = re.compile(r"^ *-- (.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_SECTIONS = re.compile(r"\b(semantics|wire):? sections? (\d+(?:(?:, | and | to )\d+)*)", re.IGNORECASE)
_NAMED = re.compile(r"\b(semantics|wire): (?!sections? \d)([a-z][a-z-]*[a-z])", re.IGNORECASE)
_NOTE = re.compile(r"\bdesign note (\d{4})\b", re.IGNORECASE)
_BARE = re.compile(r"\bsections? \d+|\bsmall print\b|\bsemantics \d+|\barchitecture:", re.IGNORECASE)


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors that a page sets itself, and those of its headings."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#{2,} +(.+)$", text, re.MULTILINE)
    return {*_ANCHOR.findall(text), *(re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings)}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a Python file, with the line: comments, docstrings, texts below constants, comments of SQL."""
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for words in _SQL_COMMENT.findall(node.value):
                yield node.lineno, words


def unknown(text: str) -> Iterator[str]:
    """The references of a text that lead to no anchor."""
    pages = {"semantics": anchors(RULES), "wire": anchors(WIRE)}
    for code in _CODE.findall(text):
        if code.lower() not in pages["semantics"]:
            yield code
    for found in _NAMED.finditer(text):
        if found[2] not in pages[found[1].lower()]:
            yield found[0]
    for found in _SECTIONS.finditer(text):
        for number in re.findall(r"\d+", found[2]):
            if f"section-{number}" not in pages[found[1].lower()]:
                yield f"{found[1]} section {number}"
    for number in _NOTE.findall(text):
        if not any(note.name.startswith(number) for note in NOTES):
            yield f"design note {number}"
    yield from _BARE.findall(_SECTIONS.sub("", text))


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_rule_that_the_source_cites_is_in_the_rule_book() -> None:
    wrong = [
        f"{_id(path)}:{line}: {reference}"
        for path in SOURCES
        for line, text in prose(path)
        for reference in unknown(text)
    ]
    assert wrong == [], "each needs an anchor in docs/semantics.md or docs/wire-protocol.md"


@pytest.mark.parametrize("page", NOTES, ids=_id)
def test_every_rule_that_a_design_note_cites_is_in_the_rule_book(page: Path) -> None:
    assert list(unknown(page.read_text(encoding="utf-8"))) == []


def test_users_read_sentences_not_codes() -> None:
    """A code is a capital letter and a number, in brackets, as in the docstrings."""
    codes = re.compile(r"\((?:[^()]*[ ,;-])?[A-Z][1-9]\d?(?:[,;-][^()]*)?\)")
    found = [
        f"{_id(path)}: {one}"
        for path in [*FOR_USERS, *SCHEMAS]
        for one in codes.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_each_rule_has_an_anchor_of_its_name_and_only_one() -> None:
    text = RULES.read_text(encoding="utf-8")
    rules = re.findall(r'^<a id="([\w-]+)"></a>\*\*([A-Z]\d+)\b', text, re.MULTILINE)
    assert len(rules) > 70
    assert [anchor for anchor, _ in rules] == [name.lower() for _, name in rules]
    found = _ANCHOR.findall(text)
    assert len(found) == len(set(found))


def test_a_reference_that_leads_nowhere_is_found() -> None:
    text = "(X7, Z9; wire sections 1 and 99; semantics: section 4, statuses) semantics: nothing, wire: histories, section 3"
    assert list(unknown(text)) == ["Z9", "semantics: nothing", "wire section 99", "section 3"]
