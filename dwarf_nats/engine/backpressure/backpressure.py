"""Valves and breakers: what one replica knows of its tasks, and the share of each shard (V1-V6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from dwarf_nats.engine.backpressure.breakers import Breakers
from dwarf_nats.engine.backpressure.rate_limits import Valves
from dwarf_nats.engine.port_errors import suppress_port_errors
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.breaker import Deed, Event
from dwarf_nats.rules.decide import release
from dwarf_nats.workflow.answer import Answer, Disposition
from dwarf_nats.workflow.records import TaskHealth
from dwarf_nats.workflow.services import NOT_SENT

if TYPE_CHECKING:
    from dwarf_nats.ports import BreakerStore, Clock, Logger, Signals
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.telemetry.counters import Counters

UNANSWERED_CAUSES = frozenset({"timeout", "too_large", NOT_SENT})
"""Causes of errors that do not tell whether the task can serve: it did not answer, or was not asked."""


class Backpressure:
    """The valves (adaptive rate limiters) and breakers (circuit breakers) of one replica.

    What tasks say takes effect here first, then the other replicas are told (B1). `trips` counts by task and cause what tripped
    here, not what other replicas told; `probes` counts by task, outcome (`served`, `refused`, `unanswered`) and cause of the
    trip.
    """

    def __init__(self, clock: Clock, signals: Signals | None, counters: Counters, logger: Logger) -> None:
        self._clock = clock
        self._signals = signals
        self.log = logger
        self.counters = counters
        self.valves = Valves(clock, counters)
        self.shards: list[ShardBackpressure] = []

    def of_shard(self, store: BreakerStore) -> ShardBackpressure:
        """Make the share of one shard; it takes part once it is opened."""
        return ShardBackpressure(self, store, self._clock)

    # -- what tasks say

    def on_busy(self, url: str) -> None:
        """Slow down: a task said that it is busy (V1)."""
        point = self.valves.signal(url)
        self._signal_peers(lambda signals: signals.sync_valve(url, point.w, point.t))

    def trip(self, url: str, cause: str) -> None:
        """Trip the breaker of a task that cannot serve, on every shard (V4)."""
        deeds = [deed for shard in self.shards for deed in shard.breakers.apply(url, Event.SIGNAL, cause)]
        if Deed.TELL in deeds:
            self.counters.trips.add(url, cause)
            self.log.warning(
                "task %s cannot serve (%s): its breaker tripped", url, cause, extra={"task": url, "cause": cause}
            )
            self._signal_peers(lambda signals: signals.trip_breaker(url))

    def _signal_peers(self, what: Callable[[Signals], None]) -> None:
        if self._signals is not None:
            with suppress_port_errors(self.log, "a signal"):  # a signal that cannot be sent costs only time (B1)
                what(self._signals)

    # -- what other replicas say

    def on_peer_valve(self, url: str, w: float, t: int) -> None:
        """Take over another replica's congestion point (V3): `w` operations per second at `t` microseconds."""
        self.valves.merge_peer(url, w, t)

    def on_peer_trip(self, url: str) -> None:
        """Trip the breaker of a task, as another replica did (V4)."""
        for shard in self.shards:
            shard.breakers.apply(url, Event.TOLD, "told")

    # -- what others ask

    async def is_tripped(self, url: str) -> bool:
        """Tell whether the task's breaker is tripped anywhere in the deployment (O16): the databases know."""
        answers = await asyncio.gather(*(shard.is_tripped(url) for shard in self.shards))
        return any(answers)

    def task_health(self) -> list[TaskHealth]:
        """The health of the tasks that are limited or tripped here, by url."""
        rates = self.valves.rates()
        tripped = {url: breaker for shard in self.shards for url, breaker in shard.breakers.tripped.items()}
        return [
            TaskHealth(
                url=url,
                rate=rates.get(url),
                tripped_at=breaker.since,
                cause=breaker.cause,
                probes=breaker.probes,
                probe_at=breaker.probe_at,
            )
            if (breaker := tripped.get(url)) is not None
            else TaskHealth(url=url, rate=rates[url])
            for url in sorted({*rates, *tripped})
        ]


class ShardBackpressure:
    """The share of one shard: asked before a task is asked, and with its answer.

    `held`: whether its database may know of steps that are held, as a heartbeat has last said.
    """

    def __init__(self, replica: Backpressure, store: BreakerStore, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._store = store
        self.breakers = Breakers(clock)
        self._closed_valves: list[str] = []
        self.held = True

    # -- lifecycle

    async def open(self) -> None:
        """Trip what the database says is tripped (V6), and what is tripped on the other shards. Raises `Unavailable`."""
        self.breakers.reset()
        causes = await self._store.tripped_tasks()
        for url in [*causes, *await self._store.parked_tasks()]:
            self.breakers.apply(url, Event.FOUND, causes.get(url, ""))
        for shard in self._replica.shards:
            for url, breaker in shard.breakers.tripped.items():
                self.breakers.apply(url, Event.TOLD, breaker.cause)
        self._replica.shards.append(self)

    def close(self) -> None:
        """Take part no more."""
        if self in self._replica.shards:
            self._replica.shards.remove(self)

    async def reconcile(self) -> None:
        """Make up for signals that were lost (B1): compare the breakers with the database. Raises `Unavailable`."""
        self._replica.valves.forget()
        breakers = self.breakers
        before = breakers.tripped
        if not self.held and not before:
            return
        causes = await self._store.tripped_tasks()
        parked = await self._store.parked_tasks()
        busy = breakers.deferred.keys()
        for url in causes.keys() - before.keys() - busy:
            breakers.apply(url, Event.FOUND, causes[url])
        for url in before.keys() - causes.keys() - busy - set(parked):
            if breakers.of(url).since == before[url].since:
                breakers.apply(url, Event.RELEASED)
        for url in before.keys() - busy - set(parked):
            if breakers.of(url) == before[url] and before[url].pointless(self._clock.now()):
                breakers.apply(url, Event.RELEASED)
                breakers.defer(url, Deed.RELEASE)
        for url in set(parked) - causes.keys() - breakers.tripped.keys() - busy:
            breakers.defer(url, Deed.RELEASE)  # parked while the breaker was being closed
        breakers.on_new_work()
        breakers.wakeup.set()

    # -- before a task is asked

    def task_budgets(self) -> dict[str, int]:
        """Steps that may be claimed now of each task that is limited (C3); with 0 it is blocked. Other tasks have no limit."""
        allowed = self._replica.valves.task_budgets()
        self._closed_valves = [url for url, count in allowed.items() if count == 0 and not self.breakers.holds(url)]
        for url in self._closed_valves:
            self._replica.counters.skipped.add(url)
        for url, count in self.breakers.task_budgets().items():
            allowed[url] = min(count, allowed.get(url, count))
        return allowed

    def opens_at(self) -> int | None:
        """The time at which the first valve opens that was closed when `task_budgets` was last read; `None` if none was."""
        return self._replica.valves.opens_at(self._closed_valves)

    def holds(self, url: str) -> bool:
        """Tell whether the task's breaker is tripped here."""
        return self.breakers.holds(url)

    def admits_eager(self, url: str) -> bool:
        """Tell whether a new step of the task may start eagerly; if so, it counts as sent."""
        return not self.breakers.holds(url) and self._replica.valves.admits(url)

    def admits(self, step: ClaimedStep) -> bool:
        """Tell whether a claimed step may be dispatched; if so, it counts as sent. If not, it is to be released."""
        url = step.url
        if self.breakers.holds(url):
            if not self.breakers.takes_any_step(url):
                return False
            self.mark_probe(step)
            return True
        if self._replica.valves.admits(url):
            return True
        self._replica.counters.skipped.add(url)
        return False

    def mark_probe(self, step: ClaimedStep) -> None:
        """Make a claimed step the probe of its task."""
        step.probe = True
        self.breakers.probe_claimed(step.url, step.step_id)
        self._replica.valves.admits(step.url)

    def may_ask(self, step: ClaimedStep) -> bool:
        """Tell whether the task of a dispatched step may still be asked: its breaker may have tripped since the dispatch."""
        if step.probe:
            self.breakers.probe_sent(step.url, step.step_id)
            return True
        return not self.breakers.holds(step.url)

    async def is_tripped(self, url: str) -> bool:
        """Tell whether the task is tripped on this shard: as its database says, or if that is away, as this replica knows."""
        deferred = self.breakers.deferred.get(url)
        if deferred is not None and deferred.deed is Deed.PARK:
            return True
        try:
            return await self._store.is_tripped(url)
        except Unavailable:
            return self.breakers.holds(url)

    def on_new_work(self) -> None:
        """Look for a probe again: steps became pending, here or elsewhere."""
        self.breakers.on_new_work()

    # -- after it was asked

    def release_refused(self, step: ClaimedStep, answer: Answer) -> Settlement | None:
        """The release of a step whose task is busy or cannot serve: it goes back to pending, not failed (V1, V4).

        `None` for any other answer: go on with it (X4).
        """
        if answer.error is None or answer.disposition is Disposition.ERROR:
            if step.probe:
                self._probe_answered(step, "unanswered" if answer.cause in UNANSWERED_CAUSES else "served")
            return None
        if answer.disposition is Disposition.BACKPRESSURE:
            self._replica.on_busy(step.url)
            if step.probe:
                self._probe_answered(step, "served")  # it is up, though busy
        else:
            if step.probe:
                self._probe_answered(step, "refused")
            self._replica.trip(step.url, answer.cause)
        return release(step)

    def _probe_answered(self, step: ClaimedStep, outcome: str) -> None:
        self._replica.counters.probes.add(step.url, outcome, self.breakers.of(step.url).cause)
        if outcome == "served":
            self.breakers.apply(step.url, Event.SERVED)

    def finished(self, step: ClaimedStep) -> None:
        """Note the end of an execution: if it was a probe whose task was not asked, another one may go out."""
        if step.probe:
            self.breakers.probe_dropped(step.url, step.step_id)
