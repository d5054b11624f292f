"""Files of graphs on the command line (G8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwarf_nats.cli.graph import read_graph
from dwarf_nats.errors import BadRequest


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
