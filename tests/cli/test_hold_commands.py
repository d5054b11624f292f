"""`dwarf-nats hold`: put, list and delete (K2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import typer

from dwarf_nats.cli.hold import read_end
from tests.cli.conftest import Run, served

TASKS = """
from dwarf_nats.sdk import Worker
worker = Worker()
@worker.task("demo.greet")
async def greet() -> None:
    pass
"""


def test_an_end_is_a_time_or_a_duration() -> None:
    """K2: what is neither is refused with how to write it."""
    assert read_end("") is None
    assert read_end("2030-01-01T08:00+01:00") == datetime(2030, 1, 1, 7, tzinfo=UTC)
    local = read_end("2030-01-01T08:00")
    assert local is not None
    assert local.tzinfo is not None
    before = datetime.now(UTC)
    ends = read_end("1h30m")
    assert ends is not None
    assert timedelta(hours=1) < ends - before < timedelta(hours=2)
    for bad in ("soon", "2030-13-01", "90x"):
        with pytest.raises(typer.BadParameter, match="neither a time nor a duration"):
            read_end(bad)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    with served(tmp_path_factory.mktemp("service"), TASKS) as url:
        yield url


@pytest.mark.slow
def test_k2_a_task_is_held_and_goes_on(at: Run) -> None:
    """K2: the text names what is held; `--json` is the reply of the wire; a flow that waits says why."""
    put = at("hold", "put", "--task", "demo.greet", "--reason", "moved", "--until", "2h", "--actor", "ada")
    assert put.stdout.startswith("task demo.greet is on hold until ")
    key = at("flow", "create", "--task", "demo.greet", "--start").stdout.strip()
    (hold,) = json.loads(at("hold", "list", "--json").stdout)["holds"]
    assert (hold["task"], hold["reason"], hold["actor"]) == ("demo.greet", "moved", "ada")
    assert "task demo.greet" in at("hold", "list").stdout
    assert "put on hold by ada: moved" in at("flow", "explain", key).stdout
    assert at("hold", "delete", "--task", "demo.greet").stdout == "deleted\n"
    assert json.loads(at("flow", "await", key, "--json").stdout)["status"] == "completed"
    refused = at("hold", "delete", "--task", "demo.greet")
    assert refused.exit_code == 1
    assert "hold" in refused.stderr
