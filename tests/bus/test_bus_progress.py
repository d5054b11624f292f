"""Progress over a real NATS server (B7, wire: section 2): the last one counts, and nothing of it harms the step."""

from __future__ import annotations

import asyncio
import logging

import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.progress import MAX_PROGRESS_BYTES, Progress
from tests.bus.test_bus_tasks import STEP, call, worker_of

PROGRESS = {"Dwarf-Signal": "progress"}


class Heard:
    """Takes what is reported."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.came = asyncio.Event()

    def report(self, step_key: str, progress: Progress) -> None:
        assert step_key == STEP
        self.reports.append(progress)
        self.came.set()


@pytest.fixture
def tasks(connection: Connection, inbox: Inbox, unique: str) -> NatsTasks:
    return NatsTasks(connection, inbox, Subjects(task_prefix=unique), roll_call_seconds=0.1)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


async def test_b7_a_progress_is_reported_and_the_answer_still_counts(
    tasks: NatsTasks, other: Connection, unique: str
) -> None:
    heard = Heard()

    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b'{"fraction":0.5,"text":"half","data":[1]}', headers=PROGRESS)
        await heard.came.wait()
        await other.publish(msg.reply, b'{"changes":{"done":true}}')

    await other.subscribe(f"{unique}.charge", cb=service)
    await other.flush()
    answer = await tasks.execute(call(report=heard.report))
    assert list(answer.changes) == ["done"]
    (told,) = heard.reports
    assert (told.fraction, told.text, told.data) == (0.5, "half", [1])


async def test_b7_of_a_flood_few_are_read_and_the_last_one_always(
    tasks: NatsTasks, other: Connection, unique: str
) -> None:
    """B7: also if the answer comes right behind it."""
    heard = Heard()

    async def service(msg: Msg) -> None:
        for at in range(500):
            await other.publish(msg.reply, b'{"data":%d}' % at, headers=PROGRESS)
        await other.publish(msg.reply, b"{}")

    await other.subscribe(f"{unique}.charge", cb=service)
    await other.flush()
    answer = await tasks.execute(call(report=heard.report))
    assert answer.error is None
    assert heard.reports[-1].data == 499
    assert len(heard.reports) < 100


async def test_b7_a_malformed_progress_is_counted_logged_and_harms_nothing(
    tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    bodies = [b"", b"nonsense", b'{"text":"' + b"x" * MAX_PROGRESS_BYTES + b'"}']
    left = list(bodies)

    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, left.pop(), headers=PROGRESS)
        await other.publish(msg.reply, b'{"changes":{"done":true}}')

    await other.subscribe(f"{unique}.charge", cb=service)
    await other.flush()
    with caplog.at_level(logging.WARNING):
        for _ in bodies:
            answer = await tasks.execute(call(report=heard.report))
            assert list(answer.changes) == ["done"]
    assert (heard.reports, inbox.progress.malformed.total()) == ([], 3)
    assert "a malformed progress of step 1-43" in caplog.text
    assert STEP not in caplog.text


async def test_b7_a_progress_that_names_its_worker_is_an_acceptance(
    tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str
) -> None:
    """Wire: section 2; the roll call asks there from then on."""
    heard = Heard()
    worker: list[str] = []

    async def service(msg: Msg) -> None:
        headers = {**PROGRESS, "Dwarf-Worker": "workers.mine"}
        await other.publish(msg.reply, b'{"fraction":0}', headers=headers)
        await heard.came.wait()
        worker.append(worker_of(inbox))
        await other.publish(msg.reply, b"{}")

    await other.subscribe(f"{unique}.charge", cb=service)
    await other.flush()
    await tasks.execute(call(report=heard.report))
    assert worker == ["workers.mine"]


async def test_b7_a_progress_after_the_answer_is_late(
    tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str
) -> None:
    heard = Heard()

    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b"{}")
        await other.publish(msg.reply, b'{"fraction":1}', headers=PROGRESS)
        await other.flush()

    await other.subscribe(f"{unique}.charge", cb=service)
    await other.flush()
    await tasks.execute(call(report=heard.report))
    await tasks.execute(call("charge", report=heard.report))
    assert heard.reports == []
    assert inbox.late >= 1
