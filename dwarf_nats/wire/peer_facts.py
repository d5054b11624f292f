"""Encode and decode the questions of replicas about steps and tasks, and the answers (Q2; wire section 4)."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from dwarf_nats.rules.replica_facts import Question, ReplicaFacts, StepFacts, StepPhase, TaskFacts
from dwarf_nats.workflow.progress import Progress

from . import peer_messages as p
from .peers import EXPLAIN, EXPLAINED, Malformed
from .times import from_micros, to_micros

V = TypeVar("V")
_encode = msgspec.json.Encoder().encode
_question = msgspec.json.Decoder(p.PeerExplain).decode
_answer = msgspec.json.Decoder(p.PeerExplained).decode


def encode_question(question_id: str, question: Question) -> bytes:
    """Encode a question; its answers have the same id."""
    return _encode(
        p.PeerExplain(id=question_id, shard=question.shard, step_ids=list(question.step_ids), tasks=list(question.urls))
    )


def decode_question(body: bytes) -> tuple[str, Question]:
    """Decode a question and its id. Raises `Malformed`."""
    try:
        message = _question(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"malformed {EXPLAIN}: {error}") from None
    return message.id, Question(message.shard, message.step_ids, message.tasks)


def encode_answer(question_id: str, facts: ReplicaFacts) -> bytes:
    """Encode an answer."""
    return _encode(
        p.PeerExplained(
            id=question_id,
            replica=facts.name,
            workers=facts.workers,
            in_use=facts.in_use,
            draining=facts.draining,
            holds_steps=facts.holds_steps,
            steps=[_step(step_id, one) for step_id, one in facts.steps.items()],
            tasks=[_task(url, one) for url, one in facts.tasks.items()],
        )
    )


def decode_answer(body: bytes) -> tuple[str, ReplicaFacts]:
    """Decode an answer and the id of its question. Raises `Malformed`."""
    try:
        message = _answer(body)
        return message.id, ReplicaFacts(
            name=message.replica,
            workers=message.workers,
            in_use=message.in_use,
            draining=message.draining,
            holds_steps=message.holds_steps,
            steps={one.step_id: _step_facts(one) for one in message.steps},
            tasks={one.task: _task_facts(one) for one in message.tasks},
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"malformed {EXPLAINED}: {error}") from None


def _step(step_id: int, facts: StepFacts) -> p.PeerStepFacts:
    return p.PeerStepFacts(
        step_id=step_id,
        phase=facts.phase.value,
        worker=facts.worker,
        deadline=_time(facts.deadline),
        progress=UNSET if facts.progress is None else _progress(facts.progress),
    )


def _progress(progress: Progress) -> p.PeerProgress:
    return p.PeerProgress(
        at=from_micros(progress.at),
        fraction=UNSET if progress.fraction is None else progress.fraction,
        text=UNSET if progress.text is None else progress.text,
    )


def _progress_of(message: p.PeerProgress) -> Progress:
    return Progress(
        at=to_micros(message.at),
        fraction=None if isinstance(message.fraction, UnsetType) else message.fraction,
        text=None if isinstance(message.text, UnsetType) else message.text,
    )


def _step_facts(message: p.PeerStepFacts) -> StepFacts:
    return StepFacts(
        phase=StepPhase(message.phase),
        worker=message.worker,
        deadline=_micros(message.deadline),
        progress=None if isinstance(message.progress, UnsetType) else _progress_of(message.progress),
    )


def _task(url: str, facts: TaskFacts) -> p.PeerTaskFacts:
    return p.PeerTaskFacts(
        task=url,
        rate=UNSET if facts.rate is None else facts.rate,
        opens_at=_time(facts.opens_at),
        probe_at=_time(facts.probe_at),
        cause=facts.cause,
        at_share=facts.at_share,
    )


def _task_facts(message: p.PeerTaskFacts) -> TaskFacts:
    return TaskFacts(
        rate=None if isinstance(message.rate, UnsetType) else message.rate,
        opens_at=_micros(message.opens_at),
        probe_at=_micros(message.probe_at),
        cause=message.cause,
        at_share=message.at_share,
    )


def _time(at: int | None) -> datetime | UnsetType:
    return UNSET if at is None else from_micros(at)


def _micros(at: datetime | UnsetType) -> int | None:
    return None if isinstance(at, UnsetType) else to_micros(at)
