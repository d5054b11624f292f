"""The reference is complete: each key of a graph file has its section and its example, each code of an error its row."""

from __future__ import annotations

import json
import re

import pytest

from dwarf_nats.cli import command_reference
from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.workflow.reducers import ReducerKind
from tests.cli.test_usage import COMMANDS
from tests.operating.command_lines import ROOT
from tests.operating.snippets import GRAPH_REFERENCE, blocks, graph_with

ERRORS = ROOT / "docs" / "reference" / "errors.md"
SECTIONS = {
    "The graph": "GraphDocument",
    "A node": "GraphTask",
    "Keys of request": "SendRequestAction",
    "Keys of publish": "PublishAction",
    "Keys of wait": "WaitAction",
    "Keys of ask": "AskAction",
    "Keys of sleep": "SleepAction",
    "Keys of retry": "RetryAction",
    "Keys of compensate": "Compensate",
    "A field": "GraphField",
    "Keys of defaults": "GraphDefaults",
    "An edge": "GraphTransition",
}


def _sections() -> dict[str, list[str]]:
    """Section → its keys, each of which has an example below it."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", GRAPH_REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        keys = re.findall(r"^### (?:\w+\.)?(\w+)\n\n[^\n]+\n\n```yaml\n", text, re.MULTILINE)
        assert len(keys) == len(re.findall("^### ", text, re.MULTILINE)), f"{title}: a key without an example"
        found[title] = keys
    return found


def test_each_key_of_the_schema_has_its_section_and_nothing_else_has() -> None:
    schema = json.loads((ROOT / "schemas" / "graph_document.json").read_text())["$defs"]
    assert set(SECTIONS.values()) == {name for name, one in schema.items() if "properties" in one}
    sections = _sections()
    for title, name in SECTIONS.items():
        assert sorted(sections[title]) == sorted(schema[name]["properties"]), title


def test_each_example_uses_the_key_it_is_for() -> None:
    text = GRAPH_REFERENCE.read_text(encoding="utf-8")
    for key, example in re.findall(
        r"^### (?:\w+\.)?(\w+)\n\n[^\n]+\n\n```yaml\n(.*?)```", text, re.MULTILINE | re.DOTALL
    ):
        assert re.search(rf"\b{key}:", example), key
    assert sum(1 for one in blocks(GRAPH_REFERENCE) if one.language == "yaml") > len(SECTIONS)


def test_an_example_with_a_key_there_is_not_is_refused() -> None:
    """What the check of examples is for."""
    for wrong in ({"name": "n", "retries": 3}, {"from": "a", "to": "b", "unless": "x"}, {"reducers": {"x": "sum"}}):
        with pytest.raises(BadRequest):
            graph_with(wrong).validate()


def test_each_reducer_has_its_row() -> None:
    table = GRAPH_REFERENCE.read_text(encoding="utf-8").partition("## Reducers")[2]
    assert set(re.findall(r"`(\w+)`", table.partition("\n\nThe state")[0])) >= {one.value for one in ReducerKind}


def test_each_code_of_a_refusal_has_its_row() -> None:
    table = ERRORS.read_text(encoding="utf-8").partition("## A step failed")[0]
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE))
    assert rows == {
        str(leaf.code): leaf.__name__ for leaf in DwarfError.__subclasses__() if leaf.__module__ == "dwarf_nats.errors"
    }


def test_the_reference_of_commands_is_as_it_would_be_written() -> None:
    text = command_reference.PAGE.read_text(encoding="utf-8")
    assert text == command_reference.render(), "python -m dwarf_nats.cli.command_reference"
    for path in COMMANDS:
        assert f"\n## dwarf-nats {' '.join(path)}\n" in text
