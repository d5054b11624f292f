"""Graphs that a worker registers when it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.sdk import END, Graph, Worker, Workflow

TEXT = "name: {}\ntasks:\n  - name: charge\ntransitions:\n  - {{from: charge, to: {}}}\n"


def files(folder: Path, **targets: str) -> Path:
    for name, target in targets.items():
        (folder / f"{name}.yaml").write_text(TEXT.format(name, target))
    (folder / "notes.txt").write_text("no graph")
    return folder


def a_worker(url: str = "nats://127.0.0.1:1", prefix: str = "task") -> Worker:
    worker = Worker(url, task_prefix=prefix, drain_seconds=0)
    worker.add_task("charge", lambda: None)
    return worker


def test_all_problems_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    files(tmp_path, a="END", b="nowhere", c="charge")
    with pytest.raises(BadRequest) as refused:
        a_worker().graphs(tmp_path, tmp_path / "none.yaml")
    first, second, third = refused.value.message.split("\n")
    assert first.startswith(f"{tmp_path}/b.yaml:5: graph 'b', transitions[0]: 'to' is 'nowhere'")
    assert second.startswith(f"cannot read {tmp_path}/none.yaml")
    assert third.startswith(f"{tmp_path}/c.yaml")


def test_a_folder_without_graphs_and_two_graphs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="there are no graph files in .*: they end in"):
        a_worker().graphs(tmp_path)
    (tmp_path / "one.yaml").write_text(TEXT.format("order", END))
    (tmp_path / "two.yaml").write_text(TEXT.format("order", END))
    with pytest.raises(BadRequest, match=r"the graph 'order' is there twice \(.*one.yaml, .*two.yaml\)"):
        a_worker().graphs(tmp_path)


async def test_they_are_registered_before_the_worker_is_ready(
    nats_server: NatsServer, prefix: str, service: Callable[..., Any], tmp_path: Path
) -> None:
    put: list[str] = []

    def respond(message: Any) -> Any:
        put.append(message.body["name"])
        return {"name": message.body["name"], "digest": "d"}

    await service("graph.put", respond)
    worker = a_worker(nats_server.url, prefix)
    order = Workflow("order")
    order.start >> worker.tasks["charge"] >> END
    worker.graphs(files(tmp_path, a="END", b="END"), order, prefix=prefix)
    async with worker:
        assert put == ["a", "b", "order"]
        with pytest.raises(BadRequest, match="too late"):
            worker.graphs(Graph("late"))


async def test_a_worker_that_serves_waits_for_a_replica_and_another_does_not(
    nats_server: NatsServer, prefix: str, service: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files(tmp_path, a="END")
    worker = a_worker(nats_server.url, prefix)
    worker.graphs(tmp_path, prefix=prefix)
    with pytest.raises(Unavailable, match="no dwarf-nats replica answers"):
        await worker.start()
    assert not worker.is_running
    starting = asyncio.ensure_future(worker.start_patiently())
    while "graph a cannot be registered yet" not in caplog.text:
        await asyncio.sleep(0.01)
    await service("graph.put", lambda _: {"name": "a", "digest": "d"})
    await starting
    assert worker.is_running
    await worker.stop()


async def test_a_graph_that_the_service_refuses_ends_the_start_with_its_line(
    nats_server: NatsServer, prefix: str, service: Callable[..., Any], tmp_path: Path
) -> None:
    refusal = {"Nats-Service-Error-Code": "400", "Nats-Service-Error": "graph 'a': node 'charge' is not liked"}
    await service("graph.put", lambda _: (refusal, {}))
    worker = a_worker(nats_server.url, prefix)
    worker.graphs(files(tmp_path, a="END"), prefix=prefix)
    with pytest.raises(BadRequest, match=r"a.yaml:3: graph 'a': node 'charge' is not liked"):
        await worker.start_patiently()
    assert not worker.is_running
