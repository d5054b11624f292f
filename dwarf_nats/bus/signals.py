"""Signals between replicas: `ports.Signals` as publishes on `dwarf.peer.*`, and their listener (wire: section 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from dwarf_nats.ports import BusAway, Signals
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import peers
from dwarf_nats.wire.subjects import Subjects

from .connection import Connection
from .peer_facts import NatsPeers

log = logging.getLogger("dwarf_nats.bus")

T = TypeVar("T")
_QUESTIONS = (peers.EXPLAIN, peers.EXPLAINED)
MAX_MESSAGE_ENTRIES = 5_000
"""Entries in one message; larger groups are split, and split further where the server takes smaller messages."""


class NatsSignals:
    """Signals to the other replicas. `origin`: its own id. Fire and forget: `counters.dropped` counts what is lost."""

    def __init__(
        self, connection: Connection, origin: str, subjects: Subjects | None = None, counters: Counters | None = None
    ) -> None:
        self.counters = counters if counters is not None else Counters()
        self._connection = connection
        self._subjects = subjects or Subjects()
        self._block = h.write_headers(((h.ORIGIN, origin),))

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        """Signal that steps became pending."""
        for group in _groups(steps):
            self._send_group(peers.ENQUEUE, partial(peers.encode_enqueue, shard), group)

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        """Signal that flows stopped."""
        for group in _groups(flows):
            self._send_group(peers.NOTIFY, peers.encode_notify, group)

    def sync_valve(self, task: str, w: float, t: int) -> None:
        """Send the congestion point of a valve: its window `w` at the time `t`."""
        self._send(peers.SYNC, peers.encode_sync(task, w, t))

    def trip_breaker(self, task: str) -> None:
        """Signal that a breaker tripped."""
        self._send(peers.TRIP, peers.encode_trip(task))

    def change_definitions(self) -> None:
        """Signal that definitions have changed."""
        self._send(peers.DEFINITIONS, b"{}")

    def _send_group(self, signal: str, encode: Callable[[Sequence[T]], bytes], group: Sequence[T]) -> None:
        body = encode(group)
        if len(group) > 1 and not self._connection.fits(self._block, body):
            half = len(group) // 2
            self._send_group(signal, encode, group[:half])
            self._send_group(signal, encode, group[half:])
        else:
            self._send(signal, body)

    def _send(self, signal: str, body: bytes) -> None:
        if not self._connection.fits(self._block, body):
            self.counters.dropped.add()
            return
        try:
            self._connection.send(self._subjects.peer(signal), "", self._block, body)
        except BusAway:
            self.counters.dropped.add()


class PeerListener:
    """Receives the signals of other replicas and calls `to` with them.

    Signals of this replica (by `origin`) are dropped; malformed ones are dropped and counted in `counters.malformed`.
    `questions` takes those that ask or answer something.
    """

    def __init__(
        self,
        connection: Connection,
        origin: str,
        to: Signals,
        subjects: Subjects | None = None,
        counters: Counters | None = None,
        questions: NatsPeers | None = None,
    ) -> None:
        self.counters = counters if counters is not None else Counters()
        self._questions = questions
        self._connection = connection
        self._origin = origin
        self._own = h.write_headers(((h.ORIGIN, origin),))
        self._to = to
        self._subjects = subjects or Subjects()
        self._cut = len(self._subjects.peer(""))

    async def start(self) -> None:
        """Subscribe to all signals."""
        await self._connection.subscribe_raw(self._subjects.peer("*"), self._receive)

    def _receive(self, subject: bytes, _reply: bytes, body: bytes, block: bytes | None) -> None:
        if block == self._own:  # by far the most frequent case where there is one replica
            return
        headers = h.read_headers(block)
        if headers.get("dwarf-origin") == self._origin:
            return
        try:
            signal = subject[self._cut :].decode("ascii", "replace")
            if signal in _QUESTIONS and self._questions is not None:
                self._questions.receive(signal, body)
            else:
                peers.deliver(signal, body, self._to)
        except peers.Malformed as error:
            self.counters.malformed.add()
            log.debug("dropped a signal: %s", error)


def _groups(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(entries), MAX_MESSAGE_ENTRIES):
        yield entries[start : start + MAX_MESSAGE_ENTRIES]
