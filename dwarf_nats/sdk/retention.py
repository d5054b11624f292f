"""The client's operations on retention rules (M2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.wire import messages as m

from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.retention import RetentionInfo, RetentionPreview, RetentionRule


class Retention(Requester):
    """Base of `Client` with the operations on retention rules."""

    async def put_retention(self, rule: RetentionRule) -> None:
        """Set a rule by which ended flows are removed, in place of the one of its name (M2). Raises `BadRequest`.

        Example: `await client.put_retention(RetentionRule(name="old", older_than_ms=86_400_000))`
        """
        from dwarf_nats.wire.retention_messages import retention_document

        await self._request("retention.put", retention_document(rule))

    async def list_retention(self) -> list[RetentionInfo]:
        """Return the rules by name, with how many flows they have removed, and when they were last carried out (M2).

        Example: `rules = await client.list_retention()`
        """
        from dwarf_nats.wire.retention_messages import retention_info

        body = await self._read("retention.list", m.EmptyRequest())
        return [retention_info(one) for one in decode(m.RetentionListReply, body, "retention.list").rules]

    async def delete_retention(self, name: str) -> None:
        """Remove a rule; flows that it has not removed stay (M2). Raises `NotFound`.

        Example: `await client.delete_retention("old")`
        """
        await self._request("retention.delete", m.RetentionRequest(name=name))

    async def preview_retention(self, rule: RetentionRule | str) -> RetentionPreview:
        """Count what a rule would remove now: one that is there, by name, or one that is to be tried (M2).

        Example: `preview = await client.preview_retention("old")`
        """
        from dwarf_nats.wire.retention_messages import preview_record, preview_request
        from dwarf_nats.workflow.retention import RetentionRule

        rule = RetentionRule(name=rule) if isinstance(rule, str) else rule
        body = await self._read("retention.preview", preview_request(rule))
        return preview_record(decode(m.RetentionPreviewReply, body, "retention.preview"))
