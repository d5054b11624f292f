"""The demo, as a process of its own: it ends by itself, with or without a person."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.slow
DEMO = [sys.executable, "-m", "dwarf_nats.cli.main", "demo"]


def test_demo_runs_to_its_end_without_a_person() -> None:
    done = subprocess.run(DEMO, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for words in (
        "A-20418  waits for a person: ",
        "nats req --server nats://127.0.0.1:",
        'answered by the demo: {"approved":true,"by":"the demo"}',
        "charge             again  attempt 3",
        "released: the bank declined the card: insufficient funds",
        "ship ▸ shipping",
        "flowchart TD",
        "https://mermaid.live",
        "  pickup ",
        "dwarf-nats flow restart ",
        "diagnosis:  dwarf-nats flow explain 1-",
        "Nobody serves orders.charge: its steps wait",
        "what helps: dwarf-nats tasks orders.charge",
        "start a service on task.orders.charge",
    ):
        assert words in said, said
    assert said.count("A-20417  completed  shipped") == 1
    assert done.stderr == ""


def test_a_person_may_answer_the_demo(run: Run) -> None:
    with subprocess.Popen(
        [*DEMO, "--wait-ms", "60000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        said = iter(demo.stdout.readline, "")
        line = next(line for line in said if line.strip().startswith("dwarf-nats flow resume"))
        words = shlex.split(line)[1:]
        assert run(*(word.replace("the demo", "ada") for word in words)).stdout == "resumed\n"
        rest = "".join(said)
        assert demo.wait(60) == 0, rest
    assert "answered by the demo" not in rest
    (order,) = [line for line in rest.splitlines() if line.startswith("A-20418")]
    assert "GBP  ada " in order


def test_demo_refuses_a_negative_wait(run: Run) -> None:
    assert run("demo", "--wait-ms", "-1").exit_code == 2
