"""The HTTP way in: the operations of the wire, off unless asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import jsonschema
import pytest

from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.sdk import Client
from dwarf_nats.wire.openapi import HOOKS
from dwarf_nats.wire.operations import OPERATIONS
from dwarf_nats.wire.schema import openapi_document
from tests.console.test_flows import PAUSE, paused
from tests.support.browser import Browser, opened
from tests.support.caller import Caller, conforms

DOUBLE = {
    "name": "double",
    "entryPoint": "twice",
    "tasks": [{"name": "twice", "set": {"n": "=n * 2"}}],
    "transitions": [{"from": "twice", "to": "END"}],
}


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Browser]:
    async with opened(client, ConsoleSettings(api=True)) as one:
        yield one


async def test_a_flow_runs_over_http(api: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **DOUBLE)
    response = await api.http.post("/api/flow.run", json={"workflow": "double", "state": {"n": 21}})
    assert response.status_code == 200
    outcome = conforms("outcome", response.json())
    assert (outcome["status"], outcome["state"]) == ("completed", {"n": 42})
    history = await api.http.post("/api/flow.history", json={"flowKey": outcome["flowKey"]})
    assert [step["task"] for step in history.json()["steps"]] == ["twice"]
    assert (await api.http.post("/api/graph.list", headers={"Content-Type": "application/json"})).json()["graphs"]


async def test_an_idempotency_key_makes_one_flow(api: Browser, caller: Caller) -> None:
    headers = {"Idempotency-Key": "order A-1 ü"}
    made = [await api.http.post("/api/flow.create", json={"graph": PAUSE}, headers=_ascii(headers)) for _ in range(2)]
    assert made[0].json() == made[1].json()
    refused = await api.http.post("/api/flow.list", json={}, headers={"Idempotency-Key": "x"})
    assert refused.status_code == 400
    assert len((await caller.ok("flow.list"))["flows"]) == 1


def _ascii(headers: dict[str, str]) -> dict[str, str]:
    return {name: value.encode("ascii", "ignore").decode() for name, value in headers.items()}


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("flow.snapshot", {"flowKey": "1-4711-aaaaaaaaaaaaaaaa"}, 404),
        ("flow.snapshot", {"flowKey": "x"}, 400),
        ("flow.snapshot", {"flow": "x"}, 400),
        ("flow.create", {"workflow": "nothing"}, 404),
    ],
)
async def test_a_refusal_has_the_status_of_its_code(
    api: Browser, operation: str, body: dict[str, str], code: int
) -> None:
    response = await api.http.post(f"/api/{operation}", json=body)
    assert response.status_code == code
    assert conforms("error_reply", response.json())["error"]["code"] == code


async def test_a_run_that_takes_too_long_says_the_key(api: Browser) -> None:
    response = await api.http.post("/api/flow.run", json={"graph": {**DOUBLE, **_asleep()}, "timeoutMs": 1})
    assert response.status_code == 408
    assert response.json()["error"]["flowKey"]


def _asleep() -> dict[str, object]:
    return {"tasks": [{"name": "twice", "sleep": {"ms": 3_600_000}}]}


async def test_only_json_is_taken_and_no_other_site_may_ask(api: Browser) -> None:
    for more in ({"data": {"a": "b"}}, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}):
        response = await api.http.post("/api/flow.list", **more)  # type: ignore[arg-type]
        assert response.status_code == 415
    response = await api.http.post("/api/flow.list", json={}, headers={"Origin": "http://evil.example"})
    assert response.status_code == 403
    assert (await api.http.get("/api/flow.list")).status_code == 405


async def test_it_is_off_unless_asked_for(browser: Browser, caller: Caller) -> None:
    await paused(caller)
    assert (await browser.http.post("/api/flow.list", json={})).status_code == 404
    assert (await browser.http.get("/api/openapi.json")).status_code == 404


async def test_the_document_describes_every_operation(api: Browser) -> None:
    document = (await api.http.get("/api/openapi.json")).json()
    assert document == json.loads(json.dumps(openapi_document()))
    assert set(document["paths"]) == {f"/api/{one.name}" for one in OPERATIONS} | {HOOKS}
    for one in OPERATIONS:
        post = document["paths"][f"/api/{one.name}"]["post"]
        content = post["requestBody"]["content"]["application/json"]
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(content["example"])
        assert "200" in post["responses"]
        assert "409" in post["responses"]
