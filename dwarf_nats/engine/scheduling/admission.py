"""Eager starts: a new step that goes to its task at once instead of through the ready queue (C1, C3, C6)."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dwarf_nats.engine.holds import HoldBook
    from dwarf_nats.engine.scheduling.fetcher import Fetcher
    from dwarf_nats.engine.scheduling.slots import WorkerSlots


class TaskAdmission(Protocol):
    """Says which tasks may be asked at this moment (C3)."""

    def admits_eager(self, url: str) -> bool:
        """True if a new step of the task may start eagerly; then it counts as sent."""
        ...


class Limited(Protocol):
    """Says what has a limit; both change in place."""

    @property
    def tasks(self) -> Container[str]: ...
    @property
    def workflows(self) -> Container[str]: ...


class EagerAdmission:
    """Decides for one shard which new steps start eagerly, and keeps the worker slots for them.

    `slots`: the worker slots of the replica. `draining` is set while it takes no more work. `limited`: tasks and workflows with
    a limit, whose steps are claimed first, so that they get a permit (K1).
    """

    def __init__(
        self,
        slots: WorkerSlots,
        fetcher: Fetcher,
        tasks: TaskAdmission,
        *,
        draining: asyncio.Event,
        limited: Limited,
        holds: HoldBook,
    ) -> None:
        self.slots = slots
        self.holds = holds
        self._fetcher = fetcher
        self._tasks = tasks
        self.draining = draining
        self._limited_tasks = limited.tasks
        self._limited_workflows = limited.workflows

    def admits(self, priority: int, url: str, workflow: str, *, freed: str | None = None) -> bool:
        """True if a new step may start eagerly; then it counts as sent to its task.

        Nothing of its priority or a better one may wait (C1), and its task must be able to take it and have its share of the
        slots not yet (C6). Neither its task nor its workflow may be on hold (K2). `freed`: the step takes the slot of a
        step of that task; otherwise it needs a free one.
        """
        return (
            url not in self._limited_tasks
            and not self.draining.is_set()
            and not (self.holds.active and self.holds.find(url, workflow) is not None)
            and self._fetcher.admits_eager(priority, url, freed=freed)
            and self._tasks.admits_eager(url)
        )

    def reserve(self, priority: int, url: str, workflow: str) -> bool:
        """Acquire a worker slot for the first step of a flow that is about to be created; false if there is none."""
        if (
            self.slots.available > 0
            and workflow not in self._limited_workflows
            and self.admits(priority, url, workflow)
        ):
            self.slots.acquire(url)
            return True
        return False

    def release(self, url: str) -> None:
        """Release a reserved slot: the flow was not created."""
        self.slots.release(url)
