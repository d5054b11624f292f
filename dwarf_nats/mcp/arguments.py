"""Arguments that several tools share, with the descriptions that models read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dwarf_nats.sdk import Query

MAX_PAGE = 50
"""Flows or steps of one page."""
MAX_WAIT_SECONDS = 50
"""Longest wait of one call; many clients give up after a minute."""

FlowKey = Annotated[str, Field(description="Key of a flow, such as 1-42-a1B2c3D4e5F6g7H8; find_flows lists keys.")]
StepKey = Annotated[str, Field(description="Key of a step; flow_history and explain_flow list keys.")]
Cursor = Annotated[str, Field(description="next_cursor of the previous page; empty for the first page.")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Entries of a page.")]
WaitSeconds = Annotated[
    int, Field(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for the flow to stop; it goes on if they pass.")
]
Overrides = Annotated[
    dict[str, Any] | None, Field(description="Fields of the state to replace, as a JSON object; null removes a field.")
]
Tags = Annotated[
    dict[str, str | int | float | bool] | None, Field(description="Tags of the flow, such as {'customer': 4711}.")
]
Status = Literal["created", "running", "interrupted", "completed", "failed", "cancelled"]
StatusFilter = Annotated[
    Status | None, Field(description="Only flows in this status; interrupted ones wait for a person.")
]
WorkflowFilter = Annotated[str | None, Field(description="Only flows of this workflow.")]
TextFilter = Annotated[
    str | None, Field(description="Only flows with this text in key, workflow, task, error or reason.")
]
TagFilter = Annotated[
    dict[str, str | int | float | bool] | None, Field(description="Only flows with all these tags, {'customer': 4711}.")
]
OlderThan = Annotated[float | None, Field(ge=0, description="Only flows in their status for more than these seconds.")]
NewerThan = Annotated[float | None, Field(ge=0, description="Only flows that changed status in the last seconds.")]


def milliseconds(seconds: float | None) -> int | None:
    """Seconds as the filters of the service have them."""
    return None if seconds is None else int(seconds * 1000)


def query(
    *,
    status: Status | None,
    workflow: str | None,
    text: str | None,
    tags: dict[str, str | int | float | bool] | None,
    older_than_seconds: float | None,
    newer_than_seconds: float | None,
    limit: int | None = None,
) -> Query:
    """The filters as the client takes them; an empty text is no filter."""
    return Query(
        status=status,
        workflow=workflow or None,
        search=text or None,
        tags=tags or None,
        older_than_ms=milliseconds(older_than_seconds),
        newer_than_ms=milliseconds(newer_than_seconds),
        limit=limit,
    )
