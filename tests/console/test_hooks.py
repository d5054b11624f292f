"""`POST /hooks/<source>`: an HTTP request becomes a message of a source (R1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js.api import StreamConfig

from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from tests.support.browser import Browser, opened
from tests.support.caller import WAIT, Caller, conforms, deployment

pytestmark = pytest.mark.slow
GRAPH = {
    "name": "hooked",
    "entryPoint": "keep",
    "tasks": [{"name": "keep", "set": {"kept": True}}],
    "transitions": [{"from": "keep", "to": "END"}],
}
STATE = {"body": "=data", "kind": "=headers['x-kind']"}


@pytest.fixture
async def hooked(sqlite_dsn: str) -> AsyncIterator[tuple[Browser, Caller]]:
    """A console with `--api` over a service with JetStream, and the sources `orders` and, without a stream, `plain`."""
    async with NatsServer(jetstream=True) as server, deployment(server.url, sqlite_dsn, "hooks") as caller:
        await caller.client.jetstream().add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        await caller.ok("graph.put", **GRAPH)
        start = {"workflow": "hooked", "state": STATE}
        await caller.ok("source.put", name="orders", subject="orders.*", stream="ORDERS", start=start)
        await caller.ok("source.put", name="plain", subject="plain", start=start)
        async with Client(server.url, prefix="hooks") as client, opened(client, ConsoleSettings(api=True)) as browser:
            yield browser, caller


async def test_a_body_becomes_a_message_and_a_flow(hooked: tuple[Browser, Caller]) -> None:
    """R1: answered once the stream has it; with the headers a sender of webhooks adds; the same key is one message."""
    browser, caller = hooked
    headers = {"X-Kind": "push", "Idempotency-Key": "d-1", "Authorization": "secret"}
    for duplicate in (False, True):
        response = await browser.http.post("/hooks/orders?subject=orders.web", json={"n": 1}, headers=headers)
        assert response.status_code == 202
        assert response.json() == {"stream": "ORDERS", "sequence": 1} | ({"duplicate": True} if duplicate else {})
    async with asyncio.timeout(WAIT):
        while not (flows := (await caller.ok("flow.list", status="completed"))["flows"]):
            await asyncio.sleep(0.05)
    (flow,) = flows
    state = (await caller.ok("flow.snapshot", flowKey=flow["flowKey"]))["state"]
    assert state == {"body": {"n": 1}, "kind": "push", "kept": True}
    message = await caller.client.jetstream().get_msg("ORDERS", 1)
    assert "authorization" not in {name.lower() for name in message.headers or {}}
    assert (await browser.http.post("/hooks/plain", json={}, headers={"X-Kind": "a"})).json() == {}


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("nowhere", 404, "no source 'nowhere'"),
        ("orders", 400, "?subject="),
        ("orders?subject=orders.a.b", 400, "does not match"),
        ("orders?subject=orders.*", 400, "wildcard"),
        ("plain?subject=other", 400, "does not match"),
    ],
)
async def test_what_is_wrong_is_said_in_words(hooked: tuple[Browser, Caller], path: str, code: int, why: str) -> None:
    browser, caller = hooked
    response = await browser.http.post(f"/hooks/{path}", json={})
    assert response.status_code == code
    assert why in conforms("error_reply", response.json())["error"]["message"]
    if path == "orders":
        await caller.client.jetstream().delete_stream("ORDERS")
        response = await browser.http.post("/hooks/orders?subject=orders.web", json={})
        assert response.status_code == 503
