"""Documents of graphs, whatever is in them: a value soon, or a refusal that says what is wrong (G8)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import documents


def _value(text: str) -> Any:
    return orjson.loads(documents.to_json(text.encode(), is_yaml=True))


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name: order\ntasks: [{name: a}]", {"name": "order", "tasks": [{"name": "a"}]}),
        ("on: push\nyes: no\noff: on\ny: n", {"on": "push", "yes": "no", "off": "on", "y": "n"}),
        ("a: true\nb: False\nc: ~\nd:\ne: null", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        ("a: 2026-11-29\nb: 12:30:45\nc: 1_000", {"a": "2026-11-29", "b": "12:30:45", "c": "1_000"}),
        ("a: 010\nb: 0o10\nc: 0x1F\nd: -7\ne: +7", {"a": 10, "b": 8, "c": 31, "d": -7, "e": 7}),
        ("a: 1e3\nb: .5\nc: 1.0\nd: -1.5e-3", {"a": 1000.0, "b": 0.5, "c": 1.0, "d": -0.0015}),
        (
            "a: '1'\nb: \"true\"\nc: !!str 1\nd: ! 1\ne: |\n  1\n",
            {"a": "1", "b": "true", "c": "1", "d": "1", "e": "1\n"},
        ),
        ("1: a\nnull: b\ntrue: c", {"1": "a", "null": "b", "true": "c"}),
        ("a: &x {b: 1}\nc: *x\nd: [*x, *x]", {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}]}),
        ("k: &k name\n*k : v", {"k": "name", "name": "v"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("d: {<<: [{a: 1}, {a: 2, b: 2}]}", {"d": {"a": 1, "b": 2}}),
        ("'<<': 1", {"<<": 1}),
        ("\ufeffa: 1", {"a": 1}),
        ("--- \na: 1\n...\n", {"a": 1}),
        ('{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        ("[]", []),
        ("text", "text"),
    ],
)
def test_g8_yaml_is_read_as_its_version_1_2(text: str, value: Any) -> None:
    assert _value(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_bomb(4), None),
        (_bomb(9), "more than 200000 values"),
        (_bomb(300), "more than 200000 values"),
        ("a: &a [*a]", "alias *a names nothing that is complete"),
        ("&a {b: *a}", "alias *a names nothing"),
        ("a: *nothing", "alias"),
        ("[" * 100_000, "nested deeper than 64"),
        ("{a: " * 100_000, "nested deeper than 64"),
        ("- " * 5_000 + "x", "nested deeper than 64"),
        ("\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 80))]), "nested deeper than 64"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is there twice"),
        ("{a: 1, 'a': 2}", "twice"),
        ("a: " + "9" * 400, "beyond 64 bits"),
        ("a: 1e400", "range of a double"),
        ("a: " + "9" * 5_000 + ".0", "range of a double"),
        ("a: .inf", "no counterpart in JSON"),
        ("a: [-.Inf, .NaN]", "no counterpart in JSON"),
        ("a: !!python/object/apply:os.system [id]", "tag !!python/object/apply:os.system is not supported"),
        ("!!python/name:os.system x", "not supported"),
        ("a: !local x", "tag !local is not supported"),
        ("a: !!binary aGk=", "not supported"),
        ("a: !!set {b, c}", "not supported"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("? [a, b]\n: 1", "a key is a list or a map"),
        ("a: {<<: 1}", "`<<` takes a map"),
        ("a: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\ta: 1", "not valid YAML"),
        ("%YAML 3.0\n---\na: 1", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("", "is empty"),
        (" \n# nothing\n", "is empty"),
        ("a: \0", "NUL"),
        ("x: [" + "1, " * 250_000 + "]", "more than 200000 values"),
    ],
)
def test_g8_what_is_no_graph_or_a_trap_is_refused_and_says_why(text: str, problem: str | None) -> None:
    if problem is None:
        assert _value(text)
        return
    with pytest.raises(BadRequest) as refused:
        _value(text)
    assert problem in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
@pytest.mark.parametrize("is_yaml", [True, False])
def test_g8_other_encodings_are_refused(encoding: str, is_yaml: bool) -> None:
    with pytest.raises(BadRequest, match="not UTF-8|NUL"):
        documents.to_json('{"name": "ä"}'.encode(encoding), is_yaml=is_yaml)


def test_g8_a_byte_order_mark_is_no_part_of_json() -> None:
    assert documents.to_json(b"\xef\xbb\xbf{}", is_yaml=False) == b"{}"


@given(st.text(alphabet="ab1:-?*&!<>[]{}|#%@, \n\t'\"\\.~e", max_size=60))
@settings(max_examples=300, deadline=None)
def test_g8_any_text_is_either_refused_or_read(text: str) -> None:
    with contextlib.suppress(BadRequest):
        _value(text)


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    """A pipe would hold the reader, and a huge file its memory."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(20 * 1024**3)  # a sparse file
    for name, problem in (("pipe", "regular"), ("folder", "regular"), ("huge", "more than 4194304 bytes")):
        with pytest.raises(BadRequest, match=problem):
            documents.read_file(tmp_path / f"{name}.yaml")
    with pytest.raises(OSError, match="symbolic links"):
        documents.read_file(tmp_path / "loop.yaml")
