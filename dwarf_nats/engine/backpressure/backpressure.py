"""What one replica knows of its tasks (`Backpressure`), and what its shards ask (`Gate`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from dwarf_nats.engine.backpressure.breakers import Breakers
from dwarf_nats.engine.backpressure.valves import Valves
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.breaker import Deed, Event
from dwarf_nats.rules.decide import release
from dwarf_nats.workflow.answer import Answer, Disposition
from dwarf_nats.workflow.records import TaskHealth
from dwarf_nats.workflow.task_exceptions import ends_process

if TYPE_CHECKING:
    from dwarf_nats.ports import BreakerStore, Clock, Logger, Signals
    from dwarf_nats.rules.settlement import Settlement
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.telemetry.counters import Counters

UNASKED = frozenset({"timeout", "too_large"})
"""Causes of errors that say nothing about whether the task can serve: it did not answer, or was not asked."""


class Backpressure:
    """The valves and breakers of one replica. What is heard is applied here first, then told to the others (B1).

    Counted are, by task and cause, what tripped here, not what was told; and probes by task, outcome (`served`, `refused`,
    `unanswered`) and cause of the trip.
    """

    def __init__(self, clock: Clock, signals: Signals | None, counters: Counters, logger: Logger) -> None:
        self._clock = clock
        self._signals = signals
        self.log = logger
        self.counters = counters
        self.valves = Valves(clock, counters)
        self.gates: list[Gate] = []

    def gate(self, store: BreakerStore) -> Gate:
        """The share of one shard; it counts from when it is opened."""
        return Gate(self, store, self._clock)

    # -- what tasks say

    def congested(self, url: str) -> None:
        """A task said that it is busy (V1)."""
        point = self.valves.signal(url)
        self._tell(lambda signals: signals.sync_valve(url, point.w, point.t))

    def trip(self, url: str, cause: str) -> None:
        """A task cannot serve: its breaker trips on every shard (V4)."""
        deeds = [deed for gate in self.gates for deed in gate.breakers.hears(url, Event.SIGNAL, cause)]
        if Deed.TELL in deeds:
            self.counters.trips.add(url, cause)
            self.log.warning(
                "task %s cannot serve (%s): its breaker tripped", url, cause, extra={"task": url, "cause": cause}
            )
            self._tell(lambda signals: signals.trip_breaker(url))

    def _tell(self, what: Callable[[Signals], None]) -> None:
        if self._signals is not None:
            try:
                what(self._signals)
            except BaseException as error:  # a signal that cannot be sent costs nothing but time (B1)
                if ends_process(error):
                    raise
                self.log.exception("a signal was refused")

    # -- what other replicas say

    def told_valve(self, url: str, w: float, t: int) -> None:
        """Another replica's congestion point (V3)."""
        self.valves.told(url, w, t)

    def told_trip(self, url: str) -> None:
        """Another replica's breaker tripped (V4)."""
        for gate in self.gates:
            gate.breakers.hears(url, Event.TOLD, "told")

    # -- what others ask

    async def tripped(self, url: str) -> bool:
        """Whether the task's breaker is tripped anywhere in the deployment (O16): the databases know."""
        answers = await asyncio.gather(*(gate.tripped(url) for gate in self.gates))
        return any(answers)

    def tasks(self) -> list[TaskHealth]:
        """The tasks that are held back here, by url."""
        rates = self.valves.rates()
        tripped = {url: breaker for gate in self.gates for url, breaker in gate.breakers.tripped.items()}
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


class Gate:
    """What a shard asks before and after it asks a task."""

    def __init__(self, shared: Backpressure, store: BreakerStore, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._store = store
        self.breakers = Breakers(clock)
        self._shut: list[str] = []
        self.held = True
        """Whether the database may know of steps that are held, as the shard has seen it last."""

    # -- lifecycle

    async def open(self) -> None:
        """Re-arm the breakers from the database (V6), and hold what is held on the other shards. Raises `Unavailable`."""
        self.breakers.reset()
        causes = await self._store.tripped_tasks()
        for url in [*causes, *await self._store.parked_tasks()]:
            self.breakers.hears(url, Event.FOUND, causes.get(url, ""))
        for gate in self._shared.gates:
            for url, breaker in gate.breakers.tripped.items():
                self.breakers.hears(url, Event.TOLD, breaker.cause)
        self._shared.gates.append(self)

    def close(self) -> None:
        """Count no more."""
        if self in self._shared.gates:
            self._shared.gates.remove(self)

    async def sweep(self) -> None:
        """Learn from the database what no signal told (B1), if there is anything to learn. Raises `Unavailable`."""
        self._shared.valves.forget()
        breakers = self.breakers
        before = breakers.tripped
        if not self.held and not before:
            return
        causes = await self._store.tripped_tasks()
        parked = await self._store.parked_tasks()
        busy = breakers.deeds.keys()
        for url in causes.keys() - before.keys() - busy:
            breakers.hears(url, Event.FOUND, causes[url])
        for url in before.keys() - causes.keys() - busy - set(parked):
            if breakers.of(url).since == before[url].since:
                breakers.hears(url, Event.RELEASED)
        for url in before.keys() - busy - set(parked):
            if breakers.of(url) == before[url] and before[url].pointless(self._clock.now()):
                breakers.hears(url, Event.RELEASED)
                breakers.leave(url, Deed.RELEASE)
        for url in set(parked) - causes.keys() - breakers.tripped.keys() - busy:
            breakers.leave(url, Deed.RELEASE)  # parked while the breaker was being closed
        breakers.work_came()
        breakers.poke.set()

    # -- before a task is asked

    def task_budgets(self) -> dict[str, int]:
        """How many more steps of these tasks may be claimed now, 0 meaning none; of all others as many as there are (C3)."""
        allowed = self._shared.valves.task_budgets()
        self._shut = [url for url, count in allowed.items() if count == 0 and not self.breakers.holds(url)]
        for url in self._shut:
            self._shared.counters.skipped.add(url)
        for url, count in self.breakers.task_budgets().items():
            allowed[url] = min(count, allowed.get(url, count))
        return allowed

    def opens_at(self) -> int | None:
        """When the first of the valves opens that were shut when `task_budgets` was last asked; `None` if none was."""
        return self._shared.valves.opens_at(self._shut)

    def holds(self, url: str) -> bool:
        """Whether the task's breaker is tripped here."""
        return self.breakers.holds(url)

    def admits_eager(self, url: str) -> bool:
        """Whether a new step of the task may start eagerly; if so, it counts as sent."""
        return not self.breakers.holds(url) and self._shared.valves.admits(url)

    def admits(self, step: ClaimedStep) -> bool:
        """Whether a claimed step may be dispatched; if so, it counts as sent. If not, it is to be given back."""
        url = step.url
        if self.breakers.holds(url):
            if not self.breakers.wants_any(url):
                return False
            self.probes(step)
            return True
        if self._shared.valves.admits(url):
            return True
        self._shared.counters.skipped.add(url)
        return False

    def probes(self, step: ClaimedStep) -> None:
        """The claimed step is to be the probe."""
        step.probe = True
        self.breakers.claimed(step.url, step.step_id)
        self._shared.valves.admits(step.url)

    def may_ask(self, step: ClaimedStep) -> bool:
        """Whether its task may be asked, now that nothing else stands in the way: its breaker may have tripped since."""
        if step.probe:
            self.breakers.asked(step.url, step.step_id)
            return True
        return not self.breakers.holds(step.url)

    async def tripped(self, url: str) -> bool:
        """Whether the task is tripped on this shard; while its database is away, what this replica knows of it."""
        left = self.breakers.deeds.get(url)
        if left is not None and left.deed is Deed.PARK:
            return True
        try:
            return await self._store.is_tripped(url)
        except Unavailable:
            return self.breakers.holds(url)

    def work_came(self) -> None:
        """Steps came to be pending, here or elsewhere."""
        self.breakers.work_came()

    # -- after it was asked

    def judged(self, step: ClaimedStep, answer: Answer) -> Settlement | None:
        """If the task is busy or cannot serve, the step goes back to pending, not failed (V1, V4). `None`: go on (X4)."""
        if answer.error is None or answer.disposition is Disposition.ERROR:
            if step.probe:
                self._came_back(step, "unanswered" if answer.cause in UNASKED else "served")
            return None
        if answer.disposition is Disposition.BACKPRESSURE:
            self._shared.congested(step.url)
            if step.probe:
                self._came_back(step, "served")  # it is up, though busy
        else:
            if step.probe:
                self._came_back(step, "refused")
            self._shared.trip(step.url, answer.cause)
        return release(step)

    def _came_back(self, step: ClaimedStep, outcome: str) -> None:
        self._shared.counters.probes.add(step.url, outcome, self.breakers.of(step.url).cause)
        if outcome == "served":
            self.breakers.hears(step.url, Event.SERVED)

    def finished(self, step: ClaimedStep) -> None:
        """The step is no longer in hand; if it was a probe that was not asked, another one is let through."""
        if step.probe:
            self.breakers.dropped(step.url, step.step_id)
