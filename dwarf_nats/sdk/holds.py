"""The client's operations on holds (K2)."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import messages as m
from dwarf_nats.workflow.records import HoldInfo

from .replies import decode
from .requester import Requester


class Holds(Requester):
    """Base of `Client` with the operations that stop tasks and workflows by hand."""

    async def put_hold(
        self, *, task: str = "", workflow: str = "", reason: str = "", until: datetime | None = None
    ) -> HoldInfo:
        """Stop a task, by its url, or a workflow: their steps are not dispatched until the hold is deleted, or until `until`.

        What runs goes on, and flows may be created. A hold that is there is changed and keeps its age (K2).

        Example: `hold = await client.put_hold(task="charge", reason="the bank is down")`
        """
        from dwarf_nats.wire.holds import hold_record

        if until is not None and until.tzinfo is None:
            raise BadRequest("until needs a time zone: use datetime.now(UTC) + timedelta(…), for example")
        request = m.HoldPutRequest(
            task=task or UNSET,
            workflow=workflow or UNSET,
            reason=reason or UNSET,
            until=UNSET if until is None else until,
        )
        return hold_record(decode(m.Hold, await self._read("hold.put", request), "hold.put"))

    async def list_holds(self) -> list[HoldInfo]:
        """Return the holds, the oldest first, and how many steps each keeps (K2).

        Example: `holds = await client.list_holds()`
        """
        from dwarf_nats.wire.holds import hold_record

        reply = decode(m.HoldListReply, await self._read("hold.list", m.EmptyRequest()), "hold.list")
        return [hold_record(one) for one in reply.holds]

    async def delete_hold(self, *, task: str = "", workflow: str = "") -> None:
        """End the hold on a task or on a workflow: the steps it kept go on. Raises `NotFound` (K2).

        Example: `await client.delete_hold(task="charge")`
        """
        await self._request("hold.delete", m.HoldRequest(task=task or UNSET, workflow=workflow or UNSET))
