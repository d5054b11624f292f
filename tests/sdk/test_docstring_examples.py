"""The reference page of the SDK, and the example in each docstring, which is run."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from docsite import sdk_reference
from dwarf_nats import sdk
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import NotFound
from dwarf_nats.sdk import END, Client, Flow, Graph, RetryPolicy, Source, SourceStart, Worker, Workflow
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.workflow.flow import Suspended
from tests.workflow.test_typed_values import call

SOON = 60.0
RUN = ("Client", "Worker", "Flow", "Workflow", "WorkflowNode", "Graph")
"""The classes of which every method has an example."""
WITHOUT = {"Graph": {"add_set", "check"}, "Flow": {"state_as"}}
"""Methods whose example is a block of its own, or that do nothing by themselves; and `check`, shown at `Workflow`."""
LASTING = {"serve", "main", "start_patiently", "halt"}
"""Methods that serve until the process is told to end: their examples are compiled only."""


def code_of(example: str) -> Any:
    text = f"{example}\ndef charge(): ..." if example.startswith("@") else example
    return compile(text, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run(example: str, names: dict[str, Any]) -> None:
    found = eval(code_of(example), names)
    if inspect.isawaitable(found):
        await asyncio.wait_for(found, SOON)


@pytest.mark.parametrize("name", RUN)
def test_every_method_has_an_example(name: str) -> None:
    shown = dict(sdk_reference.examples(name))
    methods = {key for key, member in sdk_reference.public_members(name) if not isinstance(member, property)}
    aliases = {"add_when", "add_switch", "add_goto", "add_for_each", "add_on_error"}
    assert methods - shown.keys() - WITHOUT.get(name, set()) - aliases == set()


def test_the_reference_is_as_it_would_be_written() -> None:
    assert sdk_reference.PAGE.read_text(encoding="utf-8") == sdk_reference.render(), "python -m docsite.sdk_reference"


def test_every_public_name_is_on_the_page_and_described() -> None:
    page = sdk_reference.render()
    for name in sdk.__all__:
        assert f"# {name}\n" in page or f"| `{name}` |" in page, name
    for title, (module, _) in sdk_reference.FURTHER.items():
        part = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        for name in module.__all__:
            described = part.partition(f"\n### {name}\n")[2] or part.partition(f"\n#### {name}\n")[2]
            assert described.strip(), f"{title}.{name}"
            assert getattr(module, name).__doc__, f"{title}.{name}"


def test_the_example_of_each_method_of_a_flow_runs() -> None:
    for _, example in sdk_reference.examples("Flow"):
        flow = Flow.from_call(call({"total": 5, "count": 1, "draft": "x", "note": "y", "address": "z"}))
        flow.set("count", 1)
        try:
            exec(code_of(example), {"flow": flow})
        except Suspended:
            pass


def charge(total: int = 0) -> None:
    del total


@pytest.mark.parametrize("name", ["Graph", "Workflow", "WorkflowNode"])
def test_the_example_of_each_method_that_makes_graphs_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = Worker()
    worker.add_task("charge", charge)
    for method, example in sdk_reference.examples(name):
        graph = Graph("order")
        if method.startswith(("set_", "annotate", "compensate", "validate")):
            graph.add_chain("reserve", "charge", "ship", END)
            Path("order.yaml").write_bytes(graph.to_json())
        order = Workflow("order")
        names = {
            "graph": graph,
            "order": order,
            "charge": charge,
            "END": END,
            "Graph": Graph,
            "RetryPolicy": RetryPolicy,
        }
        if name == "WorkflowNode" or method in ("check", "validate"):
            names["paid"] = order.task(charge)
            order.task("alarm")
            order.part("charge") >> "alarm" >> END
            if method in ("check", "validate"):
                order.validate()
        Path("order.yaml").write_text("{name: order, tasks: [{name: charge}]}")
        exec(code_of(example), names)


@pytest.mark.slow
async def test_the_example_of_each_method_of_client_and_worker_runs(tmp_path: Path) -> None:
    """One service and one connection for all; each example gets a flow in the state that its method needs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(jetstream=True))
        settings = ServerSettings.of(
            dsns=[f"sqlite:///{tmp_path / 'dwarf.db'}"], nats_url=server.url, wait_for_servers=False, drain_ms=200
        )
        await stack.enter_async_context(replica(settings))
        client = await stack.enter_async_context(Client(server.url))
        prepare = await _prepared(client)
        await client.nc.jetstream().add_stream(name="ORDERS", subjects=["shop.orders"])
        names = {one: getattr(sdk, one) for one in sdk.__all__}
        names |= {
            "graph": await client.get_graph("order"),
            "url": server.url,
            "first": datetime(2026, 11, 1, tzinfo=UTC),
            "last": datetime(2026, 11, 3, tzinfo=UTC),
            "source": Source(
                name="orders", subject="shop.orders", stream="ORDERS", start=SourceStart(workflow="order")
            ),
        }
        shown = dict(sdk_reference.examples("Client"))
        failed: dict[str, Exception] = {}
        for method in sorted(shown, key=_rank):
            context = {**names, "client": client, **await prepare(method)}
            if method in ("close", "connect"):
                context["client"] = Client(server.url)
            try:
                await run(shown[method], context)
            except NotFound as error:
                if method not in ("retry_outbox", "delete_outbox"):
                    failed[method] = error
            except Exception as error:
                failed[method] = error
            if method in ("close", "connect"):
                await context["client"].close()
        assert failed == {}
        for method, example in sdk_reference.examples("Worker"):
            worker = Worker(server.url)
            if method not in ("add_task", "task"):
                worker.add_task("charge", charge)
            code_of(example)
            if method not in LASTING:
                await run(example, {"worker": worker, "charge": charge, "graph": names["graph"]})
            await worker.stop(0)


def _rank(method: str) -> int:
    """Definitions are made first and removed last; what empties the service or ends the client comes at the end."""
    if method.startswith("put_") and method != "put_shard":
        return 0
    return 3 if method in ("put_shard", "purge", "close") else 2 if method.startswith("delete_") else 1


async def _prepared(client: Client) -> Callable[[str], Awaitable[dict[str, Any]]]:
    """Register the graphs; return a function that makes the flow which the example of a method is about."""
    order, approval, waiting = Graph("order"), Graph("approval"), Graph("waiting")
    order.add_set("check", {"checked": True})
    order.add_set("approve", {"approved": True})
    order.add_chain("check", "approve", END)
    approval.add_ask("approve")
    approval.add_chain("approve", END)
    waiting.add_wait("paid", "payment.settled", "nobody")
    waiting.add_chain("paid", END)
    old = Graph("old")
    old.add_set("check", {"checked": True})
    old.add_chain("check", END)
    for graph in (order, approval, waiting, old):
        await client.put_graph(graph)

    async def prepare(method: str) -> dict[str, Any]:
        workflow = {"resume": "approval", "cancel": "waiting", "poll": "waiting"}.get(method, "order")
        key = await client.create(workflow, {"total": 5})
        if method in ("start", "stream", "break_before"):
            if method == "stream":
                await client.start(key)
            return {"key": key}
        if method == "resume_break":
            await client.break_before(key, "approve")
        await client.start(key)
        if workflow != "waiting":
            await client.await_(key, SOON)
        steps = await client.history(key)
        return {"key": key, "step_key": steps[0].step_key}

    return prepare
