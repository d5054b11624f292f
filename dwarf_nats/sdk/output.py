"""Publishes what the executions of a worker emit, to whoever follows their flows at that moment (B8)."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import TYPE_CHECKING

import nats.errors

from dwarf_nats.errors import TooLarge
from dwarf_nats.nats_client import forbidden
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.output import is_stream
from dwarf_nats.workflow.output import JSON, Output
from dwarf_nats.workflow.output_order import end_of

from .request_reply import check_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dwarf_nats.summed import Summed
    from dwarf_nats.wire.violations import Violation
    from dwarf_nats.workflow.answer import Answer

    from .codec import Codec
    from .executions import Execution
    from .link import Link

MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Output of one execution that waits to be published; of more, the oldest is dropped, and followers see that it is missing."""
AWAY_SECONDS = 60.0
"""Longest wait for a lost connection; then what waits is dropped."""
REFUSED_SECONDS = 15.0
"""Time without output after permissions have refused some: each piece would be refused again."""


class OutputPublisher:
    """Publishes the output of a worker's executions over the connection of `link`. With a codec, fields of JSON are sealed."""

    def __init__(self, link: Link, summed: Summed, codec: Codec | None = None) -> None:
        self._link = link
        self._summed = summed
        self._codec = codec
        self._refused_until = 0.0
        self._streams: set[str] = set()

    def output_of(self, execution: Execution) -> ExecutionOutput | None:
        """The output of an execution; `None` if its request names no subject that is one for output."""
        call = execution.call
        if not is_stream(call.stream, execution.public_id):
            return None
        self._streams.add(call.stream.rsplit(".", 2)[0])
        headers = {
            h.EXECUTION: secrets.token_hex(6),
            h.TASK: h.percent_encode(call.task),
            h.FLOW_ID: call.flow_key.rpartition("-")[0],
            h.ATTEMPT: str(call.attempt),
        }
        return ExecutionOutput(self, call.stream, headers, execution.opened)

    def sealed(self, output: Output, opened: frozenset[str]) -> bytes:
        """The body of a piece, with the chosen fields of an object sealed (B9)."""
        if self._codec is None or output.content_type != JSON:
            return output.body
        return self._codec.seal_fields(output.body, opened)

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bool:
        """Publish one message; false if there is no connection, also after a wait."""
        if self._refused_until > asyncio.get_running_loop().time():
            return True
        if self._link.nc is None or not self._link.nc.is_connected:
            await self._link.until_connected(AWAY_SECONDS)
        nc = self._link.nc
        if nc is None or not nc.is_connected:
            return False
        try:
            check_size(nc, body, headers, "a piece of output")
            await nc.publish(subject, body, headers=dict(headers))
        except (TooLarge, nats.errors.Error) as error:
            self._summed.warning("output", "output is lost: %s", error)
        return True

    def refused(self, violation: Violation) -> bool:
        """Take a refusal of permissions; false if it is not about output."""
        known = {one.lower() for one in self._streams} if violation.lowered else self._streams
        if not violation.publish or violation.subject.rsplit(".", 2)[0] not in known:
            return False
        self._refused_until = asyncio.get_running_loop().time() + REFUSED_SECONDS
        nc = self._link.nc
        if nc is not None:
            remedy = "let it publish to the subjects of output (task-service.conf); until then it reaches nobody"
            self._summed.warning("output", "%s", forbidden(nc, violation, remedy))
        return True


class ExecutionOutput:
    """The output of one execution, in the order in which it was emitted."""

    def __init__(
        self, publisher: OutputPublisher, subject: str, headers: Mapping[str, str], opened: frozenset[str]
    ) -> None:
        self._publisher = publisher
        self._subject = subject
        self._headers = headers
        self._opened = opened
        self._waiting: deque[tuple[bytes, dict[str, str]]] = deque()
        self._waiting_bytes = 0
        self._number = 0
        self._publishing: asyncio.Task[None] | None = None
        self._ended = False

    def emit(self, output: Output) -> None:
        """Publish a piece as soon as it is its turn; after the end nothing is."""
        if not self._ended:
            kind = {h.CONTENT_TYPE: output.content_type} if output.content_type else {}
            self._add(self._publisher.sealed(output, self._opened), kind)

    async def finish(self, answer: Answer | bytes) -> None:
        """Publish what waits, then the end. The answer is about to follow, so whoever sees it has seen the output."""
        if not self._ended:
            self._ended = True
            self._add(b"", {h.END: end_of(answer).value})
        if self._publishing is not None:
            await asyncio.wait({self._publishing})

    def _add(self, body: bytes, headers: dict[str, str]) -> None:
        self._number += 1
        self._waiting.append((body, {**self._headers, h.NUMBER: str(self._number), **headers}))
        self._waiting_bytes += len(body)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft()[0])
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.get_running_loop().create_task(self._publish())

    async def _publish(self) -> None:
        while self._waiting:
            body, headers = self._waiting.popleft()
            self._waiting_bytes -= len(body)
            if not await self._publisher.publish(self._subject, body, headers):
                self._waiting.clear()
                self._waiting_bytes = 0
