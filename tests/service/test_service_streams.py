"""JetStream streams over the subjects of requests answer first; what everybody makes of it (wire sections 1 to 5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.js.api import DiscardPolicy, StreamConfig
from typer.testing import CliRunner

from dwarf_nats.bus.connection import connect
from dwarf_nats.bus.graphs import NatsGraphs
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client, Worker
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.state import Raw
from tests.support.caller import WAIT, Caller, connected, deployment, line, take

pytestmark = pytest.mark.slow


@pytest.fixture
async def jetstream() -> AsyncIterator[NatsServer]:
    async with NatsServer(jetstream=True) as server:
        yield server


async def record(nc: Nats, name: str, *subjects: str, **more: Any) -> None:
    await nc.jetstream().add_stream(StreamConfig(name=name, subjects=list(subjects), **more))


@asynccontextmanager
async def recorded(
    server: NatsServer, dsn: str, prefix: str, *subjects: str, limits: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Caller]:
    """A deployment of which a stream `audit` records such subjects; its caller is told of no acknowledgement."""
    async with connected(server.url) as nc:
        await record(nc, "audit", *(one.format(prefix) for one in subjects), **limits or {})
    async with deployment(server.url, dsn, prefix, **more) as caller:
        yield caller


def warned(caplog: pytest.LogCaptureFixture, captured: str) -> int:
    return sum(f"a stream captures {captured}: " in one.getMessage() for one in caplog.records)


FULL = {"max_msgs": 1, "discard": DiscardPolicy.NEW}


@pytest.mark.parametrize("limits", [{}, FULL], ids=["acknowledging", "refusing"])
async def test_tasks_run_though_a_stream_answers_first(
    jetstream: NatsServer, dsn: str, prefix: str, caplog: pytest.LogCaptureFixture, limits: dict[str, Any]
) -> None:
    """Wire section 2: its acknowledgement is no answer, also when it refuses for want of room; it is warned of once."""
    async with recorded(jetstream, dsn, prefix, "{}task.>", limits=limits) as caller:
        await caller.serves("charge", {"changes": {"paid": True}})
        for _ in range(20):
            outcome = await caller.ok("flow.run", graph=line("order", "charge"))
            assert (outcome["status"], outcome["state"]) == ("completed", {"paid": True})
    assert warned(caplog, f"{prefix}task.>") == 1
    assert "'audit'" in caplog.text


async def test_a_task_that_nobody_serves_is_told_with_the_stream_that_hides_it(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """NATS does not say any more that nobody listens, so the deadline ends it, with the reason."""
    async with recorded(jetstream, sqlite_dsn, prefix, "{}task.>") as caller:
        outcome = await caller.ok("flow.run", graph=line("order", "charge"), options={"timeBudgetMs": 100})
        assert outcome["status"] == "failed"
        error = outcome["error"]
        assert error["code"] == 408
        assert f"a stream captures {prefix}task.>: " in error["message"]
        assert "'audit'" in error["message"]
        assert "nats stream edit audit" in error["message"]
        assert "did you mean" not in error["message"]


async def test_a_reply_that_only_looks_like_it_is_refused_as_ever(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    async with recorded(jetstream, sqlite_dsn, prefix, "{}task.>") as caller:
        await caller.serves("charge", {"stream": "audit", "seq": 1, "paid": True})
        outcome = await caller.ok("flow.run", graph=line("order", "charge"))
        assert outcome["error"]["code"] == 502


async def test_graphs_are_found_though_a_stream_answers_first(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wire section 3."""
    async with recorded(jetstream, sqlite_dsn, prefix, "{}graph.>", "{}task.>") as caller:
        await caller.serves("charge")

        async def answer(message: Any) -> None:
            async with asyncio.timeout(WAIT):
                while not warned(caplog, f"{prefix}graph.>"):  # the stream has answered first
                    await asyncio.sleep(0)
            await caller.answer(message, line("order", "charge"))

        await caller.client.subscribe(f"{prefix}graph.order", cb=answer)
        await caller.client.flush()
        assert (await caller.ok("flow.run", workflow="order"))["status"] == "completed"
    assert warned(caplog, f"{prefix}graph.>") == 1
    connection = await connect(ConnectOptions(url=jetstream.url))
    inbox = Inbox(connection)
    await inbox.start()
    graphs = NatsGraphs(connection, inbox, Subjects(graph_prefix=f"{prefix}graph"), timeout_seconds=0.2)
    with pytest.raises(Unavailable, match=rf"nobody answered.*a stream captures {prefix}graph\.>: .*'audit'"):
        await graphs.load("unknown", Raw(b"null"))
    await connection.close()


async def test_a_worker_is_missed_and_cancelled_though_a_stream_records_inboxes(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """Wire section 2: an acknowledgement is no answer to a roll call, and none hides that answer."""
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with recorded(jetstream, sqlite_dsn, prefix, "_INBOX.>", accept_ms=1, roll_call_ms=20) as caller:
        heard = await caller.hear("_INBOX.dwarf_replica_inbox.>")
        worker = Worker(jetstream.url, task_prefix=f"{prefix}task", drain_seconds=1.0)
        worker.add_task("endless", endless)
        async with worker:
            flow = await caller.ok("flow.create_task", task="endless", start=True)
            while not (await take(heard)).data.startswith(b'{"running":["'):
                pass
            await caller.ok("flow.cancel", **flow, reason="enough")
            await asyncio.wait_for(ended.wait(), WAIT)


async def test_client_and_command_line_get_the_answer_of_the_service(
    jetstream: NatsServer,
    sqlite_dsn: str,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wire section 1: with a stream over every subject of the service, discovery and health among them."""
    async with connected(jetstream.url) as nc:
        await record(nc, "everything", f"{prefix}.>")
        await record(nc, "discovery", "$SRV.>")
    async with deployment(jetstream.url, sqlite_dsn, prefix):
        worker = Worker(jetstream.url, task_prefix=f"{prefix}task", drain_seconds=1.0)
        worker.add_task("charge", lambda: {"paid": True})
        async with worker, Client(jetstream.url, prefix=prefix) as client:
            for _ in range(3):
                flow = await client.create_task("charge", start=True)
                assert (await client.await_(flow)).state == {"paid": True}
            assert [one.ready for one in await client.health()] == [True]
            assert warned(caplog, f"{prefix}.flow.>") == 1
            where = ["--nats", jetstream.url, "--prefix", prefix]
            monkeypatch.setattr("dwarf_nats.cli.logs._in_use", [])
            told = ""
            while not told:  # if the answer comes before the stream's acknowledgement, there is nothing to warn of
                listed, told = await command("flow", "list", "--json", *where)
            assert told.startswith(f"warning: a stream captures {prefix}.flow.>: ")
            assert told.count("\n") == 1
            listed = json.loads(listed)
            assert [one["status"] for one in listed["flows"]] == ["completed"] * 3
            tasks, _ = await command("tasks", "--json", "--task-prefix", f"{prefix}task", *where)
            assert [(one["task"], len(one["servedBy"])) for one in json.loads(tasks)["tasks"]] == [("charge", 1)]


async def command(*arguments: str) -> tuple[str, str]:
    """What a command that must succeed prints, on stdout and on stderr."""
    done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), prog_name="dwarf-nats")
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout, done.stderr


async def test_a_client_without_a_service_is_told_of_the_stream_in_its_place(
    jetstream: NatsServer, prefix: str
) -> None:
    async with connected(jetstream.url) as nc:
        await record(nc, "audit", f"{prefix}.flow.>")
    async with Client(jetstream.url, prefix=prefix, timeout=2, patience=0.1) as client:
        with pytest.raises(Unavailable, match=rf"a stream captures {prefix}\.flow\.>: .*'audit'"):
            await client.create_task("charge")


async def test_events_and_announcements_are_meant_to_be_recorded(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wire section 5: each change once, and nobody is warned."""
    async with recorded(jetstream, sqlite_dsn, prefix, "{}.event.>", "{}.stopped.>") as caller:
        await caller.serves("charge")
        await caller.ok("flow.run", graph=line("order", "charge"), options={"notify": "shop"})
        stream = caller.client.jetstream()
        async with asyncio.timeout(WAIT):
            while (await stream.stream_info("audit")).state.messages < 4:
                await asyncio.sleep(0.01)
        subjects = [(await stream.get_msg("audit", number)).subject for number in range(1, 5)]
    assert sorted(subjects) == sorted(
        [*(f"{prefix}.event.{one}.order" for one in ("created", "running", "completed")), f"{prefix}.stopped.shop"]
    )
    assert "a stream captures" not in caplog.text
