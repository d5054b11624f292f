"""The synchronous client's operations that change existing flows (O9-O14).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dwarf_nats.sdk.arguments import Values
from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.bulk import Bulk, BulkAction, BulkPage
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import EventReceipt
from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue


class FlowControl(SyncRequester):
    """Base of `Client` with the operations that cancel, continue, repeat, copy and delete flows."""

    def cancel(self, flow_key: str, reason: str = "") -> None:
        """Cancel a flow that has not ended yet (O10).

        Example: `client.cancel(key, "out of stock")`
        """
        self._run(self._async.cancel(flow_key=flow_key, reason=reason))

    def resume(self, flow_key: str = "", data: Any = None, *, step_key: str = "") -> None:
        """Continue the oldest interrupt of a flow; the task's `interrupt` call returns `data` (O11).

        Any flow of a chain of subgraphs will do. Give `step_key` instead, from `pauses` of an outcome, to continue exactly
        that interrupt (P5). `data`: Python values, or `msgspec.Raw` JSON text. The flow runs again once no branch is paused
        any more. Raises `Conflict` if no interrupt paused it.

        Example: `client.resume(key, {"yes": True})`
        """
        self._run(self._async.resume(flow_key=flow_key, data=data, step_key=step_key))

    def resume_break(self, flow_key: str = "", overrides: Values = None, *, step_key: str = "") -> None:
        """Continue the oldest breakpoint of a flow, with fields of the step's state replaced; `None` deletes one (O11).

        Give `step_key` instead to continue exactly that breakpoint (P5). Raises `Conflict` if no breakpoint paused it.

        Example: `client.resume_break(key, {"total": 7})`
        """
        self._run(self._async.resume_break(flow_key=flow_key, overrides=overrides, step_key=step_key))

    def signal(
        self, event: str, key: str = "", data: Any = None, *, id: str | None = None, keep: float | None = None
    ) -> EventReceipt:
        """Hand an event to every step that waits for it with this key; if none does, it is kept for the first to come (E1).

        `id`: signalled again while it is kept, the event counts once, so a request whose reply was lost is sent again. `keep`:
        seconds, a day unless given; 0 does not keep it. Returns how many steps received it, and whether it is kept.

        Example: `receipt = client.signal("payment.settled", "o-7", {"amount": 5})`
        """
        return self._run(self._async.signal(event=event, key=key, data=data, id=id, keep=keep))

    def break_before(self, flow_key: str, task: str, enabled: bool = True) -> None:
        """Set a breakpoint before a task, or clear it; `task` is a node's name, or the url of just one node (O12).

        Subgraphs pause there, too. Raises `Conflict` on a flow that has ended.

        Example: `client.break_before(key, "approve")`
        """
        self._run(self._async.break_before(flow_key=flow_key, task=task, enabled=enabled))

    def restart(self, flow_key: str, overrides: Values = None) -> None:
        """Run a stopped flow again from its entry step, in place; later steps and subgraphs are removed (O13).

        `overrides` replace fields of the entry state, `None` deletes one. Raises `Conflict` while it runs.

        Example: `client.restart(key, {"total": 7})`
        """
        self._run(self._async.restart(flow_key=flow_key, overrides=overrides))

    def restart_from(self, step_key: str, overrides: Values = None) -> None:
        """Run a step again, in place, and on from there; exactly the steps it led to are removed (O13).

        `overrides` replace fields of the step's state, `None` deletes one. Raises `Conflict` unless the step and the steps
        it led to are at rest, and on a cancelled flow.

        Example: `client.restart_from(step_key, {"total": 7})`
        """
        self._run(self._async.restart_from(step_key=step_key, overrides=overrides))

    def fork(self, step_key: str, overrides: Values = None, tags: Tags | None = None) -> str:
        """Copy a flow that has ended up to this step and run the copy on from there; returns its key (O14).

        The original stays as it is. `overrides` replace fields of the step's state, `None` deletes one. `tags`: instead of
        those of the original. Raises `Conflict` if the flow has not ended.

        Example: `copy = client.fork(step_key, {"total": 7})`
        """
        return self._run(self._async.fork(step_key=step_key, overrides=overrides, tags=tags))

    def tag(self, flow_key: str, tags: TagChanges | None = None, /, **named: TagValue | None) -> dict[str, TagValue]:
        """Set tags of a flow, or remove them with `None`; returns all it has then (Q1).

        Tags may be given as keywords, too: `tag(flow_key, customer=4711, urgent=None)`. Without any, nothing is changed.

        Example: `tags = client.tag(key, customer=4711, urgent=None)`
        """
        return self._run(self._async.tag(flow_key, tags, **named))

    def delete(self, flow_key: str) -> None:
        """Delete a flow that is not running (O9).

        Example: `client.delete(key)`
        """
        self._run(self._async.delete(flow_key=flow_key))

    def bulk(
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
    ) -> Iterator[BulkPage]:
        """Carry out an action for every flow that matches, and yield page after page what was done and what was refused (M1).

        `action`: `cancel` with a `reason`, `restart`, `restart_failed` (each failed step), `resume` with `data`, `delete`, or
        `tag` with `tags`. `dry_run`: only count, and show some of the flows. `limit`: flows of a page at most. `cursor`: of a
        page, to go on after it. The flows are those that are there when it begins; none is done twice.

        Example: `for page in client.bulk("cancel", Query(workflow="order"), reason="recall"): print(page.done)`
        """
        return self._iterate(
            self._async.bulk(
                action=action,
                query=query,
                reason=reason,
                data=data,
                tags=tags,
                dry_run=dry_run,
                limit=limit,
                cursor=cursor,
            )
        )

    def bulk_page(self, order: Bulk) -> BulkPage:
        """Carry out one page of a bulk operation (M1); `bulk` carries out all.

        A request whose reply was lost is sent again where that does nothing twice: with a cursor, and not to resume flows.

        Example: `page = client.bulk_page(Bulk(action=BulkAction.DELETE, query=Query(status="failed"), dry_run=True))`
        """
        return self._run(self._async.bulk_page(order=order))

    def purge(self, query: Query) -> int:
        """Delete the flows that match and are not running; returns how many (O9).

        Raises `BadRequest` unless at least one of status, workflow and older_than_ms is given.

        Example: `count = client.purge(Query(status="completed", older_than_ms=86_400_000))`
        """
        return self._run(self._async.purge(query=query))
