"""Requests and messages of graphs under permissions: nothing is granted by default, and each subject can be (N3, N4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.workflow.graph import Graph
from tests.support.deployment import WAIT, Deployment, secured

PAGE = Path(__file__).parents[2] / "docs" / "operating" / "security.md"
GRANTED = '"stock.*.reserve", "orders.shipped"'
"""What the page says to add to the template of a replica."""
SERVICE = """{ user: stock, password: stock, permissions: {
      publish: { deny: [">"] }
      subscribe: { allow: ["stock.> stock", "_INBOX.stock.>"] }
      allow_responses: { max: 1, expires: "1m" } } }"""


def one(node: dict[str, Any]) -> Graph:
    """A graph of one node."""
    graph = {
        "name": "w",
        "entryPoint": "n",
        "tasks": [{"name": "n", **node}],
        "transitions": [{"from": "n", "to": "END"}],
    }
    return Graph.from_json(json.dumps(graph).encode())


REQUEST = one({"request": {"subject": "='stock.' + sku + '.reserve'"}})
MESSAGE = one({"publish": {"subject": "orders.shipped"}})
OTHER = one({"publish": {"subject": "orders.cancelled"}})


@pytest.fixture
async def granting(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with the template of a replica that may send to two subjects more, and a service."""
    with pytest.MonkeyPatch.context() as environment:
        config = secured(tmp_path, environment)
        rights = config.parent / "replica.conf"
        shipped = rights.read_text()
        assert shipped.count('"task.>", "graph.>"') == 1
        rights.write_text(shipped.replace('"task.>", "graph.>"', f'"task.>", "graph.>", {GRANTED}'))
        config.write_text(config.read_text().replace("users: [\n", f"users: [\n    {SERVICE}\n"))
        async with NatsServer(config=config) as server:
            yield server


async def until_tripped(deployment: Deployment, subject: str) -> str:
    """The cause for which the breaker of a subject trips."""
    async with asyncio.timeout(WAIT):
        while not await deployment.viewer.breaker(subject):
            pass
    return {one.url: one.cause for one in deployment.engine.task_health()}[subject]


async def test_the_template_of_a_replica_permits_no_subject_of_a_service(
    secured_server: NatsServer, tmp_path: Path
) -> None:
    """N3, N4: the step waits, and nothing is sent; the breaker names the cause."""
    async with Deployment(secured_server.url, f"sqlite:///{tmp_path / 'dwarf.db'}") as deployment:
        flows = []
        for graph in (REQUEST, MESSAGE):
            await deployment.operator.put_graph(graph)
            flows.append(await deployment.shop.create("w", {"sku": "a1"}, start=True))
            (node,) = graph.nodes.values()
            assert await until_tripped(deployment, node.url) == "forbidden"
        for flow in flows:
            assert (await deployment.shop.snapshot(flow)).status.value == "running"
        assert not [one for one in deployment.heard if one.subject.startswith(("stock.", "orders."))]


async def test_subjects_are_granted_one_by_one(granting: NatsServer, tmp_path: Path) -> None:
    """N3, N4: what the page tells to grant is enough, for an existing service that may only answer; the rest stays refused."""
    async with Deployment(granting.url, f"sqlite:///{tmp_path / 'dwarf.db'}") as deployment:
        service = await deployment.connected("stock")

        async def answer(message: Msg) -> None:
            await message.respond(b'{"reserved": 3}')

        await service.subscribe("stock.*.reserve", queue="stock", cb=answer)
        await round_trip(service)
        await deployment.operator.put_graph(REQUEST)
        outcome = await deployment.shop.run("w", {"sku": "a1"})
        assert outcome.state["n"] == {"reserved": 3}
        await deployment.operator.put_graph(MESSAGE)
        assert (await deployment.shop.run("w", {})).status.value == "completed"
        await deployment.until(lambda message: message.subject == "orders.shipped")
        await deployment.operator.put_graph(OTHER)
        await deployment.shop.create("w", {}, start=True)
        assert await until_tripped(deployment, "orders.cancelled") == "forbidden"


def test_the_page_grants_what_was_tested() -> None:
    assert GRANTED in PAGE.read_text()
