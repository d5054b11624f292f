"""The examples: their own tests pass, their graphs are sound, and their pictures show them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docsite.pictures import PICTURES, picture
from dwarf_nats.local.graph_book import graphs_of

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "tests"), [("nightly-report", 4), ("image-batch", 4), ("saga", 9)])
def test_the_tests_of_an_example_pass_as_its_readme_says(name: str, tests: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"examples/{name}"],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert f"{tests} passed" in ran.stdout


@pytest.mark.parametrize("place", PICTURES)
def test_the_picture_of_an_example_shows_its_graph(place: str) -> None:
    """The places of nodes may differ with the version of the layout; the nodes and edges may not."""
    (graph,) = graphs_of(EXAMPLES / place)
    graph.validate()
    assert graph.warnings() == []
    folder = (EXAMPLES / place).parents[1]
    drawn = (folder / Path(place).with_suffix(".svg").name).read_text()
    assert _content(drawn) == _content(picture(graph)), "run python -m docsite.pictures"
    assert f"({Path(place).with_suffix('.svg').name})" in (folder / "README.md").read_text()


def _content(svg: str) -> tuple[list[str], list[str]]:
    return re.findall(r'<text class="name"[^>]*>([^<]*)<', svg), re.findall(r'class="(edge [^"]*)"', svg)
