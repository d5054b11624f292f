"""One source on this replica: from its stream, or from a plain subscription (R1, R2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import nats.errors
from nats.aio.subscription import Subscription

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import DwarfError, TooMany, Unavailable
from dwarf_nats.nats_client import forbidden, send_unsubscribe
from dwarf_nats.rules.receiving import AGAIN, SourceProgress

from .connection import Connection
from .jetstream import REMEDY
from .pull import BATCH, MAX_BUFFERED_BYTES, Delivery, Lost, Pull, answer, later
from .source_consumer import Consumer, Consumers, Floors
from .source_use import Incoming, MessageUse, Outcome, Rejections

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock
    from dwarf_nats.workflow.sources import Source

log = logging.getLogger("dwarf_nats.bus")

RETRY = Backoff(0.2, 2.0, 5.0)
"""Seconds between two attempts to get at a stream that is not there, or that permissions do not allow."""
AWAY = Backoff(0.1, 2.0, 5.0)
"""Seconds without pulling after groups that could not be used at all, as the database is away."""
STEADY_SECONDS = 10.0
"""Time after which a consumer that is lost counts as one that had worked."""
LOOK_SECONDS = 5.0
"""Between two looks at where the consumer stands."""
GROUPS_AT_ONCE = 2
"""Groups of one source in hand: while one is committed, the next is made ready."""
LAST_GROUPS_SECONDS = 10.0
"""Time for groups in hand when a source stops here. What is not done by then comes again elsewhere."""
MAX_BUFFERED = 10_000
"""Messages of a plain subscription that may wait here; further ones are lost."""
STARTING = "it is being taken up"


class Register(Floors, Protocol):
    """Keeps how far sources have come."""

    async def note(self, progress: SourceProgress) -> None:
        """Keep how far a source has come. Raises `Unavailable`."""
        ...


class Runner(ABC):
    """Receives the messages of one source until it is closed."""

    pending: int | None = None
    """Messages that wait in the stream, as it was last read."""

    def __init__(self, source: Source, use: MessageUse, rejections: Rejections, clock: Clock) -> None:
        self.source = source
        self._use_messages = use
        self._rejections = rejections
        self._clock = clock
        self._job: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why no messages come, in words; empty if they do."""

    @abstractmethod
    async def _run(self) -> None:
        """Receive until cancelled."""

    def start(self) -> None:
        """Receive from now on."""
        self._job = asyncio.create_task(self._run(), name=f"dwarf-source-{self.source.name}")

    async def close(self) -> None:
        """Receive no more, and finish what is in hand."""
        if self._job is not None:
            self._job.cancel()
            await asyncio.gather(self._job, return_exceptions=True)
        await self._rejections.close()


class StreamRunner(Runner):
    """Pulls from the consumer that all replicas share."""

    def __init__(
        self,
        source: Source,
        use: MessageUse,
        rejections: Rejections,
        clock: Clock,
        *,
        connection: Connection,
        consumers: Consumers,
        register: Register,
    ) -> None:
        super().__init__(source, use, rejections, clock)
        self._connection = connection
        self._consumers = consumers
        self._register = register
        self._reason = STARTING
        self._pull: Pull | None = None
        self._groups: set[asyncio.Task[None]] = set()
        self._failed_groups = 0
        self._floor = 0

    @property
    def reason(self) -> str:
        return self._reason

    def disconnected(self) -> None:
        """Take note that the connection was lost: what was delivered comes again."""
        if self._pull is not None:
            self._pull.disconnected()

    async def _run(self) -> None:
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                consumer = await self._consumers.ensure(self.source, self._register)
                await self._receive(consumer)
            except (Lost, DwarfError) as error:
                self._wait_for(str(error))
            except Exception as error:
                log.exception("a defect in source %s", self.source.name)
                self._wait_for(f"a defect: {error!r}")
            if asyncio.get_running_loop().time() - began > STEADY_SECONDS:
                failures = 0
            await self._clock.sleep(RETRY.delay(failures))
            failures += 1

    def _wait_for(self, reason: str) -> None:
        if reason != self._reason:
            log.warning("source %s waits: %s", self.source.name, reason)
        self._reason = reason

    async def _receive(self, consumer: Consumer) -> None:
        """Use what the consumer delivers. Raises `Lost`, `DwarfError`."""
        self._pull = pull = Pull(self._connection, consumer)
        workers: list[asyncio.Task[None]] = []
        try:
            await pull.open()
            workers = [asyncio.create_task(self._work(pull, consumer)) for _ in range(GROUPS_AT_ONCE)]
            workers.append(asyncio.create_task(self._look(consumer)))
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in workers:
                one.cancel()
            self._pull = None
            await asyncio.gather(*workers, pull.close(), return_exceptions=True)
            if self._groups:
                await asyncio.wait(self._groups, timeout=LAST_GROUPS_SECONDS)

    async def _work(self, pull: Pull, consumer: Consumer) -> None:
        while True:
            group = await pull.take()
            job = asyncio.create_task(self._use(group, consumer))
            self._groups.add(job)
            job.add_done_callback(self._groups.discard)
            await asyncio.shield(job)  # a group in hand is finished
            if self._failed_groups:
                await self._clock.sleep(AWAY.delay(self._failed_groups - 1))

    async def _use(self, group: Sequence[Delivery], consumer: Consumer) -> None:
        messages = [
            Incoming(
                subject=one.subject,
                body=one.body,
                block=one.block,
                scope=consumer.scope,
                sequence=one.sequence,
                at=one.at,
            )
            for one in group
        ]
        outcomes = await self._use_messages.use(messages)
        now = self._clock.now()
        postponed: DwarfError | None = None
        for delivery, message, outcome in zip(group, messages, outcomes, strict=True):
            if outcome.error is None:
                answer(self._connection, delivery, b"+ACK")
            elif outcome.again:
                postponed = outcome.error
                answer(self._connection, delivery, later(AGAIN.delay(delivery.deliveries - 1)))
            else:
                self._rejections.reject(message, outcome.error, now)
                answer(self._connection, delivery, b"+TERM")
        if postponed is not None:
            self._rejections.postpone(postponed, now)
        self._failed_groups = self._failed_groups + 1 if _all_away(outcomes) else 0

    async def _look(self, consumer: Consumer) -> None:
        """Read where the consumer stands, now and then, and keep up to where all is done."""
        while True:
            state = await self._consumers.state(consumer)
            self.pending = state.pending
            if self._reason:
                log.info("source %s receives from the stream %s", self.source.name, consumer.stream)
                self._reason = ""
            if state.floor > self._floor:
                with contextlib.suppress(Unavailable):
                    await self._register.note(
                        SourceProgress(source=self.source.name, origin=consumer.origin, floor=state.floor)
                    )
                    self._floor = state.floor
            await self._clock.sleep(LOOK_SECONDS)


def _all_away(outcomes: Sequence[Outcome]) -> bool:
    return all(isinstance(one.error, Unavailable) for one in outcomes)


class PlainRunner(Runner):
    """Subscribes to a subject in a queue group of all replicas: each message once at most."""

    def __init__(
        self,
        source: Source,
        use: MessageUse,
        rejections: Rejections,
        clock: Clock,
        *,
        connection: Connection,
        queue: str,
    ) -> None:
        super().__init__(source, use, rejections, clock)
        self._connection = connection
        self._queue = queue
        self._buffer: deque[Incoming] = deque()
        self._buffered_bytes = 0
        self._arrived = asyncio.Event()
        self._subscribed = False

    @property
    def reason(self) -> str:
        violation = self._connection.refused.get((self.source.subject, self._queue))
        if violation is not None:
            return str(forbidden(self._connection, violation, REMEDY))
        if not self._connection.is_connected:
            return "the connection to NATS is down"
        return "" if self._subscribed else STARTING

    async def _run(self) -> None:
        subscription = await self._subscribe()
        try:
            await self._use_all()
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                if self._connection.is_connected:
                    await send_unsubscribe(self._connection, subscription)
                    await self._connection.flush(timeout=2)
            self._connection.remove_subscription(subscription)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_GROUPS_SECONDS):
                    while self._buffer:
                        await self._use(self._taken())

    async def _subscribe(self) -> Subscription:
        failures = 0
        while True:
            try:
                subscription = await self._connection.subscribe_raw(self.source.subject, self._receive, self._queue)
            except nats.errors.Error as error:
                log.debug("source %s: %s", self.source.name, error)
                await self._clock.sleep(RETRY.delay(failures))
                failures += 1
                continue
            self._subscribed = True
            return subscription

    async def _use_all(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._buffer:
                await asyncio.shield(asyncio.ensure_future(self._use(self._taken())))

    def _taken(self) -> list[Incoming]:
        group = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
        self._buffered_bytes -= sum(len(one.body) for one in group)
        return group

    async def _use(self, group: Sequence[Incoming]) -> None:
        try:
            outcomes = await self._use_messages.use(group)
        except Exception:
            log.exception("a defect in source %s", self.source.name)
            return
        now = self._clock.now()
        for message, outcome in zip(group, outcomes, strict=True):
            if outcome.error is not None:
                self._rejections.reject(message, outcome.error, now)

    def _receive(self, subject: bytes, _reply: bytes, body: bytes, block: bytes | None) -> None:
        now = self._clock.now()
        message = Incoming(subject=subject, body=body, block=block, scope=0, sequence=0, at=now)
        if len(self._buffer) >= MAX_BUFFERED or self._buffered_bytes > MAX_BUFFERED_BYTES:
            full = TooMany(
                "more messages came than could be used, and there is no stream to keep them: give the source one"
            )
            self._rejections.reject(message, full, now)
            return
        self._buffer.append(message)
        self._buffered_bytes += len(body)
        self._arrived.set()
