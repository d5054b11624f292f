"""`dwarf-nats retention` (M2)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Run, served

pytestmark = pytest.mark.slow
TASKS = """
from dwarf_nats.sdk import Worker
worker = Worker()
@worker.task("demo.none")
async def none() -> None:
    pass
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service."""
    with served(tmp_path_factory.mktemp("service"), TASKS) as url:
        yield url


def test_rules_are_set_tried_listed_and_removed(at: Run) -> None:
    """M2."""
    selection = ("--status", "completed", "--older-than", "30d", "--keep-tagged", "legal=hold")
    tried = at("retention", "preview", "done", *selection)
    assert tried.stdout == "would remove 0 flows\n"
    assert at("retention", "put", "done", *selection).stdout == "set\n"
    (rule,) = json.loads(at("retention", "list", "--json").stdout)["rules"]
    assert (rule["olderThanMs"], rule["keepTagged"], rule["removed"]) == (30 * 86_400_000, {"legal": "hold"}, 0)
    shown = at("retention", "list").stdout
    assert "30d" in shown
    assert "legal=hold" in shown
    assert at("retention", "preview", "done").stdout == "would remove 0 flows\n"
    assert at("retention", "delete", "done").stdout == "deleted\n"
    missing = at("retention", "delete", "done")
    assert (missing.exit_code, "no retention 'done'" in missing.stderr) == (1, True)
    ageless = at("retention", "put", "done")
    assert (ageless.exit_code, "--older-than 30d" in ageless.stderr) == (2, True)
