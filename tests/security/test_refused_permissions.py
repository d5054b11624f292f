"""What permissions refuse is told to whoever asked for it, at once, and by name (wire: section 7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from typer.testing import CliRunner

from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Forbidden, NotFound
from dwarf_nats.sdk import Client, Flow, FlowOptions, Worker
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.wire.violations import Violation
from dwarf_nats.workflow.graph import END, Graph

pytestmark = pytest.mark.slow

WAIT = 60.0
"""Seconds after which a test that waits gives up; what it waits for comes at once."""


class Bus:
    """A server whose users may what `users` say; `allow` changes that while it runs."""

    def __init__(self, folder: Path, **users: str) -> None:
        self._config = folder / "nats.conf"
        self.users = users
        self._write()
        self.server = NatsServer(config=self._config)

    def _write(self) -> None:
        users = "\n".join(f"{{ user: {u}, password: {u}, permissions: {{ {p} }} }}" for u, p in self.users.items())
        self._config.write_text(f"authorization {{ users: [\n{{ user: root, password: root }}\n{users}\n] }}\n")

    async def allow(self, **users: str) -> None:
        """Change permissions; returns once the server has taken them."""
        self.users |= users
        self._write()
        before = await self._loaded()
        os.kill(self.server.pid, signal.SIGHUP)
        async with asyncio.timeout(WAIT):
            while await self._loaded() == before:
                await asyncio.sleep(0.02)

    async def _loaded(self) -> str:
        assert self.server._home is not None
        return str((self.server._home / "log").read_text().count("Reloaded server configuration"))

    def url(self, user: str) -> str:
        return self.server.url.replace("//", f"//{user}:{user}@")


Open = Callable[..., Any]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Starts a server with users and their permissions."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(**users: str) -> Bus:
            bus = Bus(tmp_path, **users)
            await stack.enter_async_context(bus.server)
            return bus

        yield open_one


def settings(bus: Bus, dsn: str, **more: Any) -> ServerSettings:
    return ServerSettings.of(dsns=[dsn], nats_url=bus.url("rep"), drain_ms=200, inbox_prefix="_INBOX.rep", **more)


REPLICA = (
    'publish: { allow: ["task.ok.>", "dwarf.peer.*", "_INBOX.>"] },'
    ' subscribe: { allow: ["dwarf.>", "$SRV.>", "_INBOX.rep.>"] }'
)
SHOP = 'publish: { allow: ["dwarf.flow.run"] }, subscribe: { allow: ["_INBOX.shop.>"] }'


@pytest.mark.parametrize("words", ["Permissions Violation for Publish to", "'permissions violation for publish to"])
def test_a_violation_is_read_as_the_server_writes_it(words: str) -> None:
    violation = Violation.read(f'{words} "dwarf.flow.Run"')
    assert violation == Violation(True, "dwarf.flow.Run")
    assert violation.concerns("dwarf.flow.Run")
    assert not violation.concerns("dwarf.flow.run")


def test_queue_groups_reply_subjects_and_numbers_of_subscriptions_are_read() -> None:
    read = Violation.read
    assert read('Permissions Violation for Subscription to "task.>" using queue "w"') == Violation(False, "task.>", "w")
    assert read('Permissions Violation for Subscription to "a.b" (sid "3")') == Violation(False, "a.b")
    assert read('Permissions Violation for Publish with Reply of "_R_.x"') == Violation(True, "_R_.x", as_reply=True)
    assert read("Authorization Violation") is None
    inbox = Violation(True, "_INBOX.rep.r.ZNjPDIzPLZkSkwfPXYmq4S")
    assert str(inbox) == "publish to _INBOX.rep.r.*"


@pytest.mark.parametrize("given", [False, True])
async def test_a_request_that_may_not_be_sent_is_a_403_at_once_that_names_subject_and_user(
    given: bool, opened: Open
) -> None:
    bus = await opened(shop=SHOP)
    nc: Nats | None = await nats.connect(bus.url("shop"), inbox_prefix="_INBOX.shop") if given else None
    async with Client("" if given else bus.url("shop"), nc=nc, inbox_prefix="_INBOX.shop", timeout=WAIT) as client:
        async with asyncio.timeout(WAIT / 2):  # long before the time of a request is up
            with pytest.raises(Forbidden, match=r"do not let the user .* publish to dwarf\.flow\.list") as refused:
                await client.list()
            assert given or "the user shop" in str(refused.value)
            assert refused.value.details["subject"] == "dwarf.flow.list"
    if nc is not None:
        await nc.close()


@pytest.mark.parametrize("given", [False, True])
async def test_of_many_requests_at_once_the_refused_ones_are_refused_and_no_others(given: bool, opened: Open) -> None:
    bus = await opened(shop=SHOP)
    root = await nats.connect(bus.url("root"))

    async def slow(msg: Any) -> None:
        await asyncio.sleep(0.2)
        await msg.respond(b'{"flowKey": "1-1-abcdefghijklmnop", "workflow": "w", "status": "completed", "state": {}}')

    await root.subscribe("dwarf.flow.run", cb=slow)
    await round_trip(root)
    nc: Nats | None = await nats.connect(bus.url("shop"), inbox_prefix="_INBOX.shop") if given else None
    async with Client("" if given else bus.url("shop"), nc=nc, inbox_prefix="_INBOX.shop") as client:
        asked = [client.run(workflow) if n % 2 else client.list() for n in range(20) for workflow in (_graph("ok.a"),)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(one, Forbidden) for one in answers] == [n % 2 == 0 for n in range(20)]
        assert all(isinstance(one, Forbidden) or one.status.value == "completed" for one in answers)  # type: ignore[union-attr]
    for one in (nc, root):
        if one is not None:
            await one.close()


async def test_a_request_that_was_let_through_is_not_blamed_for_a_later_one(opened: Open) -> None:
    bus = await opened(shop=SHOP)
    root = await nats.connect(bus.url("root"))
    held: asyncio.Queue[Any] = asyncio.Queue()
    await root.subscribe("dwarf.flow.run", cb=held.put)
    await round_trip(root)
    async with Client(bus.url("shop"), inbox_prefix="_INBOX.shop") as client:
        first = asyncio.ensure_future(client.run(_graph("ok.a")))
        msg = await asyncio.wait_for(held.get(), WAIT)
        await bus.allow(shop=SHOP.replace("dwarf.flow.run", "dwarf.flow.list"))
        with pytest.raises(Forbidden, match=r"dwarf\.flow\.run"):
            await client.run(_graph("ok.a"))
        assert not first.done()
        await msg.respond(b'{"flowKey": "1-1-abcdefghijklmnop", "workflow": "w", "status": "completed", "state": {}}')
        assert (await asyncio.wait_for(first, WAIT)).status.value == "completed"
    await root.close()


@pytest.mark.parametrize("given", [False, True])
async def test_a_client_that_cannot_hear_replies_asks_nothing_and_says_which_setting_mends_it(
    given: bool, opened: Open
) -> None:
    bus = await opened(shop=SHOP)
    root = await nats.connect(bus.url("root"))
    asked: list[Any] = []

    async def keep(msg: Any) -> None:
        asked.append(msg)

    await root.subscribe("dwarf.>", cb=keep)
    await round_trip(root)
    nc: Nats | None = await nats.connect(bus.url("shop")) if given else None
    async with Client("" if given else bus.url("shop"), nc=nc) as client:
        for _ in range(2):
            async with asyncio.timeout(WAIT):
                with pytest.raises(Forbidden, match=r"subscribe to _INBOX.*--inbox-prefix"):
                    await client.run(_graph("ok.a"))
    await round_trip(root)
    assert not asked
    for one in (nc, root):
        if one is not None:
            await one.close()


async def test_the_command_line_says_so_and_ends_with_1(opened: Open) -> None:
    bus = await opened(shop=SHOP)
    for arguments, told in (
        (["flow", "list", "--inbox-prefix", "_INBOX.shop"], "publish to dwarf.flow.list"),
        (["flow", "run", "x"], "--inbox-prefix"),
        (["tasks", "--inbox-prefix", "_INBOX.shop"], "publish to $SRV.INFO"),
        (["health", "--inbox-prefix", "_INBOX.shop"], "publish to dwarf.health"),
    ):
        async with asyncio.timeout(WAIT):
            done = await asyncio.to_thread(
                CliRunner().invoke, app, [*arguments, "--nats", bus.url("shop")], prog_name="dwarf-nats"
            )
        assert done.exit_code == 1, done.output
        assert done.stderr.startswith("error 403: NATS permissions do not let the user shop")
        assert len(done.stderr.splitlines()) == 1
        assert told in done.stderr


# --- workers ---

WORKER = 'publish: {{ deny: [">"] }}, subscribe: {{ allow: [{}, "_INBOX.w.>", "$SRV.>"] }}, allow_responses: true'


def two_tasks(url: str = "", **how: Any) -> Worker:
    worker = Worker(url, **how)
    worker.add_task("ok.a", lambda word: {"word": word})
    worker.add_task("no.b", lambda word: {"word": word})
    return worker


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("allowed", ['"other.>"', '"task.> others"'])
async def test_a_worker_that_may_serve_nothing_does_not_start(allowed: str, given: bool, opened: Open) -> None:
    bus = await opened(w=WORKER.format(allowed))
    nc: Nats | None = await nats.connect(bus.url("w"), inbox_prefix="_INBOX.w") if given else None
    worker = two_tasks("" if given else bus.url("w"), nc=nc, inbox_prefix="_INBOX.w")
    for start in (worker.start, worker.start_patiently):
        with pytest.raises(Forbidden, match=r"subscribe to task\.\S+ in the queue group workers"):
            await asyncio.wait_for(start(), WAIT)
        assert worker.served == []
    if nc is not None:
        await nc.close()


@pytest.mark.parametrize("given", [False, True])
async def test_a_worker_claims_to_serve_only_what_it_may(
    given: bool, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await opened(w=WORKER.format('"task.ok.> workers"'))
    caplog.set_level("INFO")
    nc: Nats | None = await nats.connect(bus.url("w"), inbox_prefix="_INBOX.w") if given else None
    async with two_tasks("" if given else bus.url("w"), nc=nc, inbox_prefix="_INBOX.w") as worker:
        assert worker.served == ["ok.a"]
        assert "serving ok.a as" in caplog.text
        assert "task no.b is not served: NATS permissions do not let" in caplog.text
        root = await nats.connect(bus.url("root"))
        info = await root.request("$SRV.INFO.dwarf-worker", b"", timeout=WAIT)
        assert b"ok-a" in info.data
        assert b"no-b" not in info.data
        await root.close()
    if nc is not None:
        await nc.close()


async def test_a_worker_whose_private_subject_is_refused_says_so_and_never_names_it(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await opened(w=WORKER.format('"task.> workers"'))
    async with two_tasks(bus.url("w")) as worker:
        assert worker.served == ["no.b", "ok.a"]
        assert "only their deadlines bind its tasks" in caplog.text
        assert "--inbox-prefix" in caplog.text
        assert worker._link.private == ""


async def test_a_subscription_that_is_taken_away_is_told_and_made_again_once_it_is_allowed(
    opened: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwarf_nats.nats_client.ASK_AGAIN_SECONDS", 0.2)
    caplog.set_level("INFO")
    allowed = WORKER.format('"task.> workers"')
    bus = await opened(w=allowed)
    root = await nats.connect(bus.url("root"))
    async with two_tasks(bus.url("w"), inbox_prefix="_INBOX.w"):
        await bus.allow(w=WORKER.format('"task.no.> workers"'))
        async with asyncio.timeout(WAIT):
            while "task ok.a is not served any more" not in caplog.text:
                await asyncio.sleep(0.02)
        await bus.allow(w=allowed)
        async with asyncio.timeout(WAIT):
            while "NATS takes the subscription to task.ok.a again" not in caplog.text:
                await asyncio.sleep(0.02)
        with contextlib.suppress(asyncio.CancelledError):
            await root.request("task.ok.a", b"{}", timeout=WAIT)  # a bad request, and an answer
    await root.close()


# --- replicas ---


def _graph(*urls: str) -> Graph:
    graph = Graph("w")
    graph.add_chain(*urls, END)
    return graph


async def test_a_task_the_replica_may_not_ask_waits_as_for_no_responders_and_says_why(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await opened(rep=REPLICA, boss=REPLICA)
    async with (
        replica(settings(bus, f"sqlite:///{tmp_path}/d.db")),
        two_tasks(bus.url("root")),
        Client(bus.url("root")) as client,
    ):
        key = await client.create(_graph("no.b"), {"word": "x"}, start=True)
        async with asyncio.timeout(WAIT):
            while not await client.breaker("no.b"):
                await asyncio.sleep(0.02)
        assert (await client.snapshot(key)).status.value == "running"
        assert "task no.b cannot serve (forbidden)" in caplog.text
        assert "NATS permissions do not let the user rep publish to task.no.b" in caplog.text
        assert (await client.run(_graph("ok.a"), {"word": "y"})).status.value == "completed"
        await bus.allow(rep=REPLICA.replace('"task.ok.>"', '"task.>"'))
        assert (await client.await_(key, timeout=WAIT)).status.value == "completed"


async def test_a_graph_that_may_not_be_asked_for_is_told(opened: Open) -> None:
    bus = await opened(rep=REPLICA)
    async with replica(settings(bus, "sqlite://")), Client(bus.url("root")) as client:
        with pytest.raises(NotFound, match=r"do not let the user rep publish to graph\.order"):
            await client.run("order")


async def test_announcements_that_are_refused_are_told_once_and_harm_nothing(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await opened(rep=REPLICA)
    async with replica(settings(bus, "sqlite://")), two_tasks(bus.url("root")), Client(bus.url("root")) as client:
        for _ in range(20):
            assert (await client.run(_graph("ok.a"), {"word": "y"})).status.value == "completed"
    told = [line for line in caplog.messages if "publish to dwarf.event.completed.w" in line]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("permissions", "told"),
    [
        (REPLICA.replace("_INBOX.rep.>", "_INBOX.other.>"), r"subscribe to _INBOX\.rep.*--inbox-prefix"),
        (REPLICA.replace('"dwarf.>"', '"dwarf.peer.*"'), r"subscribe to dwarf\.flow\.\w+ in the queue group dwarf"),
    ],
)
async def test_a_replica_that_may_serve_nothing_does_not_start(permissions: str, told: str, opened: Open) -> None:
    bus = await opened(rep=permissions)
    with pytest.raises(Forbidden, match=told):
        async with replica(settings(bus, "sqlite://")):
            pass


async def test_a_replica_that_may_not_hear_answers_any_more_holds_its_steps(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dwarf_nats.nats_client.ASK_AGAIN_SECONDS", 0.5)
    bus = await opened(rep=REPLICA)
    async with (
        replica(settings(bus, f"sqlite:///{tmp_path}/d.db")),
        two_tasks(bus.url("root")),
        Client(bus.url("root")) as client,
    ):
        await bus.allow(rep=REPLICA.replace("_INBOX.rep.>", "_INBOX.other.>"))
        async with asyncio.timeout(WAIT):
            while "subscribe to _INBOX.rep" not in caplog.text:
                await asyncio.sleep(0.02)
        key = await client.create(_graph("ok.a"), {"word": "x"}, FlowOptions(time_budget_ms=600_000), start=True)
        await bus.allow(rep=REPLICA)
        assert (await client.await_(key, timeout=WAIT)).status.value == "completed"


async def test_output_that_is_refused_is_told_once_and_harms_no_step(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B8: the worker goes on with batches and answers, and says which permission is missing."""
    bus = await opened(
        rep=REPLICA,
        svc='publish: { deny: [">"] }, subscribe: { allow: ["task.ok.> workers", "_INBOX.svc.>"] },'
        ' allow_responses: { max: -1, expires: "1h" }',
    )
    worker = Worker(bus.url("svc"), inbox_prefix="_INBOX.svc", drain_seconds=0)

    @worker.task("ok.a")
    async def tell(flow: Flow) -> None:
        for _ in range(20):
            flow.emit("once")

    async with (
        replica(settings(bus, f"sqlite:///{tmp_path}/d.db")),
        worker,
        Client(bus.url("root")) as client,
    ):
        for _ in range(5):
            assert (await client.run(_graph("ok.a"), {"word": "y"})).status.value == "completed"
        async with asyncio.timeout(WAIT):
            while "publish to dwarf.stream." not in caplog.text:
                await asyncio.sleep(0.02)
    assert "let it publish to the subjects of output" in caplog.text
    assert "an answer did not reach the engine" not in caplog.text
