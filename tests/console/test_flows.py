"""The list of flows, actions and live changes, over a real service."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from dwarf_nats.console.app import build_app
from dwarf_nats.console.console import Console
from dwarf_nats.console.pages.flows import Filters, FlowList, address_of_search
from dwarf_nats.console.server import ConsoleServer
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import Source
from dwarf_nats.console.tags import tag_value
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client
from dwarf_nats.store.statements import listing_window
from dwarf_nats.workflow.bulk import BulkAction
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.options import Query
from tests.console import stage
from tests.support.browser import WAIT, Browser, opened
from tests.support.caller import Caller, deployment

KEY = re.compile(r"\d+-\d+-[A-Za-z0-9]{16}\b", re.ASCII)
PAUSE = {
    "name": "order",
    "entryPoint": "approve",
    "tasks": [{"name": "approve", "ask": {"payload": {"question": "May A-1 go out?"}}}],
    "transitions": [{"from": "approve", "to": "END"}],
}
FAIL = {
    "name": "broken",
    "entryPoint": "bad",
    "tasks": [{"name": "bad", "set": {"x": "=nowhere.field"}}],
    "transitions": [{"from": "bad", "to": "END"}],
}


async def paused(caller: Caller, **state: Any) -> str:
    """The key of a flow that waits for a person."""
    key: str = (await caller.ok("flow.create", graph=PAUSE, state=state, start=True))["flowKey"]
    assert (await caller.ok("flow.await", flowKey=key))["status"] == "interrupted"
    return key


async def failed(caller: Caller) -> str:
    key: str = (await caller.ok("flow.create", graph=FAIL, start=True))["flowKey"]
    assert (await caller.ok("flow.await", flowKey=key))["status"] == "failed"
    return key


async def test_the_list_shows_where_flows_stand_and_why(browser: Browser, caller: Caller) -> None:
    waiting, broken = await paused(caller), await failed(caller)
    page = await browser.page("/flows")
    for key in (waiting, broken):
        assert f'href="/flow/{without_tokens(key)}"' in page
    assert "Waiting" in page
    assert "nowhere" in page, "the error of the failed flow"
    assert "person" in page, "what the other one waits for"
    only = await browser.page("/flows?status=failed")
    assert without_tokens(broken) in only
    assert f'href="/flow/{without_tokens(waiting)}"' not in only
    assert "No flow matches" in await browser.page("/flows?workflow=other")
    assert (await browser.get("/flows?status=odd")).status_code == 400
    assert (await browser.get("/flows?period=odd")).status_code == 400


async def test_flows_are_filtered_by_what_they_wait_for(browser: Browser, caller: Caller) -> None:
    waiting, broken = await paused(caller), await failed(caller)
    page = await browser.page("/flows?waits=interrupt")
    assert f'href="/flow/{without_tokens(waiting)}"' in page
    assert f'href="/flow/{without_tokens(broken)}"' not in page
    assert "looked through" in page
    assert "No flow matches" in await browser.page("/flows?waits=no_responders")
    assert (await browser.get("/flows?waits=odd")).status_code == 400


async def test_flows_are_found_by_their_tags(browser: Browser, caller: Caller) -> None:
    """The service tells tags apart by their text: a number finds the same text, too."""
    for value in (4711, "4711", "A-1"):
        await caller.ok("flow.create", graph=PAUSE, options={"tags": {"customer": value}})
    for text, found in (("4711", 2), ('"4711"', 2), ("A-1", 1), ("4712", 0)):
        page = await browser.page(f"/flows?tag.customer={quote(text)}")
        assert len(re.findall(r'<tr id="f', page)) == found, text
    await caller.ok("flow.create", graph=PAUSE, options={"tags": {"urgent": True}})
    page = await browser.page("/flows")
    assert "customer=<b>A-1</b>" in page
    assert 'href="/flows?tag.urgent=true"' in page
    assert len(re.findall(r'<tr id="f', await browser.page("/flows?tag.urgent=true"))) == 1


async def test_pages_follow_each_other(browser: Browser, caller: Caller) -> None:
    keys = [(await caller.ok("flow.create", graph=PAUSE))["flowKey"] for _ in range(51)]
    first = await browser.page("/flows")
    older = re.search(r'href="(/flows\?cursor=[^"]+)" rel="next"', first)
    assert older
    second = await browser.page(older[1].replace("&amp;", "&"))
    assert len(first.encode()) < 100_000
    shown = [set(re.findall(r'href="/flow/([\d-]+)"', page)) for page in (first, second)]
    assert [len(one) for one in shown] == [50, 1]
    assert shown[0] | shown[1] == {without_tokens(key) for key in keys}


async def test_an_empty_list_says_what_to_type(browser: Browser) -> None:
    page = await browser.page("/flows")
    assert "No flows yet" in page
    assert "dwarf-nats flow run" in page


async def test_all_flows_that_match_are_counted_and_then_cancelled(browser: Browser, caller: Caller) -> None:
    """M1: offered where something is filtered; with the query of the page, page by page."""
    keys = [await paused(caller) for _ in range(3)]
    await failed(caller)
    assert 'id="bulk-all"' not in await browser.page("/flows")
    page = await browser.page("/flows?status=interrupted&workflow=order")
    found = re.search(r'data-query="([^"]*)"', page)
    assert found is not None
    query = html.unescape(found[1])
    assert json.loads(query) == {"status": "interrupted", "workflow": "order"}
    assert 'id="bulk-all"' not in await browser.page("/flows?status=interrupted&waits=interrupt")
    fields = {"action": "cancel", "query": query, "reason": "recalled"}

    async def ask(**more: str) -> dict[str, Any]:
        response = await browser.post("/act/flow.bulk", headers={"Accept": "application/json"}, **fields, **more)
        assert response.status_code == 200, response.text
        reply: dict[str, Any] = response.json()["reply"]
        return reply

    assert (await ask(dryRun="true"))["matched"] == 3
    cursor = (await ask(limit="0"))["cursor"]
    page_one = await ask(limit="2", cursor=cursor)
    assert (page_one["done"], page_one["failed"]) == (2, [])
    assert (await ask(cursor=page_one["cursor"]))["done"] == 1
    for key in keys:
        assert (await caller.ok("flow.snapshot", flowKey=key))["cancelReason"] == "recalled"


async def test_every_action_is_offered_for_all_that_match(browser: Browser, caller: Caller) -> None:
    """M1: also a resume, with data, and tags; the fields of both are sent as JSON texts."""
    key = await paused(caller)
    page = await browser.page("/flows?status=interrupted&workflow=order")
    offered = re.search(r'<select id="bulk-all-action".*?</select>', page)
    assert offered is not None
    assert set(re.findall(r'option value="(\w+)"', offered[0])) == {*BulkAction}
    assert {*re.findall(r'data-for="(\w+)" hidden', page)} == {"resume", "tag"}
    query = '{"status":"interrupted","workflow":"order"}'

    async def done(**fields: str) -> int:
        response = await browser.post("/act/flow.bulk", headers={"Accept": "application/json"}, query=query, **fields)
        assert response.status_code == 200, response.text
        return int(response.json()["reply"]["done"])

    assert await done(action="tag", tags='{"reviewed":true}') == 1
    assert (await caller.ok("flow.snapshot", flowKey=key))["tags"] == {"reviewed": True}
    assert await done(action="resume", data='{"approved":true}') == 1
    bad = await browser.post("/act/flow.bulk", headers={"Accept": "application/json"}, query=query, action="tag")
    assert bad.status_code == 400


async def test_an_action_is_carried_out_and_said(browser: Browser, caller: Caller) -> None:
    key = await paused(caller)
    response = await browser.post("/act/flow.cancel?back=/flows", flowKey=without_tokens(key), reason="enough")
    assert (response.status_code, response.headers["Location"]) == (303, "/flows")
    assert "Cancelled." in await browser.page("/flows")
    assert "Cancelled." not in await browser.page("/flows")
    assert (await caller.ok("flow.snapshot", flowKey=key))["cancelReason"] == "enough"
    again = await browser.post(
        "/act/flow.cancel", headers={"Accept": "application/json"}, flowKey=without_tokens(key), reason=""
    )
    assert again.status_code == 409
    assert again.json()["error"]["code"] == 409


async def test_an_answer_to_a_pause_is_json(browser: Browser, caller: Caller) -> None:
    key = await paused(caller)
    wrong = await browser.post("/act/flow.resume", flowKey=without_tokens(key), data="{yes")
    assert wrong.status_code == 400
    assert "data is not JSON" in wrong.text
    assert (
        await browser.post("/act/flow.resume", flowKey=without_tokens(key), data='{"approved": true}')
    ).status_code == 303
    outcome = await caller.ok("flow.await", flowKey=key)
    assert outcome["status"] == "completed"


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_no_form_leads_elsewhere(browser: Browser, caller: Caller, back: str) -> None:
    key = await paused(caller)
    response = await browser.post(f"/act/flow.cancel?back={back}", flowKey=without_tokens(key))
    assert (response.status_code, response.headers["Location"]) == (303, "/")


async def test_an_action_that_is_none_and_a_flow_that_is_not_there(browser: Browser) -> None:
    assert (await browser.post("/act/flow.list")).status_code == 404
    response = await browser.post("/act/flow.cancel", flowKey="1-4711")
    assert response.status_code == 404
    assert "1-4711" in response.text
    assert (await browser.get("/nothing")).status_code == 404


async def test_a_flow_is_found_by_its_id_after_a_start(browser: Browser, caller: Caller) -> None:
    """The console that never saw the flow looks its key up; another one's memory plays no part."""
    key = await paused(caller)
    assert await browser.console.source.flow_key(without_tokens(key)) == key


async def test_a_flow_that_another_called_is_found_by_its_id(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **PAUSE)
    parent = {**PAUSE, "name": "parent", "entryPoint": "call", "tasks": [{"name": "call", "workflow": "order"}]}
    parent["transitions"] = [{"from": "call", "to": "END"}]
    key = (await caller.ok("flow.create", graph=parent, start=True))["flowKey"]
    await caller.ok("flow.await", flowKey=key)
    (step,) = (await caller.ok("flow.history", flowKey=key))["steps"]
    child = step["subFlowKey"]
    assert await browser.console.source.flow_key(without_tokens(child)) == child
    assert await caller.ok("flow.list", flowId=without_tokens(child)) == {
        "flows": [await _summary(caller, child)],
    }
    assert (await caller.ok("flow.purge", status="interrupted", flowId=without_tokens(child))) == {"deleted": 0}
    assert (await caller.ok("flow.list", flowId="7-1")) == {"flows": []}
    assert await caller.code("flow.list", flowId="x") == 400


async def _summary(caller: Caller, key: str) -> Any:
    (one,) = (await caller.ok("flow.list", flowId=without_tokens(key)))["flows"]
    assert one["flowKey"] == key
    return one


async def test_the_search_field(browser: Browser) -> None:
    for text, place in (
        ("1-42", "/flow/1-42"),
        ("1-42-a1B2c3D4e5F6g7H8", "/flow/1-42"),
        ("customer=4711", "/flows?tag.customer=4711"),
        ("status=failed", "/flows?status=failed"),
        ("card declined", "/flows?search=card+declined"),
        ("", "/flows"),
    ):
        response = await browser.post("/search", q=text)
        assert (response.status_code, response.headers["Location"]) == (303, place)
    assert address_of_search("a-b") == "/flows?search=a-b"


def test_values_of_tags_in_addresses() -> None:
    assert [tag_value(text) for text in ("4711", '"4711"', "true", "A-1", "1.5", "nan", "1e3")] == [
        4711,
        "4711",
        True,
        "A-1",
        1.5,
        "nan",
        "1e3",
    ]


# --- keys ---


async def test_no_key_is_in_any_address_page_or_log_line(
    client: Client, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not with a key in a state, in an error, and pasted into the search field."""
    caplog.set_level(logging.INFO)
    async with opened(client) as browser:
        key = await paused(caller, mine="see 1-7-a1B2c3D4e5F6g7H8")
        broken = await failed(caller)
        for path in ("/flows", "/flows?status=failed", "/flow/1-4711", "/workflows", "/tasks", "/replicas"):
            await browser.get(path)
        await browser.post("/search", q=key)
        await browser.get(f"/flow/{without_tokens(key)}")
        await browser.post("/act/flow.cancel?back=/flows", flowKey=without_tokens(key))
        await browser.post("/act/flow.cancel", flowKey=without_tokens(broken))
        await browser.post("/act/flow.cancel", headers={"Accept": "application/json"}, flowKey=without_tokens(broken))
        view = FlowList(browser.console, browser.console.source, Filters({}))
        browser.seen.append((await view.render()).message().decode())
        assert len(browser.seen) > 20
        for text in browser.seen:
            assert not KEY.search(text), KEY.search(text)
    assert not KEY.search(caplog.text)


# --- live ---


class Stream:
    """The events of a stream, as a tab gets them."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def until(self, wanted: str) -> None:
        """Read until a line has this text."""
        async with asyncio.timeout(WAIT):
            async for line in self._lines:
                if wanted in line:
                    return
        raise AssertionError(f"the stream ended before {wanted}")


async def test_a_change_reaches_the_tabs_and_a_lost_connection_is_said(sqlite_dsn: str) -> None:
    """The stream outlives the outage of NATS: lost, and back by itself with what happened meanwhile."""
    async with NatsServer() as server, deployment(server.url, sqlite_dsn, "live") as caller:
        settings = ConsoleSettings(listen="127.0.0.1:0")
        app = build_app(Source(Client(server.url, prefix="live")), settings)
        async with (
            ConsoleServer(app, settings) as console,
            httpx.AsyncClient(base_url=console.url, timeout=WAIT) as http,
        ):
            async with http.stream("GET", "/live/flows") as response:
                assert response.headers["Content-Type"].startswith("text/event-stream")
                stream = Stream(response)
                await stream.until("event: back")
                await stream.until("No flows yet")
                key = await paused(caller)
                await stream.until(f"/flow/{without_tokens(key)}")
                await server.kill()
                await stream.until("event: lost")
                await server.restart()
                await stream.until("event: back")
            assert (await http.get("/live/nothing")).status_code == 404


async def test_tabs_share_one_channel_and_the_last_one_ends_it(browser: Browser) -> None:
    console: Console = browser.console
    first, second = (FlowList(console, console.source, Filters({"status": "failed"})) for _ in range(2))
    one, two = console.hub.stream(first), console.hub.stream(second)
    for stream in (one, two):
        await anext(stream)
    assert console.hub.looked_at == 1
    await one.aclose()
    assert console.hub.looked_at == 1
    await two.aclose()
    assert console.hub.looked_at == 0


async def test_200_tabs_read_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    console: Console = browser.console
    asked: list[str] = []
    request = console.source.client.request

    async def counted(operation: str, *args: Any, **more: Any) -> bytes:
        asked.append(operation)
        return await request(operation, *args, **more)

    monkeypatch.setattr(console.source.client, "request", counted)
    streams = [console.hub.stream(FlowList(console, console.source, Filters({}))) for _ in range(200)]

    async def first_update(stream: Any) -> None:
        async for message in stream:
            if message.startswith(b"event: update"):
                return

    async with asyncio.timeout(WAIT):
        await asyncio.gather(*map(first_update, streams))
    assert sorted(asked) == ["flow.count", "flow.list"]
    for stream in streams:
        await stream.aclose()


async def test_a_wrong_address_of_a_list_is_said_in_words() -> None:
    with pytest.raises(BadRequest, match="7d"):
        Filters({"period": "odd"}).query()


async def test_a_search_that_looked_far_enough_says_how_far_and_goes_on(
    browser: Browser, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is empty, and leads on; a client that asks for all of them gets them all (O9)."""
    for name in ("FIRST_FLOWS", "CHEAP_FLOWS", "COSTLY_FLOWS"):
        monkeypatch.setattr(listing_window, name, 2)
    await failed(caller)
    for _ in range(9):
        await stage.looped(caller)
    page = await browser.page("/flows?workflow=broken")
    assert "No flow matches so far" in page
    seen: list[str] = []
    while further := re.search(r'href="([^"]*cursor=[^"]*)" rel="next">Search on', page):
        seen.append(page)
        page = await browser.page(html.unescape(further[1]))
    assert len(seen) > 1
    assert page.count("<tr id=") == 1
    reply = await caller.ok("flow.list", workflow="broken")
    assert reply["flows"] == []
    assert datetime.fromisoformat(reply["searchedTo"]) <= datetime.now(UTC)
    found = await browser.console.source.client.find(Query(workflow="broken"))
    assert [one.workflow for one in found] == ["broken"]
