"""The schemas in the repository are those of the message types, and every example round-trips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from dwarf_nats.wire.examples import EXAMPLES
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.wire.schema import DIRECTORY, asyncapi, drift, json_schema, main, schema_name
from dwarf_nats.workflow.graph import Graph

KINDS = pytest.mark.parametrize("kind", list(EXAMPLES), ids=schema_name)


@KINDS
def test_the_committed_example_round_trips(kind: type[msgspec.Struct]) -> None:
    text = (DIRECTORY / "examples" / f"{schema_name(kind)}.json").read_bytes()
    value = json.loads(text)
    message = msgspec.json.decode(text, type=kind)
    again = json.loads(msgspec.json.encode(message))
    assert normal(again) == normal(value)


@KINDS
def test_the_example_is_valid_by_the_committed_schema(kind: type[msgspec.Struct]) -> None:
    schema = json.loads((DIRECTORY / f"{schema_name(kind)}.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(EXAMPLES[kind], schema, cls=jsonschema.Draft202012Validator)


def normal(value: Any) -> Any:
    """Times without their fraction's zeros, so that two spellings of one moment are equal."""
    if isinstance(value, dict):
        return {name: normal(one) for name, one in value.items()}
    if isinstance(value, list):
        return [normal(one) for one in value]
    return value.replace(".000000Z", "Z") if isinstance(value, str) else value


def test_graphs_as_they_are_written_are_valid_by_their_schema_g8() -> None:
    graph = Graph("orders")
    graph.add_task("a", "task.a")
    graph.add_transition_when("a", "b", "x > 1")
    graph.add_transition_switch("a", "b", "true")
    graph.add_transition_goto("a", "c")
    graph.add_transition_for_each("b", "c", "rows", "row")
    graph.add_transition_on_error("c", "END")
    graph.set_fan_in("c")
    graph.set_reducer("total", "add")
    graph.annotate("a", "first")
    schema = json.loads((DIRECTORY / "graph_document.json").read_bytes())
    jsonschema.validate(json.loads(graph.to_json()), schema, cls=jsonschema.Draft202012Validator)


def test_every_operation_has_an_example_of_request_and_reply() -> None:
    assert {one.request for one in OPERATIONS} | {one.reply for one in OPERATIONS} <= set(EXAMPLES)


def test_unknown_fields_fail_the_schema_of_a_request() -> None:
    schema = json_schema(OPERATIONS[0].request)
    with pytest.raises(jsonschema.ValidationError, match="nonsense"):
        jsonschema.validate({"nonsense": 1}, schema)


def test_the_repository_has_no_drift() -> None:
    assert drift() == []


def test_drift_is_found_and_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(tmp_path)]) == 1
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "outcome.json").write_text("{}")
    (tmp_path / "extra.json").write_text("{}")
    capsys.readouterr()
    assert main(["--check", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "outcome.json" in told
    assert "extra.json" in told


def test_asyncapi_refers_only_to_what_it_has() -> None:
    document = asyncapi()
    seen: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                if name == "$ref":
                    seen.append(one)
                elif name != "examples":
                    walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(document)
    for ref in seen:
        at: Any = document
        for part in ref.removeprefix("#/").split("/"):
            assert part in at, ref
            at = at[part]
    assert {one.endpoint for one in OPERATIONS} <= set(document["operations"])


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["-h"], 0), (["--chek"], 2), (["one", "two"], 2)])
def test_an_option_is_no_folder(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert "[--check] [DIR]" in "".join(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []
