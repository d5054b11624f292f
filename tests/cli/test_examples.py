"""The example orders: computations that add up, and a graph that fits the tasks."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml

from dwarf_nats.cli.demo import examples
from dwarf_nats.cli.graph import read_graph
from dwarf_nats.cli.worker import find_workers, load_module
from dwarf_nats.sdk import Worker
from tests.cli.test_usage import COMMANDS


@pytest.fixture(scope="module")
def worker() -> Worker:
    path = str(examples() / "tasks.py")
    (found,) = find_workers(load_module(path), path)
    return found


def test_the_worker_serves_every_task_of_the_graph(worker: Worker) -> None:
    graph = read_graph(str(examples() / "graphs" / "order.yaml"))
    graph.validate()
    assert list(graph.nodes) == ["reserve", "price", "charge", "ship"]
    assert {node.url for node in graph.nodes.values()} == set(worker.tasks)


async def test_totals_are_lines_less_discount_plus_tax(worker: Worker) -> None:
    for order in orjson.loads((examples() / "orders.json").read_bytes()):
        fields = ("lines", "customer", "address", "currency")
        priced = await worker.tasks["orders.price"](**{name: order[name] for name in fields})
        assert priced["goods_cents"] == sum(line["total_cents"] for line in priced["lines"])
        expected = priced["goods_cents"] - priced["discount_cents"] + priced["tax_cents"]
        assert priced["total_cents"] == expected > 0


def test_a_task_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_WITHOUT", "orders.charge")
    path = str(examples() / "tasks.py")
    (lame,) = find_workers(load_module(path), path)
    assert set(lame.tasks) == {"orders.reserve", "orders.price", "orders.ship"}


def test_the_compose_file_runs_commands_there_are_with_options_they_have() -> None:
    services = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"nats", "postgres", "replica", "worker"}
    assert services["replica"]["deploy"]["replicas"] == 2
    variables = {"DWARF_NATS", "DWARF_DSN"}
    for name, command in (("replica", "serve"), ("worker", "worker")):
        first, *rest = services[name]["command"]
        assert first == command
        known = {option for param in COMMANDS[(command,)].params for option in param.opts}
        assert {word for word in rest if word.startswith("--")} <= known
        assert set(services[name]["environment"]) <= variables
        assert set(services[name]["depends_on"]) <= set(services)
