"""Workflows, tasks and replicas, over a real service; and what a user without rights sees."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dwarf_nats.console.pages.replicas import replica_values
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Forbidden
from dwarf_nats.sdk import Client, Worker
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import without_tokens
from tests.console.test_flows import FAIL, PAUSE, failed, paused
from tests.support.browser import WAIT, Browser, opened
from tests.support.caller import Caller
from tests.support.deployment import Deployment, secured, url_of


async def test_workflows_show_how_their_flows_fare(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **PAUSE)
    await failed(caller)
    page = await browser.page("/workflows")
    assert 'href="/workflow/order"' in page, "registered, without a flow"
    assert 'href="/workflow/broken"' in page, "not registered, with a flow"
    assert "0.0 %" in page


async def test_a_workflow_shows_its_versions_and_starts_a_flow(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **PAUSE)
    await paused(caller)
    page = await browser.page("/workflow/order")
    assert "Versions" in page
    once = re.search(r'name="once" value="(\w+)"', page)
    assert once
    form = {"once": once[1], "state": '{"order_id": "A-1"}', "priority": "7", "fairnessKey": "acme"}
    first, second = [await browser.post("/workflow/order/start", **form) for _ in range(2)]
    assert first.status_code == second.status_code == 303
    assert first.headers["Location"] == second.headers["Location"], "pressed twice, started once"
    (flow,) = (await caller.ok("flow.list", fairnessKey="acme"))["flows"]
    assert first.headers["Location"] == f"/flow/{without_tokens(flow['flowKey'])}"
    assert flow["priority"] == 7
    for name, text in (("state", "[1]"), ("state", "{"), ("priority", "x")):
        response = await browser.post("/workflow/order/start", **{name: text})
        assert response.status_code == 400, (name, text)


async def test_declared_fields_are_a_form(browser: Browser, caller: Caller) -> None:
    fields = {
        "order_id": {"type": "string", "required": True},
        "total": {"type": "integer", "description": "In cents."},
    }
    await caller.ok("graph.put", **{**PAUSE, "fields": fields})
    page = await browser.page("/workflow/order")
    assert 'name="f.order_id"' in page
    assert "In cents." in page
    assert '<svg class="graph"' in page
    start = "/workflow/order/start"
    missing = await browser.post(start)
    assert missing.status_code == 400
    assert "order_id: fill it in" in missing.text
    assert (await browser.post(start, **{"f.order_id": "A-1", "tags": "customer"})).status_code == 400
    form = {"f.order_id": "A-1", "f.total": "12", "state": '{"note": "x"}', "tags": "customer=4711 env=prod"}
    assert (await browser.post(start, **form)).status_code == 303
    (flow,) = (await caller.ok("flow.list", tags={"customer": 4711, "env": "prod"}))["flows"]
    await caller.ok("flow.await", flowKey=flow["flowKey"])
    state = (await caller.ok("flow.snapshot", flowKey=flow["flowKey"]))["state"]
    assert (state["order_id"], state["total"], state["note"]) == ("A-1", 12, "x")


async def test_a_workflow_known_by_a_flow_only_is_shown(browser: Browser, caller: Caller) -> None:
    await failed(caller)
    assert "broken" in await browser.page("/workflow/broken")
    assert (await browser.get("/workflow/nothing")).status_code == 404
    assert (await browser.get("/workflow/a..b")).status_code == 404
    assert FAIL["name"] == "broken"


async def test_tasks_show_who_serves_them(browser: Browser, caller: Caller, nats_server: NatsServer) -> None:
    worker = Worker(nats_server.url, task_prefix=f"{caller.prefix}task", name="billing-service")
    worker.add_task("billing.charge", lambda: {"charged": True})
    async with worker:
        page = await browser.page("/tasks")
    assert "billing.charge" in page
    assert "billing-service" in page


async def test_a_task_that_nobody_serves_stands_first(browser: Browser, caller: Caller) -> None:
    flow = await caller.ok("flow.create_task", task="nobody.home", start=True)
    while not (await caller.ok("task.breaker", task="nobody.home"))["tripped"]:
        pass
    page = await browser.page("/tasks")
    assert "nobody known" in page
    assert page.index("nobody.home") < page.index("nobody known")
    await caller.ok("flow.cancel", **flow)


async def test_replicas_and_shards(browser: Browser) -> None:
    page = await browser.page("/replicas")
    assert "Ready" in page
    assert "Healthy" in page
    assert "127.0.0.1" in page


async def test_the_backlog_is_shown_by_priority_and_fairness_key(browser: Browser) -> None:
    """What counts stop at is marked, and a key leads to its flows."""
    values = await replica_values(browser.console.source)
    keys = [{"fairnessKey": "acme", "steps": 200, "oldestMs": 9000}, {"fairnessKey": "", "steps": 2, "oldestMs": 1}]
    backlog = {"priority": 7, "steps": 1000, "fairnessKeys": 2, "oldestMs": 9000, "keys": keys}
    values["shards"] = [{**values["shards"][0], "backlog": [backlog]}]
    page = browser.console.html("replicas_rows.html", **values)
    assert "1,000+" in page
    assert 'href="/flows?fairnessKey=acme"' in page
    assert "200+" in page
    assert "no key" in page
    assert "Nothing waits" in await browser.page("/replicas")


# --- rights ---


@pytest.fixture(scope="module")
def secured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with the permission templates."""
    with pytest.MonkeyPatch.context() as environment:
        server = NatsServer(config=secured(tmp_path_factory.mktemp("permissions"), environment))
        asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def deployment(secured_server: NatsServer, tmp_path: Path) -> AsyncIterator[Deployment]:
    async with Deployment(secured_server.url, f"sqlite:///{tmp_path / 'dwarf.db'}") as one:
        yield one


def client_of(server: NatsServer, user: str) -> Client:
    return Client(url_of(server.url, user), inbox_prefix=f"_INBOX.{user}")


@pytest.mark.slow
async def test_a_viewer_sees_everything_and_is_offered_nothing(
    secured_server: NatsServer, deployment: Deployment
) -> None:
    graph = Graph.from_json(json.dumps(PAUSE).encode())
    await deployment.operator.put_graph(graph)
    key = await deployment.operator.create(graph, start=True)
    await deployment.operator.await_(key)
    async with opened(client_of(secured_server, "viewer")) as browser:
        assert browser.console.hub.events
        for path in ("/flows", "/workflows", "/workflow/order", "/tasks", "/replicas"):
            page = await browser.page(path)
            assert "data-pick" not in page, path
            assert "Start a flow" not in page, path
            assert "does not let" not in page, path
        assert f'href="/flow/{without_tokens(key)}"' in await browser.page("/flows")
        response = await browser.post("/act/flow.cancel", flowKey=without_tokens(key))
        assert response.status_code == 403
        assert "NATS permissions do not let" in response.text
    async with opened(client_of(secured_server, "operator")) as browser:
        assert "data-pick" in await browser.page("/flows")
        assert (await browser.post("/act/flow.cancel", flowKey=without_tokens(key))).status_code == 303


@pytest.mark.slow
async def test_a_user_who_may_not_list_gets_words(secured_server: NatsServer, deployment: Deployment) -> None:
    """A caller may start flows, but not learn of others'; a key that is pasted opens its flow."""
    async with opened(client_of(secured_server, "shop")) as browser:
        assert not browser.console.hub.events
        response = await browser.get("/flows")
        assert response.status_code == 403
        assert "dwarf.flow.list" in response.text
    assert deployment.engine is not None


@pytest.mark.slow
async def test_each_user_of_a_proxy_acts_with_rights_of_their_own(
    secured_server: NatsServer, deployment: Deployment, tmp_path: Path
) -> None:
    """`--user-credentials`: here files name the NATS user, since the server of this test knows no JWT."""
    for user in ("operator", "viewer"):
        (tmp_path / f"{user}.creds").write_text(user)
    table = tmp_path / "users.toml"
    table.write_text('"ada" = "operator.creds"\nbob = "viewer.creds"\n')
    key = await deployment.operator.create_task("billing.nothing")
    settings = ConsoleSettings(user_header="X-User", user_credentials=table)
    async with opened(
        client_of(secured_server, "viewer"),
        settings,
        connect=lambda path: client_of(secured_server, path.read_text()),
        headers={"X-User": "ada"},
    ) as browser:
        actor = await deployment.root.subscribe("dwarf.flow.cancel")
        assert "data-pick" in await browser.page("/flows")
        assert (await browser.get("/flows", headers={"X-User": "eve"})).status_code == 403
        assert "data-pick" not in (await browser.get("/flows", headers={"X-User": "bob"})).text
        response = await browser.post("/act/flow.cancel", flowKey=without_tokens(key), headers={"X-User": "bob"})
        assert response.status_code == 403
        assert (await browser.post("/act/flow.cancel", flowKey=without_tokens(key))).status_code == 303
        actors: list[str | None] = []
        while "ada" not in actors:
            message = await actor.next_msg(timeout=WAIT)
            actors.append((message.headers or {}).get("Dwarf-Actor"))
        assert set(actors) == {None, "ada"}, "nobody asked with a key but ada; None is the question after rights"
    with pytest.raises(Forbidden):
        await deployment.viewer.cancel(key)
