"""Files of graphs on the command line (G8)."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from dwarf_nats.cli.graph import read_graph, read_graph_file
from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.messages import GraphDocument
from dwarf_nats.wire.schema import json_schema
from dwarf_nats.workflow import documents

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("bomb.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nname: [" + b"*b, " * 60_000 + b"]", "more than 200000 values"),
        ("cycle.yaml", b"name: &a [*a]", "alias"),
        ("deep.yaml", b"[" * 50_000, "nested deeper"),
        ("deep.json", b"[" * 50_000, "not valid JSON"),
        ("wide.json", b"[" * 200 + b"]" * 200, "nested deeper"),
        ("python.yaml", b"!!python/object/apply:os.getcwd []", "not supported"),
        ("twice.yaml", b"name: a\nname: b", "twice"),
        ("two.yaml", b"name: a\n---\nname: b", "several documents"),
        ("utf16.yaml", "name: a".encode("utf-16"), "UTF-8"),
        ("nul.json", b'{"name": "a\0"}', "NUL"),
        ("empty.yaml", b"", "empty"),
        ("large.json", b" " * (5 * 1024 * 1024), "more than 4194304 bytes"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_and_named(tmp_path: Path, name: str, text: bytes, problem: str) -> None:
    """Whatever it holds, reading it ends."""
    (tmp_path / name).write_bytes(text)
    with pytest.raises(BadRequest, match=f"{name}: .*{problem}"):
        read_graph(str(tmp_path / name))


def test_a_folder_or_a_link_to_itself_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for path in (tmp_path, tmp_path / "loop.yaml", tmp_path / "nothing.yaml"):
        with pytest.raises(BadRequest, match="cannot read"):
            read_graph(str(path))


ORDER = b"""\
# An order.
name: order

tasks:
  - {name: check}
  - name: "it's odd"   # a name that needs quotes
    url: pay
transitions:
  - {from: check, to: "it's odd"}
  # The way back.
  - from: it's odd
    to: END
    when: %s
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ORDER.replace(b"url: pay", b"uri: pay"), 7),
        (ORDER.replace(b"url: pay", b"url: 5"), 7),
        (ORDER.replace(b'to: "it', b'to: "is'), 9),
        (ORDER.replace(b"name: order", b"nome: order"), 2),
        (ORDER + b"defaults:\n  timeoutMs: 5\n  retry: {jitter: 0,\n    attempts: 3}", 17),
        (ORDER + b"fields:\n  n: {type: integer}\n  m: {typ: integer}", 16),
        (ORDER + b"reducers: {a: append,\n  b: sum}", 15),
    ],
)
def test_a_problem_of_a_graph_is_told_with_its_line(tmp_path: Path, text: bytes, line: int) -> None:
    """An editor can jump to it; comments and quotes do not shift it."""
    (tmp_path / "order.yaml").write_bytes(text.replace(b"%s", b'"true"'))
    with pytest.raises(BadRequest, match=rf"order\.yaml:{line}: graph"):
        read_graph(str(tmp_path / "order.yaml"))


def test_a_json_file_has_lines_as_well(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(
        '{\n  "name": "order",\n  "tasks": [\n    {"name": "a"},\n\t{"name": "a"}\n  ]\n}'
    )
    with pytest.raises(BadRequest, match=r"order\.json:5: graph 'order', tasks\[1\]: node 'a' is declared twice"):
        read_graph(str(tmp_path / "order.json"))


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("graph 'order': node \"it's odd\" has an empty name", 6),
        ("graph 'order': node \"it's odd\", url: it is too long", 7),
        ("graph 'order', node \"it's odd\", request.subject: it is empty", 6),
        ("graph 'order': edge \"it's odd\" -> 'END' has the invalid condition '1 +': no end", 13),
        ("graph 'order': edge \"it's odd\" -> 'END', when: no end", 13),
        ("graph 'order': the entry point 'x' is no node", None),
        ("graph 'order': 'tasks' must be an array, got string", 4),
        ("graph 'order', tasks[1].url: it is too long", 7),
        ("graph 'order': fields.total.type: there is no such type", None),
        ("something else", None),
    ],
)
def test_the_words_of_a_problem_lead_to_its_line(tmp_path: Path, problem: str, line: int | None) -> None:
    """Those of the service as well."""
    (tmp_path / "order.yaml").write_bytes(ORDER.replace(b"%s", b'"true"'))
    place = "order.yaml" if line is None else f"order.yaml:{line}"
    assert read_graph_file(str(tmp_path / "order.yaml")).at(problem).endswith(f"/{place}: {problem}")


def test_the_place_of_a_warning_is_that_of_the_expression(tmp_path: Path) -> None:
    """G11: of a template inside a list, with comments around it."""
    (tmp_path / "order.yaml").write_text(
        "name: order\ntasks:\n  - name: quote\n    # The price.\n    request:\n      subject: price\n      payload:\n"
        "        lines:\n          - 1\n          - =1/0  # oh\ntransitions:\n  - {from: quote, to: END}\n"
    )
    file = read_graph_file(str(tmp_path / "order.yaml"))
    (warning,) = file.graph.warnings()
    assert file.at(warning).endswith(
        "/order.yaml:10: node 'quote', request.payload.lines[1]: its expression '1/0' cannot be evaluated on any state"
        " (division by zero)"
    )


def test_a_line_of_what_an_alias_repeats_is_that_of_the_alias(tmp_path: Path) -> None:
    text = "name: a\nx-shared: &edge\n  from: a\n  to: b\ntasks: [{name: a}]\ntransitions:\n  - *edge\n"
    (tmp_path / "a.yaml").write_text(text.replace("x-shared", "annotations"))
    file = tmp_path / "a.yaml"
    with pytest.raises(BadRequest, match=r"a\.yaml:7: graph 'a', transitions\[0\]"):
        read_graph(str(file))


def test_the_schema_accepts_the_graphs_of_the_examples() -> None:
    """G8: what `dwarf-nats graph schema` prints is what editors check files by."""
    checker = jsonschema.Draft202012Validator(json_schema(GraphDocument))
    files = [path for path in sorted(EXAMPLES.rglob("*.yaml")) if "tasks:" in path.read_text()]  # not a schedule
    assert len(files) >= 4
    for path in files:
        checker.validate(documents.from_yaml(path.read_text()))
        read_graph(str(path)).validate()
    with pytest.raises(jsonschema.ValidationError, match="subjekt"):
        checker.validate({"name": "a", "tasks": [{"name": "a", "request": {"subjekt": "x"}}]})


def test_the_schema_describes_what_people_write() -> None:
    """An editor shows these sentences."""
    described = json_schema(GraphDocument)["$defs"]
    assert "template" in described["SendRequestAction"]["description"].lower()
    for name in ("GraphTask", "RetryAction", "WaitAction", "GraphField"):
        assert described[name]["description"].endswith(".")
