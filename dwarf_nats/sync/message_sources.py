"""The synchronous client's operations on sources and outboxes (R1, R2).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping

from dwarf_nats.sdk.message_sources import Stored
from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.wire.outbox_messages import OutboxRowInfo
from dwarf_nats.workflow.sources import Source, SourceInfo


class MessageSources(SyncRequester):
    """Base of `Client` with the operations on what starts flows by itself."""

    def put_source(self, source: Source) -> SourceInfo:
        """Turn the messages of a subject into flows or events, in place of the source of this name (R1).

        Example: `client.put_source(source)`
        """
        return self._run(self._async.put_source(source=source))

    def get_source(self, name: str) -> SourceInfo:
        """Return a source, and how it stands (R2).

        Example: `info = client.get_source("orders")`
        """
        return self._run(self._async.get_source(name=name))

    def list_sources(self) -> list[SourceInfo]:
        """Return all sources, by name.

        Example: `sources = client.list_sources()`
        """
        return self._run(self._async.list_sources())

    def pause_source(self, name: str) -> SourceInfo:
        """Leave the messages of a source in their stream until it is resumed.

        Example: `client.pause_source("orders")`
        """
        return self._run(self._async.pause_source(name=name))

    def resume_source(self, name: str) -> SourceInfo:
        """Go on with the messages of a source that was paused.

        Example: `client.resume_source("orders")`
        """
        return self._run(self._async.resume_source(name=name))

    def delete_source(self, name: str) -> None:
        """Forget a source. Its consumer is removed from the stream; flows go on.

        Example: `client.delete_source("orders")`
        """
        self._run(self._async.delete_source(name=name))

    def send_message(
        self, source: str, body: bytes, *, subject: str = "", headers: Mapping[str, str] | None = None
    ) -> Stored | None:
        """Publish a message for a source; return where its stream has stored it, `None` if it has no stream.

        `subject`: needed if that of the source has wildcards. Raises `NotFound`, `BadRequest`, `Forbidden`, and `Unavailable`
        if the stream does not acknowledge it: then it may or may not be there, and `Nats-Msg-Id` makes a repetition harmless.

        Example: `stored = client.send_message("orders", b'{"total": 5}')`
        """
        return self._run(self._async.send_message(source=source, body=body, subject=subject, headers=headers))

    def list_outbox(
        self, *, rejected: bool = False, limit: int = 100, cursor: str = ""
    ) -> tuple[list[OutboxRowInfo], str]:
        """Return rows that have not become flows yet, and the cursor of the next page, empty on the last.

        `rejected`: only those put aside because they cannot be used.

        Example: `rows, cursor = client.list_outbox(rejected=True)`
        """
        return self._run(self._async.list_outbox(rejected=rejected, limit=limit, cursor=cursor))

    def retry_outbox(self, row: str) -> None:
        """Take up a row of an outbox now, also one that was put aside. `row`: shard and number, such as `1-42`.

        Example: `client.retry_outbox("1-42")`
        """
        self._run(self._async.retry_outbox(row=row))

    def delete_outbox(self, row: str) -> None:
        """Remove a row from an outbox: no flow comes of it. `row`: shard and number, such as `1-42`.

        Example: `client.delete_outbox("1-42")`
        """
        self._run(self._async.delete_outbox(row=row))
