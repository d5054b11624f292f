"""Several steps in one message to a worker that takes batches (wire: section 2).

Steps of one task that are due in one turn of the event loop go out together; nothing ever waits for more. Every so often the
first of them goes to the queue group as ever, so that new instances are found. The others go to the private subjects of workers
that have said that they take batches, and have answered lately. Each step keeps its own deadline, and has its answer by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.ports import BusAway
from dwarf_nats.wire import batches as codec
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import tasks

from .calls import Reply

if TYPE_CHECKING:
    from dwarf_nats.wire.subjects import Subjects
    from dwarf_nats.wire.task_messages import BatchedReply
    from dwarf_nats.workflow.answer import TaskCall

    from .calls import Call, Listener
    from .connection import Connection
    from .inbox import Inbox

log = logging.getLogger("dwarf_nats.bus")
FORGOTTEN_SECONDS = 30.0
"""A worker that has answered nothing for so long gets no more batches before it answers a request to the queue group."""
SEARCH_SECONDS = 0.05
"""Pause between two steps of a task that go to the queue group only to find new instances. A step alone costs as much as many
in a batch, and is answered before them, so that it would be written by a transaction of its own."""
MOST_HEADER_BYTES = 4_000
"""Room for the headers of a request; names and traces may be long."""
MEMBER_HEADER_BYTES = 400
"""Room for the headers of a member of a batch, with a trace of the usual length."""
MAX_WORKERS = 1000
"""Workers of one task that are remembered; of more, those stay unknown, and get requests through the queue group."""


class BatchWorker:
    """A worker that takes batches of one task. `most`: steps it takes at once. `in_hand`: those it has by batches."""

    __slots__ = ("answered_at", "in_hand", "most", "subject")

    def __init__(self, subject: str, most: int, answered_at: float) -> None:
        self.subject = subject
        self.most = most
        self.in_hand = 0
        self.answered_at = answered_at

    @property
    def room(self) -> int:
        """The number of steps that it takes now."""
        return self.most - self.in_hand


class Batch:
    """The steps that went out in one message, and are not answered yet, by their token-free ids."""

    __slots__ = ("_batcher", "calls", "timer", "token", "worker")

    def __init__(self, batcher: Batcher, worker: BatchWorker, calls: dict[str, tuple[Call, TaskCall]]) -> None:
        self._batcher = batcher
        self.worker = worker
        self.calls = calls
        self.token = b""
        self.timer: asyncio.TimerHandle | None = None

    def ended(self, call: Call) -> None:
        """Forget a call that has ended; the last one ends the batch."""
        if self.calls.pop(call.public_id, None) is not None:
            self.worker.in_hand -= 1
            if not self.calls:
                self._batcher.close(self)

    def received(self, block: bytes | None, body: bytes) -> None:
        """Take an answer, or the word that nobody listens."""
        self._batcher.received(self, block, body)

    def refused(self) -> None:
        """Permissions do not let the batch out."""
        self._batcher.give_up(self)


class Batcher:
    """Sends the requests of tasks, together where a worker takes that.

    `accept_ms`: as in the requests; so long after a batch the roll call takes over what is not answered. `on_accepted` takes a
    call and the private subject of the worker that has it.
    """

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        subjects: Subjects,
        *,
        accept_ms: int,
        on_accepted: Callable[[Call, str], None],
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._subjects = subjects
        self._accept_ms = accept_ms
        self._streams = subjects.streams()
        self._on_accepted = on_accepted
        self._workers: dict[str, dict[str, BatchWorker]] = {}
        self._announced: dict[tuple[str, bytes], BatchWorker] = {}
        self._due: dict[str, list[tuple[Call, TaskCall, bytes]]] = {}
        self._searched_at: dict[str, float] = {}
        self.batches = 0
        """Messages with several steps that were sent."""
        self.members = 0
        """The steps in them."""

    # -- who takes batches

    def takes_batches(self, url: str) -> bool:
        """Tell whether a worker of a task takes batches."""
        return url in self._workers

    def is_announcement(self, url: str, block: bytes) -> bool:
        """Note what the headers of a reply say of its worker; true if they say nothing else."""
        worker = self._announced.get((url, block))
        if worker is None:
            return self._note(url, block)
        worker.answered_at = asyncio.get_running_loop().time()
        return True

    def _note(self, url: str, block: bytes) -> bool:
        headers = h.read_headers(block)
        subject, most = headers.get("dwarf-worker", ""), _count(headers.get("dwarf-batch", ""))
        if most < 2 or not self._subjects.is_private(subject):
            self._forget(subject)  # it takes none, or none any more
            return False
        now = asyncio.get_running_loop().time()
        worker = self._workers.get(url, {}).get(subject)
        if worker is None:
            if len(self._workers.get(url, ())) >= MAX_WORKERS and not self._forget_silent(url):
                return False
            worker = self._workers.setdefault(url, {})[subject] = BatchWorker(subject, most, now)
        worker.most, worker.answered_at = most, now
        if headers.keys() == {"dwarf-worker", "dwarf-batch"}:
            self._announced[url, block] = worker
            return True
        return False

    def _forget_silent(self, url: str) -> bool:
        """Forget the workers of a task that have answered nothing for a while; true if there were any."""
        since = asyncio.get_running_loop().time() - FORGOTTEN_SECONDS
        silent = [one.subject for one in self._workers.get(url, {}).values() if one.answered_at < since]
        for subject in silent:
            self._forget(subject)
        return bool(silent)

    def _forget(self, subject: str) -> None:
        """Send a worker no more batches, of any task, before it says again that it takes some."""
        for url, workers in list(self._workers.items()):
            if workers.pop(subject, None) is not None and not workers:
                del self._workers[url]
                self._searched_at.pop(url, None)
        for key in [key for key, one in self._announced.items() if one.subject == subject]:
            del self._announced[key]

    def worker_of(self, call: Call) -> str:
        """Return the private subject of the worker that was sent a call in a batch; empty if it was not."""
        return call.batch.worker.subject if isinstance(call.batch, Batch) else ""

    # -- sending

    def fits(self, body: bytes) -> bool:
        """Tell whether a request fits into a message, alone and in a batch, with its headers at their longest."""
        return len(body) + MOST_HEADER_BYTES <= self._connection.max_payload

    def begin(self, subject: str, call: TaskCall, body: bytes, listener: Listener) -> Call:
        """Begin the call of a step, and send its request with others that are due now. Raises as `Inbox.begin`."""
        pending = self._inbox.begin(subject, call.budget, listener, step=call.step_key, report=call.report)
        due = self._due.get(call.url)
        if due is None:
            due = self._due[call.url] = []
            asyncio.get_running_loop().call_soon(self._flush, call.url)
        due.append((pending, call, body))
        return pending

    def _flush(self, url: str) -> None:
        due = [one for one in self._due.pop(url) if self._inbox.in_flight(one[0])]
        if not due:
            return
        rest = due
        if self._searches(url):
            self._send_alone(*due[0])
            rest = due[1:]
        for worker, count in self._shares(url, len(rest)):
            for part in self._fitting(rest[:count]):
                self._send_together(worker, part)
            rest = rest[count:]
        for call, task_call, body in rest:
            self._send_alone(call, task_call, body)

    def _searches(self, url: str) -> bool:
        """Tell whether a step goes to the queue group, to find new instances."""
        now = asyncio.get_running_loop().time()
        if now < self._searched_at.get(url, -math.inf) + SEARCH_SECONDS:
            return False
        self._searched_at[url] = now
        return True

    def _shares(self, url: str, count: int) -> Iterator[tuple[BatchWorker, int]]:
        """Share steps among the workers with room, those with the most room first."""
        self._forget_silent(url)
        workers = self._workers.get(url, {}).values()
        there = sorted((one for one in workers if one.room > 0), key=lambda one: -one.room)
        for left, worker in zip(range(len(there), 0, -1), there, strict=True):
            share = min(worker.room, -(-count // left))
            if share <= 0:
                return
            yield worker, share
            count -= share

    def _fitting(self, due: list[tuple[Call, TaskCall, bytes]]) -> Iterator[list[tuple[Call, TaskCall, bytes]]]:
        """Cut steps into parts that fit into a message each."""
        most = self._connection.max_payload
        part: list[tuple[Call, TaskCall, bytes]] = []
        size = 0
        for one in due:
            room = len(one[2]) + MEMBER_HEADER_BYTES
            if part and (size + room > most or len(part) == codec.MAX_BATCH_STEPS):
                yield part
                part, size = [], 0
            part.append(one)
            size += room
        if part:
            yield part

    def _send_together(self, worker: BatchWorker, part: list[tuple[Call, TaskCall, bytes]]) -> None:
        if len(part) == 1:
            self._send_alone(*part[0])
            return
        members = [
            codec.with_headers(body, tasks.batch_headers(call, self._accept_ms, self._streams))
            for _, call, body in part
        ]
        body = codec.join(members)
        block = h.write_headers(((h.BATCH, str(len(part))),))
        if not self._connection.fits(block, body):  # long names of traces, for one
            for one in part:
                self._send_alone(*one)
            return
        batch = Batch(self, worker, {call.public_id: (call, task_call) for call, task_call, _ in part})
        try:
            batch.token = self._inbox.send_group(batch, worker.subject, block, body)
        except BusAway as away:
            for call, _, _ in part:
                self._inbox.end(call, away)
            return
        worker.in_hand += len(part)
        for call, _, _ in part:
            call.batch = batch
        self.batches += 1
        self.members += len(part)
        batch.timer = asyncio.get_running_loop().call_later(self._accept_ms / 1000, self._watch, batch)

    def _send_alone(self, call: Call, task_call: TaskCall, body: bytes) -> None:
        block = tasks.encode_block(task_call, self._accept_ms, self._streams)
        try:
            self._inbox.send(call, block, body)
        except BusAway as away:
            self._inbox.end(call, away)

    # -- answers

    def received(self, batch: Batch, block: bytes | None, body: bytes) -> None:
        """Take a message for a batch: answers and signals of its steps, in any grouping."""
        if not body and h.inline_status(block) == 503:
            self.give_up(batch)
            return
        if block is not None and b"Dwarf-Batch" in block:
            for _, task_call in batch.calls.values():
                self.is_announcement(task_call.url, block)
                break
        batch.worker.answered_at = asyncio.get_running_loop().time()
        try:
            replies = codec.decode_replies(body)
        except BadRequest as error:
            log.warning("worker %s: %s; its steps are bound by their deadlines", batch.worker.subject, error)
            return
        for reply in replies:
            found = batch.calls.get(reply.step_id)
            if found is None:
                self._inbox.late += 1
            else:
                self._take(found[0], batch.worker, reply)

    def _take(self, call: Call, worker: BatchWorker, reply: BatchedReply) -> None:
        headers = {} if isinstance(reply.headers, UnsetType) else reply.headers
        if not isinstance(reply.signal, UnsetType):
            lower = {name.lower(): value for name, value in headers.items()}
            body = b"" if isinstance(reply.body, UnsetType) else bytes(reply.body)
            self._inbox.signal(call, reply.signal, {"dwarf-worker": worker.subject, **lower}, body)
            return
        block = h.write_headers(headers.items()) if headers else None
        self._inbox.answer(call, Reply(block, b"" if isinstance(reply.reply, UnsetType) else bytes(reply.reply)))

    def give_up(self, batch: Batch) -> None:
        """Send the steps of a batch that reached nobody to the queue group, and the worker no more batches."""
        log.info(
            "worker %s takes no batches any more: its %d steps are sent again", batch.worker.subject, len(batch.calls)
        )
        calls = list(batch.calls.values())
        batch.calls.clear()
        batch.worker.in_hand -= len(calls)
        self.close(batch)
        self._forget(batch.worker.subject)
        for call, task_call in calls:
            call.batch = None
            self._send_alone(call, task_call, tasks.encode_body(task_call))

    def close(self, batch: Batch) -> None:
        """Take no more messages for a batch."""
        self._inbox.end_group(batch.token)
        if batch.timer is not None:
            batch.timer.cancel()

    def _watch(self, batch: Batch) -> None:
        """Ask the worker after the steps that it has not answered: it has them, whether it said so or not."""
        for call, _ in list(batch.calls.values()):
            if not call.worker:
                self._on_accepted(call, batch.worker.subject)


def _count(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= 6
    return min(int(text), codec.MAX_BATCH_STEPS) if is_number else 0
