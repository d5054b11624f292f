"""Requests for one step each: read, run, or answered with the error that is in them (wire section 2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.subjects import is_of_another_account
from dwarf_nats.workflow.claims import CLAIM_TEXT
from dwarf_nats.workflow.task_exceptions import describe_error

from .codec_messages import NONE_OPENED
from .executions import Execution
from .task_codec import accept_seconds, backpressure_answer, decode_request, error_answer, takes_queued

if TYPE_CHECKING:
    from dwarf_nats.summed import Summed
    from dwarf_nats.workflow.answer import Answer

    from .claim_checks import ClaimChecks
    from .codec import Codec
    from .discovery import DiscoveryResponder
    from .executions import Handler, SendProgress
    from .link import Link
    from .output import OutputPublisher
    from .task_executor import TaskExecutor

_READ = "|".join((h.ACCEPT_MS, h.QUEUE, h.STREAM, h.BATCH, h.TRACEPARENT, h.TRACESTATE))
_HEADERS = re.compile(rf"\r\n({_READ}):[ \t]*([^\r\n]*?)[ \t]*(?=\r)")


class Received(Protocol):
    """A message to the worker: nats-py's, or a raw one."""

    @property
    def reply(self) -> str:
        """The subject of the answer; empty if nobody wants one."""
        ...

    @property
    def data(self) -> bytes:
        """The body."""
        ...

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers."""
        ...


class RawReceived(NamedTuple):
    """A raw message, with those headers that a worker reads."""

    reply: str
    data: bytes
    headers: Mapping[str, str] | None


def raw_received(reply: bytes, data: bytes, block: bytes | None) -> RawReceived:
    """Read a raw message."""
    headers = None if block is None else dict(_HEADERS.findall(block.decode("utf-8", "replace")))
    return RawReceived(reply.decode(), data, headers)


class Openers(NamedTuple):
    """What makes values readable that come sealed, or as claims."""

    codec: Codec | None
    claim_checks: ClaimChecks | None


class RequestIntake:
    """Accepts requests for the executor that `executor` returns; `None` once the worker has stopped.

    `send_progress` sends what a task reports, `outputs` what it emits, `reply` the answer to a request that is not executed.
    """

    def __init__(
        self,
        link: Link,
        executor: Callable[[], TaskExecutor | None],
        reply: Callable[[str, Answer], Awaitable[None]],
        summed: Summed,
        *,
        send_progress: SendProgress,
        outputs: OutputPublisher,
        discovery: DiscoveryResponder,
        openers: Openers,
    ) -> None:
        self._link = link
        self._executor = executor
        self._reply = reply
        self._summed = summed
        self._send_progress = send_progress
        self._outputs = outputs
        self._discovery = discovery
        self._codec, self._claim_checks = openers
        self._last: set[asyncio.Future[None]] = set()

    def take(self, handler: Handler, msg: Received) -> None:
        """Accept a request for the task of `handler`, or answer with the error that is in it."""
        executor = self._executor()
        if executor is None:  # it came just before the subscription ended
            self._reply_soon(msg, backpressure_answer("the worker is stopping"))
        elif self._claim_checks is not None and CLAIM_TEXT in msg.data:
            executor.spawn(self._resolve(self._claim_checks, handler, msg))  # other requests need not wait for it
        else:
            self._accept(handler, msg, msg.data, executor)

    async def _resolve(self, claim_checks: ClaimChecks, handler: Handler, msg: Received) -> None:
        """Accept a request once the values that it claims are here."""
        try:
            if self._link.nc is None:
                raise Unavailable("there is no connection to NATS")
            data = await claim_checks.resolved(self._link.nc, msg.data)
        except Exception as error:
            self._refuse(handler, msg, error)
            return
        executor = self._executor()
        if executor is None:
            self._reply_soon(msg, backpressure_answer("the worker is stopping"))
        else:
            self._accept(handler, msg, data, executor)

    def _accept(self, handler: Handler, msg: Received, data: bytes, executor: TaskExecutor) -> None:
        headers = msg.headers
        try:
            body, opened = (data, NONE_OPENED) if self._codec is None else self._codec.opened(data)
            call = decode_request(body, headers)
            accept_after = accept_seconds(headers)
        except Exception as error:  # whatever it is, the engine waits for an answer
            self._refuse(handler, msg, error)
            return
        # Between accounts, NATS lets one answer through unless told otherwise, and *accepted* or a progress would be it.
        if is_of_another_account(msg.reply):
            executor.submit(Execution(call, msg.reply, handler, opened=opened))
            return
        executor.submit(
            Execution(
                call,
                msg.reply,
                handler,
                accept_after,
                takes_queued=takes_queued(headers) and bool(self._link.private),
                send_progress=self._send_progress if msg.reply else None,
                opened=opened,
                publisher=self._outputs,
            )
        )

    def _refuse(self, handler: Handler, msg: Received, error: Exception) -> None:
        self._summed.warning(
            ("request", handler.url), "task %s: %s", handler.url, describe_error(error), extra={"task": handler.url}
        )
        if isinstance(error, DwarfError):
            answer = error_answer(error.code, error.message)
        else:
            answer = error_answer(500, describe_error(error))
        self._discovery.count(handler.url, answer.error, 0)
        self._reply_soon(msg, answer)

    def _reply_soon(self, msg: Received, answer: Answer) -> None:
        sending = asyncio.ensure_future(self._reply(msg.reply, answer))
        self._last.add(sending)
        sending.add_done_callback(self._last.discard)

    async def finish(self) -> None:
        """Wait until the answers to what was not executed are sent."""
        while self._last:
            await asyncio.gather(*self._last, return_exceptions=True)
