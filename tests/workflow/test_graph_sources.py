"""Graphs from files and texts, with the lines of their problems (G8)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import END, Graph

ORDER = "name: order\ntasks:\n  - name: charge\n    url: pay\ntransitions:\n  - {from: charge, to: END}\n"
UNSOUND = ORDER.replace("url: pay", "url: '?'")


def test_a_graph_is_read_from_text_and_from_files(tmp_path: Path) -> None:
    by_hand = Graph("order")
    by_hand.add_task("charge", "pay")
    by_hand.add_transition("charge", END)
    (tmp_path / "order.yaml").write_text(ORDER)
    (tmp_path / "order.json").write_bytes(by_hand.to_json())
    read = [
        Graph.from_yaml(ORDER),
        Graph.from_yaml(ORDER.encode()),
        Graph.from_yaml(tmp_path / "order.yaml"),
        Graph.from_json(by_hand.to_json()),
        Graph.from_json(tmp_path / "order.json"),
        Graph.from_file(tmp_path / "order.yaml"),
        Graph.from_file(str(tmp_path / "order.json")),
    ]
    assert all(one == by_hand for one in read)


def test_problems_are_told_with_file_and_line_when_it_is_read_and_when_it_is_validated(tmp_path: Path) -> None:
    wrong = ORDER.replace("url", "uri")
    with pytest.raises(BadRequest, match=r"^line 4: graph 'order', tasks\[0\]: unknown key 'uri'"):
        Graph.from_yaml(wrong)
    file = tmp_path / "order.yaml"
    file.write_text(wrong)
    with pytest.raises(BadRequest, match=rf"^{file}:4: graph 'order', tasks\[0\]: unknown key 'uri'"):
        Graph.from_file(file)
    graph = Graph.from_yaml(UNSOUND)
    with pytest.raises(BadRequest, match=r"^line 3: graph 'order': node 'charge' has the task url '\?'"):
        graph.validate()
    file.write_text(UNSOUND)
    with pytest.raises(BadRequest, match=rf"^{file}:3: graph 'order': node 'charge'"):
        Graph.from_yaml(file).validate()
    with pytest.raises(BadRequest, match=rf"^cannot read {tmp_path}/none.yaml: No such file"):
        Graph.from_file(tmp_path / "none.yaml")
    with pytest.raises(BadRequest, match=r"^line 1, column 1: .*not supported|^not valid YAML|^line 1"):
        Graph.from_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.slow
def test_who_reads_no_files_loads_no_yaml_library() -> None:
    code = "import sys; from dwarf_nats.sdk import Client, Worker, Graph, Workflow; print('yaml' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
