"""The changelog and its fragments have the form that a release can put together."""

from __future__ import annotations

import re

from tests.operating.command_lines import ROOT

KINDS = ["added", "changed", "deprecated", "removed", "fixed", "security"]
FRAGMENTS = sorted(path for path in (ROOT / "changes").iterdir() if path.name != "README.md")


def test_every_fragment_has_a_subject_a_kind_and_a_sentence() -> None:
    for path in FRAGMENTS:
        found = re.fullmatch(r"[a-z0-9-]+\.([a-z]+)\.md", path.name)
        assert found, f"{path.name}: name it SUBJECT.KIND.md"
        assert found[1] in KINDS, f"{path.name}: the kind is one of {', '.join(KINDS)}"
        text = path.read_text(encoding="utf-8").strip()
        assert text.endswith("."), f"{path.name}: write sentences"
        assert not text.startswith(("#", "-")), f"{path.name}: no heading and no list; the release makes the list"


def test_the_changelog_has_known_kinds_in_their_order() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert versions[0].startswith("Unreleased\n")
    for version in versions:
        kinds = [one.lower() for one in re.findall(r"^### (.+)$", version, re.MULTILINE)]
        assert kinds == [one for one in KINDS if one in kinds], version.partition("\n")[0]
