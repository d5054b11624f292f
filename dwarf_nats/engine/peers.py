"""The receiving end of peer signals (B1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure import Backpressure
    from dwarf_nats.engine.definitions import Definitions
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.steps import ReadyStep, StoppedFlow


class PeerSignals:
    """Takes the signals of other replicas: an implementation of the port `Signals`.

    A signal that is lost, doubled or late costs latency only. Unknown shards and malformed keys are ignored.
    """

    def __init__(self, shards: Mapping[int, Shard], backpressure: Backpressure, definitions: Definitions) -> None:
        self._shards = shards
        self._backpressure = backpressure
        self._definitions = definitions

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        """Look for steps that became pending."""
        if shard in self._shards:
            for step in steps:
                self._shards[shard].ready_queue.hint_at(step.priority, step.not_before)
            if steps:
                self._shards[shard].backpressure.on_new_work()

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        """Have local waiters read flows that stopped, and end the steps of cancelled ones that run here."""
        for flow, status in flows:
            try:
                key = parse_key(flow)
            except BadRequest:
                continue
            if key.shard in self._shards:
                self._shards[key.shard].waiters.wake(key.id, None)
                if status is Status.CANCELLED:
                    self._shards[key.shard].in_flight.cancel_flow(key)

    def sync_valve(self, task: str, w: float, t: int) -> None:
        """Take over the congestion point of a task's valve (V3): `w` operations per second at `t` microseconds."""
        self._backpressure.on_peer_valve(task, w, t)

    def trip_breaker(self, task: str) -> None:
        """Trip the breaker of a task here, too (V4)."""
        self._backpressure.on_peer_trip(task)

    def change_definitions(self) -> None:
        """Read the definitions: some have changed."""
        self._definitions.refresh_soon()
