"""Follows the output of a flow's running tasks (B8).

async with client.stream(key) as chunks:
    await client.start(key)
    async for chunk in chunks:
        print(chunk.text, end="")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
import nats.errors

from dwarf_nats.errors import Unavailable
from dwarf_nats.nats_client import drain_subscription, forbidden, watch_refusals
from dwarf_nats.wire.output import read_chunk
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.output_order import Order
from dwarf_nats.workflow.status import Status

from .request_reply import round_trip

if TYPE_CHECKING:
    from types import TracebackType

    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from dwarf_nats.wire.subjects import Subjects
    from dwarf_nats.wire.violations import Violation
    from dwarf_nats.workflow.output import Chunk
    from dwarf_nats.workflow.records import Outcome

    from .codec import Codec

WAITING_CHUNKS = 1024
"""Chunks that wait to be read; a reader who is slower slows the subscription down, which then loses some."""
LAST_WORDS_SECONDS = 1.0
"""Longest wait, after the flow has stopped, for output that is still on its way through a cluster."""
PAUSED_POLL_SECONDS = 0.5
"""Pause between two looks at a flow that is interrupted."""
REMEDY = "let this user subscribe to the subjects of output, such as dwarf.stream.>"


class Follows(Protocol):
    """The parts of a client that a stream uses."""

    @property
    def subjects(self) -> Subjects: ...

    @property
    def nc(self) -> Nats: ...

    async def connect(self) -> object: ...

    async def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome: ...


class FlowStream:
    """The output of a flow's tasks, as they emit it: an async iterator of `Chunk`s, and a context manager.

    Made by `Client.stream`. The iteration ends when the flow is completed, failed or cancelled and everything that was emitted
    before has been read. Nothing is stored: what was emitted before, or while a connection was away, does not come.

    Chunks of one execution come in order, those of several steps as they are emitted. What an execution emits that has been
    replaced by a later one of the same step is left out.
    """

    def __init__(
        self, client: Follows, flow_key: str, *, codec: Codec | None = None, end_at_pause: bool = False
    ) -> None:
        self._client = client
        self._flow_key = flow_key
        self._subject = client.subjects.stream(parse_key(flow_key).public_id)
        self._codec = codec
        self._end_at_pause = end_at_pause
        self._received: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue(WAITING_CHUNKS)
        self._order = Order()
        self._subscription: Subscription | None = None
        self._nc: Nats | None = None
        self._ending: asyncio.Task[None] | None = None
        self._violation: Violation | None = None
        self._finished = False
        self.outcome: Outcome | None = None
        """The flow's outcome, once the iteration has ended."""

    async def __aenter__(self) -> Self:
        """Subscribe: what is emitted from now on is received.

        Raises `Forbidden` if permissions refuse it, `Unavailable` without a NATS server.
        """
        await self._client.connect()
        nc = self._nc = self._client.nc
        unwatch = watch_refusals(nc, self._on_refused)
        try:
            self._subscription = await nc.subscribe(self._subject, cb=self._on_message)
            await round_trip(nc)
        except nats.errors.Error as error:
            await self._leave()
            raise Unavailable(f"the flow cannot be followed: {error}; the connection comes back by itself") from error
        except BaseException:
            await self._leave()
            raise
        finally:
            unwatch()
        if self._violation is not None:
            await self._leave()
            raise forbidden(nc, self._violation, REMEDY)
        self._ending = asyncio.get_running_loop().create_task(self._end())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
        await self._leave()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._subscription is None:
            async with self:
                async for chunk in self._chunks():
                    yield chunk
        else:
            async for chunk in self._chunks():
                yield chunk

    async def _chunks(self) -> AsyncIterator[Chunk]:
        while not self._finished or not self._received.empty():
            received = await self._received.get()
            if isinstance(received, Exception):
                raise received
            if received is None:
                return
            yield received

    # -- receiving

    async def _on_message(self, msg: Msg) -> None:
        chunk = self._order.placed(read_chunk(msg.subject, msg.headers, msg.data))
        if chunk is None:
            return
        received: Chunk | Exception = chunk
        if self._codec is not None and isinstance(chunk.data, dict | list):
            try:
                opened = self._codec.open_all(msgspec.json.encode(chunk.data))
                received = replace(chunk, data=msgspec.json.decode(opened))
            except Exception as error:
                received = error
        await self._received.put(received)

    def _on_refused(self, violation: Violation) -> bool:
        if violation.publish or not violation.concerns(self._subject):
            return False
        self._violation = violation
        return True

    # -- ending

    async def _end(self) -> None:
        """End the iteration when the flow has stopped and what was emitted before has been received."""
        try:
            outcome = await self._stopped()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await self._order.all_ended.wait()
            if self._nc is not None and self._subscription is not None and self._nc.is_connected:
                await drain_subscription(self._nc, self._subscription)
            self.outcome = outcome
            await self._finish(None)
        except nats.errors.Error as error:
            await self._finish(Unavailable(f"the connection was lost when the flow stopped: {error}"))
        except Exception as error:
            await self._finish(error)

    async def _finish(self, last: Exception | None) -> None:
        self._finished = True
        await self._received.put(last)

    async def _stopped(self) -> Outcome:
        while True:
            outcome = await self._client.poll(self._flow_key, None)
            if outcome.status is not Status.INTERRUPTED or self._end_at_pause:
                return outcome
            await asyncio.sleep(PAUSED_POLL_SECONDS)

    async def _leave(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._nc is not None and not self._nc.is_closed:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()


__all__ = ["FlowStream"]
