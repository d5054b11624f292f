"""The roll call, a liveness check: workers are asked at intervals which of the steps they accepted they run (wire: section 2).

A worker that is gone, hangs or has forgotten a step would hold that step until its deadline. The roll call notices within
seconds, and the step's call ends with `WorkerLost`. Only a worker that has answered once can be taken for lost: before that,
its silence proves nothing. `docs/design/0005-roll-call.md` gives the reasons.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.backoff import Backoff
from dwarf_nats.clock import SystemClock
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.wire import peers

from .calls import Call
from .connection import Connection
from .inbox import Inbox

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

log = logging.getLogger("dwarf_nats.bus")

INTERVAL_SECONDS = 1.0
"""Pause between two roll calls of a worker: with `SILENCES`, a hung worker shows within seconds."""
SILENCES = 3
"""Unanswered roll calls in a row after which a worker is taken for hung: one or two may be lost on the way."""
UNKNOWN_ANSWERS = 2
"""Answers in a row without a step after which the worker has forgotten it; the step's reply may have overtaken a first one."""
LOST_WORKER_BACKOFF = Backoff(1.0, 2, 60.0)
"""Pauses before a step runs again, from the second time its worker was lost."""
MAX_REMEMBERED = 10_000
"""Workers and steps of which anything is remembered; of more, the oldest are forgotten, so that memory is bounded."""
MAX_REQUEST_STEPS = 1_000
"""Steps asked after in one message, so that the answer fits also where the worker's NATS server takes less."""


class _NoSubscriber(Exception):
    """Nobody subscribes to the worker's subject."""


class _NotPermitted(Exception):
    """Permissions do not let this replica publish to the worker's subject."""


class _Worker:
    """The steps in flight at one worker, and what is known of it."""

    __slots__ = ("calls", "canceller", "cancels", "ended", "proven", "silences", "subject", "unsent_cancels", "watcher")

    def __init__(self, subject: str, proven: bool) -> None:
        self.subject = subject
        self.proven = proven
        """It has answered a roll call, so that its silence means something."""
        self.calls: dict[Call, int] = {}
        """The steps in flight, each with the number of answers in a row that did not name it."""
        self.cancels: set[Call] = set()
        """Cancelled steps that the worker has not confirmed."""
        self.unsent_cancels: list[Call] = []
        """Cancelled steps that it was not sent yet."""
        self.silences = 0
        self.ended = asyncio.Event()
        self.watcher: asyncio.Task[None] | None = None
        self.canceller: asyncio.Task[None] | None = None


class RollCall:
    """Asks each worker every `interval_seconds` which steps it runs, as long as it has any.

    A worker that has not answered yet is asked at once, so that one that is killed a moment later is missed as fast as any
    other. An answer may take twice as long as the interval. Counters: `lost` (steps given back).
    """

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._interval_seconds = interval_seconds
        self._reply_timeout = 2 * interval_seconds
        self._clock = clock if clock is not None else SystemClock()
        self._workers: dict[str, _Worker] = {}
        self._losses: dict[str, int] = {}
        self._proven: dict[str, None] = {}
        self._unreachable: dict[str, None] = {}
        """Private subjects for which a warning was logged that nobody answers there."""
        self.lost = 0
        self.on_answer: Callable[[Sequence[Call], set[str], set[str]], None] | None = None
        """Takes those calls, the steps that their worker has, and those it has queued, if it says which these are (K3)."""
        connection.on_reconnect(self._mark_all_unproven)

    @property
    def workers(self) -> int:
        """The number of workers that are watched at present."""
        return len(self._workers)

    def watch(self, call: Call) -> None:
        """Ask after this call from now on: a worker accepted it."""
        worker = self._worker_at(call.worker)
        worker.calls[call] = 0
        worker.silences = 0

    def unwatch(self, call: Call) -> None:
        """Ask after this call no more: it has ended, however it did."""
        worker = self._workers.get(call.worker)
        if worker is not None:
            worker.calls.pop(call, None)
            worker.cancels.discard(call)
            self._end_if_idle(worker)

    def cancel(self, call: Call) -> None:
        """Tell the worker at once that nobody waits for this call any more (O10); if it does not answer, once more later."""
        worker = self._worker_at(call.worker)
        worker.calls.pop(call, None)
        worker.cancels.add(call)
        worker.unsent_cancels.append(call)
        if len(worker.unsent_cancels) == 1:
            worker.canceller = asyncio.get_running_loop().create_task(self._send_cancels(worker))

    def answered(self, step: str) -> None:
        """Forget the losses of a step: an execution of it came to an end of its own."""
        if self._losses:
            self._losses.pop(step, None)

    # --- one worker ---

    def _worker_at(self, subject: str) -> _Worker:
        worker = self._workers.get(subject)
        if worker is None:
            worker = self._workers[subject] = _Worker(subject, subject in self._proven)
            worker.watcher = asyncio.get_running_loop().create_task(self._watch_worker(worker))
        return worker

    def _end_if_idle(self, worker: _Worker) -> None:
        if not worker.calls and not worker.cancels:
            self._end_watch(worker)

    def _end_watch(self, worker: _Worker) -> None:
        worker.ended.set()
        if self._workers.get(worker.subject) is worker:
            del self._workers[worker.subject]

    async def _watch_worker(self, worker: _Worker) -> None:
        try:
            if not worker.proven and worker.calls:
                await self._call_roll(worker)
            while not await self._clock.wait(worker.ended, self._interval_seconds):
                await self._call_roll(worker)
        except BusAway:
            pass  # no worker is lost by that: the inbox ends every call with it
        except Exception:
            log.exception("the roll call of %s failed; its steps are bound by their deadlines", worker.subject)
        finally:
            self._end_watch(worker)

    async def _call_roll(self, worker: _Worker) -> None:
        """One roll call and what follows from it. The answer is applied only to the steps it was asked about."""
        # A step that is in flight again must not be cancelled for what it was before.
        worker.cancels = {call for call in worker.cancels if self._inbox.find(call.step) is call}
        calls, cancels = list(worker.calls), list(worker.cancels)
        if not calls and not cancels:
            self._end_watch(worker)
            return
        try:
            answer = await self._ask(worker.subject, calls, cancels)
        except _NoSubscriber:
            self._on_gone(worker, calls)
            return
        except _NotPermitted:
            self._on_not_permitted(worker)
            return
        if answer is None:
            await self._on_silence(worker, calls)
            return
        running, queued = answer
        if queued is not None and self.on_answer is not None:
            self.on_answer([call for call in calls if call in worker.calls], running, queued)
        self._mark_proven(worker)
        worker.silences = 0
        worker.cancels.difference_update(cancels)
        for call in calls:
            if call in worker.calls:
                worker.calls[call] = 0 if call.public_id in running else worker.calls[call] + 1
        forgotten = [call for call in calls if worker.calls.get(call, 0) >= UNKNOWN_ANSWERS]
        if forgotten:
            self._give_back(worker, forgotten, "does not know of it any more")
        self._end_if_idle(worker)

    async def _on_silence(self, worker: _Worker, calls: list[Call]) -> None:
        if not calls:
            worker.cancels.clear()  # they were sent twice, which is enough
            self._end_if_idle(worker)
        elif await self._connection.responds(self._reply_timeout):  # else it is the bus that does not answer
            worker.silences += 1
            if worker.silences < SILENCES:
                return
            if not worker.proven:
                self._warn_unreachable(worker, "has left the roll call unanswered since it accepted its first step")
            else:
                self._mark_unproven(worker)
                self._give_back(worker, calls, f"has left {SILENCES} roll calls in a row unanswered")

    async def _send_cancels(self, worker: _Worker) -> None:
        """Send the cancellations since the last turn of the loop in one message."""
        calls, sent, worker.unsent_cancels = list(worker.calls), worker.unsent_cancels, []
        try:
            if await self._ask(worker.subject, [], sent) is not None:
                self._mark_proven(worker)
                worker.cancels.difference_update(sent)
        except _NoSubscriber:
            self._on_gone(worker, calls)
        except _NotPermitted:
            self._on_not_permitted(worker)
        except BusAway:
            worker.cancels.clear()
        self._end_if_idle(worker)

    async def _ask(
        self, subject: str, calls: Sequence[Call], cancels: Sequence[Call]
    ) -> tuple[set[str], set[str] | None] | None:
        """The steps that the worker says it has, and those it says are queued there; `None` without a sound answer in time.

        Raises `_NoSubscriber`, `_NotPermitted`, and `BusAway`.
        """
        running: set[str] = set()
        queued: set[str] | None = None
        for body in self._requests([call.public_id for call in calls], [call.public_id for call in cancels]):
            reply = await self._inbox.ask(subject, b"", body, self._reply_timeout)
            if reply is None or reply.stream:
                return None
            if reply.nobody:
                raise _NoSubscriber
            if reply.refused:
                raise _NotPermitted
            try:
                some, waiting = peers.decode_running(reply.body)
            except peers.Malformed as error:
                log.debug("worker %s: %s", subject, error)
                return None
            running.update(some)
            if waiting is not None:
                queued = {*waiting, *(queued or ())}
        return running, queued

    def _requests(self, steps: list[str], cancels: list[str]) -> Iterator[bytes]:
        """The request, in as many parts as the `max_payload` of the servers makes necessary: for it and for the answer."""
        body = peers.encode_roll_call(steps, cancels)
        size = len(steps) + len(cancels)
        if size < 2 or (size <= MAX_REQUEST_STEPS and self._connection.fits(b"", body)):
            yield body
            return
        half = len(steps or cancels) // 2
        if steps and cancels:
            parts = [(steps, []), ([], cancels)]
        elif steps:
            parts = [(steps[:half], []), (steps[half:], [])]
        else:
            parts = [([], cancels[:half]), ([], cancels[half:])]
        for some, others in parts:
            yield from self._requests(some, others)

    # --- lost workers ---

    def _on_gone(self, worker: _Worker, calls: Sequence[Call]) -> None:
        worker.cancels.clear()
        if worker.proven:
            self._mark_unproven(worker)
            self._give_back(worker, calls, "is gone")
        else:
            self._warn_unreachable(worker, "has a private subject that nobody subscribes where this replica asks")
            self._end_if_idle(worker)

    def _on_not_permitted(self, worker: _Worker) -> None:
        # Dead or alive, it is not asked again before it accepts something more.
        self._mark_unproven(worker)
        self._warn_unreachable(worker, "has a private subject where permissions do not let this replica publish")
        self._end_watch(worker)

    def _warn_unreachable(self, worker: _Worker, why: str) -> None:
        if worker.subject not in self._unreachable:
            _remember(self._unreachable, worker.subject)
            log.warning(
                "worker %s %s: only their deadlines bound its steps, and cancellations do not reach it; let it subscribe to"
                " that subject, and the replica publish there",
                worker.subject,
                why,
                extra={"worker": worker.subject},
            )

    def _mark_proven(self, worker: _Worker) -> None:
        if not worker.proven:
            worker.proven = True
            _remember(self._proven, worker.subject)

    def _mark_unproven(self, worker: _Worker) -> None:
        # If it accepts anything after all, this replica did not reach it, and its silence means nothing again.
        worker.proven, worker.silences = False, 0
        self._proven.pop(worker.subject, None)

    def _mark_all_unproven(self) -> None:
        # Another server may not reach the workers that the last one reached, or not yet.
        for worker in self._workers.values():
            worker.proven = False
        self._proven.clear()

    def _give_back(self, worker: _Worker, calls: Sequence[Call], why: str) -> None:
        lost = [call for call in calls if call in worker.calls]
        if lost:
            log.warning(
                "worker %s %s: %d steps are given back, %s first",
                worker.subject,
                why,
                len(lost),
                lost[0].public_id,
                extra={"worker": worker.subject, "step_ids": ", ".join(call.public_id for call in lost[:10])},
            )
        for call in lost:
            self.lost += 1
            self._inbox.end(call, WorkerLost(f"its worker {why}", self._hold_seconds(call.step)))
        self._end_if_idle(worker)

    def _hold_seconds(self, step: str) -> float:
        """Seconds to hold the step back: none the first time, then longer, as it may bring down one worker after another."""
        losses = self._losses.pop(step, 0)
        self._losses[step] = losses + 1
        if len(self._losses) > MAX_REMEMBERED:
            del self._losses[next(iter(self._losses))]
        return LOST_WORKER_BACKOFF.delay(losses - 1) if losses else 0.0


def _remember(known: dict[str, None], subject: str) -> None:
    """Keep a private subject, and forget the oldest of too many."""
    known[subject] = None
    if len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]
