"""The port to the audit records of one database (M3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.workflow.audit import AuditQuery


class AuditRow(NamedTuple):
    """One record as it is kept. `number`: made at random; with `at` it names the record, so that it is written once.

    `flow_id`, of this shard. `step_id`: the flow of that step instead, if `flow_id` is not given. `details`: JSON.
    """

    at: int
    number: int
    operation: str
    flow_id: int | None
    step_id: int | None
    name: str
    actor: str
    reason: str
    code: int
    message: str
    details: str


class AuditStore(Protocol):
    """Keeps records, and finds them newest first."""

    async def add(self, rows: Sequence[AuditRow]) -> None:
        """Keep records; one that is there is completed if its outcome was unknown, else it stays as it is."""
        ...

    async def find(self, query: AuditQuery, limit: int, before: tuple[int, int] | None) -> list[AuditRow]:
        """Return records that match, newest first, from the one before `before` (`at`, `number`) on."""
        ...

    async def remove_old(self, age_ms: int, limit: int) -> int:
        """Remove up to `limit` of the oldest records that are older than `age_ms`; return how many."""
        ...
