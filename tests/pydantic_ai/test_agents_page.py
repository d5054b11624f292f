"""The page on durable agents: every block of Python is run, with one of Pydantic AI's own test models."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.operating.snippets import ROOT, blocks, output


def test_every_block_of_the_page_runs_and_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(blocks(ROOT / "docs/agents.md"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "support", raising=False)
    run = 0
    for block in found:
        if block.language == "python":
            named = block.text.splitlines()[0].removeprefix("# ")
            path = tmp_path / (named if named.endswith(".py") else f"block{run}.py")
            path.write_text(block.text)
            runpy.run_path(str(path), run_name=path.stem)
            run += 1
        elif block.language == "console":
            assert capsys.readouterr().out.splitlines() == output(block)
    sys.modules.pop("support", None)
    assert run >= 5
