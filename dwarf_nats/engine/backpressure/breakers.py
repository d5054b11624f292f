"""The breakers of one replica for one shard (V4-V6): their states, and what the prober has to do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.breaker import CLOSED, Breaker, Deed, Event, after

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock


@dataclass(slots=True, frozen=True, eq=False)
class Deferred:
    """Something the prober has to do; two are never the same."""

    deed: Deed


class Breakers:
    """Keeps the breakers that are tripped; every other task's breaker is closed.

    `wakeup` is set whenever the prober may have something to do, `deferred` says what. A probe is *under way* from its claim to
    the moment its task is asked. A tripped task is *idle* while a probe is due and there was no step to be one: then the next
    step that comes is the probe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tripped: dict[str, Breaker] = {}
        self._under_way: dict[str, int] = {}
        self._idle: dict[str, int | None] = {}
        self.deferred: dict[str, Deferred] = {}
        self.wakeup = asyncio.Event()

    def apply(self, url: str, event: Event, cause: str = "") -> tuple[Deed, ...]:
        """Apply an event to the breaker of a task; what is to be done. Parking and releasing are left to the prober."""
        before = self.of(url)
        breaker, deeds = after(before, event, self._clock.now(), cause)
        if breaker.tripped:
            self._tripped[url] = breaker
        else:
            self._tripped.pop(url, None)
        if breaker != before:
            self._idle.pop(url, None)
            self.wakeup.set()
        for deed in deeds:
            if deed is not Deed.TELL:
                self.defer(url, deed)
        return deeds

    def defer(self, url: str, deed: Deed) -> None:
        """Leave something to the prober. Of several things for one task it does the last."""
        self.deferred[url] = Deferred(deed)
        self.wakeup.set()

    def of(self, url: str) -> Breaker:
        """The state of a task's breaker."""
        return self._tripped.get(url, CLOSED)

    def holds(self, url: str) -> bool:
        """Tell whether the task's steps are held."""
        return url in self._tripped

    @property
    def tripped(self) -> dict[str, Breaker]:
        """The tripped breakers by task."""
        return dict(self._tripped)

    def task_budgets(self) -> dict[str, int]:
        """Steps of each tripped task that may be claimed like any other: none, or the one that will be the probe."""
        return {url: int(self.takes_any_step(url)) for url in self._tripped} if self._tripped else {}

    # -- probes

    def takes_any_step(self, url: str) -> bool:
        """Tell whether a probe is due and no parked step could be one, so that any step will do."""
        return url in self._idle and url not in self._under_way and self.of(url).due(self._clock.now())

    def due(self) -> list[str]:
        """The tasks of which a parked step is to go out as a probe now."""
        now = self._clock.now()
        return [
            url
            for url, breaker in self._tripped.items()
            if breaker.due(now) and url not in self._under_way and self._is_time(url, now)
        ]

    def _is_time(self, url: str, now: int) -> bool:
        at = self._idle.get(url, 0)
        return at is not None and at <= now

    def next_at(self) -> int | None:
        """The time at which the next probe is due, on this replica's clock; `None` if none is before an event."""
        times = [
            max(breaker.probe_at, at)
            for url, breaker in self._tripped.items()
            if url not in self._under_way and (at := self._idle.get(url, 0)) is not None
        ]
        return min(times, default=None)

    def no_probe_until(self, url: str, until: int | None) -> None:
        """Note that no parked step is due before `until`, or with `None` that there is none."""
        if url in self._tripped:
            self._idle[url] = until

    def on_new_work(self) -> None:
        """Have the prober look again: there are new steps, and some may be parked."""
        if self._idle:
            self._idle.clear()
            self.wakeup.set()

    def probe_claimed(self, url: str, step_id: int) -> None:
        """Note that a step was claimed to be the probe."""
        self._under_way[url] = step_id
        self._idle.pop(url, None)

    def probe_dropped(self, url: str, step_id: int) -> None:
        """Let another probe go out if this one ended before its task was asked; the schedule stays where it was."""
        if self._under_way.get(url) == step_id:
            del self._under_way[url]
            self.wakeup.set()

    def probe_sent(self, url: str, step_id: int) -> None:
        """Advance the schedule: the task of the probe is asked now."""
        if self._under_way.get(url) == step_id:
            del self._under_way[url]
        self.apply(url, Event.PROBED)

    def reset(self) -> None:
        """Forget all: the database says what is tripped when the replica starts (V6)."""
        self._tripped.clear()
        self._under_way.clear()
        self._idle.clear()
        self.deferred.clear()
