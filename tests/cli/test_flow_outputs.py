"""Flows as the command line shows them while they are compensated, and while steps wait for their time (N9, O9)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import Result

from dwarf_nats.cli.output import day_and_clock, flows_view
from dwarf_nats.wire.times import micros
from dwarf_nats.workflow.records import FlowSummary
from dwarf_nats.workflow.status import Status
from tests.cli.conftest import Run, served

TASKS = """
from dwarf_nats.sdk import Flow, TaskError, Worker

worker = Worker()


@worker.task("a")
async def a() -> dict:
    return {"a": 1}


@worker.task("tells")
def tells(flow: Flow) -> None:
    for token in ("Once", " upon\\n", " a\\x1b[31m time"):
        flow.emit(token)
    flow.emit({"n": 1})
    if flow.get("ask"):
        flow.interrupt()


@worker.task("fails")
async def fails() -> None:
    raise TaskError("broken", 422)
"""
SAGA = {
    "name": "saga",
    "tasks": [{"name": "a", "compensate": "served.by.nobody"}, {"name": "fails"}],
    "transitions": [{"from": "a", "to": "fails"}, {"from": "fails", "to": "END"}],
}
SLEEPS = {
    "name": "sleeps",
    "tasks": [{"name": "nap", "sleep": {"ms": 86_400_000}}, {"name": "a"}],
    "transitions": [{"from": "nap", "to": "a"}, {"from": "a", "to": "END"}],
}


def summary(**more: Any) -> FlowSummary:
    fields: dict[str, Any] = {
        "flow_key": "1-1-aaaaaaaaaaaaaaaa",
        "thread_key": "1-1-aaaaaaaaaaaaaaaa",
        "workflow": "w",
        "status": Status.RUNNING,
        "created_at": 0,
        "updated_at": 0,
        "priority": 1,
        "fairness_key": "",
    }
    return FlowSummary(**{**fields, **more})


def test_times_at_which_steps_are_due_have_a_column_if_there_are_any() -> None:
    plain = flows_view([summary()])
    assert "due" not in [column.header for column in plain.columns]
    table = flows_view([summary(due_at=60_000_000), summary()])
    (due,) = (column for column in table.columns if column.header == "due")
    assert [str(cell) for cell in due.cells] == [day_and_clock(60_000_000), ""]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "graphs").mkdir()
    for graph in (SAGA, SLEEPS):
        (folder / "graphs" / f"{graph['name']}.json").write_text(json.dumps(graph))
    with served(folder, TASKS, graphs=folder / "graphs") as url:
        yield url


def out(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    return result.stdout


def told(result: Result, code: int = 0) -> Any:
    return json.loads(out(result, code))


@pytest.mark.slow
def test_a_flow_that_is_compensated_says_so(at: Run) -> None:
    """N9: in its outcome and in the list, for people and for machines, and with exit code 5: it has not stopped."""
    key = told(at("flow", "create", "saga", "--start", "--json"))["flowKey"]
    while not told(at("flow", "get", key, "--json")).get("compensating"):
        pass
    assert "completed steps are being compensated" in out(at("flow", "get", key))
    polled = told(at("flow", "await", key, "--poll", "--timeout-ms", "0", "--json"), 5)
    assert (polled["status"], polled["compensating"], polled.get("error")) == ("running", True, None)
    (listed,) = told(at("flow", "list", "--workflow", "saga", "--json"))["flows"]
    assert (listed["status"], listed["compensating"], listed["task"]) == ("running", True, "a:compensate")
    (line,) = [one for one in out(at("flow", "list", "--workflow", "saga")).splitlines() if key in one]
    assert line.rstrip().endswith("compensating")
    assert "a:compensate" in out(at("flow", "history", key))
    refused = at("flow", "cancel", key)
    assert refused.exit_code != 0
    assert "is being compensated, and will be failed" in refused.output


@pytest.mark.slow
def test_the_list_shows_when_a_step_is_due(at: Run) -> None:
    key = told(at("flow", "create", "sleeps", "--start", "--json"))["flowKey"]
    while "dueAt" not in (listed := told(at("flow", "list", "--workflow", "sleeps", "--json"))["flows"][0]):
        pass
    header, line = out(at("flow", "list", "--workflow", "sleeps")).splitlines()
    assert "due" in header.split()
    assert day_and_clock(micros(listed["dueAt"])) in line
    assert "due" not in out(at("flow", "list", "--workflow", "saga")).splitlines()[0].split()
    out(at("flow", "cancel", key))


@pytest.mark.slow
def test_output_is_printed_as_it_comes_and_the_outcome_after_it(at: Run) -> None:
    """B8: texts on stdout with nothing a terminal would obey, whose they are on stderr."""
    ran = at("flow", "run", "--task", "tells", "--stream")
    assert out(ran).startswith('Once upon\n a\\x1b[31m time{"n":1}\ntells  completed  ')
    assert re.search(r"^— tells \(1-\d+\)$", ran.stderr, re.MULTILINE)
    key = told(at("flow", "create", "--task", "tells", "--state", '{"ask": true}', "--json"))["flowKey"]
    lines = [json.loads(line) for line in out(at("flow", "stream", key, "--start", "--json"), 6).splitlines()]
    assert [one.get("data", one.get("end")) for one in lines[:-1]] == [
        *("Once", " upon\n", " a\x1b[31m time", {"n": 1}),
        "paused",
    ]
    assert lines[-1]["status"] == "interrupted"
    assert out(at("flow", "stream", key), 6) == ""
    timed = at("flow", "run", "--task", "served.by.nobody", "--stream", "--timeout-ms", "50")
    assert timed.exit_code == 5
    assert "the flow is still going after 0.05 s" in timed.stderr
