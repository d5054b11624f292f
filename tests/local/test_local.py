"""Workflows in a script or a notebook: `dwarf_nats.local`."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dwarf_nats import local
from dwarf_nats.errors import BadRequest, NotFound, TimedOut
from dwarf_nats.sdk import END, Client, Flow, FlowOptions, Graph, Query, Status, TaskError, Worker, Workflow
from tests.operating.snippets import Block, blocks, output

ROOT = Path(__file__).parents[2]
worker = Worker()


@worker.task("greet")
async def greet(name: str) -> dict[str, str]:
    return {"greeting": f"hello {name}"}


@worker.task("shout")
def shout(flow: Flow) -> None:
    flow.progress(0.5, "half")
    flow.transform("greeting", str.upper)


def greeting() -> Graph:
    graph = Graph("greeting")
    graph.add_chain("greet", "shout", END)
    return graph


def asking() -> Graph:
    graph = Graph("asking")
    graph.add_ask("approve", {"question": "?"}, into="approval")
    graph.add_ask("again", {"question": "!"}, into="second")
    graph.add_chain("approve", "again", END)
    return graph


def test_a_script_runs_a_flow_in_one_line() -> None:
    outcome = local.run(greeting(), {"name": "ada"}, tasks=worker)
    assert (outcome.status, outcome.state["greeting"]) == (Status.COMPLETED, "HELLO ADA")


def test_a_workflow_made_of_functions_takes_a_record_and_returns_one() -> None:
    @dataclass
    class Greeting:
        name: str
        greeting: str = ""

    workflow = Workflow("greeting", Greeting)
    workflow.start >> workflow.task(greet) >> shout >> END
    outcome = local.run(workflow, Greeting("ada"), tasks=worker)
    assert outcome.as_(Greeting) == Greeting("ada", "HELLO ADA")


async def test_it_works_where_a_loop_runs_as_in_a_notebook() -> None:
    outcome = local.run(greeting(), {"name": "ada"}, tasks=[worker, {"other": greet}])
    assert outcome.state["greeting"] == "HELLO ADA"
    with pytest.raises(BadRequest, match="tasks come from a Worker"):
        local.run(greeting(), tasks="greet")


def test_functions_serve_the_tasks_of_their_names_and_graphs_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "greeting.json").write_bytes(greeting().to_json())
    for workflow in (tmp_path / "greeting.json", str(tmp_path / "greeting.json")):
        assert local.run(workflow, {"name": "bo"}, tasks=[greet, shout]).state["greeting"] == "HELLO BO"
    parent = Graph("parent")
    parent.add_workflow("call", "greeting", {"name": "=who"})
    parent.add_chain("call", END)
    outcome = local.run("parent", {"who": "cy"}, tasks=worker, graphs=[parent, tmp_path])
    assert outcome.state["call"]["greeting"] == "HELLO CY"
    (tmp_path / "asking.json").write_bytes(asking().to_json())
    with pytest.raises(BadRequest, match="has 2 graphs"):
        local.run(tmp_path, tasks=worker)


def test_the_graphs_of_a_worker_come_with_it() -> None:
    bringing = Worker()
    bringing.add_task("greet", greet)
    bringing.add_task("shout", shout)
    bringing.graphs(greeting())
    assert local.run("greeting", {"name": "ada"}, tasks=bringing).state["greeting"] == "HELLO ADA"


def test_pauses_are_answered_by_a_function_or_end_the_run() -> None:
    assert local.run(asking()).status is Status.INTERRUPTED
    outcome = local.run(asking(), answer=lambda pause: {"to": pause.payload["question"]})
    assert outcome.state == {"approval": {"to": "?"}, "second": {"to": "!"}}


def test_services_are_functions_and_errors_say_what_to_do() -> None:
    """N3, N4."""
    graph = Graph("services")
    graph.add_request("quote", "='pricing.' + sku", {"n": "=n"})
    graph.add_publish("tell", "orders.placed", {"price": "=quote.price"})
    graph.add_chain("quote", "tell", END)
    heard: list[object] = []

    async def priced(asked: dict[str, int]) -> dict[str, int]:
        if asked["n"] < 0:
            raise TaskError("no such number", 422)
        return {"price": asked["n"] * 10}

    services = {"pricing.*": priced, "orders.>": heard.append}
    assert local.run(graph, {"sku": "a", "n": 2}, services=services).state["quote"] == {"price": 20}
    assert heard == [{"price": 20}]
    failed = local.run(graph, {"sku": "a", "n": -1}, services=services)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (422, "no such number")
    missing = local.run(graph, {"sku": "a", "n": 2})
    assert missing.error is not None
    assert 'services={"pricing.a": function}' in missing.error.message
    lonely = local.run(greeting(), {"name": "ada"}, tasks=shout)
    assert lonely.error is not None
    assert "no function serves task greet (served here: shout): give its worker" in lonely.error.message


def test_a_run_that_takes_too_long_ends_with_its_key() -> None:
    graph = Graph("long")
    graph.add_sleep("rest", 3_600)
    graph.add_chain("rest", END)
    with pytest.raises(TimedOut) as caught:
        local.run(graph, timeout=0.05)
    assert caught.value.details["flow_key"]


async def test_a_file_keeps_flows_for_the_next_process(tmp_path: Path) -> None:
    database = tmp_path / "flows.db"
    async with local.client(tasks=worker, graphs=[greeting(), asking()], database=database) as client:
        key = await client.create("asking", {"n": 1}, FlowOptions(tags={"customer": 7}), start=True)
        assert (await client.await_(key)).status is Status.INTERRUPTED
        assert "ask a person" in await client.graph_mermaid("asking")
        with pytest.raises(NotFound, match="known: asking, greeting"):
            await client.graph_mermaid("other")
    async with local.client(graphs=asking(), database=str(database)) as client:
        (found,) = await client.find(customer=7)
        assert found.flow_key == key
        assert "approve" in (await client.explain(key)).text
        await client.resume(key, 1)
        assert (await client.await_(key)).interrupt_payload == {"question": "!"}
        await client.resume(key, 2)
        assert (await client.poll(key)).state == {"n": 1, "approval": 1, "second": 2}
        steps = await client.history(key)
        assert [step.task for step in steps] == ["approve", "again"]
        assert "again" in await client.mermaid(key)
        assert (await client.step(steps[0].step_key)).changes_json == b'{"approval":1}'
        forked = await client.fork(steps[1].step_key)
        assert (await client.await_(forked)).status is Status.INTERRUPTED
        await client.cancel(forked, "enough")
        assert await client.tag(key, size=3) == {"customer": 7, "size": 3}
        assert (await client.count()).counts[Status.COMPLETED] == 1
        assert [one.flow_key for one in await client.find(Query(limit=1, status="completed"))] == [key]
        await client.delete(key)


async def test_events_breakpoints_and_threads_work_as_with_the_service() -> None:
    waiting = Graph("waiting")
    waiting.add_wait("paid", "payment.settled", "=order_id")
    waiting.add_chain("paid", END)
    async with local.client(tasks=worker, graphs=[waiting, greeting()]) as client:
        receipt = await client.signal("payment.settled", "A-1", {"by": "card"}, id="e1", keep=60)
        assert receipt.kept
        assert (await client.run("waiting", {"order_id": "A-1"})).state["paid"] == {"by": "card"}
        key = await client.create("greeting", {"name": "ada"})
        await client.break_before(key, "shout")
        await client.start(key)
        assert (await client.await_(key)).status is Status.INTERRUPTED
        await client.resume_break(key, {"greeting": "hi"})
        assert (await client.await_(key)).state["greeting"] == "HI"
        await client.restart(key, {"name": "bo"})
        await client.await_(key)
        await client.break_before(key, "shout", False)
        await client.resume_break(key)
        await client.await_(key)
        following = await client.continue_(key, {"name": "cy"}, start=True)
        assert (await client.await_(following)).state["greeting"] == "HELLO CY"
        assert (await client.flow_graph(following)).name == "greeting"
        single = await client.create_task("greet", {"name": "di"}, start=True)
        assert (await client.await_(single)).state["greeting"] == "hello di"
        assert (await client.snapshot(single)).status is Status.COMPLETED
        (step,) = await client.history(single)
        await client.restart_from(step.step_key, {"name": "ed"})
        assert (await client.await_(single)).state["greeting"] == "hello ed"
        assert client.published == []


async def test_output_of_tasks_is_followed_as_with_the_service() -> None:
    """B8: pieces of coroutines and threads in their order, those of called flows, an end for each execution, a retry."""
    child = Graph("child")
    child.add_chain("inner", END)
    parent = Graph("parent")
    parent.add_task("spell", "spell")
    parent.add_workflow("call", "child")
    parent.add_chain("spell", "call", END)

    async def spell(flow: Flow) -> None:
        flow.emit("a")
        flow.emit({"attempt": flow.attempt})
        if not flow.attempt:
            flow.retry(2)

    def inner(flow: Flow) -> None:  # in a thread
        flow.emit("in")
        flow.emit(b"side")

    async with local.client(tasks=[spell, inner], graphs=[parent, child]) as client:
        key = await client.create("parent")
        async with client.stream(key) as stream, client.stream(key) as other:
            await client.start(key)
            found = [(one.task, one.data, one.number, one.restarted, one.end) async for one in stream]
            assert "".join([one.text async for one in other]) == 'a{"attempt":0}a{"attempt":1}inside'
        assert found == [
            ("spell", "a", 1, False, None),
            ("spell", {"attempt": 0}, 2, False, None),
            ("spell", None, 3, False, "failed"),
            ("spell", "a", 1, True, None),
            ("spell", {"attempt": 1}, 2, False, None),
            ("spell", None, 3, False, "done"),
            ("inner", "in", 1, False, None),
            ("inner", b"side", 2, False, None),
            ("inner", None, 3, False, "done"),
        ]
        assert stream.outcome is not None
        assert stream.outcome.status is Status.COMPLETED
        assert [one async for one in client.stream(key)] == []  # it is over: nothing is kept
        with pytest.raises(NotFound):
            [one async for one in client.stream(key[:-1] + ("x" if key[-1] != "x" else "y"))]


async def test_a_stream_ends_at_a_pause_if_wanted_and_else_goes_on_after_it() -> None:
    """B8, P2."""

    async def ask(flow: Flow) -> None:
        flow.emit("before")
        flow.emit(flow.interrupt("?"))

    async with local.client(tasks=ask) as client:
        key = await client.create_task("ask", start=False)
        stream = client.stream(key)
        async with client.stream(key, end_at_pause=True) as first, stream:
            await client.start(key)
            assert [(one.data, one.end) async for one in first] == [("before", None), (None, "paused")]
            assert first.outcome is not None
            assert first.outcome.status is Status.INTERRUPTED
            await client.resume(key, "after")
            assert [one.text async for one in stream if not one.end] == ["before", "before", "after"]


def test_its_methods_take_what_those_of_the_client_take() -> None:
    """A script moves to the service without a change. Left out there: what only a service has, such as `notify`."""
    methods = inspect.getmembers(local.LocalClient, inspect.iscoroutinefunction)
    for name, method in [*methods, ("stream", local.LocalClient.stream)]:
        if name.startswith("_"):
            continue
        ours, theirs = inspect.signature(method).parameters, inspect.signature(getattr(Client, name)).parameters
        for parameter in ours.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD and parameter.name == "how":
                continue
            assert parameter.name in theirs, (name, parameter.name)
            assert parameter.kind is theirs[parameter.name].kind, (name, parameter.name)
            assert parameter.default == theirs[parameter.name].default, (name, parameter.name)


@pytest.mark.parametrize("place", [0, 1])
def test_the_page_about_scripts_runs_as_it_stands(tmp_path: Path, place: int) -> None:
    found = list(blocks(ROOT / "docs" / "local.md"))
    script: Block = [one for one in found if one.language == "python"][place]
    shown = [one for one in found if one.language == "console"][place]
    name = script.text.split("\n", 1)[0].removeprefix("# ")
    (tmp_path / name).write_text(script.text)
    ran = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == output(shown), ran.stderr
