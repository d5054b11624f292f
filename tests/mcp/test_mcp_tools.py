"""The MCP server, driven by the client of the official package, over a real service."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client as McpClient
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from typer.testing import CliRunner

from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest
from dwarf_nats.mcp.answers import MAX_ANSWER_CHARS, MAX_VALUE_CHARS, answer, shortened
from dwarf_nats.mcp.http import http_server
from dwarf_nats.mcp.server import build_server
from dwarf_nats.sdk import Client
from tests.support.caller import Caller, deployment

READING = {
    "find_flows",
    "count_flows",
    "get_flow",
    "explain_flow",
    "flow_history",
    "get_step",
    "list_workflows",
    "get_workflow",
    "wait_for_flow",
}
CHANGING = {
    "run_workflow",
    "resume_flow",
    "resume_breakpoint",
    "restart_flow",
    "restart_step",
    "fork_flow",
    "cancel_flow",
    "signal_event",
}
ORDER = {
    "name": "order",
    "fields": {"order_id": {"type": "string", "required": True}},
    "tasks": [
        {"name": "prepare", "set": {"prepared": True}},
        {"name": "approve", "ask": {"payload": {"question": "May it go out?", "order": "=order_id"}}},
        {"name": "paid", "wait": {"event": "payment.settled", "key": "=order_id"}},
        {"name": "check", "set": {"total": "=paid.amount * 2"}},
    ],
    "transitions": [
        {"from": "prepare", "to": "approve"},
        {"from": "approve", "to": "paid"},
        {"from": "paid", "to": "check"},
        {"from": "check", "to": "END"},
    ],
}


class Model:
    """Calls tools as a model does, and reads their answers."""

    def __init__(self, client: McpClient) -> None:
        self.client = client

    async def asks(self, tool: str, /, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        (content,) = result.content
        assert len(content.text) <= MAX_ANSWER_CHARS
        return json.loads(content.text)

    async def refused(self, tool: str, /, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.content
        return str(result.content[0].text)


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str) -> AsyncIterator[Caller]:
    async with deployment(nats_server.url, sqlite_dsn, "mcp") as one:
        await one.ok("graph.put", **ORDER)
        yield one


@asynccontextmanager
async def model(url: str, prefix: str = "mcp", **options: Any) -> AsyncIterator[Model]:
    """A model at a server in this process."""
    client = Client(url, prefix=prefix, actor="ada by MCP", patience=1.0)
    try:
        async with McpClient(build_server(client, **options)) as connected:
            yield Model(connected)
    finally:
        await client.close()


async def test_a_model_starts_a_flow_answers_it_finds_out_why_it_failed_and_mends_it(
    caller: Caller, nats_server: NatsServer
) -> None:
    """The whole life of a flow, with the tools alone."""
    async with model(nats_server.url) as one:
        assert await one.asks("list_workflows") == {"workflows": ["order"]}
        shown = await one.asks("get_workflow", name="order")
        assert shown["graph"]["fields"]["order_id"]["required"] is True

        started = await one.asks("run_workflow", workflow="order", state={"order_id": "A-1"}, tags={"customer": 4711})
        key = started["flow_key"]
        assert started["status"] == "interrupted"
        (pause,) = started["pauses"]
        assert pause["payload"] == {"question": "May it go out?", "order": "A-1"}

        await one.asks("resume_flow", flow_key=key, step_key=pause["step_key"], data={"yes": True})
        still = await one.asks("wait_for_flow", flow_key=key, timeout_seconds=0)
        assert (still["status"], "explain_flow" in still["note"]) == ("running", True)
        explained = await one.asks("explain_flow", flow_key=key)
        assert explained["waits"][0]["reason"] == "event"
        assert explained["waits"][0]["key"] == "A-1"
        assert explained["waits"][0]["since"].endswith("Z")

        (found,) = (await one.asks("find_flows", tags={"customer": 4711}, newer_than_seconds=3600))["flows"]
        assert (found["flow_key"], found["status"]) == (key, "running")

        got = await one.asks("signal_event", event="payment.settled", key="A-1", data={"amount": "nothing"})
        assert got == {"delivered_to_steps": 1, "kept_for_later": False}
        failed = await one.asks("wait_for_flow", flow_key=key)
        assert (failed["status"], failed["error"]["code"]) == ("failed", 400)
        steps = (await one.asks("flow_history", flow_key=key))["steps"]
        assert [step["task"] for step in steps] == ["prepare", "approve", "paid", "check"]
        broken = await one.asks("get_step", step_key=steps[-1]["step_key"])
        assert broken["state"]["paid"] == {"amount": "nothing"}

        mended = {"paid": {"amount": 21}}
        copy = await one.asks("fork_flow", step_key=steps[-1]["step_key"], overrides=mended, tags={"copy": True})
        assert (await one.asks("wait_for_flow", flow_key=copy["flow_key"]))["state"]["total"] == 42
        await one.asks("restart_step", step_key=steps[-1]["step_key"], overrides=mended)
        assert (await one.asks("wait_for_flow", flow_key=key))["state"]["total"] == 42
        await one.asks("restart_flow", flow_key=key, overrides={"order_id": "A-2"})
        assert (await one.asks("wait_for_flow", flow_key=key))["status"] == "interrupted"
        await one.asks("cancel_flow", flow_key=key, reason="a test")
        assert (await one.asks("get_flow", flow_key=key))["cancel_reason"] == "a test"
        counted = (await one.asks("count_flows", workflow="order"))["flows"]
        assert (counted["completed"], counted["cancelled"]) == (1, 1)

        page = await one.asks("flow_history", flow_key=copy["flow_key"], limit=3)
        rest = await one.asks("flow_history", flow_key=copy["flow_key"], limit=3, cursor=page["next_cursor"])
        assert [step["task"] for step in page["steps"] + rest["steps"]] == ["prepare", "approve", "paid", "check"]
        trail = (await caller.ok("audit.list"))["records"]
        assert {one["operation"]: one["actor"] for one in trail if one.get("actor")} == dict.fromkeys(
            ("flow.resume", "flow.fork", "flow.restart_from", "flow.restart", "flow.cancel"), "ada by MCP"
        )


@pytest.mark.usefixtures("caller")
async def test_a_refusal_says_what_to_do_and_a_read_only_server_cannot_change_anything(nats_server: NatsServer) -> None:
    async with model(nats_server.url) as one:
        text = await one.refused("get_flow", flow_key="1-99-a1B2c3D4e5F6g7H8")
        assert "404: " in text
        assert "find_flows" in text
        text = await one.refused("run_workflow", workflow="order")
        assert "400: " in text
        assert "order_id" in text
        assert "name the pause" in await one.refused("resume_flow", data=1)
        assert "less than or equal to 50" in await one.refused("find_flows", limit=500)
        assert await one.asks("run_workflow", workflow="order", state={"order_id": "B"}, timeout_seconds=0)
        (running,) = (await one.asks("find_flows"))["flows"]
        await one.asks("wait_for_flow", flow_key=running["flow_key"])
        assert "409: " in await one.refused("resume_breakpoint", flow_key=running["flow_key"])
        tools = {tool.name: tool for tool in (await one.client.list_tools()).tools}
        assert set(tools) == READING | CHANGING
        assert {name for name, tool in tools.items() if tool.annotations.read_only_hint} == READING
        for tool in tools.values():
            assert 20 < len(tool.description) < 200, tool.name
            for name, field in tool.input_schema["properties"].items():
                assert field.get("description"), f"{tool.name}.{name}"
    async with model(nats_server.url, read_only=True, payloads=False) as one:
        assert {tool.name for tool in (await one.client.list_tools()).tools} == READING
        key = running["flow_key"]
        (pause,) = (await one.asks("wait_for_flow", flow_key=key))["pauses"]
        assert "payload" not in pause
        assert "state" not in await one.asks("get_step", step_key=pause["step_key"])
        assert "payload" not in (await one.asks("explain_flow", flow_key=key))["waits"][0]
    async with model(nats_server.url, prefix="nobody-here") as one:
        assert "503: no dwarf-nats replica answers" in await one.refused("count_flows")
    async with model("nats://127.0.0.1:1") as one:
        assert "503: " in await one.refused("count_flows")


@pytest.mark.usefixtures("caller")
async def test_it_speaks_over_standard_input_and_over_http_with_a_token(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    arguments = ["-m", "dwarf_nats.cli.main", "mcp", "--nats", nats_server.url, "--prefix", "mcp", "--read-only"]
    command = StdioServerParameters(command=sys.executable, args=arguments, cwd=Path(__file__).parents[2])
    with (tmp_path / "log").open("w") as log:
        async with McpClient(stdio_client(command, errlog=log)) as client:
            assert await Model(client).asks("list_workflows") == {"workflows": ["order"]}
            assert {tool.name for tool in (await client.list_tools()).tools} == READING
    assert (tmp_path / "log").read_text() == ""

    service = Client(nats_server.url, prefix="mcp")
    async with service, http_server(build_server(service), ("127.0.0.1", 0), "s3cret") as web:
        url = f"{web.url}/mcp"
        async with (
            create_mcp_http_client(headers={"Authorization": "Bearer s3cret"}) as http,
            McpClient(streamable_http_client(url, http_client=http)) as client,
        ):
            assert await Model(client).asks("list_workflows") == {"workflows": ["order"]}
        async with create_mcp_http_client(headers={"Authorization": "Bearer other"}) as http:
            assert (await http.post(url, json={})).status_code == 401


def test_without_a_token_it_listens_on_loopback_only() -> None:
    with pytest.raises(BadRequest, match="--http-token"):
        http_server(build_server(Client()), ("0.0.0.0", 8090))


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    ran = CliRunner().invoke(app, ["mcp"])
    assert ran.exit_code == 1
    assert 'pip install "dwarf-nats[mcp]"' in ran.stderr


def test_a_long_value_is_cut_at_its_largest_parts_and_says_so() -> None:
    value = {"id": 7, "text": "x" * 50_000, "rows": [{"n": n, "name": "y" * 40} for n in range(900)], "ok": True}
    cut = shortened(value, MAX_VALUE_CHARS)
    assert len(json.dumps(cut, ensure_ascii=False, separators=(",", ":"))) <= MAX_VALUE_CHARS
    assert list(cut) == ["id", "text", "rows", "ok"]
    assert (cut["id"], cut["ok"], cut["rows"][0]["n"]) == (7, True, 0)
    assert cut["text"].endswith("… [cut: 50,000 characters]")
    assert cut["rows"][-1] == f"[cut: {900 - len(cut['rows']) + 1} more items]"
    wide = shortened({f"field{n}": n for n in range(10_000)}, 1_000)
    assert wide["field0"] == 0
    assert "more fields" in wide["…"]
    assert len(json.dumps(shortened({"a": "\n" * 90_000, "b": ["é" * 90_000]}, 1_000), ensure_ascii=False)) <= 1_000
    deep: Any = "z" * 100_000
    for _ in range(30):
        deep = {"in": [deep]}
    assert len(answer({"value": deep})) <= MAX_ANSWER_CHARS
    assert answer({"a": None, "b": "", "c": [], "d": 0, "e": False}) == '{"d":0,"e":false}'
