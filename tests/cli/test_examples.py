"""The example orders: graphs that fit the tasks, computations that add up, and every way an order can go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from dwarf_nats.cli.demo import examples
from dwarf_nats.cli.graph import read_graph
from dwarf_nats.cli.worker import find_workers, load_module
from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Worker
from dwarf_nats.testing import workflow_engine
from dwarf_nats.workflow.status import Status


@pytest.fixture(scope="module")
def worker() -> Worker:
    path = str(examples() / "tasks.py")
    (found,) = find_workers(load_module(path), path)
    return found


@pytest.fixture(scope="module")
def orders() -> dict[str, dict[str, Any]]:
    """The example orders by their number."""
    return {order["order_id"]: order for order in orjson.loads((examples() / "orders.json").read_bytes())}


@pytest.fixture
async def shop(worker: Worker) -> AsyncIterator[Engine]:
    """An engine that runs the example's graphs and tasks in this process."""
    async with workflow_engine() as (engine, proxy):
        for path in (examples() / "graphs").glob("*.yaml"):
            proxy.handle_graph(read_graph(str(path)))
        for url, function in worker.tasks.items():
            proxy.handle_task(url, function)
        yield engine


def test_the_worker_serves_every_task_of_the_graphs(worker: Worker) -> None:
    graphs = [read_graph(str(path)) for path in (examples() / "graphs").glob("*.yaml")]
    for graph in graphs:
        graph.validate()
    assert {graph.name for graph in graphs} == {"order", "shipping"}
    assert {node.url for graph in graphs for node in graph.nodes.values()} == set(worker.tasks)


async def test_a_small_order_goes_out_and_its_sums_add_up(shop: Engine, orders: dict[str, dict[str, Any]]) -> None:
    outcome = await shop.run("order", orders["A-20417"], timeout=30)
    state = outcome.state
    assert state["result"] == "shipped"
    assert [line["sku"] for line in state["reserved"]] == ["KB-TKL-ISO", "CB-USBC-2M"]
    assert state["goods_cents"] == sum(line["total_cents"] for line in state["reserved"]) == 11_900 + 2 * 1_590
    assert state["total_cents"] == state["goods_cents"] - state["discount_cents"] + state["tax_cents"] == 17_908
    assert state["charged_cents"] == state["total_cents"]
    steps = await shop.history(outcome.flow_key)
    assert [step.task for step in steps] == ["receive", "reserve", "reserve", "price", "charge", "ship"]
    assert [step.task for step in steps[-1].sub_history] == ["pack", "label", "pickup"]


@pytest.mark.parametrize(
    ("answers", "result", "by"),
    [
        ([{"approved": True, "by": "ada"}], "shipped", "ada"),
        ([{"approved": True}], "shipped", "somebody"),
        ([{"approved": False, "by": "ada"}], "released: not approved", "ada"),
        (["yes", None, {"approved": "yes"}, {"approved": True, "by": "ada"}], "shipped", "ada"),
    ],
)
async def test_a_large_order_waits_for_a_person_until_the_answer_is_one(
    shop: Engine, orders: dict[str, dict[str, Any]], answers: list[Any], result: str, by: str
) -> None:
    outcome = await shop.run("order", orders["A-20418"], timeout=30)
    for answer in answers:
        assert outcome.status is Status.INTERRUPTED
        assert outcome.interrupt_payload["total"] == "2,586.10 GBP"
        await shop.resume(outcome.flow_key, answer)
        outcome = await shop.await_(outcome.flow_key, 30)
    assert outcome.status is Status.COMPLETED
    assert (outcome.state["result"], outcome.state["approved_by"]) == (result, by)
    assert ("charged_cents" in outcome.state) == (result == "shipped")


async def test_a_declined_card_gives_the_goods_back_and_another_card_mends_it(
    shop: Engine, orders: dict[str, dict[str, Any]]
) -> None:
    outcome = await shop.run("order", orders["A-20421"], timeout=30)
    assert outcome.state["onErr"]["code"] == 402
    assert outcome.state["released"] == ["1 × AR-VESA", "1 × CB-DP-1M", "1 × PD-XL"]
    await shop.restart(outcome.flow_key, {"card": "4242424242424242"})
    outcome = await shop.await_(outcome.flow_key, 30)
    assert outcome.state["result"] == "shipped"
    assert "released" not in outcome.state


@pytest.mark.parametrize(
    ("lines", "code"),
    [([], 422), ([{"sku": "NO-SUCH", "quantity": 1}], 422), ([{"sku": "MN-27-4K", "quantity": 19}], 409)],
)
async def test_an_order_that_cannot_be_met_fails_before_anything_is_done(
    shop: Engine, orders: dict[str, dict[str, Any]], lines: list[dict[str, Any]], code: int
) -> None:
    outcome = await shop.run("order", {**orders["A-20417"], "lines": lines}, timeout=30)
    assert outcome.error is not None
    assert outcome.error.code == code
    assert [step.task for step in await shop.history(outcome.flow_key)] == ["receive"]


def test_a_task_can_be_left_out(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    monkeypatch.setenv("ORDERS_WITHOUT", "orders.charge")
    path = str(examples() / "tasks.py")
    (lame,) = find_workers(load_module(path), path)
    assert set(worker.tasks) - set(lame.tasks) == {"orders.charge"}
