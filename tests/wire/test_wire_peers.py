"""Signals between replicas and announcements (wire: sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest

from dwarf_nats.rules.replica_facts import Question, ReplicaFacts, StepFacts, StepPhase, TaskFacts
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.wire import peer_facts, peers
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.status import Status


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        self.heard.append((shard, *steps))

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        self.heard.append(tuple(flows))

    def sync_valve(self, task: str, w: float, t: int) -> None:
        self.heard.append((task, w, t))

    def trip_breaker(self, task: str) -> None:
        self.heard.append((task,))

    def change_definitions(self) -> None:
        self.heard.append(("definitions",))


@dataclass
class Change:
    flow_id: str = "1-42"
    thread_id: str = "1-40"
    workflow: str = "order"
    status: Status = Status.COMPLETED
    at: int = 1_500_000
    sequence: int = 3


def test_every_signal_arrives_as_it_was_sent_b1() -> None:
    ear = Ear()
    flow = StoppedFlow("1-42-a1B2c3D4e5F6g7H8", Status.FAILED)
    peers.deliver(
        peers.ENQUEUE, peers.encode_enqueue(2, [ReadyStep(7, 100, 1_769_860_800_000_001), ReadyStep(8, 1, 0)]), ear
    )
    peers.deliver(peers.NOTIFY, peers.encode_notify([flow]), ear)
    peers.deliver(peers.SYNC, peers.encode_sync("charge", 12.5, 1_769_860_800_123_456), ear)
    peers.deliver(peers.TRIP, peers.encode_trip("charge"), ear)
    assert ear.heard == [
        (2, (7, 100, 1_769_860_800_000_001), (8, 1, 0)),
        (flow,),
        ("charge", 12.5, 1_769_860_800_123_456),
        ("charge",),
    ]


FACTS = ReplicaFacts(
    name="they",
    workers=8,
    in_use=3,
    draining=True,
    holds_steps=True,
    steps={
        42: StepFacts(phase=StepPhase.ASKING, worker="worker.1", deadline=1_769_860_800_000_001),
        41: StepFacts(phase=StepPhase.ASKING, progress=Progress(at=5, fraction=0.5, text="half")),
        43: StepFacts(phase=StepPhase.HELD),
    },
    tasks={
        "charge": TaskFacts(rate=2.5, opens_at=1_769_860_800_000_002, at_share=True),
        "ship": TaskFacts(probe_at=1_769_860_800_000_003, cause="no_responders"),
    },
)


def test_questions_and_answers_are_the_same_after_their_way_q2() -> None:
    question = Question(2, [42, 43], ["charge"])
    assert peer_facts.decode_question(peer_facts.encode_question("me-1", question)) == ("me-1", question)
    assert peer_facts.decode_answer(peer_facts.encode_answer("me-1", FACTS)) == ("me-1", FACTS)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id":"a"}', b'{"id":"a","shard":1,"stepIds":["x"],"tasks":[]}'])
def test_malformed_questions_and_answers_are_told_apart(body: bytes) -> None:
    with pytest.raises(peers.Malformed):
        peer_facts.decode_question(body)
    with pytest.raises(peers.Malformed):
        peer_facts.decode_answer(body)


@pytest.mark.parametrize(
    ("signal", "body"),
    [
        ("enqueue", b""),
        ("enqueue", b"[]"),
        ("enqueue", b'{"shard":"x","steps":[]}'),
        ("enqueue", b'{"shard":1,"steps":[{"stepId":1}]}'),
        ("sync_valve", b'{"task":"a","w":"fast","t":"2026-01-01T00:00:00Z"}'),
        ("trip_breaker", b'{"task":"\xff"}'),
        ("change_definitions", b"[]"),
        ("notify_status_change", b'{"flows":[{"flowKey":"a","status":"gone"}]}'),
        ("nonsense", b"{}"),
    ],
)
def test_malformed_signals_are_told_apart(signal: str, body: bytes) -> None:
    ear = Ear()
    with pytest.raises(peers.Malformed):
        peers.deliver(signal, body, ear)
    assert ear.heard == []


def test_events_carry_no_keys() -> None:
    assert msgspec.json.decode(peers.encode_event(Change())) == {
        "flowId": "1-42", "threadId": "1-40", "workflow": "order", "status": "completed",
        "at": "1970-01-01T00:00:01.500000Z",
    }  # fmt: skip
