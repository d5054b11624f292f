"""The consumer of a source: one for all replicas, named after the deployment, the source and the incarnation of the stream.

A stream that is deleted and made again counts from 1 again. So its creation time is a part of the identity of its messages,
and of the consumer's name: no replica can take a message of the new stream for one of the old.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.rules.receiving import scope_of
from dwarf_nats.workflow.sources import Source

from .jetstream import JetStreamApi, Missing

ACK_WAIT_SECONDS = 60
"""Time after which a message that was neither acknowledged nor refused is delivered again: far more than a group needs."""
MAX_ACK_PENDING = 20_000
"""Messages in hand on all replicas together, those included that wait to come again."""
_NANOS = 1_000_000_000


class Floors(Protocol):
    """Knows how far sources have read."""

    async def floor(self, name: str, origin: str) -> tuple[int, bool]:
        """Return up to where a source has read an incarnation of a stream, and whether it has ever read any."""
        ...


@dataclass(slots=True, frozen=True)
class Consumer:
    """A consumer that is there. `origin`: the stream and its creation time. `scope`: see `rules.receiving`."""

    stream: str
    name: str
    origin: str
    scope: int


class ConsumerState(NamedTuple):
    """Messages that were not delivered yet, those delivered and not done, and up to where all are done."""

    pending: int
    in_hand: int
    floor: int


class StreamInfo(NamedTuple):
    """A stream, as far as it matters here."""

    created: str
    is_work_queue: bool


class Consumers:
    """The consumers of one deployment. `prefix`: its subject prefix."""

    def __init__(self, api: JetStreamApi, prefix: str) -> None:
        self._api = api
        self._prefix = prefix

    async def ensure(self, source: Source, floors: Floors) -> Consumer:
        """Return the consumer of a source, made or changed as need be. Raises `DwarfError` that says what is missing."""
        stream = await self._stream(source.stream)
        consumer = self._consumer(source.name, source.stream, stream.created)
        try:
            found = await self._info(consumer)
        except Missing:
            config = self._config(source, consumer)
            config |= await self._start(source, consumer, stream, floors)
        else:
            config = found["config"]
            if config.get("description") != self._description(source.name):
                raise BadRequest(
                    f"the stream {source.stream} has a consumer {consumer.name} that is not of this source: remove it"
                )
            if config.get("filter_subject", "") == source.subject:
                return consumer
            config["filter_subject"] = source.subject
        request = {"stream_name": source.stream, "config": config, "action": ""}
        await self._api.ask(f"CONSUMER.CREATE.{source.stream}.{consumer.name}.{source.subject}", request)
        return consumer

    async def state(self, consumer: Consumer) -> ConsumerState:
        """Return where a consumer stands. Raises as `JetStreamApi.ask`."""
        found = await self._info(consumer)
        return ConsumerState(found["num_pending"], found["num_ack_pending"], found["ack_floor"]["stream_seq"])

    async def look(self, source: Source) -> ConsumerState:
        """Return where the consumer of a source stands. Raises as `JetStreamApi.ask`."""
        stream = await self._stream(source.stream)
        return await self.state(self._consumer(source.name, source.stream, stream.created))

    async def remove(self, name: str, stream: str) -> None:
        """Remove the consumer of a source, if it has one. Raises as `JetStreamApi.ask`."""
        try:
            consumer = self._consumer(name, stream, (await self._stream(stream)).created)
            found = await self._info(consumer)
            if found["config"].get("description") == self._description(name):
                await self._api.ask(f"CONSUMER.DELETE.{stream}.{consumer.name}")
        except Missing:
            return

    def _consumer(self, name: str, stream: str, created: str) -> Consumer:
        origin = f"{stream} {created}"
        digest = hashlib.sha256(origin.encode()).hexdigest()[:8]
        return Consumer(
            stream, f"{self._prefix.replace('.', '_')}-{name}-{digest}", origin, scope_of(name, stream, created)
        )

    def _description(self, name: str) -> str:
        return f"dwarf-nats: source {name} of {self._prefix}"

    def _config(self, source: Source, consumer: Consumer) -> dict[str, Any]:
        return {
            "name": consumer.name,
            "durable_name": consumer.name,
            "description": self._description(source.name),
            "filter_subject": source.subject,
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_SECONDS * _NANOS,
            "max_ack_pending": MAX_ACK_PENDING,
            "max_deliver": -1,
            "replay_policy": "instant",
        }

    async def _start(self, source: Source, consumer: Consumer, stream: StreamInfo, floors: Floors) -> dict[str, Any]:
        """Say where a new consumer begins: behind what the source has read before of this stream."""
        floor, has_read = await floors.floor(source.name, consumer.origin)
        if stream.is_work_queue:  # what was done is gone, and the server allows nothing else
            return {"deliver_policy": "all"}
        if floor:
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
        if source.deliver == "new" and not has_read:
            return {"deliver_policy": "new"}
        return {"deliver_policy": "all"}

    async def _stream(self, stream: str) -> StreamInfo:
        try:
            found = await self._api.ask(f"STREAM.INFO.{stream}")
        except Missing:
            raise Missing(
                f"there is no stream {stream}: create it, for example with `nats stream add {stream}`"
            ) from None
        created = found.get("created")
        if not isinstance(created, str):
            raise Unavailable(f"JetStream does not say when the stream {stream} was created")
        return StreamInfo(created, found.get("config", {}).get("retention") == "workqueue")

    async def _info(self, consumer: Consumer) -> dict[str, Any]:
        return await self._api.ask(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
