"""Bulk operations: one action for every flow that a query finds, page by page (M1). Design note 0044."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.actor import current_actor
from dwarf_nats.engine.operations import bulk_cursors
from dwarf_nats.engine.operations.bulk_actions import BulkActions
from dwarf_nats.engine.operations.control import check_reason, resume_text
from dwarf_nats.errors import BadRequest, DwarfError, NotFound, TimedOut, TooMany, Unavailable
from dwarf_nats.ports import Progress
from dwarf_nats.workflow.audit import AuditNote
from dwarf_nats.workflow.bulk import MAX_PAGE_FLOWS, MAX_SAMPLE_FLOWS, Bulk, BulkFailure, BulkMember, BulkPage
from dwarf_nats.workflow.tags import checked_changes

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.control import FlowControl
    from dwarf_nats.engine.operations.queries import FlowQueries
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Member

PAGE_SECONDS = 1.5
"""Time after which no group of a page begins: callers wait for the reply."""
COUNT_BATCH_FLOWS = 5_000
"""Flows that a dry run counts in one statement."""
TEMPORARY = (Unavailable, TooMany, TimedOut)
"""Refusals that say nothing of the flow: the page ends before it, and the next one tries again."""


@dataclass(slots=True)
class _Part:
    """The part of a page on one shard. `progress`: after the last flow for which it is decided; `more`: there may be others."""

    progress: Progress
    more: bool = False
    matched: int = 0
    failed: list[BulkFailure] = field(default_factory=list)
    sample: list[BulkMember] = field(default_factory=list)
    ended_by: DwarfError | None = None


class BulkOperations:
    """Carries out bulk operations. `Engine` documents the method."""

    def __init__(self, queries: FlowQueries, control: FlowControl, replica: Replica) -> None:
        self._queries = queries
        self._control = control
        self._replica = replica

    async def bulk(self, order: Bulk) -> BulkPage:
        self._check(order)
        begun = bulk_cursors.read(order.cursor) if order.cursor else None
        try:
            shards, thread_id = await self._queries.scope(order.query)
        except NotFound:
            if begun is None:
                raise
            return BulkPage()  # its last flow was deleted, so is the thread
        if begun is None:
            begun = dict(zip((one.number for one in shards), await asyncio.gather(*map(_begin, shards)), strict=True))
        going = {shard.number: shard for shard in shards if shard.number in begun}
        if begun.keys() - going.keys():
            raise BadRequest("the cursor is of another query: pass it back with the query of the previous page")
        if order.limit == 0:
            return BulkPage(sample=[] if order.dry_run else None, cursor=bulk_cursors.write(begun))
        if order.dry_run:
            return await self._preview(order, going, begun, thread_id)
        return await self._carry_out(order, going, begun, thread_id)

    def _check(self, order: Bulk) -> None:
        """Raise `BadRequest` for what no flow would take."""
        limits = self._replica.settings.limits()
        check_reason(order.reason, limits)
        resume_text(order.data, limits)
        if order.tags is not None:
            checked_changes(order.tags, "tags")

    # -- a page

    async def _carry_out(
        self, order: Bulk, going: dict[int, Shard], begun: dict[int, Progress], thread_id: int | None
    ) -> BulkPage:
        limits = _divided(MAX_PAGE_FLOWS if order.limit is None else order.limit, sorted(going))
        asked = [number for number, limit in limits.items() if limit]
        found = await asyncio.gather(
            *(
                going[number].store.bulk.members(
                    order.query, thread_id, order.action, after=begun[number], limit=limits[number] + 1
                )
                for number in asked
            )
        )
        until = time.monotonic() + PAGE_SECONDS
        parts = await asyncio.gather(
            *(
                self._on_shard(order, going[number], members, limit=limits[number], begun=begun[number], until=until)
                for number, members in zip(asked, found, strict=True)
            )
        )
        ended_by = [part.ended_by for part in parts if part.ended_by is not None]
        if ended_by and not any(part.matched for part in parts):
            raise ended_by[0]  # nothing was done
        following = {number: begun[number] for number in going if number not in asked}
        following |= {number: part.progress for number, part in zip(asked, parts, strict=True) if part.more}
        failed = [failure for part in parts for failure in part.failed]
        matched = sum(part.matched for part in parts)
        return BulkPage(
            matched=matched,
            done=matched - len(failed),
            failed=failed,
            cursor=bulk_cursors.write(following) if following else "",
        )

    async def _on_shard(
        self, order: Bulk, shard: Shard, members: Sequence[Member], *, limit: int, begun: Progress, until: float
    ) -> _Part:
        part = _Part(begun, more=len(members) > limit)
        actions = BulkActions(order, shard, self._control, self._replica, moment=begun.moment)
        left = list(members[:limit])
        while left:
            if time.monotonic() > until:
                part.more = True
                return part
            try:
                count, refused = await shard.pace.run(
                    left, actions.carry_out, weight=actions.weight, starts=actions.starts
                )
            except TEMPORARY as error:
                part.more, part.ended_by = True, error
                return part
            group, left = left[:count], left[count:]
            decided = _take(part, shard.number, group, refused)
            await self._replica.audit.record(list(_notes(order, shard.number, group, refused)))
            if not decided:
                part.more = True
                return part
        return part

    # -- a dry run

    async def _preview(
        self, order: Bulk, going: dict[int, Shard], begun: dict[int, Progress], thread_id: int | None
    ) -> BulkPage:
        until = time.monotonic() + PAGE_SECONDS
        parts = await asyncio.gather(
            *(
                self._count(order, shard, begun[number], thread_id=thread_id, until=until)
                for number, shard in going.items()
            )
        )
        following = {number: part.progress for number, part in zip(going, parts, strict=True) if part.more}
        sample = [member for part in parts for member in part.sample][:MAX_SAMPLE_FLOWS]
        return BulkPage(
            matched=sum(part.matched for part in parts),
            sample=[] if order.cursor else sample[: order.limit],
            cursor=bulk_cursors.write(following) if following else "",
        )

    async def _count(self, order: Bulk, shard: Shard, begun: Progress, *, thread_id: int | None, until: float) -> _Part:
        part = _Part(begun)
        while True:
            members = await shard.store.bulk.members(
                order.query, thread_id, order.action, after=part.progress, limit=COUNT_BATCH_FLOWS
            )
            part.sample += [_member(shard, one) for one in members[: MAX_SAMPLE_FLOWS - len(part.sample)]]
            part.matched += len(members)
            if len(members) < COUNT_BATCH_FLOWS:
                return part
            part.progress = _past(part.progress, members[-1])
            if time.monotonic() > until:
                part.more = True
                return part


def _notes(order: Bulk, shard: int, group: Sequence[Member], refused: Mapping[int, DwarfError]) -> Iterator[AuditNote]:
    """Make a record of each flow of a group, beside that of the page: so a flow tells what was done to it (M3)."""
    for member in group:
        refusal = refused.get(member.flow_id)
        if not isinstance(refusal, TEMPORARY):
            yield AuditNote(
                operation="flow.bulk",
                flow_id=f"{shard}-{member.flow_id}",
                actor=current_actor(),
                reason=order.reason,
                code=refusal.code if refusal is not None else 0,
                message=str(refusal) if refusal is not None else "",
                details={"action": str(order.action)},
            )


def _take(part: _Part, shard: int, group: Sequence[Member], refused: dict[int, DwarfError]) -> bool:
    """Take the results of a group; return whether all of it is decided.

    Where a member was refused for the moment only, the next page begins with it. What came after it and is done is left out
    there.
    """
    decided = True
    for member in group:
        refusal = refused.get(member.flow_id)
        if isinstance(refusal, TEMPORARY):
            decided, part.ended_by = False, part.ended_by or refusal
            continue
        if not decided and refusal is not None:
            continue  # it comes again
        if decided:
            part.progress = _past(part.progress, member)
        part.matched += 1
        if refusal is not None:
            part.failed.append(BulkFailure(f"{shard}-{member.flow_id}", refusal.code, str(refusal)))
    return decided


def _divided(limit: int, numbers: Sequence[int]) -> dict[int, int]:
    """The limit, divided among shards."""
    share, more = divmod(limit, max(1, len(numbers)))
    return {number: share + (place < more) for place, number in enumerate(numbers)}


def _past(progress: Progress, member: Member) -> Progress:
    return Progress(progress.moment, member.created_at, member.flow_id)


def _member(shard: Shard, one: Member) -> BulkMember:
    return BulkMember(f"{shard.number}-{one.flow_id}", one.workflow, one.status)


async def _begin(shard: Shard) -> Progress:
    return await shard.store.bulk.begin()
