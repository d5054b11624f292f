"""A task beside which nobody waits: how that is found out, and how long it is believed (C6)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
from dwarf_nats.engine.scheduling.sole_task import LOOK_AGAIN_US, SoleTask
from dwarf_nats.rules.scheduling.values import Page, PageRequest, QueueHead
from dwarf_nats.store.statements.peek import BLOCKED_PROBES

NOW = 10**15


def test_it_is_believed_for_a_second() -> None:
    known = SoleTask()
    assert known.may_look(NOW)
    known.note_look("busy", NOW, alone=True)
    assert known.is_alone("busy", NOW + LOOK_AGAIN_US - 1)
    assert not known.is_alone("other", NOW)
    assert not known.may_look(NOW + LOOK_AGAIN_US - 1)
    assert not known.is_alone("busy", NOW + LOOK_AGAIN_US)
    assert known.may_look(NOW + LOOK_AGAIN_US)


@pytest.mark.parametrize("task", ["other", ""])
def test_it_is_forgotten_when_a_step_of_another_task_is_ready(task: str) -> None:
    """Or one of which the task is not known."""
    known = SoleTask()
    known.note_look("busy", NOW, alone=True)
    known.note_ready("busy")
    assert known.is_alone("busy", NOW)
    known.note_ready(task)
    assert not known.is_alone("busy", NOW)
    assert known.may_look(NOW)


def test_others_that_wait_are_believed_for_a_second_too() -> None:
    """Else every claim would look again."""
    known = SoleTask()
    known.note_look("busy", NOW, alone=False)
    known.note_ready("other")
    assert not known.is_alone("busy", NOW)
    assert not known.may_look(NOW + LOOK_AGAIN_US - 1)


class Steps:
    """The heads of a ready queue, one for each key, as a store reads past blocked tasks."""

    def __init__(self, *tasks: str) -> None:
        self._heads = [QueueHead(1, f"k{number:06}", task, NOW, 1.0) for number, task in enumerate(tasks)]
        self.pages = 0

    async def peek(self, request: PageRequest, blocked: Collection[str]) -> Page:
        self.pages += 1
        found: list[QueueHead] = []
        counted = 0
        for head in self._heads:
            if head.priority > request.floor and head[:3] >= (request.band, request.fairness_key, request.url):
                found.append(head)
                counted += head.url not in blocked
                if counted == request.limit or len(found) == request.limit + BLOCKED_PROBES:
                    return Page(NOW, 1, found, full=True, next_due_at=None)
        return Page(NOW, 1 if self._heads else None, found, full=False, next_due_at=None)


def queue_of(steps: Steps) -> ReadyQueue:
    unused = cast("Any", None)
    return ReadyQueue(
        cast("Any", steps), unused, unused, clock=ManualClock(NOW), wakeup=asyncio.Event(), slots=unused,
        scheduler=unused, logger=unused,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "alone", "pages"),
    [
        ([], True, 1),
        (["busy"] * 900, True, 1),
        (["busy"] * 1_500, True, 2),
        (["busy"] * 900 + ["other"], False, 1),
        (["busy"] * 1_500 + ["other"], False, 2),
        (["other"] + ["busy"] * 10_000, False, 1),
        (["busy"] * 10_000, False, 2),
    ],
    ids=["nothing", "one page", "two pages", "at the end", "on the second", "at the beginning", "too many keys"],
)
async def test_others_are_looked_for(tasks: Sequence[str], alone: bool, pages: int) -> None:
    """In two pages at most: a queue of very many keys may have others."""
    steps = Steps(*tasks)
    queue = queue_of(steps)
    queue.wake()
    await queue.look_for_others("busy")
    assert queue.is_alone("busy", NOW) is alone
    assert steps.pages == pages


async def test_a_hint_without_its_task_may_be_of_another() -> None:
    queue = queue_of(Steps("busy"))
    await queue.look_for_others("busy")
    queue.hint(1, task="busy")
    assert queue.is_alone("busy", NOW)
    queue.hint(1, delay_us=5)
    assert queue.is_alone("busy", NOW)
    queue.hint(1)
    assert not queue.is_alone("busy", NOW)
