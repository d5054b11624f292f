"""The breaker of a task, as one replica keeps it for one shard: tripped while the task cannot serve (V4-V6). Pure.

A tripped breaker holds the task's steps and lets one through now and then, a probe. Times are microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_PROBE_US = 100_000
"""Microseconds from a trip to the first probe: a task that restarts is back soon. Doubled with every probe."""
LONGEST_PROBE_US = 60_000_000
"""Microseconds between probes at most: a task that serves again is found within a minute."""


class Event(StrEnum):
    """An event that a breaker is told of."""

    SIGNAL = "signal"
    """An answer said that the task cannot serve."""
    TOLD = "told"
    """Another replica says that it tripped."""
    FOUND = "found"
    """The database says that it is tripped: found when the replica started, or later if the signal was missed (V6)."""
    RELEASED = "released"
    """The database says that another replica's probe was served."""
    PROBED = "probed"
    """A probe was dispatched."""
    SERVED = "served"
    """A probe was served, be it with an error of its own."""


class Deed(StrEnum):
    """An action that a change of a breaker calls for."""

    PARK = "park"
    """Park all pending steps of the task."""
    TELL = "tell"
    """Tell the other replicas."""
    RELEASE = "release"
    """Release the parked steps of this shard."""


CHANGES: dict[tuple[bool, Event], tuple[bool, tuple[Deed, ...]]] = {
    (False, Event.SIGNAL): (True, (Deed.PARK, Deed.TELL)),
    (False, Event.TOLD): (True, ()),
    (False, Event.FOUND): (True, ()),
    (False, Event.RELEASED): (False, ()),
    (False, Event.PROBED): (False, ()),
    (False, Event.SERVED): (False, (Deed.RELEASE,)),
    (True, Event.SIGNAL): (True, ()),
    (True, Event.TOLD): (True, ()),
    (True, Event.FOUND): (True, ()),
    (True, Event.RELEASED): (False, ()),
    (True, Event.PROBED): (True, ()),
    (True, Event.SERVED): (False, (Deed.RELEASE,)),
}
"""(tripped, event) → (tripped afterwards, deeds). A late failure changes nothing; closings are told to nobody (V4, V5)."""


@dataclass(slots=True, frozen=True)
class Breaker:
    """A breaker. While tripped: since when and why, how many probes went out, and from when the next one may."""

    tripped: bool = False
    since: int = 0
    cause: str = ""
    probes: int = 0
    probe_at: int = 0

    def due(self, now: int) -> bool:
        """True if a probe may go out. A time beyond any schedule shows that the clock was set back."""
        return self.tripped and not now < self.probe_at <= now + LONGEST_PROBE_US

    def pointless(self, now: int) -> bool:
        """True if a probe has been due so long that, with nothing parked, keeping the breaker tripped makes no difference.

        The next step of its task is asked about at once either way.
        """
        return self.tripped and self.probe_at + LONGEST_PROBE_US <= now


CLOSED = Breaker()


def delay_us(probes: int) -> int:
    """Microseconds from the trip, or from the last of `probes` probes, to the next probe (V4)."""
    return min(FIRST_PROBE_US << min(probes, 20), LONGEST_PROBE_US)


def after(breaker: Breaker, event: Event, now: int, cause: str = "") -> tuple[Breaker, tuple[Deed, ...]]:
    """The breaker after an event, and what is to be done.

    The schedule advances only when a due probe is dispatched, however many failures arrive late.
    """
    tripped, deeds = CHANGES[breaker.tripped, event]
    if not tripped:
        return CLOSED, deeds
    if not breaker.tripped:
        return Breaker(tripped=True, since=now, cause=cause, probe_at=now + delay_us(0)), deeds
    if event is Event.PROBED and breaker.due(now):
        probes = breaker.probes + 1
        return replace(breaker, probes=probes, probe_at=now + delay_us(probes)), deeds
    return breaker, deeds
