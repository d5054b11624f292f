"""Several steps in one message to a worker: read, run one by one, answered as they end (wire section 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING

import msgspec
import nats.errors

from dwarf_nats.errors import BadRequest, DwarfError, TooLarge, Unavailable
from dwarf_nats.wire import batches as codec
from dwarf_nats.wire import headers as h
from dwarf_nats.workflow.claims import CLAIM_TEXT

from .batch_answers import BatchAnswers
from .codec_messages import opened_member
from .executions import Execution
from .request_reply import check_size
from .task_codec import accept_seconds, backpressure_answer, call_of, encode_answer, error_answer, takes_queued

if TYPE_CHECKING:
    from dwarf_nats.summed import Summed
    from dwarf_nats.wire.task_messages import BatchedRequest
    from dwarf_nats.workflow.answer import Answer

    from .claim_checks import ClaimChecks
    from .codec import Codec
    from .executions import Handler, SendProgress
    from .link import Link
    from .output import OutputPublisher
    from .request_intake import Received
    from .task_executor import TaskExecutor

MAX_BATCH_STEPS = 256
"""Steps that a worker takes in one message: enough that the message costs nothing, few enough that other workers get some."""
RECONNECT_SECONDS = 60.0
"""Longest wait of answers for a lost connection."""
_encode = msgspec.json.Encoder().encode
SMALL = 1_024
"""Bytes of an answer that every connection takes."""
USUAL_MAX_PAYLOAD = 1_048_576
"""Of a nats-server as it comes; for the moment between two connections."""


def most_steps(concurrency: int) -> int:
    """Return how many steps a worker takes in one message; 0 if it takes none."""
    return min(concurrency, MAX_BATCH_STEPS) if concurrency > 1 else 0


class BatchIntake:
    """Accepts the steps of one message for the executor. One that cannot be read is answered with the error and harms no other.

    `most`: steps that it takes at once. `send_progress` sends what a task reports, `outputs` what it emits.
    """

    def __init__(
        self,
        link: Link,
        most: int,
        send_progress: SendProgress,
        summed: Summed,
        *,
        outputs: OutputPublisher | None = None,
        codec: Codec | None = None,
        claim_checks: ClaimChecks | None = None,
    ) -> None:
        self._link = link
        self._outputs = outputs
        self._codec = codec
        self._claim_checks = claim_checks
        self._most = most
        self._send_progress = send_progress
        self._summed = summed
        self._handlers: Mapping[str, Handler] = {}
        self._last: set[asyncio.Task[None]] = set()

    def take(self, handlers: Mapping[str, Handler]) -> None:
        """Take batches of these tasks at the private subject from now on."""
        self._handlers = handlers

    def withdraw(self) -> None:
        """Take no more batches, and say so with the next answers."""
        self._most = 0

    @property
    def announcement(self) -> dict[str, str]:
        """The headers that say how many steps this worker takes in one message, and where."""
        if not self._link.private or not self._handlers:
            return {}
        return {h.WORKER: self._link.private, h.BATCH: str(self._most)}

    def receive(self, msg: Received, executor: TaskExecutor | None) -> None:
        """Accept the steps of a message; without an executor, the worker is stopping and they go elsewhere."""
        try:
            members = codec.decode_requests(msg.data)
        except BadRequest as error:
            self._summed.warning("batch", "%s", error)
            return
        answers = self._answers_to(msg.reply, executor)
        now = time.time()
        for member in members:
            if isinstance(member, codec.BadMember):
                answers.add(self.encoded(member.step_id, error_answer(400, member.reason)))
            elif executor is None:
                answers.add(self._refused(member, backpressure_answer("the worker is stopping")))
            else:
                self._take(member, answers, msg.reply, executor, now=now)

    def _take(
        self, member: BatchedRequest, answers: BatchAnswers, reply: str, executor: TaskExecutor, *, now: float
    ) -> None:
        """Accept a step, once the values that it claims are here."""
        if self._claim_checks is not None and CLAIM_TEXT in (text := _encode(member)):
            executor.expect(
                member.step_key.rpartition("-")[0], self._resolve(text, member, answers, reply=reply, executor=executor)
            )
        else:
            self._accept(member, answers, reply, executor, now=now)

    async def _resolve(
        self, text: bytes, member: BatchedRequest, answers: BatchAnswers, *, reply: str, executor: TaskExecutor
    ) -> None:
        try:
            if self._link.nc is None or self._claim_checks is None:
                raise Unavailable("there is no connection to NATS")
            resolved = await self._claim_checks.resolved(self._link.nc, text)
            member = msgspec.json.decode(resolved, type=type(member))
        except DwarfError as error:
            answers.add(self._refused(member, error_answer(error.code, error.message)))
            return
        if self._most:
            self._accept(member, answers, reply, executor, now=time.time())
        else:
            answers.add(self._refused(member, backpressure_answer("the worker is stopping")))

    def _accept(
        self, member: BatchedRequest, answers: BatchAnswers, reply: str, executor: TaskExecutor, *, now: float
    ) -> None:
        handler = self._handlers.get(member.url)
        if handler is None:
            answers.add(self._refused(member, backpressure_answer(f"this worker does not serve {member.url}")))
            return
        headers = member.headers if isinstance(member.headers, dict) else {}
        try:
            member, opened = opened_member(self._codec, member)
            call = call_of(member, headers, now)
        except DwarfError as error:
            answers.add(self._refused(member, error_answer(error.code, error.message)))
            return
        executor.submit(
            Execution(
                call,
                reply,
                handler,
                accept_seconds(headers),
                takes_queued=takes_queued(headers),
                send_progress=self._send_progress,
                batch=answers,
                opened=opened,
                publisher=self._outputs,
            )
        )

    def _refused(self, member: BatchedRequest, answer: Answer) -> bytes:
        return self.encoded(member.step_key.rpartition("-")[0], answer)

    def encoded(self, step_id: str, answer: Answer) -> bytes:
        """Encode the answer of one step that was not executed."""
        return self.packed(step_id, *encode_answer(answer))

    def packed(self, step_id: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
        """Make an encoded answer one of a batch; one that no message can hold becomes an error that says so."""
        nc = self._link.nc
        try:
            if nc is not None and (headers or len(body) > SMALL):
                check_size(nc, body, headers, "the task's reply")
        except TooLarge as error:
            body, headers = encode_answer(error_answer(error.code, error.message))
        return codec.encode_reply(step_id, body, headers)

    def _answers_to(self, reply: str, executor: TaskExecutor | None) -> BatchAnswers:
        async def send(body: bytes) -> None:
            await self._send(reply, body)

        def send_now(body: bytes) -> bool:
            return self._link.put(reply, body, self.announcement)

        return BatchAnswers(send, self._spawn if executor is None else executor.spawn, self._max_payload, send_now)

    async def _send(self, reply: str, body: bytes) -> None:
        if self._link.nc is None or not self._link.nc.is_connected:
            await self._link.until_connected(RECONNECT_SECONDS)
        nc = self._link.nc
        try:
            if nc is None:
                raise nats.errors.ConnectionClosedError
            await nc.publish(reply, body, headers=self.announcement or None)
        except nats.errors.Error as error:
            self._summed.warning("answer", "answers could not be sent: %s", error)

    def _max_payload(self) -> int:
        return USUAL_MAX_PAYLOAD if self._link.nc is None else self._link.nc.max_payload

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._last.add(task)
        task.add_done_callback(self._last.discard)
