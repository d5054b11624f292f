"""The outbox: rows that callers wrote in transactions of their own become flows, each once.

A row is taken under a lease, its flow is made ready, and the transaction that removes the row creates the flow. A replica that
dies in between leaves the row as it is. A notification is the hint, a sweep the truth.

The outbox of a cordoned shard is emptied, too, but its flows are made on other shards: the row is first marked as sent away, so
that no replica makes the flow here, then used like a message, with a receipt, and removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty
from dwarf_nats.engine.operations.groups import Wanted
from dwarf_nats.errors import BadRequest, DwarfError, NotFound, Unavailable
from dwarf_nats.rules.receiving import AGAIN, MAX_REASON, MessageFlow, may_pass, receipt_of_row, refused

if TYPE_CHECKING:
    from dwarf_nats.engine.maintenance.duty import DutyRunner
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.groups import GroupCreator, Workflows
    from dwarf_nats.engine.operations.receive import MessageReceiver
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports.receiving import CreatedFlows, OutboxStore
    from dwarf_nats.rules.receiving import OutboxRow
    from dwarf_nats.rules.steps import NewFlow

SWEEP_SECONDS = 2.0
"""Between two looks for rows of which no notification has told: one look in an index."""
TAKEN_ROWS = 500
"""Rows taken and made flows of in one transaction: bounds its locks and its time."""
LEASE_MS = 30_000
"""Milliseconds for which taken rows are left to their replica: far more than it needs for them."""


class OutboxSweep(Duty):
    """Makes flows of the rows of one shard's outbox."""

    def __init__(
        self,
        replica: Replica,
        shard: Shard,
        outbox: OutboxStore,
        *,
        groups: GroupCreator,
        creator: Creator,
        receiver: MessageReceiver,
    ) -> None:
        self._deployment = replica.deployment
        self._receiver = receiver
        self._settings = replica.settings
        self._read_options = replica.read_options
        self._counters = replica.counters
        self._clock = replica.clock
        self._log = replica.logger
        self._shard = shard
        self._outbox = outbox
        self._groups = groups
        self._creator = creator
        self.enqueued = asyncio.Event()
        outbox.on_enqueued(self.enqueued.set)

    def interval(self) -> float:
        return SWEEP_SECONDS

    async def run(self, runner: DutyRunner) -> None:
        """Sweep until cancelled: at each notification, and now and then."""
        while True:
            await self._clock.wait(self.enqueued, SWEEP_SECONDS)
            self.enqueued.clear()
            await runner.attempt(self)

    async def run_once(self) -> None:
        """Use all rows that are due."""
        while rows := await self._outbox.take(TAKEN_ROWS, LEASE_MS):
            await self._use(rows)

    async def _use(self, rows: Sequence[OutboxRow]) -> None:
        results: list[DwarfError | None] = [None] * len(rows)
        workflows = self._groups.workflows()
        wanted: list[Wanted[int]] = []
        away: dict[int, MessageFlow] = {}
        for place, row in enumerate(rows):
            try:
                one = await self._prepare(row, place, workflows)
                if isinstance(one, MessageFlow):
                    away[place] = one
                elif one is not None:
                    wanted.append(one)
            except Exception as error:
                if not isinstance(error, DwarfError):
                    self._log.error("a defect while row %d of the outbox was prepared", row.row_id, exc_info=error)
                results[place] = refused(error)
        made = await self._groups.create(self._shard, wanted, self._write, results) if wanted else 0
        if away:
            made += await self._use_elsewhere(away, results)
        self._counters.outbox_started.add(n=made)
        for row, failure in zip(rows, results, strict=True):
            if failure is not None:
                await self._keep(row, failure)

    async def _prepare(self, row: OutboxRow, place: int, workflows: Workflows) -> Wanted[int] | MessageFlow | None:
        """Check a row; return what it wants, here or on another shard, or make its flow at once if it has an idempotency key.

        Raises `DwarfError`.
        """
        options = self._read_options(row.options.encode())
        if options is not None and options.idempotency_key is not None:
            await self._creator.create(row.workflow, row.state.encode(), options, start=True)
            self._counters.outbox_started.add(n=int(await self._outbox.remove(row.row_id)))
            return None
        request, shard = await self._groups.request(row.workflow, row.state.encode(), options)
        if shard is not None and shard is not self._shard:
            raise BadRequest(
                f"the thread lies on shard {shard.number}, and this outbox on shard {self._shard.number}: enqueue it in the"
                " database of that shard"
            )
        if shard is None and (row.sent_away or self._deployment.is_cordoned(self._shard.number)):
            receipt = receipt_of_row(self._shard.number, row.row_id)
            return MessageFlow(receipt=receipt, workflow=row.workflow, state=row.state.encode(), options=options)
        return Wanted(row.row_id, place, request, await workflows.find(request))

    async def _write(self, flows: Sequence[tuple[int, NewFlow]]) -> CreatedFlows:
        return await self._outbox.create(flows, self._settings.time_budget_ms)

    async def _use_elsewhere(self, away: Mapping[int, MessageFlow], results: list[DwarfError | None]) -> int:
        """Make the flows of rows on other shards, and remove the rows. `away`: by the places of their results."""
        ids = {place: flow.receipt.sequence for place, flow in away.items() if flow.receipt is not None}
        there = await self._outbox.send_away(list(ids.values()))
        places = [place for place in away if ids[place] in there]
        received = await self._receiver.receive([away[place] for place in places])
        for place, failure in zip(places, received.errors, strict=True):
            results[place] = failure
            if failure is None:
                await self._outbox.remove(ids[place])
        return received.started

    async def _keep(self, row: OutboxRow, error: DwarfError) -> None:
        """Let a row wait that cannot be used now; put one aside that cannot be used."""
        reason = error.message[:MAX_REASON]
        if may_pass(error):
            level = self._log.info if isinstance(error, NotFound) else self._log.debug
            level("row %d of the outbox of shard %d waits: %s", row.row_id, self._shard.number, reason)
            if not isinstance(error, Unavailable) or not self._shard.availability.is_away:
                await self._outbox.defer(row.row_id, int(AGAIN.delay(row.attempts) * 1000), reason)
            return
        self._log.warning("row %d of the outbox of shard %d cannot be used: %s", row.row_id, self._shard.number, reason)
        await self._outbox.reject(row.row_id, reason)
