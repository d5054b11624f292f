"""Questions between replicas about steps and tasks: `ports.Peers` as publishes on `dwarf.peer.*` (Q2; wire section 4).

A question and its answers are signals like the others: every replica hears them. There is no reply subject, as no replica may
publish to the inbox of another one. Whoever is asked and does not answer in time is left out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from dwarf_nats.ports import BusAway
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import peer_facts as codec
from dwarf_nats.wire import peers
from dwarf_nats.wire.subjects import Subjects

if TYPE_CHECKING:
    from dwarf_nats.rules.replica_facts import Question, ReplicaFacts

    from .connection import Connection

log = logging.getLogger("dwarf_nats.bus")

ANSWER_SECONDS = 0.5
"""Longest wait for the other replicas: what they add is not worth more of a person's time."""
MAX_QUESTIONS = 100
"""Questions that wait for answers at once; beyond that, the databases alone answer."""


class _Asked:
    """A question that waits for answers. `missing`: the replicas that have not answered yet."""

    def __init__(self, replicas: Collection[str]) -> None:
        self.missing = set(replicas)
        self.answers: list[ReplicaFacts] = []
        self.complete = asyncio.Event()

    def add(self, facts: ReplicaFacts) -> None:
        if facts.name in self.missing:
            self.missing.discard(facts.name)
            self.answers.append(facts)
            if not self.missing:
                self.complete.set()


class NatsPeers:
    """Asks the other replicas, and answers them once `answer_with` was called. `origin`: the id of this replica."""

    def __init__(self, connection: Connection, origin: str, subjects: Subjects | None = None) -> None:
        self._connection = connection
        self._origin = origin
        self._subjects = subjects or Subjects()
        self._block = h.write_headers(((h.ORIGIN, origin),))
        self._numbers = itertools.count(1)
        self._asked: dict[str, _Asked] = {}
        self._facts: Callable[[Question], ReplicaFacts] | None = None

    def answer_with(self, facts: Callable[[Question], ReplicaFacts]) -> None:
        """Answer the questions of other replicas from now on."""
        self._facts = facts

    async def facts(self, question: Question, replicas: Collection[str]) -> list[ReplicaFacts]:
        """Return what these replicas know; those that do not answer within half a second are missing."""
        if not replicas or self._facts is None or len(self._asked) >= MAX_QUESTIONS:
            return []
        question_id = f"{self._origin}-{next(self._numbers)}"
        asked = self._asked[question_id] = _Asked(replicas)
        try:
            self._send(peers.EXPLAIN, codec.encode_question(question_id, question))
            async with asyncio.timeout(ANSWER_SECONDS):
                await asked.complete.wait()
        except TimeoutError:
            log.debug("no answer in time from the replicas %s", ", ".join(sorted(asked.missing)))
        finally:
            del self._asked[question_id]
        return asked.answers

    def receive(self, signal: str, body: bytes) -> None:
        """Take a question or an answer of another replica. Raises `Malformed`."""
        if signal == peers.EXPLAIN:
            question_id, question = codec.decode_question(body)
            if self._facts is not None:
                self._send(peers.EXPLAINED, codec.encode_answer(question_id, self._facts(question)))
            return
        question_id, facts = codec.decode_answer(body)
        if (asked := self._asked.get(question_id)) is not None:
            asked.add(facts)

    def _send(self, signal: str, body: bytes) -> None:
        if not self._connection.fits(self._block, body):
            log.debug("%s is too large for the bus", signal)
            return
        try:
            self._connection.send(self._subjects.peer(signal), "", self._block, body)
        except BusAway:
            log.debug("%s was not sent: NATS is away", signal)
