"""The tables of `docs/operating/security.md`, cell by cell, against a nats-server with the templates (wire section 7)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import FlowOptions
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.wire.operations import OPERATIONS
from tests.support.deployment import TEMPLATES, USERS, WAIT, Attempts, Deployment, queue_of

pytestmark = pytest.mark.slow

ROLES = {
    "replica": "replica",
    "caller": "shop",
    "operator": "operator",
    "viewer": "viewer",
    "task service": "billing",
    "graph service": "catalog",
}
"""The columns of the table, and the users of the templates."""
GROUPS = {"replica": "dwarf", "billing": "workers"}


def table() -> dict[str, dict[str, str]]:
    """By subject: what each user may."""
    lines = (TEMPLATES.parent / "security.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| subjects |"))
    columns = [cell.strip() for cell in lines[start].strip("|").split("|")]
    assert columns[2:] == list(ROLES)
    found: dict[str, dict[str, str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        assert len(cells) == len(columns), line
        for subject in re.findall(r"`([^`]+)`", cells[0]):
            assert subject not in found
            found[subject] = dict(zip(ROLES.values(), cells[2:], strict=True))
    return found


TABLE = table()


def test_the_table_has_every_operation_and_every_user() -> None:
    assert {f"dwarf.{one.name}" for one in OPERATIONS} <= TABLE.keys()
    assert set(ROLES.values()) == set(USERS)
    assert {cell for row in TABLE.values() for cell in row.values()} == {"", "P", "S", "G", "P S"}


@pytest.mark.parametrize("user", USERS)
async def test_each_cell_is_what_the_server_says(secured_server: NatsServer, user: str) -> None:
    """Publishing, subscribing, and subscribing in the role's queue group and in another one."""
    cells = {subject: row[user] for subject, row in TABLE.items()}
    may = {what: {subject for subject, cell in cells.items() if what in cell} for what in "PSG"}
    attempts = Attempts()
    async with attempts.of(secured_server, user) as nc:
        for subject in cells:
            await nc.publish(subject, b"{}")
        assert await attempts.allowed(nc, set(cells)) == may["P"]
        for queue, expected in (("", may["S"]), (GROUPS.get(user, "any"), may["S"] | may["G"]), ("other", may["S"])):
            for subject in cells:
                await nc.subscribe(subject, queue=queue)
            assert await attempts.allowed(nc, set(cells)) == expected, queue


def test_every_permission_to_respond_ends() -> None:
    """Wire section 7: without `expires` it would be two minutes; in the templates and in what the documentation shows."""
    shown = [*TEMPLATES.glob("*.conf"), *TEMPLATES.parents[1].rglob("*.md")]
    found = [
        (path.name, line)
        for path in shown
        for line in path.read_text().splitlines()
        if re.search(r"allow_responses\s*:\s*\{", line)
    ]
    assert len(found) >= 4
    assert all("expires" in line for _, line in found), found


# --- where others can be made to publish ---


class Spy:
    """A task service of the user `billing` that takes its requests by hand, and what the server refused it."""

    def __init__(self, nc: Nats, attempts: Attempts, requests: asyncio.Queue[Msg]) -> None:
        self.nc = nc
        self.attempts = attempts
        self.requests = requests

    @classmethod
    @asynccontextmanager
    async def of(cls, server: NatsServer, task: str) -> AsyncIterator[Spy]:
        attempts = Attempts()
        async with attempts.of(server, "billing") as nc:
            requests: asyncio.Queue[Msg] = asyncio.Queue()
            await nc.subscribe(task, queue="workers", cb=requests.put)
            await round_trip(nc)
            yield cls(nc, attempts, requests)

    async def take(self) -> Msg:
        return await asyncio.wait_for(self.requests.get(), WAIT)


@pytest.fixture
async def quick(secured_server: NatsServer, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment whose replica calls the roll all the time."""
    async with Deployment(secured_server.url, f"sqlite:///{tmp_path / 'dwarf.db'}", roll_call_ms=20) as one:
        yield one


async def test_a_task_service_cannot_end_the_step_of_another_by_any_way_in(
    quick: Deployment, secured_server: NatsServer
) -> None:
    """By hand, by its private subject, and by the reply subject of whoever may ask something."""
    async with (
        Spy.of(secured_server, "task.billing.mine") as spy,
        Spy.of(secured_server, "task.billing.victim") as victim,
    ):
        flows = [await quick.shop.create_task(f"billing.{one}", start=True) for one in ("mine", "victim")]
        mine, other = await spy.take(), await victim.take()
        inbox = mine.reply.rpartition(".")[0]
        assert inbox == other.reply.rpartition(".")[0], "every task service knows it"
        # Where the other's answer is expected, as if somebody had told: even that is of no use to anybody but who was asked.
        for subject in (other.reply, f"{inbox}.1", f"{inbox}.2"):
            await spy.nc.publish(subject, b'{"changes":{"by":"a thief"}}')
            assert not await spy.attempts.allowed(spy.nc, {subject})
            for client, operations in (
                (quick.shop, ("dwarf.flow.history", "dwarf.graph.validate", "dwarf.flow.create_task")),
                (
                    quick.viewer,
                    ("dwarf.flow.list", "dwarf.shard.info", "dwarf.health", "$SRV.PING", "$SRV.STATS.dwarf"),
                ),
                (quick.operator, ("dwarf.flow.purge", "dwarf.graph.list", "dwarf.health", "$SRV.INFO")),
            ):
                for operation in operations:
                    await client.nc.publish(operation, b"", reply=subject)
                await round_trip(client.nc)
        # An answer takes three messages at most, so this goes to its own request.
        accepted = {"Dwarf-Signal": "accepted", "Dwarf-Worker": other.reply}
        await spy.nc.publish(mine.reply, b"", headers=accepted)
        await spy.nc.publish(mine.reply, b'{"changes":{"by":"mine"}}')
        await victim.nc.publish(other.reply, b'{"changes":{"by":"victim"}}')
        states = [(await quick.shop.await_(flow)).state for flow in flows]
        assert states == [{"by": "mine"}, {"by": "victim"}]
        assert spy.requests.empty()
        assert victim.requests.empty()
    answers = [one for one in quick.heard if one.subject == other.reply]
    assert [one.data for one in answers] == [b'{"changes":{"by":"victim"}}'], "nobody else published there"


@pytest.mark.parametrize(
    "private",
    [
        "{inbox}.1",
        "{reply}",
        "_INBOX.dwarf_replica_inbox.x.1",
        "dwarf.peer.trip_breaker",
        "dwarf.flow.purge",
        "dwarf.stopped.shop",
        "dwarf.event.completed.order",
        "task.shipping.send",
        "graph.order",
        "$SRV.PING",
        "$JS.API.STREAM.LIST",
        "_INBOX.>",
        "_INBOX.*.x",
        "_INBOX..x",
        "_INBOX.x.",
        "_INBOX.x y",
        "x" * 300,
    ],
)
async def test_a_task_service_has_the_replica_ask_nowhere_but_at_an_ordinary_subject(
    quick: Deployment, secured_server: NatsServer, private: str
) -> None:
    async with Spy.of(secured_server, "task.billing.mine") as spy:
        flow = await quick.shop.create_task("billing.mine", start=True)
        request = await spy.take()
        named = private.format(inbox=request.reply.rpartition(".")[0], reply=request.reply)
        await spy.nc.publish(request.reply, b"", headers={"Dwarf-Signal": "accepted", "Dwarf-Worker": named})
        # One that is in order is asked at once; by then the other one would have been.
        ordinary = {"Dwarf-Signal": "accepted", "Dwarf-Worker": "_INBOX.billing.private"}
        await spy.nc.publish(request.reply, b"", headers=ordinary)
        await quick.until(lambda m: m.subject == "_INBOX.billing.private")
        await spy.nc.publish(request.reply, b"")
        await quick.shop.await_(flow)
    asked = {m.subject for m in quick.heard if m.data.startswith(b'{"steps":')}
    assert asked == {"_INBOX.billing.private"}


@pytest.mark.parametrize(
    "subject", ["dwarf.peer.trip_breaker", "dwarf.stopped.shop", "dwarf.event.completed.x", "task.billing.x"]
)
async def test_viewer_and_caller_reach_no_subject_of_the_service_by_a_reply_subject(
    deployment: Deployment, subject: str
) -> None:
    """Of the honest ones who answer: replicas, and workers of the SDK."""
    await deployment.worker({"billing.price": lambda items: {"total": items}})
    questions = {
        deployment.shop: ("dwarf.flow.create_task", "dwarf.graph.validate", "dwarf.flow.snapshot"),
        deployment.viewer: (
            "dwarf.flow.list",
            "dwarf.task.breaker",
            "dwarf.health",
            "$SRV.PING",
            "$SRV.INFO.dwarf-worker",
        ),
    }
    for client, asked in questions.items():
        for question in asked:
            await client.nc.publish(question, b"", reply=subject)
        await round_trip(client.nc)
    # Whatever would have been said has been said when both have answered what came after.
    assert [one.ready for one in await deployment.viewer.health()] == [True]
    assert (
        json.loads((await deployment.viewer.nc.request("$SRV.PING.dwarf-worker", timeout=WAIT)).data)["name"]
        == "dwarf-worker"
    )
    await deployment.viewer.list(None)
    assert [m.subject for m in deployment.heard if m.subject == subject] == []


async def test_an_answer_goes_to_whatever_inbox_the_question_names(deployment: Deployment) -> None:
    """The table says so: it is the answer to one's own question, in an inbox one must know."""
    heard = await queue_of(deployment.operator.nc, "_INBOX.operator.known")
    await deployment.viewer.nc.publish("dwarf.graph.list", b"", reply="_INBOX.operator.known")
    assert json.loads((await asyncio.wait_for(heard.get(), WAIT)).data) == {"graphs": []}


async def test_an_announcement_goes_to_whatever_target_the_caller_names(deployment: Deployment) -> None:
    await deployment.worker({"billing.price": lambda items: {"total": items}})
    heard = await queue_of(deployment.operator.nc, "dwarf.stopped.>")
    flow = await deployment.shop.create_task("billing.price", {"items": 1}, FlowOptions(notify="other"), start=True)
    message = await asyncio.wait_for(heard.get(), WAIT)
    assert (message.subject, json.loads(message.data)["flowKey"]) == ("dwarf.stopped.other", flow)


@pytest.mark.parametrize("notify", ["$SRV.PING", "a.>", "*", "a..b", " ", "1-42-a1B2c3D4e5F6g7H8", "x" * 300])
async def test_a_notify_target_is_an_ordinary_name(deployment: Deployment, notify: str) -> None:
    body = json.dumps({"task": "billing.price", "options": {"notify": notify}}).encode()
    reply = await deployment.shop.nc.request("dwarf.flow.create_task", body, timeout=WAIT)
    assert (reply.headers or {}).get("Nats-Service-Error-Code") == "400"


async def test_a_viewer_lends_a_task_service_the_reply_subject_of_discovery(secured_server: NatsServer) -> None:
    """The last line of the table, as a warning: if this fails, nats-server has become stricter, and the line can go."""
    subject = "dwarf.flow.purge"
    root, viewer, service = Attempts(), Attempts(), Attempts()
    async with (
        root.of(secured_server, "root") as ear,
        viewer.of(secured_server, "viewer") as eye,
        service.of(secured_server, "billing") as nc,
    ):
        heard = await queue_of(ear, subject)
        asked = await nc.subscribe("$SRV.PING")
        await round_trip(nc)
        await nc.publish(subject, b"unasked")
        assert not await service.allowed(nc, {subject})
        await eye.publish("$SRV.PING", b"", reply=subject)
        await asked.next_msg(timeout=WAIT)
        await nc.publish(subject, b"lent")
        assert (await asyncio.wait_for(heard.get(), WAIT)).data == b"lent"
        # Nor does it hear, and could answer, what others are asked.
        for other in ("$SRV.>", "$SRV.*", "$SRV.PING.>", "$SRV.PING.dwarf", "$SRV.STATS.*"):
            await nc.subscribe(other)
            assert not await service.allowed(nc, {other}), other
