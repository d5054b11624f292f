"""The gate before the dispatch: claimed steps get their permits, or wait in a queue (K1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.limiting.limiter import over_with
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.claims import BREAKPOINT_HIT
from dwarf_nats.rules.limiting import Denied, Over, Root, Want

if TYPE_CHECKING:
    from dwarf_nats.engine.limiting.limiter import Limiter
    from dwarf_nats.ports import Logger
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.limiting import Demand, Denial
    from dwarf_nats.telemetry.counters import Counters

AWAY_DELAY_US = 250_000
"""The pause of a claimed step whose permit cannot be asked for because shard 1 is away."""


class LimitGate:
    """Lets claimed steps pass that get their permits. `active` is false while there is no limit: then it need not be asked."""

    def __init__(self, limiter: Limiter, counters: Counters, logger: Logger) -> None:
        self._limiter = limiter
        self._book = limiter.book
        self._counters = counters
        self._log = logger

    @property
    def active(self) -> bool:
        return self._book.active

    async def admit(
        self, shard: int, rows: Sequence[ClaimedRow]
    ) -> tuple[Sequence[ClaimedRow], Mapping[int, tuple[Over, ...]]]:
        """Get the permits of claimed steps; return those that may be dispatched, and what is over with each of them.

        The others wait from now on.
        """
        home_store = self._limiter.shards[shard].limits
        try:
            roots = await self._roots(shard, rows)
            wants = [Want(shard, row.step_id, self._demands(shard, row, roots), begins=True) for row in rows]
            limited = [want for want in wants if want.demands]
            if not limited:
                return rows, {}
            result = await self._limiter.home.exchange((), limited, self._book.by_name)
        except Unavailable as error:
            self._log.debug("shard %d: permits cannot be asked for: %s", shard, error)
            given_back = [row for row in rows if self._is_limited(row)]
            await home_store.give_back(
                [(row.step_id, row.lease_seq, row.age_us == 0) for row in given_back], AWAY_DELAY_US
            )
            gone = {row.step_id for row in given_back}
            return [row for row in rows if row.step_id not in gone], {}
        self._limiter.fill(result.freed)
        if result.denied:
            await self._park(shard, rows, result.denied)
        denied = {want.step_id for want, _ in result.denied}
        permits = {want.step_id: over_with(want) for want in result.granted}
        return [row for row in rows if row.step_id not in denied], permits

    def waive(self, shard: int, row: ClaimedRow) -> None:
        """Give back the permits that were kept for a claimed step, which is not dispatched after all (K2)."""
        limits = self._book.tasks.get(row.url, ())
        if limits:
            self._limiter.over(Over(f"{limit.name}/s{shard}-{row.step_id}", row.lease_seq) for limit in limits)

    def _is_limited(self, row: ClaimedRow) -> bool:
        is_root = row.surgraph_flow_id is None
        return row.url in self._book.tasks or self._book.needs_root(row.url, row.workflow, is_root=is_root)

    async def _roots(self, shard: int, rows: Sequence[ClaimedRow]) -> Mapping[int, Root]:
        needed = {
            row.root_id or row.flow_id
            for row in rows
            if self._book.needs_root(row.url, row.workflow, is_root=row.surgraph_flow_id is None)
        }
        return await self._limiter.shards[shard].limits.roots(needed) if needed else {}

    def _demands(self, shard: int, row: ClaimedRow, roots: Mapping[int, Root]) -> Sequence[Demand]:
        """The demands on a claimed step. A flow that began before its limit was put goes on, unless it was paused."""
        paused = row.resumed is not None or row.interrupt_timed_out or row.marks & BREAKPOINT_HIT
        begun = (row.depth > 1 or row.age_us > 0 or row.surgraph_flow_id is not None) and not paused
        return self._book.demands(
            shard,
            (row.step_id, row.lease_seq),
            url=row.url,
            fairness_key=row.fairness_key,
            root=roots.get(row.root_id or row.flow_id),
            begun_at=row.flow_created_at if begun else None,
        )

    async def _park(self, shard: int, rows: Sequence[ClaimedRow], denials: Sequence[tuple[Want, Denial]]) -> None:
        by_id = {row.step_id: row for row in rows}
        denied = [
            Denied(
                step_id=row.step_id,
                lease_seq=row.lease_seq,
                name=denial.name,
                slot=denial.slot,
                because=denial.because,
                priority=row.priority,
                fairness_key=row.fairness_key,
                weight=row.fairness_weight,
                fresh=row.age_us == 0,
            )
            for want, denial in denials
            if (row := by_id[want.step_id])
        ]
        await self._limiter.shards[shard].limits.park(denied)
        for one in denied:
            self._counters.limit_waits.add(one.name)
        # What was freed between the answer and the parking found no one in the queue.
        self._limiter.await_rates(denials)
        self._limiter.fill({one.slot for one in denied})
