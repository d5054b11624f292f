"""The messages of a worker: requests and roll calls in, answers and discovery replies out (wire section 2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import nats.errors

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.summed import Summed
from dwarf_nats.wire import batches as batch_codec
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.subjects import Subjects, is_of_another_account

from .answer_encoder import AnswerEncoder
from .batch_intake import BatchIntake, most_steps
from .codec_messages import sealed_progress
from .executions import Execution
from .output import OutputPublisher
from .request_intake import Openers, Received, RequestIntake, raw_received
from .request_reply import check_size
from .task_codec import (
    decode_roll_call,
    encode_answer,
    encode_running,
    error_answer,
)
from .task_executor import TaskExecutor

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from dwarf_nats.wire.task_messages import Signal
    from dwarf_nats.workflow.answer import Answer

    from .claim_checks import ClaimChecks
    from .codec import Codec
    from .discovery import DiscoveryResponder
    from .link import Link

log = logging.getLogger("dwarf_nats.worker")
RECONNECT_SECONDS = 60.0
"""Longest wait of an answer for a lost connection; the deadline of its step may be earlier."""


class TaskServer:
    """Accepts requests for the executor and sends the answers, over the connection of `link`."""

    def __init__(
        self,
        link: Link,
        subjects: Subjects,
        concurrency: int,
        discovery: DiscoveryResponder,
        *,
        queue_timeout_ms: int | None = None,
        codec: Codec | None = None,
        claim_checks: ClaimChecks | None = None,
    ) -> None:
        self._link = link
        self._queue_timeout_ms = queue_timeout_ms
        self._codec = codec
        self._answers = AnswerEncoder(link, codec, claim_checks)
        self._subjects = subjects
        self.executor: TaskExecutor | None = TaskExecutor(
            concurrency,
            self._send_answer,
            self._send_accepted,
            self._send_queue_signal,
            answer_now=self._answer_at_once,
        )
        """Runs the task functions; `None` once the worker has stopped."""
        self.discovery = discovery
        self._summed = Summed(log)
        self.outputs = OutputPublisher(link, self._summed, codec)
        self.batches = BatchIntake(
            link,
            most_steps(concurrency),
            self._send_progress,
            self._summed,
            outputs=self.outputs,
            codec=codec,
            claim_checks=claim_checks,
        )
        """Takes several steps in one message, once it has handlers."""
        self.requests = RequestIntake(
            link,
            lambda: self.executor,
            self._reply,
            self._summed,
            send_progress=self._send_progress,
            outputs=self.outputs,
            discovery=discovery,
            openers=Openers(codec, claim_checks),
        )
        """Takes requests for one step each."""

    def end(self) -> None:
        """Accept no more requests; later ones are answered with backpressure."""
        self.executor = None
        self._summed.flush()

    def on_raw_roll_call(self, _subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        """Take a raw message to the private subject, as `on_roll_call`."""
        msg = raw_received(reply, data, block)
        if msg.headers and h.BATCH in msg.headers:
            self.batches.receive(msg, self.executor)
        elif self.executor is not None:
            self.executor.spawn(self.on_roll_call(msg))

    async def on_roll_call(self, msg: Received) -> None:
        """Cancel the executions that the engine names, and answer which of the steps it asks after are still running."""
        if msg.headers and h.BATCH in msg.headers:
            self.batches.receive(msg, self.executor)
            return
        executor, nc = self.executor, self._link.nc
        if executor is None:
            return
        try:
            steps, cancel = decode_roll_call(msg.data)
        except BadRequest as error:
            self._summed.warning("roll call", "%s", error)
            return
        executor.cancel(cancel)
        if msg.reply and nc is not None:
            with contextlib.suppress(nats.errors.Error):
                running = executor.unanswered(steps)
                await nc.publish(msg.reply, encode_running(running, executor.queued(running)))

    async def on_discovery(self, msg: Msg) -> None:
        """Answer a service discovery request, unless its reply subject is one of the service's own."""
        nc = self._link.nc
        if nc is None or not msg.reply or self._subjects.refuses_reply(msg.reply.encode()):
            return  # the sender may perhaps not publish there, and this worker may
        reply = self.discovery.reply(msg.subject, nc.max_payload)
        if reply is not None:
            with contextlib.suppress(nats.errors.Error):
                await nc.publish(msg.reply, reply)

    def _answer_at_once(self, execution: Execution, answer: Answer | bytes) -> bool:
        """Send an answer, alone or with those of its batch; false if it has to wait."""
        encoded = self._answers.encoded_at_once(answer, execution.opened)
        if encoded is None:
            return False
        body, headers = encoded
        if execution.batch is not None:
            execution.batch.add(self.batches.packed(execution.public_id, body, headers))
        elif execution.reply and not self._link.put(execution.reply, body, self._announced(execution.reply, headers)):
            return False
        self._count(execution, answer)
        return True

    def _count(self, execution: Execution, answer: Answer | bytes) -> None:
        # The clock of the event loop, read now: uvloop's own stands still within a turn.
        seconds = time.monotonic() - execution.received
        self.discovery.count(execution.handler.url, None if isinstance(answer, bytes) else answer.error, seconds)

    async def _send_answer(self, execution: Execution, answer: Answer | bytes) -> None:
        self._count(execution, answer)
        execution.storing = True
        try:
            body, headers = await self._answers.encoded(answer, execution.opened)
        finally:
            execution.storing = False
        if execution.batch is not None:
            execution.batch.add(self.batches.packed(execution.public_id, body, headers))
            return
        if execution.reply and not execution.call.cancelled:
            await self._wait_for_link(execution)
        await self._publish(execution.reply, body, headers)

    async def _wait_for_link(self, execution: Execution) -> None:
        """Wait for a connection that was lost, or is replaced, as long as the engine waits for the step.

        The engine's inbox comes back with the servers; a worker may also lose a connection that the engine keeps.
        """
        nc = self._link.nc
        if nc is None or not nc.is_connected:
            left = execution.received + execution.call.budget - asyncio.get_running_loop().time()
            await self._link.until_connected(min(left, RECONNECT_SECONDS))

    async def _send_accepted(self, execution: Execution) -> None:
        if execution.batch is not None:
            if execution.is_in_hand:
                execution.batch.add(batch_codec.encode_signal(execution.public_id, "accepted"))
            return
        await self._wait_for_link(execution)
        nc, private = self._link.nc, self._link.private
        if nc is not None and execution.reply and private and execution.is_in_hand:
            with contextlib.suppress(nats.errors.Error):
                await nc.publish(execution.reply, headers={h.SIGNAL: h.ACCEPTED, h.WORKER: private})

    async def _send_queue_signal(self, execution: Execution) -> None:
        """Say that an execution waits for its turn, or that it begins now (K3)."""
        nc, private = self._link.nc, self._link.private
        if nc is None or not nc.is_connected or not private or execution.answered:
            return  # the answer to the next roll call tells
        headers = {h.SIGNAL: h.STARTED if execution.has_started else h.QUEUED, h.WORKER: private}
        if self._queue_timeout_ms is not None and not execution.has_started:
            headers[h.QUEUE_TIMEOUT_MS] = str(self._queue_timeout_ms)
        if execution.batch is not None:
            signal: Signal = "started" if execution.has_started else "queued"
            execution.batch.add(batch_codec.encode_signal(execution.public_id, signal, headers))
            return
        with contextlib.suppress(nats.errors.Error):
            await nc.publish(execution.reply, headers=headers)

    async def _send_progress(self, execution: Execution, body: bytes) -> bool:
        """Send a progress; false if the connection is away."""
        if self._codec is not None:
            body = sealed_progress(self._codec, body, execution.opened)
        if execution.batch is not None:
            execution.batch.add(batch_codec.encode_signal(execution.public_id, "progress", body=body))
            return True
        nc, private = self._link.nc, self._link.private
        if nc is None or not nc.is_connected:
            return False
        headers = {h.SIGNAL: h.PROGRESS, **({h.WORKER: private} if private else {})}
        with contextlib.suppress(nats.errors.Error):
            await nc.publish(execution.reply, body, headers=headers)
        return True

    async def _reply(self, subject: str, answer: Answer) -> None:
        """Answer a request that is not executed."""
        await self._publish(subject, *encode_answer(answer))

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str] | None) -> None:
        nc = self._link.nc
        if not subject:
            return
        if nc is None:
            self._summed.warning("answer", "an answer could not be sent: %s", "there is no connection to NATS")
            return
        headers = self._announced(subject, headers)
        try:
            check_size(nc, body, headers, "the task's reply")
        except TooLarge as error:
            body, headers = encode_answer(error_answer(error.code, error.message))
        try:
            await nc.publish(subject, body, headers=headers or None)
        except nats.errors.Error as error:
            self._summed.warning("answer", "an answer could not be sent: %s", error)

    def _announced(self, subject: str, headers: dict[str, str] | None) -> dict[str, str]:
        """The headers of an answer, with those that announce this worker."""
        if is_of_another_account(subject):
            return headers or {}
        return {**(headers or {}), **self.batches.announcement}
