"""Encode and decode signals between replicas, announcements, and the roll call of workers (wire sections 2, 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UnsetType

from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.workflow.status import Status

from . import peer_messages as p
from .message_fields import flow_status
from .task_messages import WorkerReply
from .times import from_micros, rfc3339, to_micros

if TYPE_CHECKING:
    from dwarf_nats.ports import Signals, StatusChange

ENQUEUE, NOTIFY, SYNC, TRIP = "enqueue", "notify_status_change", "sync_valve", "trip_breaker"
DEFINITIONS = "change_definitions"
EXPLAIN, EXPLAINED = "explain", "explained"
"""A question of one replica to all others, and an answer (`peer_facts`)."""
_encode = msgspec.json.Encoder().encode
_enqueue = msgspec.json.Decoder(p.PeerEnqueue).decode
_notify = msgspec.json.Decoder(p.PeerNotifyStatusChange).decode
_sync = msgspec.json.Decoder(p.PeerSyncValve).decode
_trip = msgspec.json.Decoder(p.PeerTripBreaker).decode
_definitions = msgspec.json.Decoder(p.PeerChangeDefinitions).decode
_running = msgspec.json.Decoder(WorkerReply).decode


class Malformed(ValueError):
    """A malformed message; it is counted and dropped."""


def encode_enqueue(shard: int, steps: Sequence[ReadyStep]) -> bytes:
    """Encode the signal that steps became pending."""
    made: list[dict[str, Any]] = [
        {"stepId": step.step_id, "priority": step.priority, "notBefore": rfc3339(step.not_before)} for step in steps
    ]
    return _encode({"shard": shard, "steps": made})


def encode_notify(flows: Sequence[StoppedFlow]) -> bytes:
    """Encode the signal that flows stopped: `(flow key, status)` each."""
    return _encode({"flows": [{"flowKey": flow.key, "status": flow.status.value} for flow in flows]})


def encode_sync(task: str, w: float, t: int) -> bytes:
    """Encode the congestion point of a valve; `t` in microseconds."""
    return _encode(p.PeerSyncValve(task=task, w=w, t=from_micros(t)))


def encode_trip(task: str) -> bytes:
    """Encode the signal that a breaker tripped."""
    return _encode(p.PeerTripBreaker(task=task))


def deliver(signal: str, body: bytes, to: Signals) -> None:
    """Decode a signal and pass it to the method of `to` that sent it on the other side. Raises `Malformed`."""
    try:
        if signal == ENQUEUE:
            work = _enqueue(body)
            to.enqueue(work.shard, [ReadyStep(s.step_id, s.priority, to_micros(s.not_before)) for s in work.steps])
        elif signal == NOTIFY:
            to.notify_status_change([StoppedFlow(flow.flow_key, Status(flow.status)) for flow in _notify(body).flows])
        elif signal == SYNC:
            point = _sync(body)
            to.sync_valve(point.task, point.w, to_micros(point.t))
        elif signal == TRIP:
            to.trip_breaker(_trip(body).task)
        elif signal == DEFINITIONS:
            _definitions(body)
            to.change_definitions()
        else:
            raise Malformed(f"unknown signal {signal}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"malformed {signal}: {error}") from None


def encode_event(change: StatusChange) -> bytes:
    """Encode the event of one change of a flow's status."""
    return _encode(
        p.Event(
            flow_id=change.flow_id,
            thread_id=change.thread_id,
            workflow=change.workflow,
            status=flow_status(change.status),
            at=rfc3339(change.at),
        )
    )


def encode_roll_call(steps: Sequence[str], cancel: Sequence[str]) -> bytes:
    """Encode a roll call: the steps asked after, and those to cancel, as token-free ids (wire section 2)."""
    return _encode({"steps": steps, "cancel": cancel})


def decode_running(body: bytes) -> tuple[list[str], list[str] | None]:
    """Decode the steps that a worker still has, and those of them that are queued there, `None` if it does not say.

    Raises `Malformed`.
    """
    try:
        reply = _running(body)
        return reply.running, None if isinstance(reply.queued, UnsetType) else reply.queued
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"malformed answer to a roll call: {error}") from None
