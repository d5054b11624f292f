"""Every page that a reader runs is run: from an empty folder, each command in order, with the output it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operating.command_lines import ROOT
from tests.operating.page_runner import (
    RUN_PAGES,
    Difference,
    check_printed,
    drawing,
    exchanges,
    is_graph,
    matches,
    run_page,
    unmarked,
)
from tests.operating.snippets import PAGES, Block, blocks


def _ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=_ids)
async def test_every_command_of_a_page_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    check_printed(page, await run_page(page, tmp_path))


@pytest.mark.parametrize("page", RUN_PAGES, ids=_ids)
def test_every_block_of_such_a_page_says_how_it_is_run(page: Path) -> None:
    assert unmarked(page) == [], 'give it the title of a file, or a comment "not run: …" with the reason'


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_a_drawing_below_a_graph_is_that_graph(page: Path) -> None:
    graph: Block | None = None
    for block in blocks(page):
        if block.language == "mermaid" and graph is not None:
            assert block.text.rstrip("\n") == drawing(graph).rstrip("\n"), f"{block.shown} is not the graph above it"
        graph = block if is_graph(block) else None


@pytest.mark.parametrize(
    ("shown", "told", "same"),
    [
        ("a …  c\n", "a b c\n", True),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a.c\n", "abc\n", False),
        ("", "", True),
        ("", "a\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown: str, told: str, same: bool) -> None:
    assert matches(shown, told) is same


def test_a_console_is_read_as_commands_with_their_output(tmp_path: Path) -> None:
    block = Block(tmp_path, 1, "console", "$ one 'a\nb'\nout\n$ two\n$ three \\\n  four\nend\n")
    assert list(exchanges(block)) == [("one 'a\nb'", "out\n"), ("two", ""), ("three \\\n  four", "end\n")]


@pytest.mark.slow
async def test_a_page_that_shows_something_else_is_found(tmp_path: Path) -> None:
    """What the runner is for: a wrong output, and a command that fails."""
    page = ROOT / "docs" / "page.md"

    def at(text: str) -> Path:
        file = tmp_path / page.name
        file.write_text(text)
        return file

    wrong = at("```console\n$ echo a\nb\n```\n")
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    printed = await run_page(wrong, first)
    assert printed == [("echo a", "a\n")]
    with pytest.raises(Difference, match="prints\na"):
        check_printed(wrong, printed)
    with pytest.raises(Difference, match="exit code 3"):
        await run_page(at("```sh\n(exit 3)\n```\n"), second)
