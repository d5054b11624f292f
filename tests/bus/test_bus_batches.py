"""Several steps in one message to one worker, and its answers in any grouping (wire: section 2)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus import batches
from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Answer, Disposition, TaskCall
from dwarf_nats.workflow.state import Raw

SOON = 20.0


def call(number: int, url: str = "charge", budget: float = 60.0, **changes: Any) -> TaskCall:
    values: dict[str, Any] = {
        "flow_key": "1-42-a1B2c3D4e5F6g7H8", "step_key": f"1-{number}-h8G7f6E5d4C3b2A1", "workflow": "order",
        "task": "charge", "url": url, "attempt": 2, "state": {"n": Raw(b"%d" % number)}, "baggage": Raw(b"null"),
        "flow_created_at": 0, "flow_updated_at": 0, "deadline": 5_000_000, "budget": budget,
    }  # fmt: skip
    return TaskCall(**{**values, **changes})


class BatchingWorker:
    """A worker by hand: answers requests through the queue group at once, and keeps batches for the test to answer."""

    def __init__(self, other: Connection, prefix: str, most: int = 100) -> None:
        self.other = other
        self.prefix = prefix
        self.most = most
        self.private = other.new_inbox()
        self.batches: asyncio.Queue[Msg] = asyncio.Queue()
        self.calls: asyncio.Queue[Msg] = asyncio.Queue()
        self.alone: list[str] = []
        self.answers = True
        self.held: list[Msg] = []

    @property
    def announcement(self) -> dict[str, str]:
        return {"Dwarf-Worker": self.private, "Dwarf-Batch": str(self.most)}

    async def serve(self, url: str = "charge") -> None:
        async def on_request(msg: Msg) -> None:
            self.alone.append((msg.headers or {})["Dwarf-Step-Key"].rpartition("-")[0])
            if self.answers:
                await self.other.publish(msg.reply, b'{"changes":{"alone":true}}', headers=self.announcement)
            else:
                self.held.append(msg)

        async def on_private(msg: Msg) -> None:
            is_batch = (msg.headers or {}).get("Dwarf-Batch") is not None
            await (self.batches if is_batch else self.calls).put(msg)

        await self.other.subscribe(f"{self.prefix}.{url}", queue="workers", cb=on_request)
        self.subscription = await self.other.subscribe(self.private, cb=on_private)
        await self.other.flush()

    async def batch(self) -> tuple[Msg, list[dict[str, Any]]]:
        async with asyncio.timeout(SOON):
            msg = await self.batches.get()
        members = json.loads(msg.data)
        assert (msg.headers or {})["Dwarf-Batch"] == str(len(members))
        return msg, members

    async def answer(self, msg: Msg, *replies: dict[str, Any]) -> None:
        await self.other.publish(msg.reply, json.dumps(replies).encode(), headers=self.announcement)


def ids(members: list[dict[str, Any]]) -> list[str]:
    return [one["stepKey"].rpartition("-")[0] for one in members]


def changes(answer: Answer) -> dict[str, Any]:
    return {name: json.loads(bytes(value)) for name, value in answer.changes.items()}


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
def tasks(connection: Connection, inbox: Inbox, unique: str) -> NatsTasks:
    return NatsTasks(connection, inbox, Subjects(task_prefix=unique), accept_ms=60_000, roll_call_seconds=0.05)


@pytest.fixture
async def worker(other: Connection, tasks: NatsTasks, unique: str) -> BatchingWorker:
    """A worker that the replica knows to take batches."""
    worker = BatchingWorker(other, unique)
    await worker.serve()
    assert not tasks.batcher.takes_batches("charge")
    assert changes(await tasks.execute(call(1))) == {"alone": True}
    assert tasks.batcher.takes_batches("charge")
    return worker


def begin(tasks: NatsTasks, *numbers: int, **more: Any) -> dict[int, asyncio.Task[Answer]]:
    """Execute steps in one turn of the loop. The first is alone in flight, the second goes to the queue group."""
    return {number: asyncio.create_task(tasks.execute(call(number, **more))) for number in numbers}


async def test_what_is_due_at_once_goes_out_in_one_message_and_is_answered_in_any_grouping(
    tasks: NatsTasks, worker: BatchingWorker
) -> None:
    running = begin(tasks, *range(10, 17))
    msg, members = await worker.batch()
    assert ids(members) == ["1-12", "1-13", "1-14", "1-15", "1-16"]
    assert members[0]["state"] == {"n": 12}
    assert members[0]["headers"] == {
        "Dwarf-Attempt": "2",
        "Dwarf-Deadline": "1970-01-01T00:00:05.000000Z",
        "Dwarf-Accept-Ms": "60000",
        "Dwarf-Queue": "1",
        "Dwarf-Stream": "dwarf.stream.1-42.1-12",
    }
    await worker.answer(msg, {"stepId": "1-16", "reply": {"changes": {"got": 16}}}, {"stepId": "1-12", "reply": {}})
    await worker.answer(msg, {"stepId": "1-13", "reply": {"changes": {"got": 13}}})
    assert changes(await running[16]) == {"got": 16}
    assert changes(await running[12]) == {}
    assert changes(await running[13]) == {"got": 13}
    assert not running[14].done()
    replies = [{"stepId": f"1-{n}", "reply": {"changes": {"got": n}}} for n in (14, 15)]
    await worker.answer(msg, *replies, {"stepId": "1-99", "reply": {}}, {"stepId": "1-13", "reply": {}})
    assert [changes(await running[n]) for n in (14, 15)] == [{"got": 14}, {"got": 15}]
    assert [changes(await running[n]) for n in (10, 11)] == [{"alone": True}, {"alone": True}]
    assert worker.alone == ["1-1", "1-10", "1-11"], "some always go to the queue group"
    await worker.answer(msg, {"stepId": "1-12", "reply": {}})
    await worker.other.flush()
    await worker.other.request(f"{worker.prefix}.charge", b"", headers={"Dwarf-Step-Key": "x-y"})  # it has come, too
    assert tasks.late >= 1, "the batch is closed: what comes then is late"
    assert (tasks.batcher.batches, tasks.batcher.members) == (1, 5)


async def test_a_step_goes_to_the_queue_group_every_so_often(
    tasks: NatsTasks, worker: BatchingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Design note 0061: one finds new instances; one in each batch would cost as much as many."""
    monkeypatch.setattr(batches, "SEARCH_SECONDS", 1e9)
    rounds = [(range(10, 14), 2), (range(20, 24), 3), (range(30, 34), 3)]
    for numbers, together in rounds:
        running = begin(tasks, *numbers)
        msg, members = await worker.batch()
        assert ids(members) == [f"1-{n}" for n in numbers][-together:]
        await worker.answer(msg, *({"stepId": step, "reply": {}} for step in ids(members)))
        await asyncio.gather(*running.values())
    assert worker.alone == ["1-1", "1-10", "1-11", "1-20", "1-30"]
    monkeypatch.setattr(batches, "SEARCH_SECONDS", 0.0)
    running = begin(tasks, *range(40, 44))
    msg, members = await worker.batch()
    assert ids(members) == ["1-42", "1-43"]
    await worker.answer(msg, *({"stepId": step, "reply": {}} for step in ids(members)))
    await asyncio.gather(*running.values())


async def test_errors_dispositions_and_malformed_answers_are_those_of_their_step(
    tasks: NatsTasks, worker: BatchingWorker
) -> None:
    running = begin(tasks, *range(10, 17))
    msg, _ = await worker.batch()
    await worker.answer(
        msg,
        {"stepId": "1-12", "reply": {"error": {"message": "no money", "code": 402}}},
        {"stepId": "1-13", "reply": {"error": "x"}, "headers": {"Dwarf-Disposition": "breaker"}},
        {"stepId": "1-14", "reply": {"chnages": {}}},
        {"stepId": "1-15", "nonsense": 1},
        {"stepId": "1-16", "reply": {"changes": {"fine": True}}},
    )
    refused, broken, unknown, malformed = [(await running[n]).error for n in (12, 13, 14, 15)]
    assert refused is not None
    assert (refused.message, refused.code) == ("no money", 402)
    assert broken is not None
    assert (await running[13]).disposition is Disposition.BREAKER
    assert unknown is not None
    assert unknown.code == 502
    assert "chnages" in unknown.message
    assert malformed is not None
    assert malformed.code == 502
    assert changes(await running[16]) == {"fine": True}


async def test_no_answer_at_all_is_bound_by_the_deadline_of_each_step(tasks: NatsTasks, worker: BatchingWorker) -> None:
    short = begin(tasks, 10, 11, 12, 13, budget=0.05)
    msg, _ = await worker.batch()
    await worker.other.publish(msg.reply, b"no json", headers=worker.announcement)
    for number in (12, 13):
        error = (await short[number]).error
        assert error is not None
        assert error.code == 408


async def test_without_anybody_there_the_steps_go_to_the_queue_group_at_once(
    tasks: NatsTasks, worker: BatchingWorker
) -> None:
    """Nobody subscribes to the private subject any more."""
    await worker.subscription.unsubscribe()
    await worker.other.flush()
    running = begin(tasks, *range(10, 16))
    assert [changes(await one) for one in running.values()] == [{"alone": True}] * 6
    assert sorted(worker.alone[1:]) == [f"1-{n}" for n in range(10, 16)]
    assert tasks.lost == 0


async def test_signals_come_in_batches_too(tasks: NatsTasks, worker: BatchingWorker) -> None:
    """Accepted, queued, started and progress of single steps (K3, B7)."""
    reported: list[tuple[str, float | None]] = []

    def report(step: str, progress: Any) -> None:
        reported.append((step, progress.fraction))

    running = begin(tasks, *range(10, 16), report=report)
    msg, _ = await worker.batch()
    await worker.answer(
        msg,
        {"stepId": "1-12", "signal": "accepted"},
        {"stepId": "1-13", "signal": "queued", "headers": {"Dwarf-Queue-Timeout-Ms": "50000"}},
        {"stepId": "1-14", "signal": "progress", "body": {"fraction": 0.5}},
    )
    async with asyncio.timeout(SOON):
        roll = await worker.calls.get()
    asked = json.loads(roll.data)["steps"]
    assert set(asked) <= {"1-12", "1-13", "1-14"}
    await worker.other.publish(roll.reply, json.dumps({"running": asked}).encode())
    await worker.answer(msg, *({"stepId": f"1-{n}", "reply": {"changes": {"got": n}}} for n in range(12, 16)))
    assert [changes(await running[n]) for n in range(12, 16)] == [{"got": n} for n in range(12, 16)]
    assert reported == [("1-14-h8G7f6E5d4C3b2A1", 0.5)]
    assert tasks.accepted == 3


async def test_a_cancelled_step_is_told_to_the_worker_that_has_the_batch(
    tasks: NatsTasks, worker: BatchingWorker
) -> None:
    """O10: at once, though it has not said that it accepted."""
    running = begin(tasks, *range(10, 14))
    msg, _ = await worker.batch()
    tasks.cancel("1-12-h8G7f6E5d4C3b2A1")
    running[12].cancel()
    async with asyncio.timeout(SOON):
        roll = await worker.calls.get()
    assert json.loads(roll.data) == {"steps": [], "cancel": ["1-12"]}
    await worker.other.publish(roll.reply, b'{"running":[]}')
    await worker.answer(msg, {"stepId": "1-13", "reply": {"changes": {"got": 13}}})
    assert changes(await running[13]) == {"got": 13}


async def test_a_worker_that_dies_with_a_batch_gives_its_steps_back(
    connection: Connection, inbox: Inbox, other: Connection, unique: str
) -> None:
    """It said nothing about these steps: the roll call asks after what is not answered once it should have been accepted."""
    tasks = NatsTasks(connection, inbox, Subjects(task_prefix=unique), accept_ms=20, roll_call_seconds=0.05)
    worker = BatchingWorker(other, unique)
    await worker.serve()
    await tasks.execute(call(1))
    running = begin(tasks, *range(10, 14))
    await worker.batch()
    async with asyncio.timeout(SOON):
        roll = await worker.calls.get()
        assert set(json.loads(roll.data)["steps"]) <= {"1-12", "1-13"}
        await other.publish(roll.reply, json.dumps({"running": ["1-12", "1-13"]}).encode())
        await worker.subscription.unsubscribe()
        for number in (12, 13):
            with pytest.raises(WorkerLost):
                await running[number]


async def test_a_worker_that_withdraws_gets_no_more_batches(tasks: NatsTasks, worker: BatchingWorker) -> None:
    worker.most = 0
    running = begin(tasks, *range(10, 14))
    msg, _ = await worker.batch()
    await worker.answer(msg, *({"stepId": f"1-{n}", "reply": {}} for n in (12, 13)))
    await asyncio.gather(*running.values())
    assert not tasks.batcher.takes_batches("charge")
    again = begin(tasks, *range(20, 24))
    await asyncio.gather(*again.values())
    assert worker.alone[-4:] == [f"1-{n}" for n in range(20, 24)]


async def test_a_worker_gets_at_most_what_it_takes_and_several_workers_share(
    connection: Connection, inbox: Inbox, other: Connection, unique: str
) -> None:
    tasks = NatsTasks(connection, inbox, Subjects(task_prefix=unique), accept_ms=60_000)
    one, two = BatchingWorker(other, unique, most=3), BatchingWorker(other, unique, most=3)
    await one.serve()
    await tasks.execute(call(1))
    one.answers = False  # its queue group member keeps what it gets
    await two.serve()
    number = 2
    while not (one.alone[1:] and two.alone):
        running = asyncio.create_task(tasks.execute(call(number)))
        number += 1
        async with asyncio.timeout(SOON):
            while not running.done() and not one.held:
                await asyncio.sleep(0)
        for msg in one.held:
            await other.publish(msg.reply, b"", headers=one.announcement)
        one.held.clear()
        await running
    one.answers = True
    running_all = begin(tasks, *range(100, 120))
    (first, some), (second, others) = await one.batch(), await two.batch()
    assert (len(some), len(others)) == (3, 3)
    assert len(set(ids(some)) | set(ids(others))) == 6
    for msg, members, worker in ((first, some, one), (second, others, two)):
        await worker.answer(msg, *({"stepId": step, "reply": {}} for step in ids(members)))
    await asyncio.gather(*running_all.values())
    assert one.batches.empty()
    assert two.batches.empty()


async def test_a_batch_that_the_server_would_not_take_is_cut_into_several(
    tasks: NatsTasks, worker: BatchingWorker, connection: Connection
) -> None:
    connection.max_message_bytes = 12_000
    state = {"pad": Raw(b'"' + b"x" * 3000 + b'"')}
    running = begin(tasks, *range(10, 18), state=state)
    seen: list[str] = []
    while len(seen) < 6:
        msg, members = await worker.batch()
        assert len(msg.data) <= 12_000
        seen += ids(members)
        await worker.answer(msg, *({"stepId": step, "reply": {}} for step in ids(members)))
    await asyncio.gather(*running.values())
    assert sorted(seen) == [f"1-{n}" for n in range(12, 18)]


async def test_each_step_of_a_batch_is_held_when_the_bus_goes_away(own_server: NatsServer, opened: Any) -> None:
    """B6, also those that are due and not sent yet."""
    connection, other = await opened(own_server.url), await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    tasks = NatsTasks(connection, inbox, Subjects(task_prefix="p"), accept_ms=60_000)
    worker = BatchingWorker(other, "p")
    await worker.serve()
    await tasks.execute(call(1))
    worker.answers = False
    running = begin(tasks, *range(10, 14))
    await worker.batch()
    await own_server.kill()
    for one in running.values():
        with pytest.raises(BusAway):
            await asyncio.wait_for(one, SOON)
    assert len(inbox) == 0
    for one in begin(tasks, 20, 21, 22).values():
        with pytest.raises(BusAway):
            await asyncio.wait_for(one, SOON)


@pytest.mark.parametrize(
    ("private", "most"), [("_INBOX.a b", "10"), ("task.charge", "10"), ("", "10"), ("fine", "x"), ("fine", "1")]
)
async def test_an_announcement_that_cannot_be_meant_changes_nothing(
    private: str, most: str, connection: Connection, inbox: Inbox, other: Connection
) -> None:
    tasks = NatsTasks(connection, inbox, Subjects(task_prefix="task"))
    block = f"NATS/1.0\r\nDwarf-Worker: {private}\r\nDwarf-Batch: {most}\r\n\r\n".encode()
    assert not tasks.batcher.is_announcement("charge", block)
    assert not tasks.batcher.takes_batches("charge")
    await other.flush()
