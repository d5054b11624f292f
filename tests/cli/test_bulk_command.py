"""`dwarf-nats flow bulk` (M1)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Run, served

pytestmark = pytest.mark.slow
TASKS = """
from dwarf_nats.sdk import Worker
worker = Worker()
@worker.task("demo.ask")
async def ask(flow) -> None:
    flow.interrupt("well?")
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    with served(tmp_path_factory.mktemp("service"), TASKS) as url:
        yield url


def created(at: Run, count: int, **tags: str) -> list[str]:
    more = [word for name, value in tags.items() for word in ("--tag", f"{name}={value}")]
    return [at("flow", "create", "--task", "demo.ask", *more).stdout.strip() for _ in range(count)]


def test_flows_are_seen_to_page_by_page(at: Run) -> None:
    """M1: a dry run first; refusals by reason, and exit code 1 for them."""
    keys = created(at, 3, batch="one")
    dry = at("flow", "bulk", "cancel", "batch=one", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.splitlines()[0] == "would be cancelled: 3 flows, among them:"
    assert keys[0].rpartition("-")[0] in dry.stdout
    tagged = at("flow", "bulk", "tag", "batch=one", "status=created", "--set", "seen=true", "--limit", "2")
    assert (tagged.exit_code, tagged.stdout) == (0, "tagged: 3 flows\n")
    assert at("flow", "cancel", keys[1]).exit_code == 0
    done = at("flow", "bulk", "cancel", "--tag", "seen=true", "--reason", "recalled", "--yes")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "cancelled: 2 flows; refused for 1 flow:"
    assert keys[1].rpartition("-")[0] in done.stdout
    assert "(409)" in done.stdout
    pages = at("flow", "bulk", "delete", "batch=one", "--json", "--limit", "2").stdout.splitlines()
    assert [json.loads(page)["done"] for page in pages] == [2, 1]
    assert at("flow", "bulk", "delete", "batch=one").stdout == "deleted: 0 flows\n"


def test_it_says_how_to_go_on_when_it_is_stopped(at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: the cursor that it prints goes on where it was."""
    created(at, 3, batch="two")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dwarf_nats.cli.bulk.bulk_reply", stop)
        stopped = at("flow", "bulk", "delete", "batch=two", "--limit", "1", "--json")
    assert stopped.exit_code == 130
    assert "stopped after 1 flow; to go on: --cursor " in stopped.stderr
    cursor = stopped.stderr.rpartition(" ")[2].strip()
    assert at("flow", "bulk", "delete", "batch=two", "--cursor", cursor).stdout == "deleted: 2 flows\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("cancel",), "the query is empty"),
        (("vanish", "a=1"), "vanish"),
        (("tag", "a=1"), "`tags` belongs to the action tag"),
        (("cancel", "a=1", "--data", "1"), "`data` belongs to the action resume"),
        (("tag", "a=1", "--set", "b"), "write NAME=VALUE"),
        (("resume", "a=1", "--data", "{"), "not valid JSON"),
    ],
)
def test_mistakes_are_named(at: Run, arguments: tuple[str, ...], why: str) -> None:
    """M1."""
    result = at("flow", "bulk", *arguments)
    assert result.exit_code in (1, 2)
    assert why in " ".join(result.output.split())
