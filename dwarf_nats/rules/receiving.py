"""Flows that messages start, and flows that wait in an outbox: their values, and what becomes of those that fail (R1, R2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, DwarfError, NotFound, TooMany, Unavailable
from dwarf_nats.workflow.options import FlowOptions

REMEMBERED_US = 48 * 3_600_000_000
"""Microseconds for which it is remembered that a message was used, also when its flow is gone: twice what is promised."""
AGAIN = Backoff(first=1.0, factor=2.0, longest=300.0)
"""Seconds after which a message or row comes again that cannot be used now, by how often it came."""
MAX_REASON = 1_000
"""Characters that are kept of a reason."""


class Receipt(NamedTuple):
    """The identity of a message: its place in a stream, for one source. `scope`: see `scope_of`."""

    scope: int
    sequence: int


@dataclass(slots=True, frozen=True, kw_only=True)
class MessageFlow:
    """A flow that a message is to start. Without a receipt nothing remembers the message."""

    receipt: Receipt | None
    workflow: str
    state: bytes
    options: FlowOptions | None
    named_by_message: bool = False
    """The message itself has named the workflow, not whoever has configured the source."""


class OutboxRow(NamedTuple):
    """A row of an outbox: a flow that somebody wants, written in a transaction of their own. `attempts`: those that failed.

    `sent_away`: its flow is made on another shard, under a receipt.
    """

    row_id: int
    workflow: str
    state: str
    options: str
    attempts: int
    sent_away: int = 0


class OutboxEntry(NamedTuple):
    """A row of an outbox, as it is listed. `rejected_at`: since when it is put aside; then `reason` says why."""

    row_id: int
    workflow: str
    created_at: int
    attempts: int
    reason: str | None
    rejected_at: int | None


class OutboxDepth(NamedTuple):
    """Rows of an outbox that wait and that are put aside, both counted up to a bound, and the age of the oldest that waits."""

    waiting: int
    rejected: int
    oldest_us: int


class SourceProgress(NamedTuple):
    """The record kept about a source and one incarnation of its stream (`origin`), for all replicas.

    `floor`: all messages up to this sequence are dealt with. `rejected`: messages of the source that could not be used.
    """

    source: str
    origin: str
    floor: int = 0
    rejected: int = 0
    last_error: str | None = None
    last_error_at: int | None = None


def scope_of(source: str, stream: str, created: str) -> int:
    """Return the number that a source, a stream and its creation time have together: a hash of 63 bits."""
    digest = hashlib.sha256("\0".join((source, stream, created)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def receipt_of_row(shard: int, row_id: int) -> Receipt:
    """Return the receipt of a row of the outbox of a shard, for a flow on another shard. No source has an empty name."""
    return Receipt(scope_of("", "outbox", str(shard)), row_id)


def may_pass(error: Exception, *, named_by_message: bool = False) -> bool:
    """Tell whether a message or row that failed may be used later (R2).

    A workflow that is not there may come, unless the message itself has named it. A defect of this version may be mended.
    """
    if not isinstance(error, DwarfError) or isinstance(error, Unavailable | TooMany):
        return True
    return isinstance(error, NotFound) and not named_by_message


def refused(error: Exception) -> DwarfError:
    """The error as a refusal; one that is none is a defect, and passes with the next version."""
    return error if isinstance(error, DwarfError) else Unavailable(f"a defect of this replica: {error!r}")


def check_unkeyed(options: FlowOptions | None, remedy: str) -> None:
    """Refuse an idempotency key where the message or the row is the key itself."""
    if options is not None and options.idempotency_key is not None:
        raise BadRequest(f"the option `idempotencyKey` has no place here: {remedy}")
