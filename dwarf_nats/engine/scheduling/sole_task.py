"""The task that all ready steps of a shard are of, if there is just one: nobody else waits, so it may have every slot (C6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.scheduling.values import PageRequest

if TYPE_CHECKING:
    from dwarf_nats.ports import StepStore

LOOK_AGAIN_US = 1_000_000
"""Time after which steps of other tasks are looked for again: one may have come without a hint."""
LOOK_MAX_PAGES = 2
"""Pages read to find out whether steps of other tasks are due; if that is not enough, there may be some."""
NO_TASK = ""


class SoleTask:
    """What is known of the tasks whose steps are ready on one shard."""

    def __init__(self) -> None:
        self._task = NO_TASK
        self._look_at = 0

    def is_alone(self, task: str, now: int) -> bool:
        """True if no ready step of another task is known."""
        return task == self._task and now < self._look_at

    def may_look(self, now: int) -> bool:
        """True if it is time to look for other tasks."""
        return now >= self._look_at

    def note_look(self, task: str, now: int, *, alone: bool) -> None:
        """Steps of other tasks than `task` were looked for; `alone`: there were none."""
        self._task = task if alone else NO_TASK
        self._look_at = now + LOOK_AGAIN_US

    def note_ready(self, task: str) -> None:
        """A step of this task is ready, or of some task if it is empty."""
        if self._task != task and self._task:
            self._task = NO_TASK
            self._look_at = 0


async def is_sole(steps: StepStore, task: str) -> bool:
    """Find out whether no step of another task is due on a shard; false if its queue is too long. Raises `Unavailable`."""
    request = PageRequest(limit=1)
    for _ in range(LOOK_MAX_PAGES):
        page = await steps.peek(request, [task])
        if any(head.url != task for head in page.heads):
            return False
        if not page.full:
            return True
        last = page.heads[-1]
        request = PageRequest(last.priority - 1, last.priority, last.fairness_key, last.url, limit=1)
    return False
