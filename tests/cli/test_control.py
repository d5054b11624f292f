"""The commands that steer flows, against a running service (O11-O15)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.conftest import Run, served

pytestmark = pytest.mark.slow

TASKS = """
from dwarf_nats.sdk import Flow, TaskError, Worker

worker = Worker()


@worker.task("approve")
async def approve(flow: Flow) -> dict:
    return {"answer": flow.interrupt({"total": flow.get("total", 0)})}


@worker.task("ship")
async def ship(flow: Flow) -> dict:
    return {"tracking": flow.subgraph("parcel", {"city": flow.get("city", "Oslo")})["tracking"]}


@worker.task("label")
async def label(city: str, printer: int = 0) -> dict:
    if city == "Atlantis" and not printer:
        raise TaskError("no such city", code=422)
    return {"tracking": f"{city}-{printer}"}


@worker.task("sign")
async def sign(flow: Flow) -> dict:
    return {"by": [flow.interrupt({"for": flow.task}, timeout=3600)]}


@worker.task("none")
async def none() -> None:
    pass


@worker.task("count")
async def count(n: int = 0) -> dict:
    return {"n": n + 1}
"""
GRAPHS = {
    "parcel": {"tasks": ["label"]},
    "order": {"tasks": ["approve", "ship"]},
    "post": {"tasks": ["ship"]},
    "counting": {"tasks": ["count"]},
}
BOTH = {
    "name": "both",
    "entryPoint": "split",
    "tasks": [
        {"name": "split", "url": "none"},
        {"name": "ada", "url": "sign"},
        {"name": "bea", "url": "sign"},
        {"name": "join", "url": "none", "fanIn": True},
    ],
    "transitions": [
        {"from": "split", "to": "ada"},
        {"from": "split", "to": "bea"},
        {"from": "ada", "to": "join"},
        {"from": "bea", "to": "join"},
        {"from": "join", "to": "END"},
    ],
    "reducers": {"by": "append"},
}


def _graph(name: str, tasks: list[str]) -> str:
    edges = [{"from": a, "to": b} for a, b in zip(tasks, [*tasks[1:], "END"], strict=True)]
    return json.dumps({"name": name, "tasks": [{"name": one} for one in tasks], "transitions": edges})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service that knows the graphs, with one worker."""
    folder = tmp_path_factory.mktemp("steering")
    (folder / "graphs").mkdir()
    (folder / "graphs" / "both.json").write_text(json.dumps(BOTH))
    for name, graph in GRAPHS.items():
        (folder / "graphs" / f"{name}.json").write_text(_graph(name, graph["tasks"]))
    with served(folder, TASKS, graphs=folder / "graphs") as url:
        yield url


FAILED, WAITS_FOR_SOMEBODY = 3, 6


def out(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, result.output
    return result.stdout


def told(result: Result, code: int = 0) -> Any:
    return json.loads(out(result, code))


def test_a_paused_flow_says_what_to_type_and_that_continues_it(at: Run) -> None:
    key = out(at("flow", "create", "order", "--state", '{"total": 7}', "--start")).strip()
    shown = out(at("flow", "await", key), WAITS_FOR_SOMEBODY)
    assert shown.startswith(f"order  interrupted  {key}\n")
    assert '"total": 7' in shown
    assert f'nats req dwarf.flow.resume \'{{"flowKey":"{key}","data":JSON}}\'' in shown
    assert "answer: " in out(at("flow", "get", key))
    history = out(at("flow", "history", key))
    assert 'waits for {"total":7}' in history
    (line,) = [line for line in history.splitlines() if line.startswith("answer:")]
    words = shlex.split(line.replace("JSON", '\'{"by": "ada"}\''))
    assert out(at(*words[2:])) == "resumed\n"
    assert told(at("flow", "await", key, "--json"))["state"]["answer"] == {"by": "ada"}
    again = at("flow", "resume", key)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr.startswith("error 409: ")


def test_one_of_several_pauses_is_continued_by_the_key_of_its_step_p5(at: Run) -> None:
    """P5, P6: `flow pauses` lists them with payload, since when and until when."""
    key = out(at("flow", "create", "both", "--start")).strip()
    while len(told(at("flow", "pauses", key, "--json"))["pauses"]) < 2:
        assert told(at("flow", "get", key, "--json"))["status"] in ("created", "running", "interrupted")
    pauses = {one["task"]: one for one in told(at("flow", "pauses", key, "--json"))["pauses"]}
    assert {name: one["payload"] for name, one in pauses.items()} == {"ada": {"for": "ada"}, "bea": {"for": "bea"}}
    assert pauses["ada"]["until"] > pauses["ada"]["since"]
    shown = out(at("flow", "pauses", key))
    for one in pauses.values():
        assert one["stepKey"] in shown
    assert " until " in shown
    assert shown in out(at("flow", "await", key), WAITS_FOR_SOMEBODY)
    assert out(at("flow", "resume", pauses["bea"]["stepKey"], "--data", '"from bea"')) == "resumed\n"
    assert at("flow", "resume", pauses["bea"]["stepKey"]).stderr.startswith("error 409: ")
    assert at("flow", "resume-break", pauses["ada"]["stepKey"]).stderr.startswith("error 409: ")
    assert out(at("flow", "resume", pauses["ada"]["stepKey"], "--data", '"from ada"')) == "resumed\n"
    assert told(at("flow", "await", key, "--json"))["state"]["by"] == ["from ada", "from bea"]
    assert out(at("flow", "pauses", key)) == "not paused: the flow is completed\n"
    nobody = at("flow", "resume", "1-9999999-aaaaaaaaaaaaaaaa")
    assert nobody.stderr.startswith("error 404: no flow and no step 1-9999999")


def test_the_history_has_the_steps_of_a_subgraph_below_its_caller_o7(at: Run) -> None:
    key = told(at("flow", "run", "post", "--json"))["flowKey"]
    lines = out(at("flow", "history", key)).splitlines()
    assert [line.split("completed")[0].rstrip() for line in lines[1:]] == ["ship ▸ parcel", "  label"]
    (step,) = told(at("flow", "history", key, "--json"))["steps"]
    assert (step["subWorkflow"], step["subHistory"][0]["task"]) == ("parcel", "label")
    assert "ship › label" in out(at("flow", "watch", key))


@pytest.mark.parametrize("given", ["flag", "file", "stdin", "nothing"])
def test_data_comes_from_a_flag_a_file_or_standard_input_digit_for_digit(given: str, at: Run, tmp_path: Path) -> None:
    key = told(at("flow", "run", "--task", "approve", "--json"), WAITS_FOR_SOMEBODY)["flowKey"]
    text = '[9007199254740993, null, "ö"]'
    (tmp_path / "data.json").write_text(text)
    data = {"flag": ["--data", text], "file": ["--data", f"@{tmp_path / 'data.json'}"], "stdin": ["--data", "-"]}
    assert told(at("flow", "resume", key, *data.get(given, []), "--json", stdin=text)) == {}
    answer = None if given == "nothing" else [9007199254740993, None, "ö"]
    assert told(at("flow", "await", key, "--json"))["state"] == ({} if answer is None else {"answer": answer})


def test_a_breakpoint_is_set_cleared_and_passed_with_overrides_o12(at: Run) -> None:
    key = out(at("flow", "create", "counting")).strip()
    assert out(at("flow", "break", key, "count")) == "breakpoint set\n"
    assert out(at("flow", "break", key, "count", "--clear")) == "breakpoint cleared\n"
    assert out(at("flow", "break", key, "count")) == "breakpoint set\n"
    out(at("flow", "start", key))
    shown = out(at("flow", "await", key), WAITS_FOR_SOMEBODY)
    assert "waits for" not in shown
    assert f"let it run:  dwarf-nats flow resume-break {key}" in shown
    assert "by a breakpoint" in out(at("flow", "history", key))
    assert at("flow", "resume", key).stderr.startswith("error 409: ")
    assert out(at("flow", "resume-break", key, "--overrides", '{"n": 41}')) == "resumed\n"
    assert told(at("flow", "await", key, "--json"))["state"] == {"n": 42}


def test_a_flow_and_a_step_run_again_in_place_o13(at: Run) -> None:
    failed = told(at("flow", "run", "post", "--state", '{"city": "Atlantis"}', "--json"), FAILED)
    key = failed["flowKey"]
    assert failed["error"]["message"] == "no such city"
    (step,) = told(at("flow", "history", key, "--json"))["steps"]
    label = step["subHistory"][0]["stepKey"]
    assert out(at("flow", "restart-from", label, "--overrides", '{"printer": 3}')) == f"restarted from step {label}\n"
    assert told(at("flow", "await", key, "--json"))["state"]["tracking"] == "Atlantis-3"
    restarted = out(at("flow", "restart", key, "--overrides", '{"city": null}'))
    assert restarted == f"restarted post {key} from its beginning (it was completed)\n"
    assert told(at("flow", "await", key, "--json"))["state"] == {"tracking": "Oslo-0"}
    assert at("flow", "restart-from", label).stderr.startswith("error 404: ")


def test_a_fork_and_the_next_flow_of_a_thread_print_their_keys_o14_o15(at: Run) -> None:
    key = told(at("flow", "run", "counting", "--json"))["flowKey"]
    (step,) = told(at("flow", "history", key, "--json"))["steps"]
    fork = out(at("flow", "fork", step["stepKey"], "--overrides", '{"n": 9}')).strip()
    assert fork != key
    assert told(at("flow", "await", fork, "--json"))["state"] == {"n": 10}
    arguments = ("flow", "continue", key, "--state", '{"m": 1}', "--priority", "5", "--idempotency-key", f"after-{key}")
    following = told(at(*arguments, "--start", "--json"))["flowKey"]
    assert told(at("flow", "await", following, "--json"))["state"] == {"n": 2, "m": 1}
    assert out(at(*arguments)).strip() == following
    listed = told(at("flow", "list", "--thread", key, "--json"))["flows"]
    assert [(one["flowKey"], one["priority"]) for one in listed] == [(following, 5), (key, 100)]
