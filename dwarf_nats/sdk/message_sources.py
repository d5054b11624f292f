"""The client's operations on sources and outboxes (R1, R2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import UNSET

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.nats_client import forbidden, watch_refusals
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import or_default
from dwarf_nats.wire.violations import Violation

from .replies import decode
from .request_reply import check_size, round_trip
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.wire.outbox_messages import OutboxRowInfo
    from dwarf_nats.workflow.sources import Source, SourceInfo

ACK_SECONDS = 5.0
"""Time in which a stream acknowledges a message."""


class Stored(NamedTuple):
    """Where a message lies. `duplicate`: it was there already, by its `Nats-Msg-Id`."""

    stream: str
    sequence: int
    duplicate: bool


class MessageSources(Requester):
    """Base of `Client` with the operations on what starts flows by itself."""

    async def put_source(self, source: Source) -> SourceInfo:
        """Turn the messages of a subject into flows or events, in place of the source of this name (R1).

        Example: `await client.put_source(source)`
        """
        from dwarf_nats.wire.source_messages import source_info, source_request

        body = await self._read("source.put", source_request(source))
        return source_info(decode(m.SourceReply, body, "source.put"))

    async def get_source(self, name: str) -> SourceInfo:
        """Return a source, and how it stands (R2).

        Example: `info = await client.get_source("orders")`
        """
        from dwarf_nats.wire.source_messages import source_info

        body = await self._read("source.get", m.SourceRequest(name=name))
        return source_info(decode(m.SourceReply, body, "source.get"))

    async def list_sources(self) -> list[SourceInfo]:
        """Return all sources, by name.

        Example: `sources = await client.list_sources()`
        """
        from dwarf_nats.wire.source_messages import source_info

        body = await self._read("source.list", m.EmptyRequest())
        return [source_info(one) for one in decode(m.SourceListReply, body, "source.list").sources]

    async def pause_source(self, name: str) -> SourceInfo:
        """Leave the messages of a source in their stream until it is resumed.

        Example: `await client.pause_source("orders")`
        """
        from dwarf_nats.wire.source_messages import source_info

        body = await self._read("source.pause", m.SourceRequest(name=name))
        return source_info(decode(m.SourceReply, body, "source.pause"))

    async def resume_source(self, name: str) -> SourceInfo:
        """Go on with the messages of a source that was paused.

        Example: `await client.resume_source("orders")`
        """
        from dwarf_nats.wire.source_messages import source_info

        body = await self._read("source.resume", m.SourceRequest(name=name))
        return source_info(decode(m.SourceReply, body, "source.resume"))

    async def delete_source(self, name: str) -> None:
        """Forget a source. Its consumer is removed from the stream; flows go on.

        Example: `await client.delete_source("orders")`
        """
        await self._request("source.delete", m.SourceRequest(name=name))

    async def send_message(
        self, source: str, body: bytes, *, subject: str = "", headers: Mapping[str, str] | None = None
    ) -> Stored | None:
        """Publish a message for a source; return where its stream has stored it, `None` if it has no stream.

        `subject`: needed if that of the source has wildcards. Raises `NotFound`, `BadRequest`, `Forbidden`, and `Unavailable`
        if the stream does not acknowledge it: then it may or may not be there, and `Nats-Msg-Id` makes a repetition harmless.

        Example: `stored = await client.send_message("orders", b'{"total": 5}')`
        """
        found = (await self.get_source(source)).source
        to = _subject_of(found, subject)
        given = dict(headers) if headers else None
        check_size(self.nc, body, given, f"the message to {to}")
        sending: asyncio.Future[Any] = asyncio.ensure_future(self._sent(found, to, body, given))
        refused: asyncio.Future[Violation] = asyncio.get_running_loop().create_future()

        def listen(violation: Violation) -> bool:
            if violation.publish and violation.concerns(to) and not refused.done():
                refused.set_result(violation)
                return True
            return False

        unwatch = watch_refusals(self.nc, listen)
        try:
            await asyncio.wait({sending, refused}, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise forbidden(self.nc, refused.result())
            stored: Stored | None = await sending
            return stored
        finally:
            unwatch()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _sent(self, source: Source, subject: str, body: bytes, headers: dict[str, str] | None) -> Stored | None:
        import nats.js.errors  # slow to load

        try:
            if not source.stream:
                await self.nc.publish(subject, body, headers=headers)
                await round_trip(self.nc)
                return None
            ack = await self.nc.jetstream().publish(subject, body, timeout=ACK_SECONDS, headers=headers)
        except nats.js.errors.NoStreamResponseError:
            raise Unavailable(
                f"no stream takes messages on {subject}: does {source.stream} have this subject?"
            ) from None
        except nats.js.errors.APIError as error:
            raise Unavailable(f"the stream {source.stream} does not take the message: {error.description}") from None
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"the message was not acknowledged, it may or may not be there: {error}") from None
        if ack.stream != source.stream:
            raise Unavailable(
                f"the stream {ack.stream} has taken the message, and not {source.stream}, which the source reads"
            )
        return Stored(ack.stream, ack.seq, bool(ack.duplicate))

    async def list_outbox(
        self, *, rejected: bool = False, limit: int = 100, cursor: str = ""
    ) -> tuple[list[OutboxRowInfo], str]:
        """Return rows that have not become flows yet, and the cursor of the next page, empty on the last.

        `rejected`: only those put aside because they cannot be used.

        Example: `rows, cursor = await client.list_outbox(rejected=True)`
        """
        from dwarf_nats.wire.outbox_messages import row_info

        request = m.OutboxListRequest(rejected=rejected or UNSET, limit=limit, cursor=cursor or UNSET)
        reply = decode(m.OutboxListReply, await self._read("outbox.list", request), "outbox.list")
        return [row_info(one) for one in reply.rows], or_default(reply.cursor, "")

    async def retry_outbox(self, row: str) -> None:
        """Take up a row of an outbox now, also one that was put aside. `row`: shard and number, such as `1-42`.

        Example: `await client.retry_outbox("1-42")`
        """
        await self._read("outbox.retry", m.OutboxRequest(row=row))

    async def delete_outbox(self, row: str) -> None:
        """Remove a row from an outbox: no flow comes of it. `row`: shard and number, such as `1-42`.

        Example: `await client.delete_outbox("1-42")`
        """
        await self._request("outbox.delete", m.OutboxRequest(row=row))


def _subject_of(source: Source, subject: str) -> str:
    """The subject of a message for a source. Raises `BadRequest`."""
    from dwarf_nats.workflow.sources import matches

    has_wildcards = any(one in ("*", ">") for one in source.subject.split("."))
    if not subject:
        if has_wildcards:
            raise BadRequest(
                f"the subject {source.subject} of source {source.name} has wildcards: say which one, with ?subject= over HTTP"
            )
        return source.subject
    if any(one in ("*", ">", "") for one in subject.split(".")) or not subject.isprintable() or " " in subject:
        raise BadRequest(f"{subject[:80]!r} is no subject of a message: it has a wildcard, a blank or an empty token")
    if not matches(source.subject, subject):
        raise BadRequest(f"{subject[:80]!r} does not match {source.subject}, the subject of source {source.name}")
    return subject
