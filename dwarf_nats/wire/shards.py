"""Shards and counts of flows as records and as messages: one function for each direction, side by side (as `codec`)."""

from __future__ import annotations

from msgspec import UNSET

from dwarf_nats.workflow.records import FlowCounts, KeyBacklog, PriorityBacklog, ShardInfo
from dwarf_nats.workflow.status import Status

from . import messages as m
from .codec import micros_or_none, or_default, time_or_unset
from .message_fields import flow_status


def shard_message(shard: ShardInfo) -> m.Shard:
    """Health, size and backlog of one shard as they travel."""
    return m.Shard(
        shard=shard.shard,
        error=shard.error,
        latency_ms=shard.latency_ms,
        flows=shard.flows,
        steps=shard.steps,
        joining=shard.joining or UNSET,
        cordoned=shard.cordoned or UNSET,
        weight=UNSET if shard.weight == 1 else shard.weight,
        backlog=[_backlog_message(one) for one in shard.backlog] or UNSET,
    )


def shard_record(message: m.Shard) -> ShardInfo:
    """Health, size and backlog of one shard that were received."""
    return ShardInfo(
        shard=message.shard,
        error=message.error,
        latency_ms=message.latency_ms,
        flows=message.flows,
        steps=message.steps,
        joining=message.joining is True,
        cordoned=message.cordoned is True,
        weight=or_default(message.weight, 1.0),
        backlog=tuple(_backlog_record(one) for one in or_default(message.backlog, ())),
    )


def _backlog_message(backlog: PriorityBacklog) -> m.PriorityBacklog:
    return m.PriorityBacklog(
        priority=backlog.priority,
        steps=backlog.steps,
        fairness_keys=backlog.fairness_keys,
        oldest_ms=backlog.oldest_us // 1000,
        keys=[
            m.KeyBacklog(fairness_key=one.fairness_key, steps=one.steps, oldest_ms=one.oldest_us // 1000)
            for one in backlog.keys
        ],
    )


def _backlog_record(message: m.PriorityBacklog) -> PriorityBacklog:
    return PriorityBacklog(
        priority=message.priority,
        steps=message.steps,
        fairness_keys=message.fairness_keys,
        oldest_us=message.oldest_ms * 1000,
        keys=tuple(KeyBacklog(one.fairness_key, one.steps, one.oldest_ms * 1000) for one in message.keys),
    )


def counts_message(counts: FlowCounts) -> m.FlowCountReply:
    """Counts of flows as they travel."""
    return m.FlowCountReply(
        counts={status.value: count for status, count in counts.counts.items()},
        more=sorted(flow_status(one) for one in counts.more) or UNSET,
        searched_to=time_or_unset(counts.searched_to),
    )


def counts_record(message: m.FlowCountReply) -> FlowCounts:
    """Counts of flows that were received."""
    return FlowCounts(
        counts={Status(name): count for name, count in message.counts.items()},
        more=frozenset(Status(one) for one in or_default(message.more, ())),
        searched_to=micros_or_none(message.searched_to),
    )
