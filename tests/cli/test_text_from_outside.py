"""Whatever callers and tasks put into names, errors, reasons and payloads: no terminal obeys it, no line of ours is forged."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest
from typer.testing import Result

from dwarf_nats.cli.logs import JsonFormatter, TextFormatter
from tests.cli.conftest import Run, served

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eexe.\u2066\u2028\x7f\r\nFORGED line\x08"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200e\u200f]")
TASKS = f"""
from dwarf_nats.sdk import Flow, TaskError, Worker
worker = Worker()
EVIL = {EVIL!a}

@worker.task("fails")
async def fails(flow: Flow) -> None:
    raise TaskError(EVIL, code=402, more=EVIL)

@worker.task("asks")
async def asks(flow: Flow) -> None:
    flow.set(EVIL, EVIL)
    flow.interrupt({{EVIL: EVIL}})

@worker.task("returns")
async def returns(flow: Flow) -> dict[str, str]:
    return {{EVIL: EVIL}}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker that says evil things."""
    with served(tmp_path_factory.mktemp("evil"), TASKS) as url:
        yield url


@pytest.fixture
def at(run: Run, url: str) -> Run:
    """Runs a command against the service and looks at all it prints."""

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        result = run(*arguments, "--nats", url, stdin=stdin)
        for text in (result.stdout, result.stderr):
            assert not OBEYED.search(text), ascii(text)
            assert not [line for line in text.splitlines() if line.lstrip().startswith("FORGED")], text
        assert result.exit_code in (0, 1, 3, 4, 5, 6), result.output
        return result

    return invoke


@pytest.mark.slow
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["people", "json"])
def test_no_command_hands_on_what_a_terminal_obeys(form: tuple[str, ...], at: Run) -> None:
    keys = {}
    for task in ("fails", "asks", "returns", "nobody"):
        state = json.dumps({EVIL: EVIL})
        keys[task] = at(
            "flow", "create", "--task", task, "--state", state, "--start", "--fairness-key", EVIL
        ).stdout.strip()
        if task != "nobody":
            at("flow", "await", keys[task], *form)
    at("flow", "cancel", keys["nobody"], "--reason", EVIL, *form)
    for key in keys.values():
        at("flow", "get", key, *form)
        history = json.loads(at("flow", "history", key, "--json").stdout)
        at("flow", "history", key, *form)
        for step in history["steps"]:
            at("flow", "get", "--step", step["stepKey"], *form)
        if key != keys["asks"]:
            at("flow", "watch", key, *form)
        at("flow", "mermaid", key, *form)
    at("flow", "list", *form)
    at("flow", "purge", "--workflow", "fails", "--dry-run", *form)
    for refused in (
        ("flow", "get", EVIL),
        ("flow", "run", EVIL),
        ("flow", "break", keys["nobody"], EVIL),
        ("tasks", EVIL),
    ):
        assert at(*refused, *form).exit_code == 1
    shown = at("flow", "get", keys["fails"]).stdout
    assert r"\x1b[2J" in shown
    assert r"\nFORGED line" in shown


@pytest.mark.slow
def test_what_is_printed_as_json_means_the_same(at: Run) -> None:
    state = json.dumps({EVIL: EVIL})
    key = at("flow", "create", "--task", "nobody", "--state", state).stdout.strip()
    assert at("flow", "cancel", key, "--reason", EVIL).exit_code == 0
    outcome = json.loads(at("flow", "get", key, "--json").stdout)
    assert outcome["state"] == {EVIL: EVIL}
    assert outcome["cancelReason"] == EVIL


@pytest.mark.parametrize(
    "formatter", [TextFormatter("%(levelname)s %(message)s"), JsonFormatter()], ids=["text", "json"]
)
def test_a_line_of_the_log_stays_one_line(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.INFO, "f", 1, "said %s", (EVIL,), (ValueError, error, error.__traceback__)
        )
    record.extra_field = EVIL
    text = formatter.format(record)
    assert not OBEYED.search(text), ascii(text)
    first = text.splitlines()[0]
    assert "FORGED" in first
    assert text.count("said") == 1
