"""Every class and file that the glossary names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.operating.command_lines import ROOT

PACKAGE = ROOT / "dwarf_nats"


def rows() -> Iterator[tuple[str, list[str]]]:
    """The word of each row, and the code names of its last column."""
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and cells[0] != "word" and not cells[0].startswith("---"):
            yield cells[0], re.findall(r"`([^`]+)`", cells[3])


def missing(names: list[str]) -> Iterator[str]:
    """The names in a cell such as `Class` in `folder/file.py` that the code does not have."""
    *classes, path = names
    file = PACKAGE / path
    if not file.is_file():
        yield path
        return
    defined = {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)}
    yield from (f"{name} in {path}" for name in classes if name not in defined)


def test_every_place_of_a_word_is_there() -> None:
    found = dict(rows())
    assert len(found) > 60
    assert all(names and names[-1].endswith(".py") for names in found.values())
    assert {word: gone for word, names in found.items() if (gone := list(missing(names)))} == {}
