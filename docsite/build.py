"""Build the site with Zensical from a copy of the repository's pages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docsite.drawings import draw
from docsite.pages import COPIED, LEFT_OUT, NAVIGATION, ROOT

CONFIGURATION = ROOT / "docsite" / "zensical.toml"
STYLE = "drawings.css"


class SiteBroken(Exception):
    """The site cannot be built as it is: a link leads nowhere, or a page is missing. The message is what the builder said."""


def build(output: Path, root: Path = ROOT) -> None:
    """Build the site of a checkout into a folder, which is emptied first. Raises `SiteBroken`."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        copy_pages(root, stage / "pages")
        (stage / "zensical.toml").write_text(configuration())
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(stage / "zensical.toml")],
            cwd=stage, env={"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "HOME": folder},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SiteBroken(done.stdout.split("Traceback (most recent call last)")[0].strip())
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(stage / "site", output)


def copy_pages(root: Path, target: Path) -> None:
    """Copy what the site has, with the README as its first page."""
    target.mkdir()
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy(source, target / name)
    for compose in root.glob("docker-compose*.yml"):
        shutil.copy(compose, target / compose.name)
    shutil.copy(root / "README.md", target / "index.md")
    shutil.copy(ROOT / "docsite" / STYLE, target / STYLE)
    for page in target.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        if "```mermaid" in text:
            page.write_text(draw(text), encoding="utf-8")


def configuration() -> str:
    """The configuration of the builder, with the navigation."""
    return CONFIGURATION.read_text().replace("# navigation\n", f"nav = {_toml(NAVIGATION)}\n")


def _toml(sections: dict[str, list[str]]) -> str:
    entries = [f"  {{ {json.dumps(title)} = {json.dumps(pages)} }},\n" for title, pages in sections.items()]
    return f"[\n{''.join(entries)}]"
