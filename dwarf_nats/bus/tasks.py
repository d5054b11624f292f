"""Tasks over NATS: `ports.Tasks` as requests on `task.<url>` (wire: section 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dwarf_nats.ports import BusAway, TaskCapabilities, WorkerLost
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire import tasks as codec
from dwarf_nats.wire.streams import describe_capture
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Answer, TaskCall

from .batches import Batcher
from .calls import Call, Reply, resolve
from .connection import Connection
from .inbox import Inbox
from .progress import ProgressReader
from .queued_calls import QueuedCalls
from .reconnects import Reconnects
from .roll_call import INTERVAL_SECONDS, RollCall

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

log = logging.getLogger("dwarf_nats.bus")

DEFAULT_ACCEPT_MS = 1000
MAX_KNOWN_SUBJECTS = 10_000
"""Task subjects that are kept after they were checked; of more, each is checked at every call."""


class NatsTasks:
    """Runs tasks by requests to their subjects.

    `accept_ms`: time after which a service that still works on a request should say *accepted*. `roll_call_seconds`: interval
    at which those that did are asked what they still run, by `clock`. `max_depth`: levels of nesting in an answer.
    """

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        subjects: Subjects | None = None,
        *,
        accept_ms: int = DEFAULT_ACCEPT_MS,
        roll_call_seconds: float = INTERVAL_SECONDS,
        clock: Clock | None = None,
        max_depth: int = 64,
        counters: Counters | None = None,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._subjects = subjects or Subjects()
        self._accept_ms = accept_ms
        self._streams = self._subjects.streams()
        self._max_depth = max_depth
        self.queued_calls = QueuedCalls(inbox, accept=self._on_accepted, give_back=self._give_back_queued)
        self.capabilities = TaskCapabilities(
            keeps_budget=True,
            max_depth=max_depth,
            worker_of=self._worker_of,
            listen=self.queued_calls.listen,
            begin=self.begin,
        )
        self.batcher = Batcher(connection, inbox, self._subjects, accept_ms=accept_ms, on_accepted=self._on_accepted)
        self._known: dict[str, str] = {}
        self.accepted = 0
        self._reconnects = Reconnects(connection)
        self.roll_call = RollCall(connection, inbox, interval_seconds=roll_call_seconds, clock=clock)
        inbox.progress = ProgressReader(clock, max_depth, None if counters is None else counters.malformed_progress)
        inbox.on_accepted = self._on_accepted
        inbox.on_ended = self.roll_call.unwatch
        inbox.on_queued, inbox.on_started = self.queued_calls.on_queued, self.queued_calls.on_started
        self.roll_call.on_answer = self.queued_calls.reconcile

    @property
    def late(self) -> int:
        """Replies that came too late or twice, and were dropped."""
        return self._inbox.late

    @property
    def lost(self) -> int:
        """Steps given back because their worker was gone."""
        return self.roll_call.lost

    async def execute(self, call: TaskCall) -> Answer:
        """Ask for one task and wait for its answer until `call.budget` seconds from now.

        Every failure is an answer. Raises `BusAway` if the connection is down or drops before the answer came, or if it
        has just come back and nobody listens yet; `WorkerLost` if the worker that accepted it is gone.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        drop = self.begin(call, partial(resolve, future))
        try:
            return await future
        except asyncio.CancelledError:
            drop()
            raise

    def begin(self, call: TaskCall, answered: Callable[[Answer | Exception], None]) -> Callable[[], None]:
        """Ask for one task; `answered` is called once with what `execute` returns or raises, after this has returned.

        Call what is returned to wait no longer. Raises `BusAway` if the connection is down.
        """
        url = call.url
        subject = self._known.get(url) or self._know(url)
        body = codec.encode_body(call)
        listener = partial(self._replied, call, subject, answered)
        if self.batcher.takes_batches(url) and len(self._inbox) and self.batcher.fits(body):
            return partial(self._inbox.drop, self.batcher.begin(subject, call, body, listener))
        block = codec.encode_block(call, self._accept_ms, self._streams)
        if not self._connection.fits(block, body):
            answer = codec.too_large(url, len(block) + len(body), self._connection.max_payload)
            return asyncio.get_running_loop().call_soon(answered, answer).cancel
        pending = self._inbox.begin(subject, call.budget, listener, step=call.step_key, report=call.report)
        self._inbox.send(pending, block, body)
        return partial(self._inbox.drop, pending)

    def _replied(
        self,
        call: TaskCall,
        subject: str,
        answered: Callable[[Answer | Exception], None],
        reply: Reply | Exception | None,
    ) -> None:
        if isinstance(reply, Exception):
            answered(reply)
            return
        self.roll_call.answered(call.step_key)
        try:
            outcome: Answer | Exception = self._answer(call, subject, reply)
        except Exception as error:
            outcome = error
        answered(outcome)

    def _answer(self, call: TaskCall, subject: str, reply: Reply | None) -> Answer:
        """The answer to a call by its reply. Raises `BusAway` if it is known only that nobody listens yet."""
        url = call.url
        if reply is None:
            return codec.timed_out(url, call.budget)
        if reply.stream:
            return codec.recorded(
                url, call.budget, describe_capture(reply.stream, self._subjects.all_of(subject)), reply.body
            )
        if reply.nobody:
            if self._reconnects.just_back:
                raise BusAway(f"nobody serves {subject} yet, the connection has just come back")
            return codec.no_responders(url, subject)
        if reply.refused:
            return codec.not_permitted(url, subject, self._connection.who)
        headers = reply.block
        if headers is not None and b"Dwarf-Batch" in headers and self.batcher.is_announcement(url, headers):
            headers = None
        return codec.decode_reply(url, headers, reply.body, self._max_depth)

    async def ready(self) -> None:
        """Wait until the connection is there."""
        await self._reconnects.back.wait()

    def cancel(self, step_key: str) -> None:
        """Send the cancellation to the worker that accepted a step; a worker that accepts later gets it then."""
        call = self._inbox.find(step_key)
        if call is None:
            return
        call.cancelled = True
        if call.worker:
            self.roll_call.cancel(call)
        elif worker := self.batcher.worker_of(call):
            self._on_accepted(call, worker)

    def _give_back_queued(self, call: Call, error: WorkerLost) -> None:
        """Run the step elsewhere, and tell the worker in whose queue it has waited that nobody waits for it there."""
        if call.worker:
            self.roll_call.cancel(call)
        self._inbox.end(call, error)

    def _worker_of(self, step_key: str) -> str:
        """The private subject of the worker that accepted a step."""
        call = self._inbox.find(step_key)
        return "" if call is None else call.worker or self.batcher.worker_of(call)

    def _know(self, url: str) -> str:
        subject = self._subjects.task(url)
        if len(self._known) < MAX_KNOWN_SUBJECTS:
            self._known[url] = subject
        return subject

    def _on_accepted(self, call: Call, worker: str) -> None:
        self.accepted += 1
        if not self._subjects.is_private(worker):
            log.debug("ignoring an accepted signal with the worker subject %r", worker[:80])
            return
        if worker == call.worker:
            return
        if call.worker:
            self.roll_call.unwatch(call)
        call.worker = worker
        if not call.cancelled:
            self.roll_call.watch(call)
        elif self._inbox.find(call.step) is call:  # else the step is in flight again, perhaps with the same worker
            self.roll_call.cancel(call)
