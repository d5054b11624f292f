"""The example agent as its README starts it: the worker of `dwarf-nats dev`, and the page over HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from dwarf_nats.cli.local_stack import LocalStack
from dwarf_nats.sdk import Graph
from dwarf_nats.web_server import WebServer
from tests.support.caller import WAIT

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the page, which imports the agent beside it."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("page")
    for name in ("page", "agent"):
        sys.modules.pop(name, None)


class Visitor:
    """Somebody at the page."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.thread = ""

    async def says(self, prompt: str, *, approves: bool = True) -> list[dict[str, Any]]:
        """Everything that the page is told about the answer."""
        reply = await self.http.post("/ask", json={"prompt": prompt, "thread": self.thread})
        self.thread = reply.json()["flow"]
        told: list[dict[str, Any]] = []
        decided: set[str] = set()
        async for one in self._events(self.thread):
            told.append(one)
            for pause in one.get("pauses", []):
                if pause["step"] not in decided:
                    decided.add(pause["step"])
                    await self.http.post("/decide", json={"step": pause["step"], "approved": approves})
        return told

    async def _events(self, flow: str) -> AsyncIterator[dict[str, Any]]:
        async with asyncio.timeout(WAIT), self.http.stream("GET", f"/events/{flow}") as reply:
            async for line in reply.aiter_lines():
                if line:
                    yield json.loads(line.removeprefix("data: "))


@pytest.mark.slow
async def test_a_visitor_sees_tokens_approves_a_refund_and_goes_on_talking(page: ModuleType, tmp_path: Path) -> None:
    async with LocalStack(tmp_path, logs=tmp_path) as stack:
        await stack.add_worker(str(EXAMPLE / "agent.py"), {"AGENT_PAUSE": "0"}).start()
        app = page.build_app(page.Client(stack.url, environment=False))
        async with (
            WebServer(app, ("127.0.0.1", 0), what="the page", option="--port") as web,
            httpx.AsyncClient(base_url=web.url, timeout=WAIT) as http,
        ):
            assert "Support agent" in (await http.get("/")).text
            visitor = Visitor(http)
            told = await visitor.says("Where is order 4713? Please refund it.")
            assert "lost by the carrier" in told[-1]["output"]
            assert "receipt R-1-" in told[-1]["output"]
            tokens = [one["text"] for one in told if one["kind"] == "token"]
            assert len(tokens) > 10
            assert "".join(tokens) == told[-1]["output"]
            steps = [one["steps"] for one in told if one["kind"] == "steps"][-1]
            assert sorted(step["task"] for step in steps) == ["find_order", "find_payment", *["model"] * 3, "refund"]

            told = await visitor.says("And 4711? Refund that, too.", approves=False)
            assert "vertical mouse" in told[-1]["output"]
            assert "denied" in told[-1]["output"]
            refused = await http.post("/ask", json={"prompt": "hi", "thread": "1-99-a1B2c3D4e5F6g7H8"})
            assert refused.status_code == 404


def test_the_graph_file_is_the_graph_of_the_agent(page: ModuleType) -> None:
    """From this file the picture of the README is drawn."""
    assert Graph.from_json((EXAMPLE / "graphs" / "support.json").read_text()) == page.support.graph
