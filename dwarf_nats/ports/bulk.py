"""The port to operations on many flows of one shard at once (M1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.ports.control import Compensates, FinalState
    from dwarf_nats.rules.rows import TreeChange
    from dwarf_nats.workflow.bulk import BulkAction
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.status import Status


class Progress(NamedTuple):
    """The progress of a bulk operation on one shard.

    `moment`: when it began there, on the database's clock. `created_at`, `flow_id`: the last flow that it passed, newest first.
    """

    moment: int
    created_at: int
    flow_id: int


class Member(NamedTuple):
    """A flow that a bulk operation is about."""

    flow_id: int
    token: str
    workflow: str
    status: Status
    created_at: int


class BulkStore(Protocol):
    """Finds the flows of a bulk operation, and changes many in one transaction."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    async def begin(self) -> Progress:
        """Return the place before the newest flow that is there now."""
        ...

    async def members(
        self, query: Query, thread_id: int | None, action: BulkAction, *, after: Progress, limit: int
    ) -> list[Member]:
        """Return at most `limit` flows that match and come after a place, newest first.

        Ages count from the moment at which it began. Flows for which the action was done since then are left out, so that a
        page may be asked for again.
        """
        ...

    async def failed_steps(self, flow_id: int, before: int) -> list[Key]:
        """Return the steps of a flow and of flows it called that failed by themselves and before this moment, oldest first."""
        ...

    async def cancel(
        self, flow_ids: Sequence[int], reason: str, final_state: FinalState, compensates: Compensates
    ) -> TreeChange:
        """Cancel those of these root flows for which nothing else is to be done: that called no flow and compensate nothing.

        None of them if one of them calls another flow meanwhile.
        """
        ...

    async def restart(self, flow_ids: Sequence[int]) -> TreeChange:
        """Run those of these root flows that are stopped again from their entry steps (O13)."""
        ...

    async def delete(self, flow_ids: Sequence[int]) -> list[int]:
        """Remove those of these root flows that do not run, with their trees; return them (O9)."""
        ...
