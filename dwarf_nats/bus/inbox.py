"""Request and reply over one wildcard subscription, read raw (wire: section 2).

nats-py's own `request` takes a reply with a header `Status: 503`, which any task may send, for the server's statement that
nobody listens. Here that statement is the status on the *first line* of an empty message's header block, which no header
can imitate. Replies go to those that wait for them inline, without a task per message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

import nats.errors

from dwarf_nats.nats_client import INBOX_REMEDY, forbidden
from dwarf_nats.ports import BusAway
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.services import is_acknowledgement
from dwarf_nats.wire.streams import CaptureWarnings, recorded_by
from dwarf_nats.wire.subjects import Subjects, replica_inbox
from dwarf_nats.wire.tokens import Tokens
from dwarf_nats.wire.violations import Violation

from .calls import Call, CallGroup, Listener, Reply, Report, resolve
from .connection import Connection
from .progress import ProgressReader

log = logging.getLogger("dwarf_nats.bus")
EXPIRY_GRACE_SECONDS = 0.1
"""Pause between the deadline of a call and its end. A process that was suspended still has to read answers that came in time,
and its timers fire before it has read them."""

LOOK_SECONDS = 1.0
"""Time within which most calls are answered. A timer for each of them would cost as much as the call."""


class Inbox:
    """The replies of a replica, under the inbox prefix of its connection.

    Each call has a reply subject of its own, known only to the service that was asked. That service can neither answer another
    call nor guess its reply subject.

    `on_accepted` is called with a call whose service sent the signal *accepted*, and with the private subject it names;
    `on_ended` with each call that has a worker when it ends; `on_queued` and `on_started` with a call and the headers of such a
    signal (K3). Counters: `late` (replies after their deadline, second ones, and
    those to no call).
    """

    def __init__(self, connection: Connection, subjects: Subjects | None = None) -> None:
        self._connection = connection
        self._subjects = subjects or Subjects()
        self._subject = f"{replica_inbox(connection.new_inbox())}."
        self._cut = len(self._subject)
        self._calls: dict[bytes, Call] = {}
        self._by_step: dict[str, Call] = {}
        self._groups: dict[bytes, tuple[CallGroup, str]] = {}
        self._tokens = Tokens()
        self._streams = CaptureWarnings(log)
        self._refused_subscription: tuple[str, str] | None = None
        self._look: asyncio.TimerHandle | None = None
        self.late = 0
        self.progress = ProgressReader()
        self.on_accepted: Callable[[Call, str], None] | None = None
        self.on_ended: Callable[[Call], None] | None = None
        self.on_queued: Callable[[Call, dict[str, str]], None] | None = None
        self.on_started: Callable[[Call, dict[str, str]], None] | None = None

    async def start(self) -> None:
        """Subscribe. Calls in flight when the connection drops end with `BusAway`.

        Raises `Forbidden` if permissions refuse the subscription.
        """
        subject = f"{self._subject}*"
        await self._connection.subscribe_raw(subject, self._receive)
        self._connection.on_disconnect(self._disconnected)
        self._connection.on_refused(self._refused)
        with contextlib.suppress(nats.errors.Error):  # a connection that has just been lost makes it again
            await self._connection.flush()
        violation = self._connection.refused.get((subject, ""))
        if violation is not None:
            raise forbidden(self._connection, violation, INBOX_REMEDY)

    def __len__(self) -> int:
        return len(self._calls)

    def find(self, step: str) -> Call | None:
        """The call of a step, if it is in flight."""
        return self._by_step.get(step)

    async def ask(
        self,
        subject: str,
        block: bytes,
        body: bytes,
        seconds: float,
        *,
        step: str = "",
        report: Report | None = None,
        to_stream: bool = False,
    ) -> Reply | None:
        """Send a request that is known to fit and wait `seconds` for its reply; `None` if none came in time.

        The acknowledgement of a JetStream stream is no reply, and is returned only if nothing else came (`Reply.stream`). With
        `to_stream` it is the one that is waited for, and any other reply is returned only if none came.
        Raises `BusAway` if the connection is down or drops meanwhile.
        """
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        call = self.begin(subject, seconds, partial(resolve, future), step=step, report=report)
        call.to_stream = to_stream
        self.send(call, block, body)
        try:
            return await future
        except asyncio.CancelledError:
            self.drop(call)
            raise

    def begin(
        self, subject: str, seconds: float, listener: Listener, *, step: str = "", report: Report | None = None
    ) -> Call:
        """Begin a call, to be sent with `send` or in a group. Raises `BusAway` if no reply could come.

        `listener` is told what becomes of it, unless `send` raises.
        """
        loop = asyncio.get_running_loop()
        if self._refused_subscription and self._refused_subscription in self._connection.refused:
            raise BusAway(f"NATS does not let this replica subscribe to its inbox {self._subject}*")
        call = Call(self._tokens.next().encode(), listener, subject, step)
        call.report, call.budget = report, seconds
        self._calls[call.token] = call
        if step:
            self._by_step[step] = call
        call.due = loop.time() + seconds
        if seconds < LOOK_SECONDS:
            call.timer = loop.call_at(call.due, self._await_late_answer, call)
        elif self._look is None:
            self._look = loop.call_later(LOOK_SECONDS, self._set_timers)
        return call

    def _set_timers(self) -> None:
        """Give timers to the calls that have waited for a while, and go on watching while there are others."""
        self._look = None
        loop = asyncio.get_running_loop()
        for call in self._calls.values():
            if call.timer is None:
                call.timer = loop.call_at(call.due, self._await_late_answer, call)

    def send(self, call: Call, block: bytes, body: bytes) -> None:
        """Send the request of a call. Raises `BusAway`; the call is over then, and its listener was not told."""
        try:
            self._connection.send(call.subject, f"{self._subject}{call.token.decode()}", block, body)
        except BaseException:  # whatever it is: the step is executed in another way, and must not have two answers
            self._forget(call)
            raise

    def send_group(self, group: CallGroup, subject: str, block: bytes, body: bytes) -> bytes:
        """Send one message for several calls; return the token of its replies, for `end_group`. Raises `BusAway`."""
        token = self._tokens.next()
        self._connection.send(subject, f"{self._subject}{token}", block, body)
        self._groups[token.encode()] = group, subject
        return token.encode()

    def end_group(self, token: bytes) -> None:
        """Take no more messages for a group: all of its calls have ended, or are sent again."""
        self._groups.pop(token, None)

    def in_flight(self, call: Call) -> bool:
        """Tell whether somebody waits for the reply of a call."""
        return self._calls.get(call.token) is call and call.listener is not None

    def drop(self, call: Call) -> None:
        """Wait for a call no longer: its listener is not told any more.

        One that was cancelled is kept until its deadline, so that a service that accepts it late learns of that.
        """
        call.listener = None
        if not call.cancelled:
            self._forget(call)

    def end(self, call: Call, error: Exception) -> None:
        """End a call with an error. If its reply comes all the same, it is late."""
        self._forget(call)
        call.tell(error)

    def answer(self, call: Call, reply: Reply) -> None:
        """End a call with its reply."""
        self._forget(call)
        if call.listener is None:
            self.late += 1
        else:
            call.tell(reply)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.token, None)
        if call.batch is not None:
            call.batch.ended(call)
        if call.reported is not None:
            self.progress.ended(call)
        if call.worker and self.on_ended is not None:
            self.on_ended(call)
        if call.timer is not None:
            call.timer.cancel()
        if call.step and self._by_step.get(call.step) is call:
            del self._by_step[call.step]

    def set_timer(self, call: Call, seconds: float, expired: Callable[[Call], None] | None = None) -> None:
        """Let a call end `seconds` from now, without an answer or by `expired`, instead of when it would have ended."""
        if self._calls.get(call.token) is call:
            if call.timer is not None:
                call.timer.cancel()
            due = asyncio.get_running_loop().time() + seconds
            call.timer = asyncio.get_running_loop().call_at(due, expired or self._await_late_answer, call)

    def _await_late_answer(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + EXPIRY_GRACE_SECONDS
        call.timer = loop.call_at(due, self._expire, call, due)

    def _expire(self, call: Call, due: float) -> None:
        if asyncio.get_running_loop().time() > due + EXPIRY_GRACE_SECONDS:  # the process was suspended once more
            self._await_late_answer(call)
            return
        self._forget(call)
        call.tell(call.recorded)

    def _receive(self, subject: bytes, _reply: bytes, body: bytes, block: bytes | None) -> None:
        call = self._calls.get(subject[self._cut :])
        if call is None:
            found = self._groups.get(subject[self._cut :])
            if found is None:
                self.late += 1
            else:
                found[0].received(block, body)
            return
        nobody = False
        if block is not None and (b"ignal" in block or b"IGNAL" in block) and self._signalled(call, block, body):
            return
        if block is not None and not body:
            nobody = h.inline_status(block) == 503
        elif (stream := recorded_by(block, body)) and not call.to_stream:
            self._recorded(call, stream, body)
            return
        if call.to_stream and not nobody and not is_acknowledgement(body):
            call.recorded = Reply(block, body)
            return
        self.answer(call, Reply(block, body, nobody))

    def _signalled(self, call: Call, block: bytes, body: bytes) -> bool:
        """Take a signal of the worker; false if the message is none."""
        headers = h.read_headers(block)
        return self.signal(call, headers.get("dwarf-signal", "").lower(), headers, body)

    def signal(self, call: Call, signal: str, headers: dict[str, str], body: bytes) -> bool:
        """Take a signal of the worker about a call; false if it is none."""
        match signal:
            case h.ACCEPTED if not body:
                if call.step and self.on_accepted is not None:
                    self.on_accepted(call, headers.get("dwarf-worker", ""))
            case h.QUEUED if not body:
                if call.step and self.on_queued is not None:
                    self.on_queued(call, headers)
            case h.STARTED if not body:
                if call.step and self.on_started is not None:
                    self.on_started(call, headers)
            case h.PROGRESS:
                if call.step and self._by_step.get(call.step) is call:
                    worker = headers.get("dwarf-worker", "")
                    if worker and not call.worker and self.on_accepted is not None:
                        self.on_accepted(call, worker)  # it works on the step
                    self.progress.received(call, body)
            case _:
                return False
        return True

    def _recorded(self, call: Call, stream: str, body: bytes) -> None:
        call.recorded = Reply(None, body, stream=stream)
        self._streams.warn(stream, self._subjects.all_of(call.subject))

    def _refused(self, violation: Violation) -> bool:
        """Answer the call that permissions refused, or end all calls if no answer can come any more.

        Of several calls to one subject it is the latest without an answer: the others were sent before the permissions
        changed.
        """
        if not violation.publish:
            if violation.subject == f"{self._subject}*":
                self._refused_subscription = (violation.subject, violation.queue)
                self._end_all(f"NATS does not let this replica subscribe to its inbox {violation.subject}")
            return False
        if violation.as_reply:
            call = self._calls.get(violation.subject[self._cut :].encode())
        else:
            group = next((one for one, subject in self._groups.values() if subject == violation.subject), None)
            if group is not None:
                group.refused()
                return False
            call = next((one for one in reversed(self._calls.values()) if one.subject == violation.subject), None)
        if call is not None:
            self._forget(call)
            call.tell(Reply(None, b"", refused=True))
        return False

    def _disconnected(self) -> None:
        self._end_all("the connection to NATS dropped before the answer came")

    def _end_all(self, reason: str) -> None:
        calls, self._calls, self._by_step, self._groups = list(self._calls.values()), {}, {}, {}
        for call in calls:
            if call.batch is not None:
                call.batch.ended(call)
            if call.reported is not None:
                self.progress.ended(call)
            if call.worker and self.on_ended is not None:
                self.on_ended(call)
            if call.timer is not None:
                call.timer.cancel()
            call.tell(BusAway(reason))
