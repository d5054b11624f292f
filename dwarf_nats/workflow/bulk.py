"""Bulk operations: one action for every flow that a query finds, page by page (M1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import TagChanges

MAX_PAGE_FLOWS = 1_000
"""Most flows of one page, and how many without a limit; the time of a page is bounded, too."""
MAX_SAMPLE_FLOWS = 100
"""Flows that a dry run shows at most."""
_NO_CONDITION = frozenset({"limit"})
"""Fields of a query that select no flows."""


class BulkAction(StrEnum):
    """The operation that is carried out for each flow."""

    CANCEL = "cancel"
    RESTART = "restart"
    RESTART_FAILED = "restart_failed"
    RESUME = "resume"
    DELETE = "delete"
    TAG = "tag"

    @classmethod
    def of(cls, name: str) -> BulkAction:
        """Return the action of this name. Raises `BadRequest` for any other text."""
        try:
            return cls(name)
        except ValueError:
            raise BadRequest(f"{name!r} is no action: use one of {', '.join(cls)}") from None


@dataclass(slots=True, frozen=True, kw_only=True)
class Bulk:
    """One request of a bulk operation. Raises `BadRequest` for an empty query and for fields that the action does not have.

    `reason`: of a cancel, kept with each flow. `data`: of a resume, Python values or `msgspec.Raw` JSON text; `None` is null.
    `tags`: of a tag. `dry_run`: only count the flows, and show some. `limit`: flows of this page at most; 0 does nothing and
    returns the cursor of the first page. `cursor`: of the page before; the flows are those that were there at the first page.
    """

    action: BulkAction
    query: Query
    reason: str = ""
    data: Any = None
    tags: TagChanges | None = None
    dry_run: bool = False
    limit: int | None = None
    cursor: str = ""

    def __post_init__(self) -> None:
        if is_empty(self.query):
            raise BadRequest(
                "the query is empty: name at least one filter, so that not every flow is meant by accident"
            )
        if self.query.limit is not None:
            raise BadRequest("limit has no place in the query of a bulk operation: it stands beside the query")
        if (self.tags is None) is (self.action is BulkAction.TAG):
            raise BadRequest(
                "`tags` belongs to the action tag, and that needs it: name the tags to be set, null removes one"
            )
        if self.data is not None and self.action is not BulkAction.RESUME:
            raise BadRequest(f"`data` belongs to the action resume, not to {self.action}")
        if self.limit is not None and not 0 <= self.limit <= MAX_PAGE_FLOWS:
            raise BadRequest(f"limit must be between 0 and {MAX_PAGE_FLOWS}, got {self.limit}")


def is_empty(query: Query) -> bool:
    """Tell whether a query selects every flow."""
    return all(getattr(query, one.name) is None for one in fields(query) if one.name not in _NO_CONDITION)


class BulkFailure(NamedTuple):
    """A flow, by its token-free id, for which the action was refused: the code and the message of the refusal."""

    flow_id: str
    code: int
    message: str


class BulkMember(NamedTuple):
    """A flow that matches, by its token-free id."""

    flow_id: str
    workflow: str
    status: Status


@dataclass(slots=True, kw_only=True)
class BulkPage:
    """One page of a bulk operation: flows that matched, for how many it was done, and where it was refused.

    `sample`: flows that match, exactly of a dry run. `cursor`: of the next page, empty on the last. A dry run has one only if
    there was no time to count all: then the next page goes on counting.
    """

    matched: int = 0
    done: int = 0
    failed: list[BulkFailure] = field(default_factory=list)
    sample: Sequence[BulkMember] | None = None
    cursor: str = ""
