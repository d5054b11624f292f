"""The messages of bulk operations, and their conversion to values (wire section 1; M1). `messages` has their names, too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from dwarf_nats.workflow.bulk import MAX_PAGE_FLOWS, BulkPage
from dwarf_nats.workflow.bulk import BulkFailure as Failure
from dwarf_nats.workflow.bulk import BulkMember as Member
from dwarf_nats.workflow.status import Status

from .filter_messages import Conditions
from .message_fields import AnyJson, FlowId, FlowStatus, Maybe, Message, Request, Truncated
from .tag_messages import TagChangesJson

Action = Literal["cancel", "restart", "restart_failed", "resume", "delete", "tag"]


class FlowBulkRequest(Request):
    """Cancel, restart, resume, delete or tag the flows that match, a page of them at a time (M1)."""

    action: Action
    query: Annotated[Conditions, Meta(description="Which flows; at least one filter.")]
    reason: Maybe[Annotated[str, Meta(description="Of a cancel, it is kept with each flow.")]] = UNSET
    data: Maybe[Annotated[AnyJson, Meta(description="Only of a resume: what each interrupted task is handed.")]] = UNSET
    tags: Maybe[TagChangesJson] = UNSET
    dry_run: Maybe[bool] = UNSET
    limit: Maybe[
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_PAGE_FLOWS,
                description="Flows of this page at most; default 1000. 0: only the first cursor.",
            ),
        ]
    ] = UNSET
    cursor: Maybe[str] = UNSET


class BulkFailure(Message):
    """A flow for which the action was refused, with the code and the message of the refusal (M1)."""

    flow_id: FlowId
    code: int
    message: str


class BulkMember(Message):
    """A flow that matches (M1)."""

    flow_id: FlowId
    workflow: str
    status: FlowStatus


class FlowBulkReply(Message):
    """One page (M1): flows that matched, for how many of them it was done, and where it was refused.

    A dry run has a sample of the flows that match instead. There is a cursor as long as there may be more.
    """

    matched: int
    done: Maybe[int] = UNSET
    failed: Maybe[list[BulkFailure]] = UNSET
    sample: Maybe[list[BulkMember]] = UNSET
    cursor: Maybe[str] = UNSET
    truncated: Maybe[Truncated] = UNSET


def bulk_reply(page: BulkPage, *, truncated: bool = False) -> FlowBulkReply:
    """A page as it travels."""
    dry_run = page.sample is not None
    return FlowBulkReply(
        matched=page.matched,
        done=UNSET if dry_run else page.done,
        failed=UNSET
        if dry_run
        else [BulkFailure(flow_id=one.flow_id, code=one.code, message=one.message) for one in page.failed],
        sample=UNSET if page.sample is None else [_member(one) for one in page.sample],
        cursor=page.cursor or UNSET,
        truncated=truncated or UNSET,
    )


def _member(one: Member) -> BulkMember:
    values: dict[str, Any] = {"flow_id": one.flow_id, "workflow": one.workflow, "status": one.status.value}
    return BulkMember(**values)


def bulk_page(reply: FlowBulkReply) -> BulkPage:
    """A page that was received."""
    return BulkPage(
        matched=reply.matched,
        done=0 if isinstance(reply.done, UnsetType) else reply.done,
        failed=[]
        if isinstance(reply.failed, UnsetType)
        else [Failure(one.flow_id, one.code, one.message) for one in reply.failed],
        sample=None
        if isinstance(reply.sample, UnsetType)
        else [Member(one.flow_id, one.workflow, Status(one.status)) for one in reply.sample],
        cursor="" if isinstance(reply.cursor, UnsetType) else reply.cursor,
    )
