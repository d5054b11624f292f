"""The documentation site: every page has its place, every link leads somewhere, and nothing comes from another host."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from docsite.build import SiteBroken, build, copy_pages
from docsite.drawings import draw
from docsite.pages import COPIED, NAVIGATION, ROOT

_LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)\"|<link[^>]*\shref=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    return folder


def test_every_page_of_the_documents_is_in_the_navigation() -> None:
    listed = {page for pages in NAVIGATION.values() for page in pages}
    documents = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
    notes = {page for page in documents if page.startswith("docs/design/") and page != "docs/design/README.md"}
    assert documents - notes - listed == set()
    assert {page for page in listed if not (ROOT / page).exists()} == {"index.md"}


@pytest.mark.slow
def test_the_site_has_all_pages_and_finds_their_words(site: Path) -> None:
    for pages in NAVIGATION.values():
        for page in pages:
            assert (site / page.replace("README.md", "index.md")).with_suffix(".html").exists(), page
    index = json.loads((site / "search.json").read_text())
    text = json.dumps(index)
    assert "idempotency" in text
    assert "docs/conditions.html" in text


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = [one or other for one, other in _LOADED.findall(page.read_text())]
        assert loaded or "examples" in page.parts  # pages of examples are copied as they are
        assert [url for url in loaded if re.match(r"(?:https?:)?//", url)] == [], page


@pytest.mark.slow
def test_links_that_lead_nowhere_break_the_build_and_are_named(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    for name in (*COPIED, "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("node_modules"))
        else:
            shutil.copy(source, root / name)
    text = "# Events\n\n[gone](no-such-page.md)\n\n[gone](concepts.md#no-such-heading)\n"
    (root / "docs" / "events.md").write_text(text)
    with pytest.raises(SiteBroken) as broken:
        build(tmp_path / "site", root)
    assert "docs/events.md:3" in str(broken.value)
    assert "docs/events.md:5" in str(broken.value)
    assert not (tmp_path / "site").exists(), "a broken build leaves what was there"


def test_links_to_files_beside_the_pages_lead_to_copies(tmp_path: Path) -> None:
    copy_pages(ROOT, tmp_path / "pages")
    for name in ("examples/shell/service.sh", "docker-compose.yml", "Dockerfile", "docs/operating/kubernetes.yaml"):
        assert (tmp_path / "pages" / name).exists()


def test_graphs_and_diagrams_of_the_pages_are_drawn() -> None:
    """Without a script: the drawing of the console stands in the page, beside the YAML or in place of the diagram."""
    drawn = draw((ROOT / "docs" / "how-to" / "retry.md").read_text())
    assert "```mermaid" not in drawn
    assert drawn.count('<svg class="graph"') == 1
    assert ">apologise</text>" in drawn
    assert "on error" in drawn
    states = draw((ROOT / "docs" / "states.md").read_text())
    assert states.count('<svg class="graph"') == 2
    assert "```mermaid" not in states


def test_every_diagram_of_the_pages_can_be_drawn() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert "```mermaid" not in draw(page.read_text()), page
