"""Every link of the documents leads somewhere: the file is there, and so is the heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.operating.command_lines import ROOT
from tests.operating.snippets import PAGES

NOTES = ROOT / "docs" / "design"
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")
_LIST_OF_REFERENCES = re.compile(r"^\[[^\]]+\]: *(\S+)", re.MULTILINE)
_SET = re.compile(r"<a id=\"([\w-]+)\"></a>")


def _ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Of all headings of a page, a second one of the same name with a number; and those the page sets itself."""
    found: set[str] = set(_SET.findall(page.read_text(encoding="utf-8")))
    for heading in re.findall(r"^#{1,6} +(.*)$", prose(page), re.MULTILINE):
        name = first = anchor(heading)
        number = 0
        while name in found:
            number += 1
            name = f"{first}-{number}"
        found.add(name)
    return found


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere; those to other sites are not looked at."""
    text = prose(page)
    for link in [*_LINK.findall(text), *_LIST_OF_REFERENCES.findall(text)]:
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, place = unquote(link).partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif place and (target.suffix != ".md" or place not in anchors(target)):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert list(broken(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_every_path_of_a_source_file_is_there(page: Path) -> None:
    """Paths in code quotes; those of the package may leave its name out."""
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|json|yml|yaml|conf|sql))`", prose(page))
    wanted = [path for path in paths if "NNNN" not in path]
    places = (ROOT, ROOT / "dwarf_nats", page.parent)
    assert [path for path in wanted if not any((place / path).exists() for place in places)] == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    """What the check is for."""
    (tmp_path / "other.md").write_text("# One `two` & three\n\n## Again\n\n## Again\n\n```sh\n# No heading\n```\n")
    page = tmp_path / "page.md"
    good = ["other.md", "other.md#one-two--three", "other.md#again-1", "#here", "https://example.com/x#y", "other%2Emd"]
    page.write_text("# Here\n" + " ".join(f"[x]({link})" for link in good))
    assert list(broken(page)) == []
    page.write_text("[a](gone.md) [b](other.md#no-heading) [c](other.md#again-2) [d](#there)\n\n[e]: gone.txt\n")
    assert [told.partition(":")[0] for told in broken(page)] == [
        "gone.md", "other.md#no-heading", "other.md#again-2", "#there", "gone.txt",
    ]  # fmt: skip


def test_the_page_of_the_design_lists_every_note() -> None:
    """In their order, each under its number and its title."""
    listed = re.findall(r"^- \[([^\]]+)\]\((\d{4}-[\w-]+\.md)\)$", (NOTES / "README.md").read_text(), re.MULTILINE)
    notes = sorted(NOTES.glob("[0-9]*.md"))
    assert [name for _, name in listed] == [note.name for note in notes]
    titles = [note.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for note in notes]
    assert [title for title, _ in listed] == titles


@pytest.mark.parametrize("note", sorted(NOTES.glob("[0-9]*.md")), ids=_ids)
def test_every_note_says_its_status_its_date_and_what_was_measured(note: Path) -> None:
    below = " ".join(note.read_text(encoding="utf-8").split("\n\n")[1].split("\n"))
    assert re.fullmatch(r"\*Status: .+\. Date: \d+ \w+ \d{4}.*\. Measured: .+\.\*", below), below
