"""Where graphs come from (wire: section 3)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.graphs import ChainGraphs, DirectoryGraphs, NatsGraphs
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.ports import SourceAway
from dwarf_nats.workflow.state import Raw

NULL = Raw(b"null")
Opener = Callable[..., Awaitable[Connection]]


def graph(name: str, task: str = "a") -> dict[str, Any]:
    return {"name": name, "tasks": [{"name": task}], "transitions": [{"from": task, "to": "END"}]}


def write(path: Path, text: str, tick: int = 0) -> None:
    path.write_text(text)
    os.utime(path, ns=(tick, tick))


async def test_files_are_known_by_the_graphs_name_and_read_again_when_changed(tmp_path: Path) -> None:
    write(tmp_path / "one.json", json.dumps(graph("order")))
    write(
        tmp_path / "two.yaml",
        "name: refund\ntasks:\n  - name: pay\n    url: billing.pay\ntransitions:\n  - {from: pay, to: END}\n",
    )
    write(tmp_path / "notes.txt", "not a graph")
    graphs = DirectoryGraphs(tmp_path)
    order, refund = await graphs.load("order", NULL), await graphs.load("refund", NULL)
    assert order is not None
    assert refund is not None
    assert refund.nodes["pay"].url == "billing.pay"
    assert await graphs.load("one", NULL) is None
    assert await graphs.load("order", NULL) is order
    write(tmp_path / "one.json", json.dumps(graph("order", "b")), 10**9)
    again = await graphs.load("order", NULL)
    assert again is not None
    assert list(again.nodes) == ["b"]
    (tmp_path / "one.json").unlink()
    assert await graphs.load("order", NULL) is None


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        ("order.json", "{", "order"),
        ("order.yaml", "a: [", "order"),
        ("order.yaml", "- 1", "order"),
        ("x.json", json.dumps({**graph("order"), "nonsense": 1}), "order"),
        ("x.yaml", "name: order\ntasks: 5\n", "order"),
        ("order.yaml", "", "order"),
        ("order.json", "\xff", "order"),
    ],
)
async def test_a_bad_file_is_told_to_the_log_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, asked: str
) -> None:
    """Who asks learns that the file is bad, but neither its path nor what is in it."""
    write(tmp_path / name, text)
    write(tmp_path / "good.json", json.dumps(graph("good")))
    graphs = DirectoryGraphs(tmp_path)
    assert await graphs.load("good", NULL) is not None
    assert await graphs.load("nothing", NULL) is None
    with pytest.raises(BadRequest) as refused:
        await graphs.load(asked, NULL)
    assert refused.value.message == (
        f"graph {asked}: the graph file of this workflow is not valid; the replica's log says why"
    )
    assert caplog.text.count("is bad") == 1
    assert str(tmp_path / name) in caplog.text
    write(tmp_path / name, json.dumps(graph("order")), 10**9)
    assert await graphs.load(asked, NULL) is not None


async def test_files_that_are_traps_hold_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pipes, links to themselves, folders, huge files and alias bombs: each is logged once, and the others are found."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "gone.json").symlink_to("nowhere")
    (tmp_path / "folder.yml").mkdir()
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(20 * 1024**3)
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    write(tmp_path / "bomb.yaml", "\n".join(["a0: &a0 [lol]", *levels]))
    write(tmp_path / "deep.json", "[" * 100_000)
    write(tmp_path / "good.json", json.dumps(graph("good")))
    graphs = DirectoryGraphs(tmp_path)
    for _ in range(2):
        assert await graphs.load("good", NULL) is not None
    for name in ("pipe", "loop", "gone", "folder", "huge", "bomb", "deep"):
        with pytest.raises(BadRequest, match="not valid"):
            await graphs.load(name, NULL)
        assert caplog.text.count(f"{tmp_path}/{name}.") == 1


async def test_one_graph_in_two_files_is_refused_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.json", json.dumps(graph("order")))
    write(tmp_path / "b.json", json.dumps(graph("order")))
    with pytest.raises(BadRequest, match="several graph files hold this workflow; the replica's log says why"):
        await DirectoryGraphs(tmp_path).load("order", NULL)
    assert "a.json and b.json" in caplog.text


async def test_a_directory_that_is_not_there_or_goes_away(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        DirectoryGraphs(tmp_path / "gone")
    (tmp_path / "here").mkdir()
    graphs = DirectoryGraphs(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(Unavailable) as refused:
        await graphs.load("order", NULL)
    assert str(tmp_path) not in refused.value.message


@pytest.fixture
def graphs(connection: Connection, inbox: Inbox) -> NatsGraphs:
    return NatsGraphs(connection, inbox, timeout_seconds=10)


async def serve(other: Connection, workflow: str, body: bytes, headers: dict[str, str] | None = None) -> list[Msg]:
    asked: list[Msg] = []

    async def answer(msg: Msg) -> None:
        asked.append(msg)
        await other.publish(msg.reply, body, headers=headers)

    await other.subscribe(f"graph.{workflow}", cb=answer)
    await other.flush()
    return asked


async def test_a_service_is_asked_with_the_baggage(graphs: NatsGraphs, other: Connection) -> None:
    asked = await serve(other, "g1.order", json.dumps(graph("g1.order")).encode())
    loaded = await graphs.load("g1.order", Raw(b'{"tenant":"acme"}'))
    assert loaded is not None
    assert loaded.name == "g1.order"
    assert json.loads(asked[0].data) == {"workflow": "g1.order", "baggage": {"tenant": "acme"}}


async def test_nobody_there_and_a_404_are_no_graph(graphs: NatsGraphs, other: Connection) -> None:
    assert await graphs.load("g2.nobody", NULL) is None
    await serve(other, "g2.header", b"", {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "no"})
    await serve(other, "g2.body", b'{"error":{"code":404,"message":"no"}}')
    assert await graphs.load("g2.header", NULL) is None
    assert await graphs.load("g2.body", NULL) is None


async def test_any_other_refusal_and_silence_are_a_503(
    graphs: NatsGraphs, other: Connection, connection: Connection, inbox: Inbox
) -> None:
    await serve(other, "g3.busy", b"", {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "kaputt"})
    with pytest.raises(Unavailable, match="kaputt"):
        await graphs.load("g3.busy", NULL)

    async def silent(_msg: Msg) -> None: ...

    await other.subscribe("graph.g3.silent", cb=silent)
    await other.flush()
    with pytest.raises(Unavailable, match="did not answer"):
        await NatsGraphs(connection, inbox, timeout_seconds=0.05).load("g3.silent", NULL)


async def test_a_graph_of_another_name_and_no_graph_are_a_400(graphs: NatsGraphs, other: Connection) -> None:
    await serve(other, "g4.other", json.dumps(graph("else")).encode())
    await serve(other, "g4.bad", b"nonsense")
    await serve(other, "g4.empty", b"")
    with pytest.raises(BadRequest, match="else"):
        await graphs.load("g4.other", NULL)
    for workflow in ("g4.bad", "g4.empty"):
        with pytest.raises(BadRequest, match="bad graph"):
            await graphs.load(workflow, NULL)


async def test_a_lost_connection_is_a_503(graphs: NatsGraphs, connection: Connection) -> None:
    await connection.close()
    with pytest.raises(Unavailable):
        await graphs.load("g5", NULL)


async def test_a_service_that_answered_before_and_is_away_is_told_from_no_such_workflow(
    graphs: NatsGraphs, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its absence is no proof that there is no such workflow; a flow that wants it must not fail for a deployment."""
    subscription = await other.subscribe("graph.g7.>", cb=partial(answer_graphs, other))
    await other.flush()
    assert await graphs.load("g7.order", NULL) is not None
    assert await graphs.load("g7.unknown", NULL) is None
    await subscription.unsubscribe()
    await other.flush()
    with pytest.raises(SourceAway, match=r"graph\.g7\.order before is away"):
        await graphs.load("g7.order", NULL)
    assert await graphs.load("g7.never", NULL) is None
    assert await graphs.load("g7.unknown", NULL) is None
    monkeypatch.setattr("dwarf_nats.bus.graphs.KNOWN_SECONDS", -1.0)  # for so long that it was taken away for good
    assert await graphs.load("g7.order", NULL) is None


async def answer_graphs(other: Connection, msg: Msg) -> None:
    """As a service that knows one graph; the others are a 404."""
    name = msg.subject.partition(".")[2]
    if name == "g7.order":
        await other.publish(msg.reply, json.dumps(graph(name)).encode())
    else:
        await other.publish(msg.reply, b'{"error":{"code":404,"message":"no"}}')


async def test_nobody_on_a_connection_that_has_just_come_back_is_a_503(own_server: NatsServer, opened: Opener) -> None:
    """B6: the service that knows the graph may be on its way back, too; a flow that wants it must not fail for that."""
    connection = await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    graphs = NatsGraphs(connection, inbox)
    assert await graphs.load("order", NULL) is None
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    await own_server.restart()
    await back.wait()
    with pytest.raises(Unavailable, match="just come back"):
        await graphs.load("order", NULL)


async def test_the_first_source_that_knows_answers(tmp_path: Path, graphs: NatsGraphs, other: Connection) -> None:
    write(tmp_path / "a.json", json.dumps(graph("g6.both", "file")))
    await serve(other, "g6.both", json.dumps(graph("g6.both", "service")).encode())
    await serve(other, "g6.only", json.dumps(graph("g6.only", "service")).encode())
    chain = ChainGraphs(DirectoryGraphs(tmp_path), graphs)
    both, only = await chain.load("g6.both", NULL), await chain.load("g6.only", NULL)
    assert both is not None
    assert only is not None
    assert (list(both.nodes), list(only.nodes)) == (["file"], ["service"])
    assert await chain.load("g6.none", NULL) is None
