"""The worker slots of a replica: how many steps are in flight, of which task, and how many more it may take (C6, O17).

The bulkhead (C6): while due steps of other tasks wait, one task uses at most three quarters of the slots. It may use all
of them while nothing else waits. If other tasks' steps come due then, they get the slots that become free. If none of the
task's steps ends for a second, the task counts as hung: then its steps beyond its share are not counted as slots in use, so
that the other tasks have their quarter at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dwarf_nats.settings import EngineSettings

HUNG_AFTER_US = 1_000_000
"""Time without the end of a step after which a task beyond its share counts as hung: long enough for tasks that answer, short
enough for those who wait for a slot."""


class ClaimBudget(NamedTuple):
    """The budget of a claim: up to `limit` steps, of the task `url` up to `left`; `url` is empty if no task is limited."""

    limit: int
    url: str = ""
    left: int = 0

    @property
    def blocked_tasks(self) -> tuple[str, ...]:
        """The task of which the claim may bring nothing, if there is one."""
        return (self.url,) if self.url and self.left <= 0 else ()


class WorkerSlots:
    """The worker slots of one replica, over all its shards.

    `in_use`: steps in flight. `reserved`: slots kept for what the claims under way will bring. The event `has_available` is set
    while at least one slot is available, `idle` while none is in use or reserved.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.in_use = 0
        self.reserved = 0
        self._on_share_freed: Callable[[], None] | None = None
        self._by_task: dict[str, int] = {}
        self._watched = ""
        self._watched_since = 0
        self._watched_ended = False
        self._hung = ""
        self.has_available = asyncio.Event()
        self.has_available.set()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def available(self) -> int:
        """Slots that are neither in use nor reserved; negative if there are fewer slots than steps in flight."""
        return self.unused - self.reserved

    @property
    def unused(self) -> int:
        """Slots that are not in use, reserved or not; what a hung task uses beyond its share does not count."""
        return self._settings.workers - self.in_use + (self.uncounted if self._hung else 0)

    @property
    def strictly_available(self) -> int:
        """As `available`, for a task that is at its share: what a hung task uses counts in full."""
        return self._settings.workers - self.in_use - self.reserved

    @property
    def share(self) -> int:
        """Slots one task may use while due steps of others wait: three quarters, at least one."""
        return max(1, self._settings.workers * 3 // 4)

    @property
    def uncounted(self) -> int:
        """Steps of the hung task that are not counted as slots in use, so that others may run beside them."""
        return max(0, self._by_task.get(self._hung, 0) - self.share)

    @property
    def hung_task(self) -> str:
        """The task that uses more than its share and of which no step ends; empty if there is none."""
        return self._hung

    def used_by(self, url: str) -> int:
        """Slots that a task uses."""
        return self._by_task.get(url, 0)

    def notify_share_freed(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time a step ends of the task that uses more than its share."""
        self._on_share_freed = callback

    def reset(self) -> None:
        """Free all slots: the engine starts."""
        self.in_use = self.reserved = 0
        self._by_task.clear()
        self._watched = self._hung = ""
        self._changed()

    def acquire(self, url: str = "") -> None:
        """Take a slot for one more step of the task."""
        self.in_use += 1
        self._by_task[url] = self._by_task.get(url, 0) + 1
        self._changed()

    def release(self, url: str = "") -> None:
        """Free the slot of a step of the task."""
        self.in_use -= 1
        self._uncount(url)
        self._changed()

    def hand_over(self, url: str, following: str) -> None:
        """Count the slot of a step of `url` for the step of the task `following` that takes it over."""
        if url != following:
            self._uncount(url)
            self._by_task[following] = self._by_task.get(following, 0) + 1

    def reserve(self, number: int) -> None:
        """Keep `number` slots for a claim."""
        self.reserved += number
        self._changed()

    def unreserve(self, number: int) -> None:
        """Free the slots that were kept for a claim, which is over."""
        self.reserved -= number
        self._changed()

    def resized(self) -> None:
        """Take note that the number of slots was changed in the settings."""
        self._changed()

    # -- the bulkhead (C6)

    def exceeds_share(self, url: str, freed: str = "") -> bool:
        """True if one more step of the task is beyond its share; a step of the task `freed` ends with it."""
        return self._by_task.get(url, 0) - (url == freed) >= self.share

    def claim_budget(self, limit: int) -> ClaimBudget:
        """The budget of a claim of up to `limit` steps, so that no task gets beyond its share by it.

        What claims under way may bring counts as if it were all of one task.
        """
        share = self.share
        if self.in_use + self.reserved + limit <= share:
            return ClaimBudget(limit)
        url, used = self._foremost()
        used += self.reserved
        if used + limit <= share:
            return ClaimBudget(limit)
        if used < self._settings.workers - share:
            return ClaimBudget(min(limit, share - used))
        return ClaimBudget(limit, url, max(0, share - used))

    def hung_at(self, now: int) -> int | None:
        """The time at which the task beyond its share counts as hung if no step of it ends; `None` if no task is beyond."""
        url, used = self._foremost()
        if used <= self.share or url == self._hung:
            return None
        if url != self._watched or self._watched_ended:
            self._watched, self._watched_since, self._watched_ended = url, now, False
        return self._watched_since + HUNG_AFTER_US

    def mark_hung(self) -> None:
        """Count the watched task as hung: the others get the slots it uses beyond its share."""
        self._hung = self._watched
        self._changed()

    def _foremost(self) -> tuple[str, int]:
        """The task that uses most slots, and how many."""
        if not self._by_task:
            return "", 0
        url = max(self._by_task, key=self._by_task.__getitem__)
        return url, self._by_task[url]

    def _uncount(self, url: str) -> None:
        used = self._by_task.get(url, 0) - 1
        if used > 0:
            self._by_task[url] = used
        else:
            self._by_task.pop(url, None)
        if url == self._watched:
            self._watched_ended = True
            if url == self._hung:
                if used <= self.share:
                    self._hung = ""
                if self._on_share_freed is not None:
                    self._on_share_freed()

    def _changed(self) -> None:
        if self.available > 0:
            self.has_available.set()
        else:
            self.has_available.clear()
        if self.in_use or self.reserved:
            self.idle.clear()
        else:
            self.idle.set()
