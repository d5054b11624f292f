"""The roll call: once a second or so each worker that accepted steps is asked which of them it still has (wire: section 2).

A worker that is gone, hangs or does not know a step any more would hold that step until its deadline; here this shows
within seconds, and the step's call ends with `WorkerLost`. Only a worker that has answered once can be missed: before that, its
silence proves nothing. What counts as lost is argued in `docs/design/0005-roll-call.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.backoff import Backoff
from dwarf_nats.clock import SystemClock
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.wire import peers

from .connection import Connection
from .inbox import Call, Inbox

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

log = logging.getLogger("dwarf_nats.bus")

EVERY_SECONDS = 1.0
SILENCES = 3
"""Unanswered calls in a row after which a worker is taken for hung."""
UNKNOWN = 2
"""Answered calls in a row that did not name a step, after which it is taken for forgotten: its reply may have overtaken one."""
LOST_WORKER_BACKOFF = Backoff(1.0, 2, 60.0)
"""Pauses before a step runs again, from the second time its worker was lost."""
REMEMBERED = 10_000
TOGETHER = 1_000
"""Steps asked after in one message, so that the answer fits also where the worker's NATS server takes less."""


class _Gone(Exception):
    """Nobody subscribes to the worker's subject."""


class _Barred(Exception):
    """Permissions do not let this replica publish to the worker's subject."""


class _Worker:
    """What is believed to be in hand at one worker."""

    __slots__ = ("attendant", "calls", "cancels", "left", "proven", "silent", "subject", "teller", "untold")

    def __init__(self, subject: str, proven: bool) -> None:
        self.subject = subject
        self.proven = proven
        """Whether it has answered a call, so that its silence means something."""
        self.calls: dict[Call, int] = {}
        """With how often in a row it did not know of the step."""
        self.cancels: set[Call] = set()
        """Cancelled, and not known to have been heard of."""
        self.untold: list[Call] = []
        """Cancelled just now."""
        self.silent = 0
        self.left = asyncio.Event()
        self.attendant: asyncio.Task[None] | None = None
        self.teller: asyncio.Task[None] | None = None


class RollCall:
    """Calls the roll of the workers, each `every` seconds, as long as they have something in hand.

    A worker that has not answered yet is called at once, so that one which is killed a moment later is missed as fast as any
    other. An answer may take twice as long as the pause between two calls. Counters: `lost` (steps given back).
    """

    def __init__(
        self, connection: Connection, inbox: Inbox, *, every: float = EVERY_SECONDS, clock: Clock | None = None
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._every = every
        self._patience = 2 * every
        self._clock = clock if clock is not None else SystemClock()
        self._workers: dict[str, _Worker] = {}
        self._losses: dict[str, int] = {}
        self._proven: dict[str, None] = {}
        self._unheard: dict[str, None] = {}
        """Private subjects it was logged of that nobody answers there."""
        self.lost = 0
        connection.on_reconnect(self._forget_proofs)

    @property
    def workers(self) -> int:
        """How many workers are called at present."""
        return len(self._workers)

    def enrol(self, call: Call) -> None:
        """A worker accepted this call: ask after it from now on."""
        worker = self._at(call.worker)
        worker.calls[call] = 0
        worker.silent = 0

    def strike(self, call: Call) -> None:
        """The call has ended, however it did."""
        worker = self._workers.get(call.worker)
        if worker is not None:
            worker.calls.pop(call, None)
            worker.cancels.discard(call)
            self._leave_if_idle(worker)

    def cancel(self, call: Call) -> None:
        """Tell the worker at once that nobody waits for this call any more (O10); if it is silent, once more later."""
        worker = self._at(call.worker)
        worker.calls.pop(call, None)
        worker.cancels.add(call)
        worker.untold.append(call)
        if len(worker.untold) == 1:
            worker.teller = asyncio.get_running_loop().create_task(self._tell(worker))

    def answered(self, step: str) -> None:
        """An execution of this step came to an end of its own: what went before is forgotten."""
        if self._losses:
            self._losses.pop(step, None)

    # --- one worker ---

    def _at(self, subject: str) -> _Worker:
        worker = self._workers.get(subject)
        if worker is None:
            worker = self._workers[subject] = _Worker(subject, subject in self._proven)
            worker.attendant = asyncio.get_running_loop().create_task(self._attend(worker))
        return worker

    def _leave_if_idle(self, worker: _Worker) -> None:
        if not worker.calls and not worker.cancels:
            self._leave(worker)

    def _leave(self, worker: _Worker) -> None:
        worker.left.set()
        if self._workers.get(worker.subject) is worker:
            del self._workers[worker.subject]

    async def _attend(self, worker: _Worker) -> None:
        try:
            if not worker.proven and worker.calls:
                await self._call(worker)
            while not await self._clock.wait(worker.left, self._every):
                await self._call(worker)
        except BusAway:
            pass  # nobody is lost by that: the inbox ends every call with it
        except Exception:
            log.exception("the roll call of %s failed; its steps are bound by their deadlines", worker.subject)
        finally:
            self._leave(worker)

    async def _call(self, worker: _Worker) -> None:
        """One call, and what follows from it. Only what was asked after is judged by the answer."""
        # A step that is in hand again must not be cancelled for what it was before.
        worker.cancels = {call for call in worker.cancels if self._inbox.find(call.step) is call}
        calls, cancels = list(worker.calls), list(worker.cancels)
        if not calls and not cancels:
            self._leave(worker)
            return
        try:
            running = await self._asked(worker.subject, calls, cancels)
        except _Gone:
            self._gone(worker, calls)
            return
        except _Barred:
            self._barred(worker)
            return
        if running is None:
            await self._unanswered(worker, calls)
            return
        self._prove(worker)
        worker.silent = 0
        worker.cancels.difference_update(cancels)
        for call in calls:
            if call in worker.calls:
                worker.calls[call] = 0 if call.public_id in running else worker.calls[call] + 1
        forgotten = [call for call in calls if worker.calls.get(call, 0) >= UNKNOWN]
        if forgotten:
            self._lose(worker, forgotten, "does not know of it any more")
        self._leave_if_idle(worker)

    async def _unanswered(self, worker: _Worker, calls: list[Call]) -> None:
        if not calls:
            worker.cancels.clear()  # told twice is enough
            self._leave_if_idle(worker)
        elif await self._connection.responds(self._patience):  # else it is the bus that is silent
            worker.silent += 1
            if worker.silent < SILENCES:
                return
            if not worker.proven:
                self._tell_unheard(worker, "has left the roll call unanswered since it accepted its first step")
            else:
                self._disprove(worker)
                self._lose(worker, calls, f"has left {SILENCES} roll calls in a row unanswered")

    async def _tell(self, worker: _Worker) -> None:
        """What was cancelled since the last turn of the loop, in one message."""
        calls, told, worker.untold = list(worker.calls), worker.untold, []
        try:
            if await self._asked(worker.subject, [], told) is not None:
                self._prove(worker)
                worker.cancels.difference_update(told)
        except _Gone:
            self._gone(worker, calls)
        except _Barred:
            self._barred(worker)
        except BusAway:
            worker.cancels.clear()
        self._leave_if_idle(worker)

    async def _asked(self, subject: str, calls: Sequence[Call], cancels: Sequence[Call]) -> set[str] | None:
        """What the worker says it runs; `None` if it says nothing in time, or nothing that makes sense.

        Raises `_Gone`, `_Barred`, and `BusAway`.
        """
        running: set[str] = set()
        for body in self._pages([call.public_id for call in calls], [call.public_id for call in cancels]):
            reply = await self._inbox.ask(subject, b"", body, self._patience)
            if reply is None or reply.stream:
                return None
            if reply.nobody:
                raise _Gone
            if reply.refused:
                raise _Barred
            try:
                running.update(peers.decode_running(reply.body))
            except peers.Malformed as error:
                log.debug("worker %s: %s", subject, error)
                return None
        return running

    def _pages(self, steps: list[str], cancels: list[str]) -> Iterator[bytes]:
        """The request, in as many parts as the server's `max_payload` makes necessary, and the answer that of the worker's."""
        body = peers.encode_roll_call(steps, cancels)
        size = len(steps) + len(cancels)
        if size < 2 or (size <= TOGETHER and self._connection.fits(b"", body)):
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
            yield from self._pages(some, others)

    # --- losing ---

    def _gone(self, worker: _Worker, calls: Sequence[Call]) -> None:
        worker.cancels.clear()
        if worker.proven:
            self._disprove(worker)
            self._lose(worker, calls, "is gone")
        else:
            self._tell_unheard(worker, "has a private subject that nobody subscribes where this replica asks")
            self._leave_if_idle(worker)

    def _barred(self, worker: _Worker) -> None:
        # Dead or alive, it is not called again before it accepts something more.
        self._disprove(worker)
        self._tell_unheard(worker, "has a private subject where permissions do not let this replica publish")
        self._leave(worker)

    def _tell_unheard(self, worker: _Worker, why: str) -> None:
        if worker.subject not in self._unheard:
            _remember(self._unheard, worker.subject)
            log.warning(
                "worker %s %s: only their deadlines bound its steps, and cancellations do not reach it; let it subscribe to"
                " that subject, and the replica publish there", worker.subject, why, extra={"worker": worker.subject},
            )  # fmt: skip

    def _prove(self, worker: _Worker) -> None:
        if not worker.proven:
            worker.proven = True
            _remember(self._proven, worker.subject)

    def _disprove(self, worker: _Worker) -> None:
        # If it accepts anything after all, it was this replica that did not reach it, and silence means nothing again.
        worker.proven, worker.silent = False, 0
        self._proven.pop(worker.subject, None)

    def _forget_proofs(self) -> None:
        # Another server may not reach whom the last one reached, or not yet.
        for worker in self._workers.values():
            worker.proven = False
        self._proven.clear()

    def _lose(self, worker: _Worker, calls: Sequence[Call], why: str) -> None:
        lost = [call for call in calls if call in worker.calls]
        if lost:
            log.warning(
                "worker %s %s: %d steps are given back, %s first", worker.subject, why, len(lost), lost[0].public_id,
                extra={"worker": worker.subject, "step_ids": ", ".join(call.public_id for call in lost[:10])},
            )  # fmt: skip
        for call in lost:
            self.lost += 1
            self._inbox.end(call, WorkerLost(f"its worker {why}", self._pause(call.step)))
        self._leave_if_idle(worker)

    def _pause(self, step: str) -> float:
        """Seconds to hold the step back: none the first time, then longer and longer, lest it brings down worker by worker."""
        losses = self._losses.pop(step, 0)
        self._losses[step] = losses + 1
        if len(self._losses) > REMEMBERED:
            del self._losses[next(iter(self._losses))]
        return LOST_WORKER_BACKOFF.delay(losses - 1) if losses else 0.0


def _remember(known: dict[str, None], subject: str) -> None:
    """Keep a private subject, and forget the oldest of too many."""
    known[subject] = None
    if len(known) > REMEMBERED:
        del known[next(iter(known))]
