"""The audit trail: a record of each operation that steers, in the database of its flow, or of shard 1 (M3; design note 0045).

A record is written before its operation, with an unknown outcome, and completed before the reply. Records are written in
groups. If a database is away, its records wait in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import orjson

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.ports.audit import AuditRow
from dwarf_nats.workflow.audit import UNKNOWN, AuditBegun, AuditRecord, recorded_text
from dwarf_nats.workflow.keys import parse_key, parse_public_id

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Clock, Logger
    from dwarf_nats.workflow.audit import AuditNote, AuditQuery

HOME = 1
"""The shard that keeps the records of operations which are not about one flow."""
GROUP_RECORDS = 500
"""Records written in one transaction, at most."""
WAIT_SECONDS = 2.0
"""Longest time that a reply waits for its record: one that cannot be written yet must not hold the caller up."""
LAST_WRITE_SECONDS = 5.0
"""Time at a shutdown to write what is left."""
MAX_WAITING_REFUSALS = 1_000
"""Records of refusals kept in memory while a database is away; those of operations that were carried out are all kept."""
WRITE_BACKOFF = Backoff(0.1, 2, 5.0)
"""Pauses before a group is written again."""
MAX_RECORDS, DEFAULT_RECORDS = 1_000, 100
"""Records of one page: at most, and by default."""


_Found: TypeAlias = tuple[int, AuditRow]
"""A record that was found, and its shard."""


class _Pending(NamedTuple):
    """A record to be written. `written` is set once it is."""

    row: AuditRow
    written: asyncio.Event


class _Writer:
    """Writes the records of one shard in groups, in their order, until all are written."""

    def __init__(self, shard: Shard, clock: Clock, logger: Logger) -> None:
        self._shard = shard
        self._clock = clock
        self._log = logger
        self._pending: dict[tuple[int, int], _Pending] = {}
        """By time and number: what completes a record takes the place of its beginning, if that is not written yet."""
        self._job: asyncio.Task[None] | None = None
        self._left_out = 0

    def add(self, row: AuditRow) -> asyncio.Event:
        """Write a record as soon as possible; the event is set then, or if it is left out."""
        written, place = asyncio.Event(), (row.at, row.number)
        if row.code and place not in self._pending and len(self._pending) >= MAX_WAITING_REFUSALS:
            self._left_out += row.code != UNKNOWN
            written.set()
            return written
        self._pending[place] = _Pending(row, written)
        if self._job is None or self._job.done():
            self._job = asyncio.create_task(self._write(), name=f"dwarf-audit-{self._shard.number}")
        return written

    async def _write(self) -> None:
        failures = 0
        while self._pending:
            group = dict(itertools.islice(self._pending.items(), GROUP_RECORDS))
            try:
                await self._shard.store.audit.add([one.row for one in group.values()])
            except Unavailable as error:
                self._log.debug("shard %d: audit records wait: %s", self._shard.number, error)
                await self._clock.sleep(WRITE_BACKOFF.delay(failures))
                failures += 1
                continue
            except Exception:  # the next ones may be written
                self._log.exception("shard %d: %d audit records were not written", self._shard.number, len(group))
            failures = 0
            for place, one in group.items():
                one.written.set()
                if self._pending[place] is one:
                    del self._pending[place]
            self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._log.warning(
                "shard %d: %d refusals have no audit record: its database was away", self._shard.number, self._left_out
            )
            self._left_out = 0

    async def close(self) -> None:
        """Write what is left, for a while."""
        if self._job is None:
            return
        await asyncio.wait({self._job}, timeout=LAST_WRITE_SECONDS)
        self._job.cancel()
        await asyncio.gather(self._job, return_exceptions=True)
        if self._pending:
            self._log.error(
                "shard %d: %d audit records are lost: its database was away until the end of this replica",
                self._shard.number,
                len(self._pending),
            )
            self._pending.clear()


class AuditTrail:
    """Records and finds."""

    def __init__(self, shards: Mapping[int, Shard], clock: Clock, logger: Logger) -> None:
        self._shards = shards
        self._clock = clock
        self._log = logger
        self._writers: dict[int, _Writer] = {}

    async def begin(self, note: AuditNote) -> AuditBegun:
        """Record an operation that is about to be carried out; its outcome is unknown until `complete`."""
        shard, row = self._row(replace(note, code=UNKNOWN), self._clock.now())
        await self._until_written([self._writer(shard).add(row)])
        return AuditBegun(row.at, row.number)

    async def complete(self, begun: AuditBegun, note: AuditNote) -> None:
        """Record how an operation ended that was begun."""
        shard, row = self._row(note, begun.at)
        await self._until_written([self._writer(shard).add(row._replace(number=begun.number))])

    async def record(self, notes: Sequence[AuditNote]) -> None:
        """Record operations; return when that is written, or later if the database is away."""
        at = self._clock.now()
        await self._until_written(
            [self._writer(shard).add(row) for shard, row in (self._row(note, at) for note in notes)]
        )

    async def _until_written(self, written: Sequence[asyncio.Event]) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                for one in written:
                    await one.wait()
        except TimeoutError:
            self._log.warning("audit records wait for a database that is away; they are written when it is back")

    def _row(self, note: AuditNote, at: int) -> tuple[int, AuditRow]:
        """Return the shard of a record, and the record as it is written there."""
        shard, flow_id, step_id, name = HOME, None, None, note.name
        if note.flow_id:
            shard, flow_id = parse_public_id(note.flow_id)
        elif note.flow_key or note.step_key:
            key = parse_key(note.flow_key or note.step_key)
            if key.shard not in self._shards:  # it was refused
                name = key.public_id
            elif note.flow_key:
                shard, flow_id = key.shard, key.id
            else:
                shard, step_id = key.shard, key.id
        return shard, AuditRow(
            at=at,
            number=random.getrandbits(62),
            operation=note.operation,
            flow_id=flow_id,
            step_id=step_id,
            name=recorded_text(name),
            actor=recorded_text(note.actor),
            reason=recorded_text(note.reason),
            code=note.code,
            message=recorded_text(note.message),
            details=orjson.dumps(note.details).decode() if note.details else "",
        )

    def _writer(self, number: int) -> _Writer:
        if number not in self._writers:
            self._writers[number] = _Writer(self._shards[number], self._clock, self._log)
        return self._writers[number]

    async def find(self, query: AuditQuery, cursor: str) -> tuple[list[AuditRecord], str]:
        """Return a page of records, newest first, and the cursor of the next, empty on the last.

        Raises `BadRequest`, and `Unavailable` while the database of a shard that is asked is away.
        """
        limit = DEFAULT_RECORDS if query.limit is None else query.limit
        if not 1 <= limit <= MAX_RECORDS:
            raise BadRequest(f"limit must be between 1 and {MAX_RECORDS}, got {limit}")
        for name, text in (("actor", query.actor), ("operation", query.operation)):
            if text is not None and (not text or text != recorded_text(text)):
                raise BadRequest(f"{name} is empty, too long or no plain text: leave it out, or give it a value")
        before = _place(cursor) if cursor else None
        numbers = [*self._shards]
        if query.flow_id is not None:
            number, _ = parse_public_id(query.flow_id)
            numbers = [number] if number in self._shards else []
        pages = await asyncio.gather(*(self._page(number, query, limit + 1, before) for number in numbers))
        found = sorted((one for page in pages for one in page), key=_newness, reverse=True)
        records = [_record(number, row) for number, row in found[:limit]]
        return records, _cursor(found[limit - 1]) if len(found) > limit else ""

    async def _page(self, number: int, query: AuditQuery, limit: int, before: tuple[int, int] | None) -> list[_Found]:
        return [(number, row) for row in await self._shards[number].store.audit.find(query, limit, before)]

    async def close(self) -> None:
        """Write what is left."""
        await asyncio.gather(*(one.close() for one in self._writers.values()))
        self._writers.clear()


def _newness(found: _Found) -> tuple[int, int]:
    _, row = found
    return row.at, row.number


def _record(shard: int, row: AuditRow) -> AuditRecord:
    return AuditRecord(
        at=row.at,
        operation=row.operation,
        flow_id=f"{shard}-{row.flow_id}" if row.flow_id is not None else "",
        name=row.name,
        actor=row.actor,
        reason=row.reason,
        code=row.code,
        message=row.message,
        details=orjson.loads(row.details) if row.details else {},
    )


def _cursor(last: _Found) -> str:
    at, number = _newness(last)
    return base64.urlsafe_b64encode(f"{at}.{number}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[int, int]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        at, number = text.split(".")
        place = int(at), int(number)
    except (ValueError, binascii.Error):
        place = (-1, -1)
    if all(0 <= one < 2**63 for one in place):
        return place
    raise BadRequest("malformed cursor: pass back the one of the previous page, unchanged")
