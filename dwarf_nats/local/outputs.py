"""The output of running tasks, for those who follow their flows in the same process (B8)."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, Self

from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.output import Chunk, Output, OutputEnd, data_of
from dwarf_nats.workflow.output_order import Order, end_of
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from types import TracebackType

    from dwarf_nats.workflow.answer import Answer, TaskCall
    from dwarf_nats.workflow.records import Outcome

WAITING_CHUNKS = 65_536
"""Chunks that wait for their reader at most; of more, the oldest are dropped, and the next one says how many are missing."""
PAUSED_POLL_SECONDS = 0.05
"""Pause between two looks at a flow that is interrupted."""


class Follows(Protocol):
    """The parts of a client that a stream uses."""

    async def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome: ...


class LocalOutputs:
    """Hands what tasks emit to those who follow their flows. Nothing is kept for flows that nobody follows."""

    def __init__(self) -> None:
        self._followers: dict[str, list[LocalStream]] = {}

    def follow(self, flow_id: str, stream: LocalStream) -> None:
        """Hand the output of a flow to a stream from now on."""
        self._followers.setdefault(flow_id, []).append(stream)

    def leave(self, flow_id: str, stream: LocalStream) -> None:
        """Hand nothing to a stream any more."""
        streams = self._followers.get(flow_id, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self._followers.pop(flow_id, None)

    def hand_out(self, flow_id: str, chunk: Chunk) -> None:
        """Hand a chunk to all who follow the flow."""
        for stream in self._followers.get(flow_id, ()):
            stream.receive(chunk)


class Execution:
    """The output of one execution of a task, in the order in which it is emitted."""

    def __init__(self, outputs: LocalOutputs, call: TaskCall) -> None:
        self._outputs = outputs
        self._call = call
        flow = parse_key(call.flow_key)
        self._flow_id = flow.public_id
        self._followed = f"{flow.shard}-{call.root_id}" if call.root_id else flow.public_id
        self._step_id = parse_key(call.step_key).public_id
        self._execution = ""
        self._number = 0
        self._ended = False

    def emit(self, output: Output) -> None:
        """Hand out a piece; after the end nothing is."""
        if not self._ended:
            self._hand_out(data_of(output.body, output.content_type), None)

    def finish(self, answer: Answer | None) -> None:
        """Say how the execution ended, if it has emitted anything. `None`: it was cut off."""
        self._ended = True
        if self._number:
            self._hand_out(None, OutputEnd.FAILED if answer is None else end_of(answer))

    def _hand_out(self, data: object, end: OutputEnd | None) -> None:
        self._execution = self._execution or secrets.token_hex(6)
        self._number += 1
        chunk = Chunk(
            data=data,
            step_id=self._step_id,
            flow_id=self._flow_id,
            task=self._call.task,
            attempt=self._call.attempt,
            execution=self._execution,
            number=self._number,
            end=end,
        )
        self._outputs.hand_out(self._followed, chunk)


class LocalStream:
    """The output of a flow's tasks, as they emit it: an async iterator of `Chunk`s, and a context manager.

    Made by `LocalClient.stream`, and used as the `FlowStream` of the service's client.
    """

    def __init__(self, client: Follows, outputs: LocalOutputs, flow_key: str, *, end_at_pause: bool) -> None:
        self._client = client
        self._outputs = outputs
        self._flow_key = flow_key
        self._flow_id = parse_key(flow_key).public_id
        self._end_at_pause = end_at_pause
        self._order = Order()
        self._chunks: deque[Chunk] = deque(maxlen=WAITING_CHUNKS)
        self._news = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self.outcome: Outcome | None = None
        """The flow's outcome, once the iteration has ended."""

    async def __aenter__(self) -> Self:
        """Follow the flow: what is emitted from now on is received."""
        self._outputs.follow(self._flow_id, self)
        self._ending = asyncio.create_task(self._end())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outputs.leave(self._flow_id, self)
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._ending is None:
            async with self:
                async for chunk in self._received():
                    yield chunk
        else:
            async for chunk in self._received():
                yield chunk

    def receive(self, chunk: Chunk) -> None:
        """Keep a chunk for the reader."""
        self._chunks.append(chunk)
        self._news.set()

    async def _received(self) -> AsyncIterator[Chunk]:
        while True:
            while self._chunks:
                chunk = self._order.placed(self._chunks.popleft())
                if chunk is not None:
                    yield chunk
            if self._error is not None:
                raise self._error
            if self._ending is None or self.outcome is not None:
                return
            self._news.clear()
            await self._news.wait()

    async def _end(self) -> None:
        """End the iteration when the flow has stopped: its last execution has said so before its answer counted."""
        try:
            while True:
                outcome = await self._client.poll(self._flow_key, None)
                if outcome.status is not Status.INTERRUPTED or self._end_at_pause:
                    break
                await asyncio.sleep(PAUSED_POLL_SECONDS)
            self.outcome = outcome
        except Exception as error:
            self._error = error
        finally:
            self._news.set()
