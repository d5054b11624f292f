"""The commands against a running service: tables for people, JSON for machines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from dwarf_nats.cli.output import outcome_view
from dwarf_nats.cli.steps import history_view
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client, Outcome, Status, Step
from tests.cli.conftest import Run, served
from tests.render.diagrams import read

pytestmark = pytest.mark.slow

GRAPH = """
name: hello
tasks: [{name: greet, url: demo.greet}]
transitions: [{from: greet, to: END}]
"""
TASKS = """
from dwarf_nats.sdk import Worker
worker = Worker()
@worker.task("demo.greet")
async def greet(name: str) -> dict[str, str]:
    return {"greeting": f"hello {name}"}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    with served(tmp_path_factory.mktemp("service"), TASKS) as url:
        yield url


@pytest.fixture
def at(run: Run, url: str, tmp_path: Path) -> Run:
    """Runs a command against the service; the graph `hello` is registered."""
    (tmp_path / "hello.yaml").write_text(GRAPH)

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return run(*arguments, "--nats", url, stdin=stdin)

    assert invoke("graph", "put", str(tmp_path / "hello.yaml")).exit_code == 0
    return invoke


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_run_prints_the_outcome(at: Run) -> None:
    result = at("flow", "run", "hello", "--state", '{"name": "ada"}')
    assert result.exit_code == 0, result.output
    assert "completed" in result.stdout
    assert '"greeting": "hello ada"' in result.stdout


def test_json_is_what_travels_over_nats_digit_for_digit(at: Run) -> None:
    result = at("flow", "run", "hello", "--state", "-", "--json", stdin='{"name": "ada", "n": 9007199254740993}')
    outcome = json.loads(result.stdout)
    assert outcome["status"] == "completed"
    assert outcome["state"] == {"name": "ada", "n": 9007199254740993, "greeting": "hello ada"}


def test_a_flow_is_made_started_awaited_looked_at_and_deleted(at: Run, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"name": "bob"}')
    key = at("flow", "create", "hello", "--state", f"@{state}", "--priority", "5").stdout.strip()
    assert _json(at("flow", "get", key, "--json"))["status"] == "created"
    assert at("flow", "start", key).stdout == "started\n"
    assert _json(at("flow", "await", key, "--json"))["state"]["greeting"] == "hello bob"
    (step,) = _json(at("flow", "history", key, "--json"))["steps"]
    assert (step["task"], step["status"]) == ("greet", "completed")
    assert _json(at("flow", "get", "--step", step["stepKey"], "--json"))["changes"] == {"greeting": "hello bob"}
    watched = [json.loads(line) for line in at("flow", "watch", key, "--json").stdout.splitlines()]
    assert watched[-1]["status"] == "completed"
    listed = _json(at("flow", "list", "--priority", "5", "--json"))["flows"]
    assert [flow["flowKey"] for flow in listed] == [key]
    assert key in at("flow", "list").stdout
    assert at("flow", "delete", key).exit_code == 0
    gone = at("flow", "get", key)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert gone.stderr.startswith("error 404: ")


def test_a_history_is_printed_whole_or_page_by_page(at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O7: `--limit` prints one page and what to type for the next."""
    names = [f"n{number}" for number in range(5)]
    graph = {
        "name": "long",
        "tasks": [{"name": name, "url": "demo.greet"} for name in names],
        "transitions": [{"from": a, "to": b} for a, b in pairwise([*names, "END"])],
    }
    (tmp_path / "long.json").write_text(json.dumps(graph))
    assert at("graph", "put", str(tmp_path / "long.json")).exit_code == 0
    key = _json(at("flow", "run", "long", "--state", '{"name": "ada"}', "--json"))["flowKey"]
    monkeypatch.setattr("dwarf_nats.cli.flow.PAGE", 2)
    assert re.findall(r"^n\d", at("flow", "history", key).stdout, re.MULTILINE) == names
    assert [step["task"] for step in _json(at("flow", "history", key, "--json"))["steps"]] == names
    seen: list[str] = []
    more = ["--limit", "2"]
    while more:
        shown = at("flow", "history", key, *more).stdout
        page = re.findall(r"^n\d", shown, re.MULTILINE)
        told = _json(at("flow", "history", key, *more, "--json"))
        assert [step["task"] for step in told["steps"]] == page
        seen += page
        found = re.search(r"^more: (.*)$", shown, re.MULTILINE)
        more = found[1].split() if found else []
        assert ("cursor" in told) == bool(more)
    assert seen == names
    assert at("graph", "delete", "long").exit_code == 0


def test_what_of_an_outcome_or_a_history_did_not_fit_is_said() -> None:
    """Wire: histories; and where the rest of a sub-workflow is."""
    step = Step(
        step_key="1-2-x",
        step_id=2,
        depth=1,
        task="call",
        attempt=0,
        status=Status.COMPLETED,
        created_at=0,
        updated_at=0,
        subgraph=True,
        sub_workflow="pay",
        truncated=True,
    )
    step.sub_flow_key = "1-3-a1B2c3D4e5F6g7H8"
    assert "more of pay: dwarf-nats flow history 1-3-a1B2c3D4e5F6g7H8" in history_view([step])
    outcome = Outcome("1-1-x", "pay", Status.COMPLETED, truncated=True)
    assert any("max_payload" in str(line) for line in outcome_view(outcome))


def test_cancel_keeps_the_reason_and_cannot_be_repeated(at: Run) -> None:
    key = at("flow", "create", "hello").stdout.strip()
    assert at("flow", "cancel", key, "--reason", "ordered twice").exit_code == 0
    assert _json(at("flow", "get", key, "--json"))["cancelReason"] == "ordered twice"
    assert at("flow", "cancel", key).stderr.startswith("error 409: ")
    assert _json(at("flow", "purge", "--status", "cancelled", "--json"))["deleted"] >= 1


def test_a_task_runs_alone(at: Run) -> None:
    assert "hello eve" in at("flow", "run", "--task", "demo.greet", "--state", '{"name": "eve"}').stdout


def test_tasks_tell_who_serves_them_and_which_are_held(at: Run) -> None:
    key = at("flow", "create", "--task", "demo.nobody", "--start").stdout.strip()
    for _ in range(1000):
        (nobody,) = _json(at("tasks", "demo.nobody", "--json"))["tasks"]
        if nobody["tripped"]:
            break
    assert nobody == {"task": "demo.nobody", "servedBy": [], "rates": [], "tripped": True, "cause": "no_responders"}
    served = {one["task"]: one for one in _json(at("tasks", "--json"))["tasks"]}
    assert served.keys() >= {"demo.greet", "demo.nobody"}
    assert [(one["service"], one["queueGroup"]) for one in served["demo.greet"]["servedBy"]] == [
        ("dwarf-worker", "workers")
    ]
    assert served["demo.greet"]["tripped"] is False
    lines = {line.split()[0]: line for line in at("tasks").stdout.splitlines()}
    assert "dwarf-worker" in lines["demo.greet"]
    assert lines["demo.greet"].rstrip().endswith("closed")
    assert "tripped: no_responders" in lines["demo.nobody"]
    assert at("tasks", "bad name").stderr.startswith("error 400: ")
    assert at("flow", "cancel", key).exit_code == 0


def test_refusals_of_the_service_come_through(at: Run) -> None:
    for arguments, code in (
        (("flow", "run", "no-such-workflow"), 404),
        (("flow", "run", "bad name"), 400),
        (("flow", "get", "nonsense"), 400),
        (("graph", "get", "absent"), 404),
    ):
        result = at(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error {code}: "), result.stderr


def test_graphs_are_put_listed_read_back_and_checked(at: Run, tmp_path: Path) -> None:
    assert [one["name"] for one in _json(at("graph", "list", "--json"))["graphs"]] == ["hello"]
    document = _json(at("graph", "get", "hello"))
    assert document["tasks"] == [{"name": "greet", "url": "demo.greet"}]
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ntasks: [{name: a}]\n")
    for extra in ((), ("--offline",)):
        result = at("graph", "validate", str(bad), *extra)
        assert result.exit_code == 1
        assert "bad" in result.stderr


def test_a_flow_and_a_graph_are_drawn(at: Run) -> None:
    """O8, D1: the text as it is, for whoever pipes it on; the JSON as it travels."""
    key = json.loads(at("flow", "run", "hello", "--state", '{"name": "ada"}', "--json").stdout)["flowKey"]
    drawn = at("flow", "mermaid", key)
    assert next(iter(read(drawn.stdout).labels.values())) == ["START", "hello"]
    assert _json(at("flow", "mermaid", key, "--json")) == {"mermaid": drawn.stdout}
    graph = at("graph", "mermaid", "hello")
    assert read(graph.stdout).pairs() == [("START", "greet"), ("greet", "END")]
    assert _json(at("graph", "mermaid", "hello", "--json")) == {"mermaid": graph.stdout}
    assert at("graph", "mermaid", "absent").stderr.startswith("error 404: ")


def test_shards_are_healthy(at: Run) -> None:
    (shard,) = _json(at("shards", "--json"))["shards"]
    assert (shard["shard"], shard["error"]) == (1, "")


def test_migrate_tells_and_mends(run: Run, empty_dsn: str) -> None:
    behind = run("migrate", "--dsn", empty_dsn, "--check", "--json")
    assert behind.exit_code == 1, behind.output
    assert json.loads(behind.stdout)["databases"] == [{"shard": 1, "revision": None, "current": False}]
    assert run("migrate", "--dsn", empty_dsn).exit_code == 0
    assert run("migrate", "--dsn", empty_dsn, "--check").exit_code == 0


def test_dev_reloads_a_worker_whose_module_changes(tmp_path: Path, run: Run) -> None:
    module = tmp_path / "tasks.py"
    module.write_text(TASKS)
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "hello.yaml").write_text(GRAPH)
    command = [sys.executable, "-m", "dwarf_nats.cli.main", "dev", str(module), "--data", str(tmp_path / "data")]
    command += ["--graphs", str(tmp_path / "graphs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as dev:
        try:
            assert dev.stdout is not None
            said = iter(dev.stdout.readline, "")
            url = next(line.split()[1] for line in said if line.startswith("NATS "))
            assert any("Ctrl-C" in line for line in said)
            assert "hello ada" in run("flow", "run", "hello", "--state", '{"name": "ada"}', "--nats", url).stdout
            module.write_text(TASKS.replace("hello {name}", "good evening {name}"))
            os.utime(module, ns=(1, 1))
            assert any("reloading" in line for line in said)
            assert any(line.startswith("serving demo.greet") for line in said)
            assert "good evening ada" in run("flow", "run", "hello", "--state", '{"name": "ada"}', "--nats", url).stdout
        finally:
            dev.send_signal(signal.SIGINT)
        assert dev.wait(30) == 0


def test_dev_says_so_where_its_port_is_taken(tmp_path: Path, run: Run) -> None:
    """It takes a free one, and what it prints next works with that."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "dwarf_nats.cli.main",
            "dev",
            "--data",
            str(tmp_path),
            "--nats-port",
            str(port),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dev:
            try:
                assert dev.stdout is not None
                said = iter(dev.stdout.readline, "")
                assert any(line == f"Port {port} is taken, so NATS has another one.\n" for line in said)
                listing = next(line for line in said if "dwarf-nats flow list" in line)
                assert run(*listing.split()[1:]).exit_code == 0
            finally:
                dev.send_signal(signal.SIGINT)
            assert dev.wait(30) == 0


async def _served(url: str, shards: int) -> None:
    """Until a replica answers for so many shards."""
    async with asyncio.timeout(30), Client(url) as client:
        while True:
            try:
                assert len(await client.shard_info()) == shards
            except Unavailable:
                await asyncio.sleep(0)
            else:
                return


@pytest.mark.parametrize("end", ["told", "killed"])
def test_several_replicas_drain_together_and_end_together(end: str, nats_server: NatsServer, empty_pg_dsn: str) -> None:
    """B3: SIGTERM drains all; if one is killed, the others drain and the exit code tells."""
    command = [sys.executable, "-m", "dwarf_nats.cli.main", "serve", "--nats", nats_server.url, "--dsn", empty_pg_dsn]
    with subprocess.Popen([*command, "--replicas", "2"], stderr=subprocess.PIPE, text=True) as serve:
        assert serve.stderr is not None
        said = iter(serve.stderr.readline, "")
        assert sum(1 for _, line in zip(range(2), (line for line in said if "is ready" in line), strict=False)) == 2
        asyncio.run(_served(nats_server.url, 1))
        if end == "told":
            serve.terminate()
        else:
            os.kill(int(Path(f"/proc/{serve.pid}/task/{serve.pid}/children").read_text().split()[0]), signal.SIGKILL)
        rest = "".join(said)
        assert serve.wait(30) == (0 if end == "told" else 1)
    assert rest.count("has drained") == (2 if end == "told" else 1)
    assert ("a replica ended by itself" in rest) == (end == "killed")
