"""The client's operations on limits (K1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.wire import messages as m

from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.limit import Limit, LimitInfo


class Limits(Requester):
    """Base of `Client` with the operations on limits."""

    async def put_limit(self, limit: Limit) -> None:
        """Set a limit of a task or workflow, in place of the one of its name (K1). Raises `BadRequest`.

        Example: `await client.put_limit(Limit(name="bank", task="charge", concurrency=5))`
        """
        from dwarf_nats.wire.limit_messages import limit_document

        await self._request("limit.put", limit_document(limit))

    async def list_limits(self) -> list[LimitInfo]:
        """Return the limits by name, with how many they count and how many wait (K1).

        Example: `limits = await client.list_limits()`
        """
        from dwarf_nats.wire.limit_messages import limit_info

        body = await self._read("limit.list", m.EmptyRequest())
        return [limit_info(one) for one in decode(m.LimitListReply, body, "limit.list").limits]

    async def delete_limit(self, name: str) -> None:
        """Remove a limit: what waits for it may begin (K1). Raises `NotFound`.

        Example: `await client.delete_limit("bank")`
        """
        await self._request("limit.delete", m.LimitRequest(name=name))
