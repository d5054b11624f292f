"""The worker slots of a replica: how many steps it has in hand, of which task, and how many more it may take (C6, O17).

The bulkhead (C6): while due steps of other tasks wait, one task holds at most three quarters of the slots. It may hold all
of them while nothing else waits. If other tasks' steps come due then, they take the slots that become free. If none of the
task's steps ends for a second, it hangs, perhaps: then its steps beyond its share are not counted as slots in use, so that
the other tasks have their quarter at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dwarf_nats.settings import EngineSettings

HANGS_US = 1_000_000
"""A task beyond its share of which no step has ended for so long leaves the rest of the slots to the others."""


class Ration(NamedTuple):
    """How much a claim may bring: up to `limit` steps, of the task `url` up to `left`; `url` is empty if none is held back."""

    limit: int
    url: str = ""
    left: int = 0

    @property
    def blocked_tasks(self) -> tuple[str, ...]:
        """The task that is passed over."""
        return (self.url,) if self.url and self.left <= 0 else ()


class WorkerSlots:
    """How many steps this replica has in hand, over all shards; `free` is set whenever one more fits.

    `reserved`: hands kept for what a claim under way will bring. `relieved` is called when a step ends of a task that holds
    more than its share.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.count = 0
        self.reserved = 0
        self.relieved: Callable[[], None] = _nothing
        self._by_task: dict[str, int] = {}
        self._watched = ""
        self._since = 0
        self._stirred = False
        self._hanging = ""
        self.free = asyncio.Event()
        self.free.set()
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def room(self) -> int:
        """Hands that are free and not reserved; negative if there are fewer workers than steps in hand."""
        return self.spare - self.reserved

    @property
    def spare(self) -> int:
        """Hands with nothing in them, and those that a hanging task holds beyond its share."""
        return self._settings.workers - self.count + (self.lent if self._hanging else 0)

    @property
    def own_room(self) -> int:
        """As `room`, for a task that is at its share: what a hanging task holds counts."""
        return self._settings.workers - self.count - self.reserved

    @property
    def share(self) -> int:
        """How many hands one task may hold while due steps of others wait: three quarters, at least one."""
        return max(1, self._settings.workers * 3 // 4)

    @property
    def lent(self) -> int:
        """How many steps of a hanging task are not counted, so that others may run beside them."""
        return max(0, self._by_task.get(self._hanging, 0) - self.share)

    @property
    def hanging(self) -> str:
        """The task that holds more than its share and of which nothing ends; empty if none does."""
        return self._hanging

    def held_by(self, url: str) -> int:
        """How many hands a task holds."""
        return self._by_task.get(url, 0)

    def reset(self) -> None:
        """Nothing is in hand: the engine starts."""
        self.count = self.reserved = 0
        self._by_task.clear()
        self._watched = self._hanging = ""
        self._changed()

    def take(self, url: str = "") -> None:
        """One more step is in hand."""
        self.count += 1
        self._by_task[url] = self._by_task.get(url, 0) + 1
        self._changed()

    def release(self, url: str = "") -> None:
        """A step is no longer in hand."""
        self.count -= 1
        self._left(url)
        self._changed()

    def pass_on(self, url: str, following: str) -> None:
        """The hand of a step of `url` is for one of the task `following` now."""
        if url != following:
            self._left(url)
            self._by_task[following] = self._by_task.get(following, 0) + 1

    def reserve(self, number: int) -> None:
        """Keep so many for a claim."""
        self.reserved += number
        self._changed()

    def unreserve(self, number: int) -> None:
        """The claim is through."""
        self.reserved -= number
        self._changed()

    def resized(self) -> None:
        """The number of workers was changed."""
        self._changed()

    # -- the bulkhead (C6)

    def crowds(self, url: str, freed: str = "") -> bool:
        """Whether one more step of the task is beyond its share; a step of `freed` ends with it."""
        return self._by_task.get(url, 0) - (url == freed) >= self.share

    def ration(self, limit: int) -> Ration:
        """What a claim of up to `limit` steps may bring, so that no task gets beyond its share by it.

        What claims under way may bring counts as if it were all of one task.
        """
        share = self.share
        if self.count + self.reserved + limit <= share:
            return Ration(limit)
        url, held = self._foremost()
        held += self.reserved
        if held + limit <= share:
            return Ration(limit)
        if held < self._settings.workers - share:
            return Ration(min(limit, share - held))
        return Ration(limit, url, max(0, share - held))

    def hangs_at(self, now: int) -> int | None:
        """When the task that holds more than its share counts as hanging, if none of its steps ends; `None` if none does."""
        url, held = self._foremost()
        if held <= self.share or url == self._hanging:
            return None
        if url != self._watched or self._stirred:
            self._watched, self._since, self._stirred = url, now, False
        return self._since + HANGS_US

    def lend(self) -> None:
        """It hangs: leave the others what it holds beyond its share."""
        self._hanging = self._watched
        self._changed()

    def _foremost(self) -> tuple[str, int]:
        """The task that holds most."""
        if not self._by_task:
            return "", 0
        url = max(self._by_task, key=self._by_task.__getitem__)
        return url, self._by_task[url]

    def _left(self, url: str) -> None:
        held = self._by_task.get(url, 0) - 1
        if held > 0:
            self._by_task[url] = held
        else:
            self._by_task.pop(url, None)
        if url == self._watched:
            self._stirred = True
            if url == self._hanging:
                if held <= self.share:
                    self._hanging = ""
                self.relieved()

    def _changed(self) -> None:
        if self.room > 0:
            self.free.set()
        else:
            self.free.clear()
        if self.count or self.reserved:
            self.empty.clear()
        else:
            self.empty.set()


def _nothing() -> None:
    """Nobody wants to know."""
