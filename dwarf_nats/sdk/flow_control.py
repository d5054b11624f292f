"""The client's operations that change existing flows (O9-O14)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Raw

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.tag_messages import tags_json, tags_record
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import EventReceipt
from dwarf_nats.workflow.state import encode_value
from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue, checked_changes, checked_tags

from .arguments import Values, json_object, query_fields
from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.bulk import Bulk, BulkAction, BulkPage

BULK_SECONDS = 10.0
"""Time that the service may take for a page of a bulk operation; it begins no work after a second or two."""


class FlowControl(Requester):
    """Base of `Client` with the operations that cancel, continue, repeat, copy and delete flows."""

    async def cancel(self, flow_key: str, reason: str = "") -> None:
        """Cancel a flow that has not ended yet (O10).

        Example: `await client.cancel(key, "out of stock")`
        """
        await self._request("flow.cancel", m.FlowCancelRequest(flow_key=flow_key, reason=reason or UNSET))

    async def resume(self, flow_key: str = "", data: Any = None, *, step_key: str = "") -> None:
        """Continue the oldest interrupt of a flow; the task's `interrupt` call returns `data` (O11).

        Any flow of a chain of subgraphs will do. Give `step_key` instead, from `pauses` of an outcome, to continue exactly
        that interrupt (P5). `data`: Python values, or `msgspec.Raw` JSON text. The flow runs again once no branch is paused
        any more. Raises `Conflict` if no interrupt paused it.

        Example: `await client.resume(key, {"yes": True})`
        """
        text = UNSET if data is None else Raw(encode_value(data, "data"))
        request = m.FlowResumeRequest(flow_key=flow_key or UNSET, step_key=step_key or UNSET, data=text)
        await self._request("flow.resume", request)

    async def resume_break(self, flow_key: str = "", overrides: Values = None, *, step_key: str = "") -> None:
        """Continue the oldest breakpoint of a flow, with fields of the step's state replaced; `None` deletes one (O11).

        Give `step_key` instead to continue exactly that breakpoint (P5). Raises `Conflict` if no breakpoint paused it.

        Example: `await client.resume_break(key, {"total": 7})`
        """
        fields = json_object(overrides, "overrides")
        request = m.FlowResumeBreakRequest(flow_key=flow_key or UNSET, step_key=step_key or UNSET, overrides=fields)
        await self._request("flow.resume_break", request)

    async def signal(
        self,
        event: str,
        key: str = "",
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002
        keep: float | None = None,
    ) -> EventReceipt:
        """Hand an event to every step that waits for it with this key; if none does, it is kept for the first to come (E1).

        `id`: signalled again while it is kept, the event counts once, so a request whose reply was lost is sent again. `keep`:
        seconds, a day unless given; 0 does not keep it. Returns how many steps received it, and whether it is kept.

        Example: `receipt = await client.signal("payment.settled", "o-7", {"amount": 5})`
        """
        request = m.FlowSignalRequest(
            event=event,
            key=key or UNSET,
            data=UNSET if data is None else Raw(encode_value(data, "data")),
            id=UNSET if id is None else id,
            keep_ms=UNSET if keep is None else math.ceil(keep * 1000),
        )
        body = await self._request("flow.signal", request, repeatable=id is not None, retry_unavailable=id is not None)
        reply = decode(m.FlowSignalReply, body, "flow.signal")
        return EventReceipt(reply.delivered, reply.kept)

    async def break_before(self, flow_key: str, task: str, enabled: bool = True) -> None:
        """Set a breakpoint before a task, or clear it; `task` is a node's name, or the url of just one node (O12).

        Subgraphs pause there, too. Raises `Conflict` on a flow that has ended.

        Example: `await client.break_before(key, "approve")`
        """
        request = m.FlowBreakBeforeRequest(flow_key=flow_key, task=task, enabled=UNSET if enabled else False)
        await self._read("flow.break_before", request)

    async def restart(self, flow_key: str, overrides: Values = None) -> None:
        """Run a stopped flow again from its entry step, in place; later steps and subgraphs are removed (O13).

        `overrides` replace fields of the entry state, `None` deletes one. Raises `Conflict` while it runs.

        Example: `await client.restart(key, {"total": 7})`
        """
        request = m.FlowOverridesRequest(flow_key=flow_key, overrides=json_object(overrides, "overrides"))
        await self._request("flow.restart", request)

    async def restart_from(self, step_key: str, overrides: Values = None) -> None:
        """Run a step again, in place, and on from there; exactly the steps it led to are removed (O13).

        `overrides` replace fields of the step's state, `None` deletes one. Raises `Conflict` unless the step and the steps
        it led to are at rest, and on a cancelled flow.

        Example: `await client.restart_from(step_key, {"total": 7})`
        """
        request = m.StepOverridesRequest(step_key=step_key, overrides=json_object(overrides, "overrides"))
        await self._request("flow.restart_from", request)

    async def fork(self, step_key: str, overrides: Values = None, tags: Tags | None = None) -> str:
        """Copy a flow that has ended up to this step and run the copy on from there; returns its key (O14).

        The original stays as it is. `overrides` replace fields of the step's state, `None` deletes one. `tags`: instead of
        those of the original. Raises `Conflict` if the flow has not ended.

        Example: `copy = await client.fork(step_key, {"total": 7})`
        """
        request = m.FlowForkRequest(
            step_key=step_key,
            overrides=json_object(overrides, "overrides"),
            tags=UNSET if tags is None else tags_json(checked_tags(tags, "tags")),
        )
        return decode(m.FlowKeyReply, await self._request("flow.fork", request), "flow.fork").flow_key

    async def tag(
        self, flow_key: str, tags: TagChanges | None = None, /, **named: TagValue | None
    ) -> dict[str, TagValue]:
        """Set tags of a flow, or remove them with `None`; returns all it has then (Q1).

        Tags may be given as keywords, too: `tag(flow_key, customer=4711, urgent=None)`. Without any, nothing is changed.

        Example: `tags = await client.tag(key, customer=4711, urgent=None)`
        """
        changes = checked_changes({**(tags or {}), **named}, "tags")
        body = await self._read("flow.tag", m.FlowTagRequest(flow_key=flow_key, tags=tags_json(changes)))
        return tags_record(decode(m.FlowTagReply, body, "flow.tag").tags)

    async def delete(self, flow_key: str) -> None:
        """Delete a flow that is not running (O9).

        Example: `await client.delete(key)`
        """
        await self._request("flow.delete", m.FlowRequest(flow_key=flow_key))

    async def bulk(
        self,
        action: BulkAction | str,
        query: Query,
        *,
        reason: str = "",
        data: Any = None,
        tags: TagChanges | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        cursor: str = "",
    ) -> AsyncIterator[BulkPage]:
        """Carry out an action for every flow that matches, and yield page after page what was done and what was refused (M1).

        `action`: `cancel` with a `reason`, `restart`, `restart_failed` (each failed step), `resume` with `data`, `delete`, or
        `tag` with `tags`. `dry_run`: only count, and show some of the flows. `limit`: flows of a page at most. `cursor`: of a
        page, to go on after it. The flows are those that are there when it begins; none is done twice.

        Example: `async for page in client.bulk("cancel", Query(workflow="order"), reason="recall"): print(page.done)`
        """
        from dwarf_nats.workflow.bulk import Bulk, BulkAction

        order = Bulk(
            action=BulkAction.of(action),
            query=query,
            reason=reason,
            data=data,
            tags=tags,
            dry_run=dry_run,
            limit=limit,
            cursor=cursor,
        )
        if not cursor and not dry_run:
            # From a cursor on a page may be asked for again if its reply was lost.
            order = replace(order, cursor=(await self.bulk_page(replace(order, limit=0))).cursor)
        while True:
            page = await self.bulk_page(order)
            yield page
            if not page.cursor:
                return
            order = replace(order, cursor=page.cursor)

    async def bulk_page(self, order: Bulk) -> BulkPage:
        """Carry out one page of a bulk operation (M1); `bulk` carries out all.

        A request whose reply was lost is sent again where that does nothing twice: with a cursor, and not to resume flows.

        Example: `page = await client.bulk_page(Bulk(action=BulkAction.DELETE, query=Query(status="failed"), dry_run=True))`
        """
        from dwarf_nats.wire.bulk_messages import bulk_page
        from dwarf_nats.workflow.bulk import BulkAction

        fields = query_fields(order.query)
        request = m.FlowBulkRequest(
            action=order.action.value,
            query=m.Conditions(**fields),
            reason=order.reason or UNSET,
            data=UNSET if order.data is None else Raw(encode_value(order.data, "data")),
            tags=UNSET if order.tags is None else tags_json(checked_changes(order.tags, "tags")),
            dry_run=order.dry_run or UNSET,
            limit=UNSET if order.limit is None else order.limit,
            cursor=order.cursor or UNSET,
        )
        changes_nothing = order.dry_run or order.limit == 0
        again = changes_nothing or (bool(order.cursor) and order.action is not BulkAction.RESUME)
        body = await self._request(
            "flow.bulk", request, wait_seconds=BULK_SECONDS, repeatable=again, retry_unavailable=again
        )
        return bulk_page(decode(m.FlowBulkReply, body, "flow.bulk"))

    async def purge(self, query: Query) -> int:
        """Delete the flows that match and are not running; returns how many (O9).

        Raises `BadRequest` unless at least one of status, workflow and older_than_ms is given.

        Example: `count = await client.purge(Query(status="completed", older_than_ms=86_400_000))`
        """
        request = m.FlowPurgeRequest(**query_fields(query))
        return decode(m.FlowPurgeReply, await self._request("flow.purge", request), "flow.purge").deleted
