"""What scripts read: exit codes, refusals as JSON, what was done, dry runs, and questions on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, served

pytestmark = pytest.mark.slow

COMPLETED, REFUSED, WRONG_USAGE, FAILED, CANCELLED, TIME_IS_UP, WAITS_FOR_SOMEBODY = range(7)
TASKS = """
from dwarf_nats.sdk import Flow, TaskError, Worker
worker = Worker()

@worker.task("fine")
async def fine() -> None: ...

@worker.task("broken")
async def broken() -> None:
    raise TaskError("out of paper", code=402)

@worker.task("asks")
async def asks(flow: Flow) -> None:
    flow.interrupt({"question": "may I?"})
"""
HANGS = ("--task", "nobody-serves-this")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    with served(tmp_path_factory.mktemp("codes"), TASKS) as url:
        yield url


def created(at: Run, *arguments: str) -> str:
    result = at("flow", "create", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def cancelled(at: Run) -> str:
    key = created(at, *HANGS, "--start")
    assert at("flow", "cancel", key, "--reason", "ordered twice").exit_code == 0
    return key


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["people", "json"])
@pytest.mark.parametrize(
    ("task", "timeout", "code"),
    [
        ("fine", "30s", COMPLETED),
        ("broken", "30s", FAILED),
        ("asks", "30s", WAITS_FOR_SOMEBODY),
        ("nobody-serves-this", "0s", TIME_IS_UP),
    ],
)
def test_run_and_await_tell_by_their_exit_code_how_the_flow_stands(
    task: str, timeout: str, code: int, form: tuple[str, ...], at: Run
) -> None:
    assert at("flow", "run", "--task", task, "--timeout", timeout, *form).exit_code == code
    key = created(at, "--task", task, "--start")
    waited = at("flow", "await", key, "--timeout", timeout, *form)
    assert waited.exit_code == code
    polled = at("flow", "await", key, "--timeout", timeout, "--poll", *form)
    assert polled.exit_code == code
    assert key in polled.stdout


def test_a_cancelled_flow_has_a_code_of_its_own(at: Run) -> None:
    waited = at("flow", "await", cancelled(at))
    assert waited.exit_code == CANCELLED
    assert "reason: ordered twice" in waited.stdout


def test_the_key_of_a_flow_that_takes_too_long_is_told_so_that_it_can_be_awaited(at: Run) -> None:
    late = at("flow", "run", *HANGS, "--timeout", "0s", "--json")
    error = json.loads(late.stderr)["error"]
    assert (late.exit_code, late.stdout, error["code"]) == (TIME_IS_UP, "", 408)
    assert at("flow", "get", error["flowKey"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("flow", "get", "1-1-aaaaaaaaaaaaaaaa"), REFUSED, 404),
        (("flow", "get", "no-key"), REFUSED, 400),
        (("flow", "run", "no-such-workflow"), REFUSED, 404),
        (("flow", "purge"), REFUSED, 400),
        (("flow", "run", "g", "--state", "["), WRONG_USAGE, 400),
        (("flow", "run"), WRONG_USAGE, 400),
        (("flow", "list", "--limit", "many"), WRONG_USAGE, 400),
        (("flow", "list", "--no-such-option"), WRONG_USAGE, 400),
        (("graph", "put", "/nonexistent.yaml"), REFUSED, 400),
    ],
)
def test_with_json_every_refusal_is_the_error_object_of_the_wire(
    arguments: tuple[str, ...], exit_code: int, code: int, at: Run
) -> None:
    result = at(*arguments, "--json")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    error = json.loads(result.stderr)["error"]
    assert error["code"] == code
    assert error["message"]
    assert result.stderr.count("\n") == 1


def test_what_ends_a_flow_says_what_it_did(at: Run) -> None:
    key = created(at, *HANGS, "--start")
    assert at("flow", "cancel", key).stdout == f"cancelled nobody-serves-this {key} (it was running)\n"
    broken = created(at, "--task", "broken", "--start")
    at("flow", "await", broken)
    again = at("flow", "restart", broken).stdout
    assert again == f"restarted broken {broken} from its beginning (it was failed: out of paper (402))\n"
    at("flow", "await", broken)
    assert at("flow", "delete", broken).stdout == f"deleted broken {broken} (it was failed: out of paper (402))\n"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(at: Run) -> None:
    key = created(at, *HANGS, "--start")
    assert at("flow", "cancel", key, "--dry-run").stdout.startswith(f"would be cancelled: nobody-serves-this {key}")
    refused = at("flow", "restart", key, "--dry-run")
    assert (refused.exit_code, refused.stderr) == (1, "error 409: the flow is running, so it would not be restarted\n")
    assert at("flow", "delete", key, "--dry-run").exit_code == 1
    assert at("flow", "cancel", key).exit_code == 0
    assert at("flow", "cancel", key, "--dry-run").exit_code == 1
    assert at("flow", "delete", key, "--dry-run").stdout.startswith("would be deleted")
    assert at("flow", "restart", key, "--dry-run").stdout.startswith("would be restarted")
    assert json.loads(at("flow", "get", key, "--json").stdout)["status"] == "cancelled"


def test_a_dry_run_of_purge_counts_what_purge_then_deletes(at: Run) -> None:
    keys = {created(at, "--task", "purged") for _ in range(3)}
    created(at, "--task", "purged", "--start")  # running, so it stays
    mine = ("flow", "purge", "--workflow", "purged")
    told: dict[str, Any] = json.loads(at(*mine, "--dry-run", "--json").stdout)
    assert told["matched"] == 3
    assert {one["flowKey"] for one in told["sample"]} == keys
    assert at(*mine, "--dry-run").stdout.startswith("would delete 3 flows, among them:\n")
    assert at(*mine, "--limit", "2", "--dry-run").stdout.startswith("would delete 2 flows, among them:\n")
    assert at(*mine, "--limit", "2").stdout == "deleted 2 flows; there may be more: run it again\n"
    assert at(*mine).stdout == "deleted 1 flow\n"
    assert at(*mine, "--dry-run").stdout == "would delete 0 flows\n"


@pytest.mark.parametrize("operation", ["delete", "purge"])
@pytest.mark.parametrize(("answer", "yes", "gone"), [("n", False, False), ("y", False, True), ("", True, True)])
def test_what_destroys_asks_on_a_terminal(
    operation: str, answer: str, yes: bool, gone: bool, at: Run, url: str
) -> None:
    workflow = f"asked-{operation}-{answer or 'yes'}"
    key = created(at, "--task", workflow)
    arguments = ["flow", operation, *([key] if operation == "delete" else ["--workflow", workflow])]
    code, shown = _on_a_terminal(url, [*arguments, *(["--yes"] if yes else [])], answer)
    assert ("?" in shown) is not yes
    assert code == (0 if gone else 1)
    assert (at("flow", "get", key).exit_code == 0) is not gone
    if not gone:
        assert "nothing was done" in shown


def _on_a_terminal(url: str, arguments: list[str], answer: str) -> tuple[int, str]:
    """Exit code and output of a command whose standard input, output and errors are a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    line = [sys.executable, "-m", "dwarf_nats.cli.main", *arguments, "--nats", url]
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
        os.close(ours)
    return process.returncode, shown.decode()


def test_a_file_of_state_that_is_not_there_is_wrong_usage_also_with_json(at: Run, tmp_path: Path) -> None:
    result = at("flow", "run", "g", "--state", f"@{tmp_path / 'absent.json'}", "--json")
    assert result.exit_code == WRONG_USAGE
    assert "cannot read" in json.loads(result.stderr)["error"]["message"]
