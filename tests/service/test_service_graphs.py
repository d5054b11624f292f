"""Where a workflow's graph comes from: the registry, the directory, a service on `graph.<workflow>` (wire section 3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwarf_nats.bus.graphs import NatsGraphs
from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import Caller, conforms, deployment, line, take

NAME = "acme.order"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of graph files."""
    path = tmp_path / "graphs"
    path.mkdir()
    return path


@pytest.fixture
async def shop(nats_server: NatsServer, sqlite_dsn: str, prefix: str, folder: Path) -> AsyncIterator[Caller]:
    """A caller of a service with a directory of graphs; each of its tasks says its name."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, graphs_dir=folder) as caller:
        for task in ("registry", "json", "yaml", "changed", "service"):
            await caller.serves(task, {"changes": {"ran": task}})
        yield caller


async def ran(caller: Caller, **more: Any) -> str:
    outcome = await caller.ok("flow.run", workflow=NAME, **more)
    assert outcome["workflow"] == NAME
    return str(outcome["state"]["ran"])


async def test_registry_then_directory_then_service(shop: Caller, folder: Path) -> None:
    """Wire section 3: the first that knows the workflow; where none does, a 404 that lists the three places."""
    file = folder / "any-name.json"
    file.write_text(json.dumps(line(NAME, "json")))
    graphs = await shop.client.subscribe(f"{shop.prefix}graph.{NAME}", cb=serving(shop, line(NAME, "service")))
    await shop.client.flush()
    await shop.ok("graph.put", **line(NAME, "registry"))
    assert await ran(shop) == "registry"
    await shop.ok("graph.delete", name=NAME)
    assert await ran(shop) == "json"
    file.unlink()
    assert await ran(shop) == "service"
    await graphs.unsubscribe()
    await shop.client.flush()
    error = await shop.refused("flow.run", workflow=NAME)
    assert error["code"] == 404
    for place in ("registry", "directory", f"graph.{NAME}"):
        assert place in error["message"]
    file.write_text(json.dumps(line(NAME, "json")))
    assert await ran(shop) == "json", "a refusal is not remembered"


def serving(caller: Caller, graph: dict[str, Any], **headers: str) -> Any:
    async def answer(message: Any) -> None:
        await caller.client.publish(message.reply, json.dumps(graph).encode(), headers=headers or None)

    return answer


async def test_files_are_json_or_yaml_known_by_the_graphs_name_and_read_again_when_changed(
    shop: Caller, folder: Path
) -> None:
    """Wire section 3: no restart, whatever happens to a file; a flow keeps the graph it was created with (G10)."""
    assert await shop.code("flow.create", workflow=NAME) == 404
    (folder / "one.yaml").write_text(yaml.safe_dump(line(NAME, "yaml")))
    assert await ran(shop) == "yaml"
    before = await shop.ok("flow.create", workflow=NAME)
    (folder / "one.yaml").write_text(yaml.safe_dump(line(NAME, "changed")))
    assert await ran(shop) == "changed"
    await shop.ok("flow.start", **before)
    assert (await shop.ok("flow.await", **before))["state"] == {"ran": "yaml"}
    (folder / "one.yaml").unlink()
    (folder / "two.json").write_text(json.dumps(line(NAME, "json")))
    (folder / "readme.txt").write_text("no graph")
    assert await ran(shop) == "json"
    (folder / "two.json").write_text(json.dumps(line("another.name", "json")))
    assert await shop.code("flow.run", workflow=NAME) == 404
    assert (await shop.ok("flow.run", workflow="another.name"))["state"] == {"ran": "json"}


async def test_a_bad_file_is_refused_without_anything_of_it_and_harms_nobody_else(
    shop: Caller, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wire section 3, G6: the reason, the path and what the file holds are for the log of the replica."""
    (folder / "good.json").write_text(json.dumps(line(NAME, "json")))
    for name, text, reason in (
        ("broken.json", "{", "not valid JSON"),
        ("broken.yaml", "a: [", "not valid YAML"),
        ("endless.json", json.dumps({**line("endless", "a", "b"), "transitions": [{"from": "a", "to": "b"}]}), "END"),
        ("typo.json", json.dumps({**line("typo", "a"), "secret": "s3cret"}), "unknown key 'secret'"),
    ):
        (folder / name).write_text(text)
        asked = name.split(".")[0]
        error = await shop.refused("flow.create", workflow=asked)
        assert error == {
            "code": 400,
            "message": f"graph {asked}: the graph file of this workflow is not valid; the replica's log says why",
        }
        assert reason in next(one for one in caplog.text.splitlines() if f"/{name}" in one and " is bad" in one)
        assert await ran(shop) == "json"
        (folder / name).unlink()
    (folder / "twice.yaml").write_text(yaml.safe_dump(line(NAME, "yaml")))
    error = await shop.refused("flow.create", workflow=NAME)
    assert error["code"] == 400
    assert "good.json and twice.yaml" in caplog.text
    assert ".json" not in error["message"]
    assert str(folder) not in error["message"]


async def test_a_graph_service_is_told_workflow_and_baggage(caller: Caller) -> None:
    """Wire section 3, O1: the graph is loaded with the baggage in hand; nothing is made of a graph that is refused."""
    asked = await caller.hear(f"{caller.prefix}graph.{NAME}")
    creating = asyncio.create_task(caller.ok("flow.create", workflow=NAME, options={"baggage": {"tenant": "acme"}}))
    message = await take(asked)
    assert conforms("graph_load_request", json.loads(message.data)) == {
        "workflow": NAME,
        "baggage": {"tenant": "acme"},
    }
    await caller.answer(message, line(NAME, "service"))
    made = await creating
    assert (await caller.ok("flow.snapshot", **made))["workflow"] == NAME


REFUSALS: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "a graph of another name": (line("other", "a"), {}, 400, "other"),
    "no graph": ({"nodes": []}, {}, 400, "nodes"),
    "no JSON": (b"<html>", {}, 400, "JSON"),
    "a graph that is not sound": ({**line(NAME, "a"), "transitions": []}, {}, 400, "END"),
    "a graph with lots of nothing": (b"", {}, 400, "graph"),
    "its own 404": (b"", {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no such"}, 404, "registry"),
    "its own 404 in the body": ({"error": {"code": 404, "message": "no such"}}, {}, 404, "registry"),
    "a 500": (b"", {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "on fire"}, 503, "on fire"),
    "a 403 in the body": ({"error": {"code": 403, "message": "not yours"}}, {}, 503, "not yours"),
    "an error of text": ({"error": "not today"}, {}, 503, "not today"),
    "a header named Status": (line("other", "a"), {"Status": "503"}, 400, "other"),
}


async def test_what_a_graph_service_may_answer_instead_of_a_graph(caller: Caller) -> None:
    """O1: another name 400, its own 404 a 404, any other refusal 503; no flow is made of any."""
    wrong = {}
    for number, (what, (body, headers, code, word)) in enumerate(REFUSALS.items()):
        workflow = NAME if "sound" in what else f"acme.w{number}"
        asked = await caller.hear(f"{caller.prefix}graph.{workflow}")

        creating = asyncio.create_task(caller.refused("flow.run", workflow=workflow))
        await caller.answer(await take(asked), body, headers or None)
        error = await creating
        if error["code"] != code or word not in error["message"]:
            wrong[what] = error
    assert wrong == {}
    assert (await caller.ok("flow.list"))["flows"] == []


async def test_a_graph_service_that_stays_silent_is_a_503(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wire section 3: its time is up; the answer that comes late makes no flow."""
    defaults = NatsGraphs.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout_seconds", 0.05)
    async with deployment(nats_server.url, sqlite_dsn, prefix) as caller:
        asked = await caller.hear(f"{prefix}graph.{NAME}")
        error = await caller.refused("flow.run", workflow=NAME)
        assert error["code"] == 503
        assert f"{prefix}graph.{NAME}" in error["message"]
        await caller.answer(await take(asked), line(NAME, "a"))
        assert (await caller.ok("flow.list"))["flows"] == []


async def test_registering_anew_changes_flows_made_from_now_on_only(either: Caller) -> None:
    """G10: a flow keeps the graph it was created with; identical graphs have one digest."""
    for task in ("old", "new"):
        await either.serves(task, {"changes": {"ran": task}})
    first = await either.ok("graph.put", **line(NAME, "old"))
    before = await either.ok("flow.create", workflow=NAME)
    second = await either.ok("graph.put", **line(NAME, "new"))
    assert first["digest"] != second["digest"]
    assert await either.ok("graph.put", **line(NAME, "old")) == first
    assert await either.ok("graph.put", **line(NAME, "new")) == second
    after = await either.ok("flow.create", workflow=NAME)
    for flow in (before, after):
        await either.ok("flow.start", **flow)
    await either.ok("graph.delete", name=NAME)
    assert (await either.ok("flow.await", **before))["state"] == {"ran": "old"}
    assert (await either.ok("flow.await", **after))["state"] == {"ran": "new"}


async def test_put_and_validate_tell_what_looks_like_a_mistake(shop: Caller) -> None:
    """G11: `warnings`, absent where there are none."""
    graph = line(NAME, "registry")
    reply = await shop.ok("graph.put", **graph)
    assert "warnings" not in reply
    assert await shop.ok("graph.validate", **graph) == {}
    node = graph["tasks"][0]["name"]
    graph["transitions"] = [{"from": node, "to": "END", "when": "total > 1"}]
    for operation in ("graph.put", "graph.validate"):
        reply = await shop.ok(operation, **graph)
        conforms(operation.replace(".", "_") + "_reply", reply)
        (warning,) = reply["warnings"]
        assert "'total > 1' does not hold, the flow ends there" in warning
