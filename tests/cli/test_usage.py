"""Help, wrong usage and refusals: exit code 0 done, 1 refused, 2 wrong usage, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dwarf_nats import __version__
from dwarf_nats.cli.main import app
from tests.cli.conftest import Run
from tests.render.diagrams import read

pytestmark = pytest.mark.slow

NOBODY = "nats://127.0.0.1:1"
KEY = "1-42-a1B2c3D4e5F6g7H8"


@pytest.fixture(autouse=True)
def _hasty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Give up soon on a NATS that is not there; `run` has cleared the environment before."""
    monkeypatch.setenv("DWARF_CONNECT_TIMEOUT_MS", "50")


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, sub in group.commands.items():
        if hasattr(sub, "commands"):
            yield from _commands(sub, (*path, name))
        else:
            yield (*path, name), sub


COMMANDS = dict(_commands(typer.main.get_command(app)))
TALKING = [path for path, command in COMMANDS.items() if {p.name for p in command.params} >= {"json", "nats"}]


def test_every_command_of_the_contract_is_there() -> None:
    flow = {
        "create",
        "start",
        "run",
        "await",
        "get",
        "history",
        "pauses",
        "list",
        "cancel",
        "delete",
        "purge",
        "watch",
        "mermaid",
    }
    flow |= {"resume", "resume-break", "break", "restart", "restart-from", "fork", "continue"}
    graph = {"put", "get", "list", "delete", "validate", "mermaid"}
    wanted = {(name,) for name in ("serve", "dev", "demo", "worker", "migrate", "shards", "bench")}
    wanted |= {("flow", name) for name in flow} | {("graph", name) for name in graph}
    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_of_every_command_says_what_it_does_and_has_an_example(path: tuple[str, ...], run: Run) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    dwarf-nats {' '.join(path)}" in result.stdout
    assert COMMANDS[path].help.split(".")[0].split()[0] in result.stdout


@pytest.mark.parametrize("path", [(), ("flow",), ("graph",), *COMMANDS], ids=" ".join)
def test_h_is_help(path: tuple[str, ...], run: Run) -> None:
    assert run(*path, "-h").stdout == run(*path, "--help").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str) -> None:
    """The script that `--install-completion` installs asks the program so."""
    environment = {"_DWARF_NATS_COMPLETE": f"complete_{shell}", "PATH": os.environ["PATH"]}
    if shell == "bash":
        environment |= {"COMP_WORDS": "dwarf-nats flow pu", "COMP_CWORD": "2"}
    else:
        environment |= {"_TYPER_COMPLETE_ARGS": "dwarf-nats flow pu", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; from dwarf_nats.cli.main import app; app(prog_name='dwarf-nats')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "purge" in done.stdout, done.stderr


def test_no_command_shows_the_help_and_is_wrong_usage(run: Run) -> None:
    assert run().exit_code == 2
    assert run("flow").exit_code == 2
    assert run("flow", "rnu").exit_code == 2


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"dwarf-nats {__version__}\n"


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object, got array"),
        ('{"n": 9999999999999999999999}', "beyond signed 64 bits"),
        ("@/nonexistent/state.json", "cannot read"),
    ],
)
def test_a_bad_state_is_wrong_usage_and_says_why(state: str, why: str, run: Run) -> None:
    result = run("flow", "run", "greet", "--state", state, "--nats", NOBODY)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("resume", KEY, "--data", "{"), "--data"),
        (("resume", KEY, "--data", "@/nonexistent/data.json"), "cannot read"),
        (("resume-break", KEY, "--overrides", "[1]"), "must be a JSON object, got array"),
        (("restart", KEY, "--overrides", '"x"'), "must be a JSON object, got string"),
        (("restart-from", KEY, "--overrides", "{"), "--overrides"),
        (("fork", KEY, "--overrides", "{"), "--overrides"),
        (("continue", KEY, "--state", "1"), "must be a JSON object, got number"),
        (("continue", KEY, "--thread", KEY), "--thread"),
        (("break", KEY), "TASK"),
    ],
)
def test_bad_data_and_overrides_are_wrong_usage_and_say_why(arguments: tuple[str, ...], why: str, run: Run) -> None:
    result = run("flow", *arguments, "--nats", NOBODY)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())


@pytest.mark.parametrize("path", ["graph.json", "graph.yaml", "./graph", "-"])
def test_a_graph_in_a_file_is_drawn_without_a_service(
    path: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: long lines stay whole, nothing is taken for an emoji or markup, and the graph need not be sound (G6)."""
    monkeypatch.chdir(tmp_path)
    note = "[bold] :warning: " + "a long note " * 30
    text = json.dumps({"name": "g", "tasks": [{"name": "a"}, {"name": "b"}], "annotations": {"a": note}})
    if path != "-":
        Path(path).write_text(text)
    result = run("graph", "mermaid", path, stdin=text)
    assert result.exit_code == 0, result.output
    assert read(result.stdout).labels["n2"][1].startswith("[bold] :warning: a long note")
    assert json.loads(run("graph", "mermaid", path, "--json", stdin=text).stdout) == {"mermaid": result.stdout}


def test_a_missing_argument_is_wrong_usage(run: Run) -> None:
    assert run("flow", "history").exit_code == 2
    assert run("flow", "run").exit_code == 2
    assert run("flow", "run", "greet", "--task", "greet").exit_code == 2
    assert run("serve").exit_code == 2
    assert run("flow", "list", "--limit", "many").exit_code == 2


def test_a_purge_takes_as_many_as_the_service_deletes_at_once(run: Run) -> None:
    for limit in ("0", "10001"):
        assert run("flow", "purge", "--status", "completed", "--limit", limit).exit_code == 2


def test_options_stand_in_the_help_under_what_they_are_about(run: Run) -> None:
    text = run("serve", "--help").stdout
    sections = {line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")}
    assert sections >= {"Options", "NATS", "The service", "Tuning"}
    assert (
        text.index("NATS:") < text.index("--creds") < text.index("Tuning:") < text.index("--drain, --drain-ms DURATION")
    )


def test_the_lists_of_commands_are_not_cut_short(run: Run) -> None:
    for group in ((), ("flow",), ("graph",)):
        assert "..." not in run(*group, "--help").stdout.split("Commands:")[1]


def test_purging_everything_is_refused_before_anything_is_asked(run: Run) -> None:
    result = run("flow", "purge", "--nats", NOBODY)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error 400: purge needs at least one of")


@pytest.mark.parametrize("path", TALKING, ids=" ".join)
def test_a_nats_that_is_not_there_is_one_line_that_names_it(path: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    graph = tmp_path / "g.json"
    graph.write_text('{"name": "g", "tasks": [{"name": "a"}], "transitions": [{"from": "a", "to": "END"}]}')
    source = tmp_path / "s.json"
    source.write_text('{"name": "s", "subject": "s", "start": {"workflow": "greet"}}')
    needed = {
        "files": [str(graph)],
        "sources": [str(source)],
        "row": ["1-42"],
        "name": ["g"],
        "flow": [KEY],
        "action": ["cancel"],
        "key": [KEY],
        "step": [KEY],
        "task": ["a"],
        "workflow": ["greet"],
        "event": ["order.paid"],
        "terms": ["customer=4711"],
        "changes": ["customer=4711"],
        "data": ["{}"],
        "number": ["1"],
        "what": ["nightly"],
    }
    options = {
        ("claim", "preview"): ["--claim-bucket", "dwarf-values", "--dsn", f"sqlite:///{tmp_path}/dwarf.db"],
        ("flow", "purge"): ["--status", "completed"],
        ("retention", "put"): ["--older-than", "30d"],
        ("schedule", "put"): ["--workflow", "report", "--cron", "0 3 * * *"],
        ("schedule", "backfill"): ["--from", "2026-01-01", "--to", "2026-01-02"],
    }
    arguments = [word for param in COMMANDS[path].params if param.param_type_name == "argument"
                 for word in needed[param.name]]  # fmt: skip
    extra = options.get(path, [])
    result = run(*path, *arguments, *extra, "--nats", NOBODY)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"error 503: no NATS server answers at {NOBODY}")
    assert result.stderr.count("\n") == 1


def test_a_context_that_does_not_exist_is_refused(run: Run) -> None:
    result = run("shards", "--context", "no-such-context")
    assert result.exit_code == 1
    assert "no-such-context" in result.stderr


def test_several_replicas_on_sqlite_are_refused(run: Run, empty_sqlite_dsn: str) -> None:
    result = run("serve", "--dsn", empty_sqlite_dsn, "--replicas", "2")
    assert result.exit_code == 1
    assert "SQLite" in result.stderr


def test_serve_told_not_to_wait_says_which_server_is_away(run: Run, empty_sqlite_dsn: str) -> None:
    result = run("serve", "--dsn", empty_sqlite_dsn, "--nats", NOBODY, "--no-wait")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_worker_module_is_looked_at_before_anything_starts(run: Run, tmp_path: Path) -> None:
    empty, broken, idle = tmp_path / "empty.py", tmp_path / "broken.py", tmp_path / "idle.py"
    empty.write_text("")
    broken.write_text("\nraise ValueError('no luck')\n")
    idle.write_text("from dwarf_nats.sdk import Worker\nworker = Worker()\n")
    for module, why in (
        (str(empty), "has no Worker"),
        (str(broken), "ValueError: no luck (line 2)"),
        (str(idle), "has no tasks"),
        (str(tmp_path / "absent.py"), "there is no file"),
        ("no_such_module_here", "cannot import no_such_module_here"),
    ):
        result = run("worker", module)
        assert result.exit_code == 1, module
        assert why in result.stderr


def test_a_defect_of_ours_is_told_in_one_line() -> None:
    code = "from dwarf_nats.cli import main, demo\nimport sys\nmain.config.load = lambda *_: 1 / 0\nmain.main()"
    done = subprocess.run([sys.executable, "-c", code, "shards"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error 500: ZeroDivisionError: division by zero; DWARF_TRACEBACK=1 shows more\n"
