"""Notices and signals over a real NATS server (wire: sections 4 and 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.notices import NatsNotices
from dwarf_nats.bus.peer_facts import NatsPeers
from dwarf_nats.bus.signals import NatsSignals, PeerListener
from dwarf_nats.rules.replica_facts import Question, ReplicaFacts, StepFacts, StepPhase
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status

KEY = "1-42-a1B2c3D4e5F6g7H8"


@dataclass
class Change:
    status: Status
    sequence: int
    flow_id: str = "1-42"
    thread_id: str = "1-42"
    workflow: str = "acme.order"
    at: int = 0


async def listen(other: Connection, subject: str) -> asyncio.Queue[Msg]:
    heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def hear(msg: Msg) -> None:
        heard.put_nowait(msg)

    await other.subscribe(subject, cb=hear)
    await other.flush()
    return heard


async def test_an_outcome_is_announced_to_whom_start_named_b4(connection: Connection, other: Connection) -> None:
    heard = await listen(other, "n1.stopped.>")
    NatsNotices(connection, Subjects("n1")).stopped("orders.done", Outcome(KEY, "order", Status.COMPLETED, b'{"a":1}'))
    msg = await asyncio.wait_for(heard.get(), 10)
    assert msg.subject == "n1.stopped.orders.done"
    assert msgspec.json.decode(msg.data) == {
        "flowKey": KEY, "workflow": "order", "status": "completed", "state": {"a": 1},
    }  # fmt: skip


async def test_events_come_in_order_without_keys_each_with_an_id(connection: Connection, other: Connection) -> None:
    heard = await listen(other, "n2.event.>")
    order = [Status.CREATED, Status.RUNNING, Status.COMPLETED]
    NatsNotices(connection, Subjects("n2")).changed([Change(status, at) for at, status in enumerate(order)])
    messages = [await asyncio.wait_for(heard.get(), 10) for _ in order]
    assert [msg.subject for msg in messages] == [f"n2.event.{status}.acme.order" for status in order]
    assert [msgspec.json.decode(msg.data)["status"] for msg in messages] == list(order)
    assert len({(msg.headers or {})["Nats-Msg-Id"] for msg in messages}) == 3
    assert all(b"a1B2c3" not in msg.data for msg in messages)


async def test_events_can_be_off(connection: Connection, other: Connection) -> None:
    heard = await listen(other, "n3.>")
    notices = NatsNotices(connection, Subjects("n3"), events=False)
    notices.changed([Change(Status.CREATED, 0)])
    notices.stopped("x", Outcome(KEY, "order", Status.COMPLETED))
    assert (await asyncio.wait_for(heard.get(), 10)).subject == "n3.stopped.x"


async def test_what_does_not_fit_is_announced_without_what_is_too_large(
    connection: Connection, other: Connection
) -> None:
    """Wire: large-replies; the same holds for announcements as for outcomes."""
    heard = await listen(other, "n4.>")
    notices = NatsNotices(connection, Subjects("n4"))
    huge = b'{"a":"' + b"x" * connection.max_payload + b'"}'
    notices.stopped("x", Outcome(KEY, "order", Status.COMPLETED, huge))
    told = msgspec.json.decode((await asyncio.wait_for(heard.get(), 10)).data)
    assert told == {"flowKey": KEY, "workflow": "order", "status": "completed", "state": {}, "truncated": True}
    assert notices.dropped == 0


async def test_what_cannot_be_announced_is_counted_and_never_raised(connection: Connection) -> None:
    notices = NatsNotices(connection, Subjects("n5"))
    await connection.close()
    notices.stopped("x", Outcome(KEY, "order", Status.COMPLETED))
    NatsSignals(connection, "me").trip_breaker("charge")
    assert notices.dropped == 1


class Ear:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        self.heard.put_nowait(("enqueue", shard, list(steps)))

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        self.heard.put_nowait(("notify", list(flows)))

    def sync_valve(self, task: str, w: float, t: int) -> None:
        self.heard.put_nowait(("sync", task, w, t))

    def trip_breaker(self, task: str) -> None:
        self.heard.put_nowait(("trip", task))

    def change_definitions(self) -> None:
        self.heard.put_nowait(("definitions",))


async def test_replicas_hear_each_other_but_not_themselves_b1(connection: Connection, other: Connection) -> None:
    subjects = Subjects("p1")
    mine, theirs = Ear(), Ear()
    await PeerListener(connection, "me", mine, subjects).start()
    await PeerListener(other, "they", theirs, subjects).start()
    await connection.flush()
    await other.flush()
    signals = NatsSignals(connection, "me", subjects)
    signals.enqueue(1, [ReadyStep(7, 100, 5)])
    signals.notify_status_change([StoppedFlow(KEY, Status.FAILED)])
    signals.sync_valve("charge", 2.5, 9)
    signals.trip_breaker("charge")
    signals.change_definitions()
    heard = [await asyncio.wait_for(theirs.heard.get(), 10) for _ in range(5)]
    assert heard == [
        ("enqueue", 1, [(7, 100, 5)]),
        ("notify", [(KEY, Status.FAILED)]),
        ("sync", "charge", 2.5, 9),
        ("trip", "charge"),
        ("definitions",),
    ]
    await connection.flush()
    assert mine.heard.empty()


def fact_teller(name: str) -> Callable[[Question], ReplicaFacts]:
    """Knows of every step it is asked about that it is being written."""

    def facts(question: Question) -> ReplicaFacts:
        steps = {step_id: StepFacts(phase=StepPhase.WRITING) for step_id in question.step_ids}
        return ReplicaFacts(name=name, workers=8, in_use=1, steps=steps)

    return facts


async def test_a_question_is_answered_by_those_who_are_there_q2(connection: Connection, other: Connection) -> None:
    """Whoever does not answer in time is missing; an answer of somebody who was not asked does not count."""
    subjects = Subjects("p4")
    mine, theirs = NatsPeers(connection, "me", subjects), NatsPeers(other, "they", subjects)
    listener = PeerListener(connection, "me", Ear(), subjects, questions=mine)
    await listener.start()
    await PeerListener(other, "they", Ear(), subjects, questions=theirs).start()
    await connection.flush()
    await other.flush()
    question = Question(1, [42])
    theirs.answer_with(fact_teller("they"))
    assert await mine.facts(question, {"they"}) == []  # it is not ready itself
    mine.answer_with(fact_teller("me"))
    assert await mine.facts(question, set()) == []
    assert await mine.facts(question, {"they"}) == [fact_teller("they")(question)]
    assert await mine.facts(question, {"they", "gone"}) == [fact_teller("they")(question)]
    assert await mine.facts(question, {"gone"}) == []
    assert await theirs.facts(question, {"me"}) == [fact_teller("me")(question)]
    await other.publish("p4.peer.explain", b"{}", headers={"Dwarf-Origin": "they"})
    assert await theirs.facts(question, {"me"}) == [fact_teller("me")(question)]
    assert listener.counters.malformed.total() == 1


async def test_a_malformed_signal_is_counted_and_dropped(connection: Connection, other: Connection) -> None:
    subjects = Subjects("p2")
    ear = Ear()
    listener = PeerListener(connection, "me", ear, subjects)
    await listener.start()
    await connection.flush()
    for subject, body in (("enqueue", b"{"), ("nonsense", b"{}"), ("trip_breaker", b'{"task":5}')):
        await other.publish(f"p2.peer.{subject}", body)
    await other.publish("p2.peer.trip_breaker", b'{"task":"charge"}', headers={"Dwarf-Origin": "they"})
    assert await asyncio.wait_for(ear.heard.get(), 10) == ("trip", "charge")
    assert listener.counters.malformed.total() == 3


@pytest.mark.parametrize("size", [12_345])
async def test_a_large_group_is_split_and_loses_nothing(connection: Connection, other: Connection, size: int) -> None:
    subjects = Subjects("p3")
    ear = Ear()
    await PeerListener(other, "they", ear, subjects).start()
    await other.flush()
    NatsSignals(connection, "me", subjects).enqueue(1, [ReadyStep(n, 100, 0) for n in range(size)])
    seen: list[int] = []
    while len(seen) < size:
        seen += [step for step, _, _ in (await asyncio.wait_for(ear.heard.get(), 10))[2]]
    assert seen == list(range(size))
