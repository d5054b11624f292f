"""The breakers of one replica for one shard (V4-V6): what they heard, and what is to be done about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.breaker import CLOSED, Breaker, Deed, Event, after

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock


@dataclass(slots=True, frozen=True, eq=False)
class Left:
    """A deed that was left to the prober; two are never the same."""

    deed: Deed


class Breakers:
    """Keeps the tripped ones; every other task's breaker is closed.

    `poke` is set whenever the prober has something to look at. A probe is *under way* from its claim to the moment its task is
    asked. A tripped task is *idle* while a probe is due and no step was there to be one: the next to come is.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tripped: dict[str, Breaker] = {}
        self._under_way: dict[str, int] = {}
        self._idle: dict[str, int | None] = {}
        self.deeds: dict[str, Left] = {}
        self.poke = asyncio.Event()

    def hears(self, url: str, event: Event, cause: str = "") -> tuple[Deed, ...]:
        """Take an event in; what is to be done. Parking and releasing are left to the prober."""
        before = self.of(url)
        breaker, deeds = after(before, event, self._clock.now(), cause)
        if breaker.tripped:
            self._tripped[url] = breaker
        else:
            self._tripped.pop(url, None)
        if breaker != before:
            self._idle.pop(url, None)
            self.poke.set()
        for deed in deeds:
            if deed is not Deed.TELL:
                self.leave(url, deed)
        return deeds

    def leave(self, url: str, deed: Deed) -> None:
        """Leave a deed to the prober; of several it does the last."""
        self.deeds[url] = Left(deed)
        self.poke.set()

    def of(self, url: str) -> Breaker:
        """The breaker of a task."""
        return self._tripped.get(url, CLOSED)

    def holds(self, url: str) -> bool:
        """Whether the task's steps are held."""
        return url in self._tripped

    @property
    def tripped(self) -> dict[str, Breaker]:
        return dict(self._tripped)

    def task_budgets(self) -> dict[str, int]:
        """How many steps of each tripped task may be claimed like any other: none, or the one that will be the probe."""
        return {url: int(self.wants_any(url)) for url in self._tripped} if self._tripped else {}

    # -- probes

    def wants_any(self, url: str) -> bool:
        """Whether a probe is due and nothing parked could be one, so that any step will do."""
        return url in self._idle and url not in self._under_way and self.of(url).due(self._clock.now())

    def due(self) -> list[str]:
        """The tasks for which a parked step is to be let through now."""
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
        """When the next of them will be due; `None` if that takes an event."""
        times = [
            max(breaker.probe_at, at)
            for url, breaker in self._tripped.items()
            if url not in self._under_way and (at := self._idle.get(url, 0)) is not None
        ]
        return min(times, default=None)

    def found_nothing(self, url: str, until: int | None) -> None:
        """No parked step is due before `until`, or none is there at all."""
        if url in self._tripped:
            self._idle[url] = until

    def work_came(self) -> None:
        """Steps came to be: look whether one of them is parked."""
        if self._idle:
            self._idle.clear()
            self.poke.set()

    def claimed(self, url: str, step_id: int) -> None:
        """A step was claimed to be the probe."""
        self._under_way[url] = step_id
        self._idle.pop(url, None)

    def dropped(self, url: str, step_id: int) -> None:
        """If the step claimed to be the probe was not asked, let another one through, the schedule being where it was."""
        if self._under_way.get(url) == step_id:
            del self._under_way[url]
            self.poke.set()

    def asked(self, url: str, step_id: int) -> None:
        """The probe goes out; the schedule advances."""
        if self._under_way.get(url) == step_id:
            del self._under_way[url]
        self.hears(url, Event.PROBED)

    def reset(self) -> None:
        """Forget what was held: the database tells it when the replica starts (V6)."""
        self._tripped.clear()
        self._under_way.clear()
        self._idle.clear()
        self.deeds.clear()
