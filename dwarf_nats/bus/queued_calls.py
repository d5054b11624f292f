"""Requests in the queues of workers: time there does not count against the budget (K3; wire section 2).

A worker that cannot begin at once says *queued*, and *started* when it begins. The first of each counts: others change nothing.
Each answer to a roll call makes up for one that was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import QueuedTooLong, WorkerLost

from .calls import QUEUED, SENT, STARTED

if TYPE_CHECKING:
    from dwarf_nats.ports import QueueListener

    from .calls import Call
    from .inbox import Inbox

log = logging.getLogger("dwarf_nats.bus")
GIVEN_BACK_PAUSE_SECONDS = 0.1
"""Pause before a step that has waited too long at one worker is sent again, so that it does not go round in a tight loop."""
MAX_TIMEOUT_DIGITS = 12


class QueuedCalls:
    """Keeps the time of calls that wait in the queues of workers.

    `accept` takes the private subject of a worker that has a call. `give_back` ends a call that has waited too long.
    """

    def __init__(
        self, inbox: Inbox, *, accept: Callable[[Call, str], None], give_back: Callable[[Call, WorkerLost], None]
    ) -> None:
        self._inbox = inbox
        self._accept = accept
        self._give_back = give_back
        self._listener: QueueListener | None = None

    def listen(self, listener: QueueListener) -> None:
        """Tell the engine of such calls; it says how long they may wait."""
        self._listener = listener

    def on_queued(self, call: Call, headers: dict[str, str]) -> None:
        """A worker says that it cannot begin yet: it has the step in hand, and the budget does not count."""
        self._take_over(call, headers)
        self._queue(call, _milliseconds(headers.get("dwarf-queue-timeout-ms", "")))

    def on_started(self, call: Call, headers: dict[str, str]) -> None:
        """A worker says that it has begun what it had queued: the budget counts from now on."""
        self._take_over(call, headers)
        self._start(call)

    def reconcile(self, calls: Sequence[Call], running: set[str], queued: set[str]) -> None:
        """Make up for signals that were lost, by what a worker answers to a roll call."""
        for call in calls:
            if call.public_id in queued:
                self._queue(call, None)
            elif call.public_id in running:
                self._start(call)

    def _take_over(self, call: Call, headers: dict[str, str]) -> None:
        if worker := headers.get("dwarf-worker", ""):
            self._accept(call, worker)

    def _queue(self, call: Call, service_timeout_ms: int | None) -> None:
        if call.phase != SENT or self._inbox.find(call.step) is not call:
            return
        call.phase = QUEUED
        timeout_ms = None if self._listener is None else self._listener.queued(call.step, service_timeout_ms)
        self._inbox.set_timer(call, call.budget if timeout_ms is None else timeout_ms / 1000, self._expire)

    def _start(self, call: Call) -> None:
        if call.phase != QUEUED:
            return
        call.phase = STARTED
        self._inbox.set_timer(call, call.budget)
        if self._listener is not None and self._inbox.find(call.step) is call:
            self._listener.started(call.step)

    def _expire(self, call: Call) -> None:
        log.info(
            "step %s has waited too long in the queue of worker %s: it is given back",
            call.public_id,
            call.worker or "(unnamed)",
            extra={"step_id": call.public_id, "worker": call.worker},
        )
        self._give_back(
            call, QueuedTooLong("it has waited too long in the queue of its worker", GIVEN_BACK_PAUSE_SECONDS)
        )


def _milliseconds(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_TIMEOUT_DIGITS
    return (int(text) or None) if is_number else None
