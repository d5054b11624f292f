"""The sources of this replica: `ports.Sources` over NATS (R1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.sources import Source, SourceState, matches

from .connection import Connection
from .jetstream import JetStreamApi
from .source_consumer import Consumers
from .source_runner import RETRY, STARTING, PlainRunner, Register, Runner, StreamRunner
from .source_use import MessageUse, Rejections, SourceEngine

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

log = logging.getLogger("dwarf_nats.bus")

DROP_SECONDS = 5.0
"""Time after which the consumer of a removed source is removed: by then no replica pulls from it, and makes it again."""
ANNOUNCED = ("event", "stopped", "rejected")
"""The kinds of subjects below the prefix that a plain source may read."""


class NatsSources:
    """Receives the messages of sources, each in a job of its own."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        counters: Counters,
        *,
        clock: Clock,
        max_depth: int = 64,
        drop_seconds: float = DROP_SECONDS,
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._counters = counters
        self._clock = clock
        self._max_depth = max_depth
        self._drop_seconds = drop_seconds
        self._consumers = Consumers(JetStreamApi(connection), subjects.prefix)
        self._engine: SourceEngine | None = None
        self._register: Register | None = None
        self._wanted: dict[str, Source] = {}
        self._runners: dict[str, Runner] = {}
        self._changed = asyncio.Event()
        self._job: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        connection.on_disconnect(self._disconnected)

    def begin(self, engine: SourceEngine, register: Register) -> None:
        """Hand messages to an engine from now on. `register` keeps how far sources have come."""
        self._engine, self._register = engine, register
        self._job = asyncio.create_task(self._supervise(), name="dwarf-sources")

    async def close(self) -> None:
        """Receive no more, and finish what is in hand."""
        jobs = [one for one in (self._job, *self._dropping) if one is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        runners, self._runners = self._runners, {}
        await asyncio.gather(*(one.close() for one in runners.values()))

    # -- the port

    def check(self, source: Source) -> None:
        if matches(source.subject, self._subjects.rejected(source.name)):
            raise BadRequest(
                f"subject: {source.subject!r} covers {self._subjects.rejected(source.name)}, where what this source rejects"
                " is published: it would come back; choose a narrower subject"
            )
        if source.stream:
            return
        prefix = self._subjects.prefix
        tokens, own = source.subject.split("."), prefix.split(".")
        under = all(one in ("*", ">", other) for one, other in zip(tokens, own, strict=False))
        if under and len(tokens) > len(own) and tokens[len(own)] in ANNOUNCED:
            return
        for one in (prefix, self._subjects.task_prefix, self._subjects.graph_prefix):
            if _overlaps(tokens, one.split(".")):
                raise BadRequest(
                    f"subject: {source.subject!r} covers requests of this service below {one}: without a stream a source may"
                    f" read {prefix}.event.>, {prefix}.stopped.> and {prefix}.rejected.> there, and all other subjects"
                )

    def follow(self, sources: Mapping[str, Source]) -> None:
        self._wanted = {name: one for name, one in sources.items() if not one.paused}
        self._changed.set()

    def drop(self, stream: str, names: Sequence[str], done: Callable[[str], Awaitable[None]]) -> None:
        for name in names:
            task = asyncio.create_task(self._drop(stream, name, done), name=f"dwarf-source-{name}-drop")
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def state(self, source: Source) -> SourceState:
        runner = self._runners.get(source.name)
        reason = runner.reason if runner is not None and runner.source == source else STARTING
        state = SourceState("waiting" if reason else "running", reason)
        if not source.stream:
            return state
        try:
            found = await self._consumers.look(source)
        except DwarfError as error:
            return state if source.paused or reason != STARTING else state._replace(reason=error.message)
        return state._replace(pending=found.pending, in_hand=found.in_hand)

    def pending(self) -> Mapping[str, int]:
        return {name: one.pending for name, one in self._runners.items() if one.pending is not None}

    # -- the jobs

    async def _supervise(self) -> None:
        """Have exactly the wanted sources running; a changed one stops before it starts again."""
        while True:
            self._changed.clear()
            wanted = self._wanted
            over = [name for name, one in self._runners.items() if wanted.get(name) != one.source]
            if over:
                await asyncio.gather(*(self._runners[name].close() for name in over), return_exceptions=True)
                for name in over:
                    del self._runners[name]
            for name, source in wanted.items():
                if name not in self._runners:
                    try:
                        self._runners[name] = runner = self._runner(source)
                        runner.start()
                    except Exception:
                        log.exception("source %s cannot be taken up", name)
            await self._changed.wait()

    def _runner(self, source: Source) -> Runner:
        engine, register = self._engine, self._register
        assert engine is not None
        assert register is not None
        use = MessageUse(source, engine, self._counters, self._max_depth)
        rejections = Rejections(source, self._connection, self._subjects, counters=self._counters, note=register.note)
        if not source.stream:
            queue = f"{self._subjects.prefix.replace('.', '_')}-{source.name}"
            return PlainRunner(source, use, rejections, self._clock, connection=self._connection, queue=queue)
        return StreamRunner(
            source,
            use,
            rejections,
            self._clock,
            connection=self._connection,
            consumers=self._consumers,
            register=register,
        )

    async def _drop(self, stream: str, name: str, done: Callable[[str], Awaitable[None]]) -> None:
        await self._clock.sleep(self._drop_seconds)
        for failures in count():
            try:
                if name not in self._wanted or self._wanted[name].stream != stream:
                    await self._consumers.remove(name, stream)
                await done(name)
                return
            except DwarfError as error:
                log.warning("the consumer of source %s at the stream %s is not removed yet: %s", name, stream, error)
            await self._clock.sleep(RETRY.delay(failures))

    def _disconnected(self) -> None:
        for one in self._runners.values():
            if isinstance(one, StreamRunner):
                one.disconnected()


def _overlaps(tokens: Sequence[str], prefix: Sequence[str]) -> bool:
    """Tell whether a subject with wildcards may be below a prefix."""
    for one, other in zip(tokens, prefix, strict=False):
        if one == ">":
            return True
        if one not in ("*", other):
            return False
    return len(tokens) > len(prefix)
