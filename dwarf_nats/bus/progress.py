"""The progress that workers report while they run a step: read, thinned out, and handed to the engine (B7).

A progress harms no step: one that is malformed is counted, logged and dropped.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import BadRequest
from dwarf_nats.summed import Summed
from dwarf_nats.telemetry.counters import Count, Counters
from dwarf_nats.workflow.progress import MAX_PROGRESS_BYTES, PROGRESS_SECONDS, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwarf_nats.ports import Clock
    from dwarf_nats.workflow.progress import Progress

log = logging.getLogger("dwarf_nats.bus")


class Reported:
    """The progress of one call. `waiting`: what came too soon after the last one that was read."""

    __slots__ = ("timer", "waiting")

    def __init__(self) -> None:
        self.waiting: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None


class ReportingCall(Protocol):
    """A call whose worker may report; `step` is the key of its step, `report` takes what is reported."""

    step: str
    subject: str
    report: Callable[[str, Progress], None] | None
    reported: Reported | None

    @property
    def public_id(self) -> str:
        """The token-free id of the step."""
        ...


class ProgressReader:
    """Reads what workers report of calls. What cannot be read is dropped, and counted in `malformed`."""

    def __init__(self, clock: Clock | None = None, max_depth: int = 64, malformed: Count | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._max_depth = max_depth
        self._summed = Summed(log)
        self.malformed = malformed if malformed is not None else Counters().malformed_progress

    def received(self, call: ReportingCall, body: bytes) -> None:
        """Take a progress: read it now, or if the last one was a moment ago, when that is over."""
        if len(body) > MAX_PROGRESS_BYTES:
            self._drop(call, f"it is {len(body)} bytes, over {MAX_PROGRESS_BYTES}")
            return
        reported = call.reported
        if reported is None:
            reported = call.reported = Reported()
        if reported.timer is not None:
            reported.waiting = body
            return
        self._read(call, body)
        reported.timer = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._turn, call, reported)

    def ended(self, call: ReportingCall) -> None:
        """Read what waits: the call has ended, and this was the last."""
        reported, call.reported = call.reported, None
        if reported is not None:
            if reported.timer is not None:
                reported.timer.cancel()
            if reported.waiting is not None:
                self._read(call, reported.waiting)

    def _turn(self, call: ReportingCall, reported: Reported) -> None:
        reported.timer = None
        body, reported.waiting = reported.waiting, None
        if body is not None and call.reported is reported:
            self.received(call, body)

    def _read(self, call: ReportingCall, body: bytes) -> None:
        try:
            progress = read_progress(body, self._clock.now(), self._max_depth)
        except BadRequest as error:
            self._drop(call, error.message)
            return
        if call.report is not None:
            call.report(call.step, progress)

    def _drop(self, call: ReportingCall, why: str) -> None:
        self.malformed.add()
        self._summed.warning(
            ("progress", call.subject),
            "a malformed progress of step %s at %s is dropped: %s",
            call.public_id,
            call.subject,
            why,
            extra={"step_id": call.public_id},
        )
